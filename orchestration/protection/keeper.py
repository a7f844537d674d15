"""Keeps a machine at rest in a process of its own: it goes on also where the program that asked for it was killed.

    python -m secondsite.orchestration.protection.keeper

A line of JSON comes in (rest.Plan); a line goes out (Told) once the machine is at rest, or cannot be. The end of the
input lets it go on, which a killed program brings about too, and a last line tells how that went.
"""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

import msgspec

from secondsite import engine
from secondsite.orchestration.protection import rest
from secondsite.orchestration.protection.rest import Plan
from secondsite.orchestration.typed import ready

# A cut takes milliseconds. Of disks that are cut one after another it waits until none was written for a moment.
HOLD_SECONDS = 60.0
# What the guest agent may take at most to freeze or to thaw, a command's time not counted.
_AGENT_SECONDS = 90.0
_START_SECONDS = 30.0


class Told(msgspec.Struct, frozen=True):
    """As engine.Freeze has it."""

    held: bool
    thawed: bool
    warnings: list[str]


@contextmanager
def kept(plan: Plan) -> Iterator[engine.Freeze]:
    """Around the instant: as rest.at_rest, by a keeper. What fails is told in what is yielded, and not raised."""
    found = engine.Freeze()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
    except OSError as error:
        found.warnings.append(f"nobody could keep the machine at rest: {error.strerror}")
        yield found
        return
    limit = _START_SECONDS + 2 * plan.seconds + _AGENT_SECONDS
    ready = None
    try:
        _ask(process, plan)
        ready = _hear(process, limit)
        yield found
    finally:
        last = _let_go(process, limit) or _without(plan)
        found.held, found.thawed = last.held and ready is not None, last.thawed
        found.warnings += last.warnings


def _ask(process: subprocess.Popen[bytes], plan: Plan) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write(msgspec.json.encode(plan) + b"\n")
        process.stdin.flush()


def _hear(process: subprocess.Popen[bytes], seconds: float) -> Told | None:
    """Its next line; None where none comes in time."""
    assert process.stdout is not None
    until = time.monotonic() + seconds
    while select.select([process.stdout], [], [], max(until - time.monotonic(), 0))[0]:
        line = process.stdout.readline()  # written whole, in one piece
        try:
            return msgspec.json.decode(line, type=Told)
        except msgspec.DecodeError:
            return None
    return None


def _let_go(process: subprocess.Popen[bytes], seconds: float) -> Told | None:
    assert process.stdin is not None and process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    last = _hear(process, seconds)
    process.kill()
    process.wait()
    process.stdout.close()
    return last


def _without(plan: Plan) -> Told:
    """The keeper is gone or does not answer: what it would have done is done here."""
    problem = rest.go_on(plan)
    words = "the process that kept the machine at rest ended before its time"
    return Told(False, problem is None, [words, *([problem] if problem else [])])


def main() -> None:
    """The keeper. Signals that are meant for its parent do not end it: the end of the input does."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which the commands would inherit
    plan = msgspec.json.decode(sys.stdin.buffer.readline(), type=Plan)
    late = False
    with rest.at_rest(plan) as found:
        _say(sys.stdout.buffer, found)
        late = not select.select([sys.stdin.buffer], [], [], HOLD_SECONDS)[0]
    if late:
        found.held = False
        found.warnings.append(f"the instant did not come within {HOLD_SECONDS:g} s")
    _say(sys.stdout.buffer, found)


def _say(output: IO[bytes], found: engine.Freeze) -> None:
    with suppress(BrokenPipeError):  # whoever asked was killed
        output.write(msgspec.json.encode(Told(found.held, found.thawed, found.warnings)) + b"\n")
        output.flush()


ready(Told)


if __name__ == "__main__":
    main()
