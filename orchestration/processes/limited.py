"""A command with a limit on its time and on what it may say: what it began ends with it.

The command gets a process group of its own. At the end of its time that group is asked to end, and killed soon after.
Of each of its outputs the last bytes are kept; what comes before is read and dropped, so that a flood blocks nobody.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from secondsite.engine import errors
from secondsite.orchestration.processes import holding

MOST_BYTES = 64 << 10
# Between asking a group to end and killing it.
GRACE_SECONDS = 5.0
_LOOK_SECONDS = 0.05
_CHUNK = 64 << 10
_ENDED = -1


@dataclass(frozen=True)
class Ended:
    """`status` is the exit status, negative for a signal. `late`: it was ended at its limit."""

    status: int
    output: str
    errors: str
    late: bool
    seconds: float

    @property
    def last_line(self) -> str:
        """What it said last, for a message of one line."""
        lines = (self.errors.strip() or self.output.strip()).splitlines()
        return lines[-1][:300] if lines else ""


def run(
    command: Sequence[str], seconds: float, *, given: bytes = b"", environment: Mapping[str, str] | None = None,
    most: int = MOST_BYTES, held: bool = False, cancel: Callable[[], bool] = lambda: False, keeping: int | None = None,
) -> Ended:  # fmt: skip
    """Run it to its end, or for so many seconds. `given` is its standard input, which with `held` ends only with this
    process, `most` the bytes that are kept of each output. The descriptor `keeping` stays open as long as the command
    runs, also where this process is killed (holding.py). Raises Unreachable where it cannot be started, Cancelled after
    it was ended because `cancel` said so.
    """
    began = time.monotonic()
    if keeping is not None:
        command = [sys.executable, "-I", "-S", holding.__file__, str(keeping), str(seconds + GRACE_SECONDS), *command]
    try:
        process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=None if environment is None else {**os.environ, **environment}, start_new_session=True,
            pass_fds=() if keeping is None else (keeping,),
        )  # fmt: skip
    except (OSError, ValueError) as error:
        why = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        raise errors.Unreachable(f"cannot run it: {why}", path=command[0] if command else "") from None
    streams = _Streams(process, given, most, held)
    late = cancelled = False
    try:
        while not (done := process.poll() is not None) or streams.step(0):
            if done:
                # What it left behind may hold its outputs open for ever; it gets no more time than itself.
                _end_group(process.pid, signal.SIGKILL)
                streams.drain(GRACE_SECONDS)
                break
            cancelled, late = cancel(), time.monotonic() - began > seconds
            if cancelled or late:
                _end(process, streams)
                break
            streams.step(_LOOK_SECONDS)
    finally:
        _end_group(process.pid, signal.SIGKILL)
        status = process.wait()
        streams.close()
    if cancelled:
        raise errors.Cancelled("the command was ended")
    return Ended(status, streams.text(0), streams.text(1), late, time.monotonic() - began)


def _end(process: subprocess.Popen[bytes], streams: _Streams) -> None:
    _end_group(process.pid, signal.SIGTERM)
    until = time.monotonic() + GRACE_SECONDS
    while process.poll() is None and time.monotonic() < until:
        streams.step(_LOOK_SECONDS)
    _end_group(process.pid, signal.SIGKILL)
    streams.drain(1.0)


def _end_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


class _Streams:
    """The three pipes of a process, none of which may block the others."""

    def __init__(self, process: subprocess.Popen[bytes], given: bytes, most: int, held: bool) -> None:
        assert process.stdin and process.stdout and process.stderr
        self._given, self._most, self._held = memoryview(given), most, held
        self._stdin: IO[bytes] = process.stdin
        self._outputs: tuple[IO[bytes], ...] = (process.stdout, process.stderr)
        self._kept = (bytearray(), bytearray())
        self._selector = selectors.DefaultSelector()
        self._watch(process.pid)
        for place, stream in enumerate(self._outputs):
            os.set_blocking(stream.fileno(), False)
            self._selector.register(stream, selectors.EVENT_READ, place)
        if given:
            os.set_blocking(self._stdin.fileno(), False)
            self._selector.register(self._stdin, selectors.EVENT_WRITE, None)
        elif not held:
            self._stdin.close()

    def _watch(self, process: int) -> None:
        """That it ends is an event too. Where the kernel has none for it, it is seen at the next look."""
        self._handle: int | None = None
        with suppress(OSError):
            self._handle = os.pidfd_open(process)
            self._selector.register(self._handle, selectors.EVENT_READ, _ENDED)

    def step(self, seconds: float) -> bool:
        """Move what can be moved within so many seconds. Whether an output is open yet."""
        for key, _ in self._selector.select(seconds):
            if key.data is None:
                self._write()
            elif key.data == _ENDED:
                self._selector.unregister(key.fileobj)
            else:
                self._read(key.data)
        return any(key.data in (0, 1) for key in self._selector.get_map().values())

    def drain(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self.step(_LOOK_SECONDS) and time.monotonic() < until:
            pass

    def _write(self) -> None:
        try:
            self._given = self._given[os.write(self._stdin.fileno(), self._given[:_CHUNK]) :]
        except BlockingIOError:
            return
        except OSError:  # it does not want to hear it
            self._given = self._given[:0]
        if not self._given:
            self._selector.unregister(self._stdin)
            if not self._held:
                self._stdin.close()

    def _read(self, place: int) -> None:
        stream, kept = self._outputs[place], self._kept[place]
        try:
            got = os.read(stream.fileno(), _CHUNK)
        except BlockingIOError:
            return
        if not got:
            self._selector.unregister(stream)
            return
        kept += got
        del kept[: -self._most]

    def text(self, place: int) -> str:
        return self._kept[place].decode(errors="replace")

    def close(self) -> None:
        self._selector.close()
        if self._handle is not None:
            os.close(self._handle)
        for stream in (self._stdin, *self._outputs):
            with suppress(OSError):
                stream.close()
