"""An agent and a host that is paired with it, as processes, and rsync's daemon beside them."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.units import KIB
from secondsite.orchestration.bench import process
from secondsite.orchestration.bench.context import Bench, remove

MOVE = str(Path(__file__).with_name("move.py"))
_START_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where the two ends run: what begins a command at each, and the address of the agent's."""

    near: tuple[str, ...] = ()
    far: tuple[str, ...] = ()
    address: str = "127.0.0.1"


LOOPBACK = Place()


@dataclass(frozen=True, slots=True)
class Moved:
    """What move.py says: seconds, processor seconds of both sides, and the cipher."""

    seconds: float
    cpu: float
    cipher: str


class Site:
    """`state` is the sender's; the agent's replicas lie in `root`. `names` are those that the sender may use."""

    def __init__(self, bench: Bench, folder: Path, place: Place, names: list[str]) -> None:
        self.bench, self.folder, self.place, self.names = bench, folder, place, names
        self.root, self.state, self.there = folder / "root", folder / "here", folder / "there"
        self.port = 0
        self.agent: subprocess.Popen[bytes]

    def url(self, name: str) -> str:
        """Of a replica."""
        return f"secondsite://{self.place.address}:{self.port}/{name}"

    def replicate(self, source: Path, name: str, *options: str) -> process.Ran:
        """One cycle as a whole command; `cpu` is that of the command and of the agent meanwhile."""
        before = self.agent_cpu()
        done = process.ours(
            "replicate", source, self.url(name), "--state", self.state, *options,
            bytecode=self.bench.folder / "bytecode", before=self.place.near,
        )  # fmt: skip
        return process.Ran(done.seconds, done.cpu + self.agent_cpu() - before, done.peak, done.output)

    def head(self, name: str) -> Path:
        """The image that a replica has now."""
        return Path(str(self.bench.ours("info", self.root / name).json["head"]))

    def forget(self, name: str) -> None:
        """Remove a replica, as if it had never been."""
        remove(self.root / name)
        self.bench.settle()

    def agent_cpu(self) -> float:
        """Processor seconds of the agent until now."""
        return process.cpu(self.agent.pid)

    def memory(self, field: str) -> int:
        """Bytes of memory that the agent has (VmRSS), or has had at most since `reset_peak` (VmHWM)."""
        status = Path(f"/proc/{self.agent.pid}/status").read_text()
        match = re.search(rf"{field}:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) * KIB

    def reset_peak(self) -> None:
        """Begin the peak anew."""
        Path(f"/proc/{self.agent.pid}/clear_refs").write_text("5")

    def _pair(self) -> None:
        key = engine.registration_key(self.names, allow=["send", "read"], state=self.there)
        where = f"{self.place.address}:{self.port}"
        command = ("pair", where, "--token", key, "--name", "sender", "--state", self.state)
        process.ours(*command, bytecode=self.bench.folder / "bytecode", before=self.place.near)


@contextmanager
def site(
    bench: Bench, place: Place = LOOPBACK, *, replicas: int = 1,
    over: Callable[[int], AbstractContextManager[int]] = nullcontext,
) -> Iterator[Site]:  # fmt: skip
    """An agent that runs and a sender that is paired, with so many names; all of it is removed at the end. `over` is
    given the agent's port, and gives the one to reach it by.
    """
    folder = bench.folder / "site"
    made = Site(bench, folder, place, [f"vm{number}" for number in range(replicas)])
    try:
        made.root.mkdir(parents=True)
        for state in (made.state, made.there):
            engine.init_identity(name=state.name, state=state)
        command = [
            *place.far, *process.secondsite(), "agent", "--json", "--root", str(made.root),
            "--listen", f"{place.address}:0", "--state", str(made.there),
        ]  # fmt: skip
        with process.running(command, env=process.compiled(bench.folder / "bytecode"), keep_output=True) as agent:
            assert agent.stdout is not None
            line = agent.stdout.readline()
            if not line:
                raise errors.Unreachable("the agent does not serve", path=str(made.root))
            made.agent = agent
            with over(int(json.loads(line)["address"].rpartition(":")[2])) as made.port:
                made._pair()
                yield made
    finally:
        remove(folder)


@contextmanager
def rsync_daemon(place: Place, folder: Path) -> Iterator[str]:
    """rsync's daemon over a folder, which must be there, without encryption; the URL to write to."""
    config, port = folder.with_name("rsyncd.conf"), _free_port()
    user = f"uid = {os.getuid()}\ngid = {os.getgid()}\n" if os.getuid() == 0 else ""
    config.write_text(f"use chroot = no\n{user}[copies]\npath = {folder}\nread only = no\n")
    command = ["rsync", "--daemon", "--no-detach", f"--config={config}", f"--port={port}"]
    url = f"rsync://{place.address}:{port}/copies/"
    try:
        with process.running([*place.far, *command, f"--address={place.address}"]) as daemon:
            _until_listed([*place.near, "rsync", url], daemon)
            yield url
    finally:
        config.unlink(missing_ok=True)


def _until_listed(command: list[str], daemon: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            process.run(command)
            return
        except errors.Unreachable:
            if daemon.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.02)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class Mover:
    """move.py's receiver, and how to send to it."""

    def __init__(self, place: Place, port: int, tls: bool) -> None:
        self.place, self.port, self.tls = place, port, tls

    def move(self, path: Path, size: int) -> Moved:
        """So many bytes, of the beginning of a file over and over."""
        command = [*self.place.near, sys.executable, "-I", MOVE, "send", self.place.address, str(self.port)]
        done = process.run([*command, str(path), str(size), *["tls"] * self.tls], keep_output=True)
        return Moved(**done.json)


@contextmanager
def mover(place: Place, identity: Path | None = None) -> Iterator[Mover]:
    """Over TLS with the certificate and key in the folder `identity`, else over plain TCP."""
    files = [str(identity / name) for name in ("certificate.pem", "key.pem")] if identity is not None else []
    with ExitStack() as stack:
        command = [*place.far, sys.executable, "-I", MOVE, "receive", place.address, *files]
        receiver = stack.enter_context(process.running(command, keep_output=True))
        assert receiver.stdout is not None
        port = receiver.stdout.readline()
        if not port:
            raise errors.Unreachable("move.py does not receive")
        yield Mover(place, int(port), identity is not None)
