"""The agent's memory: idle, with one stream, with fifty at once; and how evenly those fifty are served."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from secondsite.engine import errors
from secondsite.engine.units import MIB
from secondsite.orchestration.bench import process, rows, servers
from secondsite.orchestration.bench.context import Bench, digest, remove
from secondsite.orchestration.bench.hosts.sites import Site, site

# What the agent may have at rest, and for each stream that runs.
IDLE_BYTES, STREAM_BYTES = 64 * MIB, 32 * MIB
STREAMS, FEW_STREAMS = 50, 4
DISK_BYTES, SMALL_BYTES = 24 * MIB, 2 * MIB
# The slowest sender takes at most twice as long as the fastest.
FAIR_FIGURE = 0.5
_RELEASE = str(Path(__file__).with_name("release.py"))
_SENDER_SECONDS = 120


def memory(bench: Bench) -> None:
    """An agent of its own, so that nothing is left from other streams."""
    streams = STREAMS if bench.judged else FEW_STREAMS
    source = bench.folder / "disk.raw"
    try:
        with site(bench, replicas=streams + 1) as made:
            _peak(bench, "agent at rest", made.memory("VmRSS"), IDLE_BYTES)
            servers.fill(source, (256 if bench.judged else 16) * MIB, seed=15)
            made.reset_peak()
            made.replicate(source, made.names[-1])
            _peak(bench, "agent, one stream", made.memory("VmHWM"), IDLE_BYTES + STREAM_BYTES)
            made.forget(made.names[-1])
            _together(bench, made, source, streams)
    finally:
        remove(source)


def _peak(bench: Bench, name: str, value: int, limit: int) -> None:
    bench.add(rows.peak("hosts", f"peak memory, {name}", value, limit, judged=bench.judged))


def _together(bench: Bench, made: Site, source: Path, streams: int) -> None:
    """First copies of one disk under many names, then deltas of a half of it."""
    servers.fill(source, DISK_BYTES if bench.judged else SMALL_BYTES, seed=16)
    for what in ("first copies", "deltas"):
        made.reset_peak()
        seconds = _send(made, source, made.names[:streams])
        name = f"{streams} {what} at once"
        _peak(bench, f"agent, {name}", made.memory("VmHWM"), IDLE_BYTES + streams * STREAM_BYTES)
        bench.add(
            rows.compare("hosts", f"{name}, slowest sender", [max(seconds)], "the fastest", [min(seconds)],
                         kind="engine", figure=bench.figure(FAIR_FIGURE), size=source.stat().st_size)
        )  # fmt: skip
        if {digest(made.root / name / "head.raw") for name in made.names[:streams]} != {digest(source)}:
            raise errors.Damaged("a replica is not what was sent", path=str(made.root))
        with source.open("r+b") as file:
            file.write(random.Random(17).randbytes(source.stat().st_size // 2))


def _send(made: Site, source: Path, names: list[str]) -> list[float]:
    """Seconds of each sender from the moment at which all were let go."""
    with ExitStack() as stack:
        senders = [stack.enter_context(_sender(made, source, name)) for name in names]
        for sender in senders:
            _line(sender)
        began = time.monotonic()
        for sender in senders:
            assert sender.stdin is not None
            sender.stdin.write(b"\n")
            sender.stdin.flush()
        return [float(_line(sender)) - began for sender in senders]


@contextmanager
def _sender(made: Site, source: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    env = {**os.environ, **process.compiled(made.bench.folder / "bytecode")}
    command = [sys.executable, _RELEASE, str(source), made.url(name), str(made.state)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as sender:
        try:
            yield sender
        except BaseException:
            sender.kill()
            raise


def _line(sender: subprocess.Popen[bytes]) -> bytes:
    assert sender.stdout is not None
    line = sender.stdout.readline()
    if not line:
        raise errors.Unreachable(f"a sender ended with status {sender.wait(_SENDER_SECONDS)}")
    return line
