"""A site that is protected, as its operator has it: commands, an orchestrator as a process, a machine that writes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from namespaces import Host
from siteguest import PROGRAM, Guest

from secondsite.orchestration import cli

# `secondsite run`, with leases of a second and a half.
RUN = """
from secondsite.orchestration.protection import leases, orchestrator
leases.LEASE_SECONDS = 1.5
orchestrator._RENEW_SECONDS = 0.3
from secondsite.orchestration.cli import main
main()
"""


class Orchestrator:
    """`secondsite run`; `said` are the objects that it printed."""

    def __init__(self, vault: str, host: Host, more: Mapping[str, str]) -> None:
        command = [*host.within, PROGRAM[0], "-c", RUN, "run", "--json", "--vault", vault]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **more}
        )
        self.said: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(json.loads(line))

    def end(self, *, kill: bool = False) -> None:
        (self.process.kill if kill else self.process.terminate)()
        status = self.process.wait(30)
        self._reader.join(30)
        assert kill or status == 0


@dataclass
class Site:
    """`host` is where the machine is, and all commands run; `estate` the file that protects `machine`. The orchestrator
    has `environment` too.
    """

    folder: Path
    host: Host
    vault: str
    machine: str
    estate: Path
    guest: Guest
    environment: Mapping[str, str] = field(default_factory=dict)
    orchestrator: Orchestrator | None = None
    made: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, *words: str | Path, status: int = 0) -> str:
        """What a command says, that ends with such a status; it has nothing to warn of."""
        out, err = io.StringIO(), io.StringIO()
        with self.host.inside(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            found = cli.run([str(word) for word in words])
        assert found == status, (words, found, out.getvalue(), err.getvalue())
        assert "warning" not in err.getvalue(), (words, err.getvalue())
        return out.getvalue() + err.getvalue()

    def ask(self, *words: str | Path, status: int = 0) -> Any:
        """The object that a command of the vault prints."""
        return json.loads(self(*words, "--json", "--vault", self.vault, status=status).splitlines()[0])

    def ask_replica(self, *words: str | Path) -> Any:
        """The object that a command of a replica prints."""
        return json.loads(self(*words, "--json"))

    def run(self) -> None:
        self.orchestrator = Orchestrator(self.vault, self.host, self.environment)

    def kill(self) -> None:
        """The orchestrator, whatever it is at."""
        assert self.orchestrator is not None
        self.orchestrator.end(kill=True)

    def enable(self) -> None:
        """From nothing to an orchestrator that runs."""
        self("vault", "init", "--vault", self.vault)
        planned = self("plan", self.estate, "--vault", self.vault)
        assert f"enable item {self.machine}" in planned and planned.count("add disk item") == len(self.guest.disks)
        assert self("apply", self.estate, "--vault", self.vault).startswith(planned)
        assert self("plan", self.estate, "--vault", self.vault) == "nothing would change\n"
        self.run()

    def sync(self) -> dict[str, Any]:
        """One cycle, and the point of it."""
        found: dict[str, Any] = self.ask("protection", "sync", self.machine)
        self.made.append(found)
        return found

    @contextlib.contextmanager
    def syncing(self) -> Iterator[None]:
        """The same from another process, whatever happens to the orchestrator meanwhile."""
        command = [*PROGRAM, "protection", "sync", self.machine, "--json", "--vault", self.vault]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            yield
            out, err = process.communicate(timeout=60)
        assert process.returncode == 0, (out, err)
        self.made.append(json.loads(out))

    def replicas(self) -> Mapping[Path, str]:
        found = self.ask("status", self.machine)["machines"][0]["disks"]
        return {Path(path): replica for path, replica in found.items()}

    def points(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("retention", self.machine)["points"]
        return found

    def verify(self) -> None:
        for replica in self.replicas().values():
            assert self("verify", replica).startswith("ok: ")

    def restore(self, point: Mapping[str, Any]) -> int:
        """All disks at a point, looked at; the number of the write that it is of."""
        images = {}
        for path, replica in self.replicas().items():
            images[path] = self.folder / f"restored-{path.stem}.raw"
            self("restore", replica, images[path], "--at", str(point["generations"][str(path)]))
        number = self.guest.check(images)
        for image in images.values():
            image.unlink()
        return number

    def close(self) -> None:
        try:
            if self.orchestrator is not None:
                self.orchestrator.end(kill=True)
        finally:
            self.guest.stop()


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Of this process and those that it starts; nothing else says what opens a store."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(("AZURE_", "AWS_", "SECONDSITE_")) and name not in ("SECONDSITE_ALLOW_SKIP",):
            del os.environ[name]
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
