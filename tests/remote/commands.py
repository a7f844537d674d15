"""The commands as an operator runs them, here or within another host's network, and the agent as a process."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from secondsite.engine.remote import hosts

SECONDSITE = (sys.executable, "-c", "from secondsite.orchestration.cli import main; main()")


def run(*arguments: str | Path, status: int = 0, text: str = "", within: Sequence[str] = ()) -> str:
    """A command's standard output; its status is to be `status`, and if that is not 0 it is standard error. `text` is
    its standard input, `within` the words before it.
    """
    done = subprocess.run(
        (*within, *SECONDSITE, *map(str, arguments)),
        capture_output=True, text=True, timeout=60, input=text, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stdout if not status else done.stderr


class Service:
    """`secondsite agent` as a process; `said` collects its standard error."""

    def __init__(self, folder: Path, *options: str, listen: str = "127.0.0.1:0", within: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            (*within, *SECONDSITE, "agent", "--json", "--root", str(folder / "root"), "--listen", listen,
             "--state", str(folder / "there"), *options),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.said: list[str] = []
        assert self.process.stdout is not None and self.process.stderr is not None
        self._reader = threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True)
        self._reader.start()
        line = self.process.stdout.readline()
        assert line, self.said
        self.facts = json.loads(line)
        self.host, _, port = self.facts["address"].rpartition(":")
        self.port = int(port)

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self.said.append(line.rstrip("\n"))

    def url(self, name: str) -> str:
        return f"secondsite://{self.host}:{self.port}/{name}"

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        status = self.process.wait(20)
        self._reader.join(5)
        return status


@contextlib.contextmanager
def service(folder: Path, *options: str, listen: str = "127.0.0.1:0", within: Sequence[str] = ()) -> Iterator[Service]:
    """An agent for `folder`/root, its state in `folder`/there; killed at the end if it still runs."""
    (folder / "root").mkdir(exist_ok=True)
    if not (folder / "there").exists():
        hosts.init_identity(state=folder / "there")
    made = Service(folder, *options, listen=listen, within=within)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.process.kill()
            made.process.wait(10)


def paired(
    folder: Path, agent: Service, *replicas: str, allow: str = "send,read,administer", state: Path | None = None,
    within: Sequence[str] = (), at: str = "", name: str = "east", there: Sequence[str] = (),
) -> Path:  # fmt: skip
    """The state (`folder`/here) of a host called `name` that is paired now; `at` is the agent's address for it.
    `within` goes before its commands, `there` before those of the agent's host.
    """
    state = state or folder / "here"
    run("identity", "init", "--state", state, within=within)
    names = [argument for replica in replicas for argument in ("--replica", replica)]
    key = run("agent", "--token", *names, "--allow", allow, "--state", folder / "there", within=there).strip()
    where = at or f"{agent.host}:{agent.port}"
    run("pair", where, "--token", "-", "--name", name, "--state", state, text=key + "\n", within=within)
    return state
