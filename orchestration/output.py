"""What a user sees: one JSON object, or lines and tables; a progress bar on a terminal; warnings."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

from secondsite.engine import errors, units

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from secondsite import engine
    from secondsite.engine import Progress

# A bar appears on what takes longer than this; before it, nothing is imported for it.
PATIENCE_SECONDS = 1.0
# How soon a program that runs until it is stopped sees a signal.
_LOOK_SECONDS = 0.1


def print_json(value: dict[str, Any]) -> None:
    """One object on standard output."""
    print(json.dumps(value, default=str), flush=True)


def print_written(done: engine.Restored | engine.Materialized, how: str, *, as_json: bool) -> None:
    """Of a point that was written somewhere: its warnings, then all of it or one line."""
    warn(done.warnings)
    if as_json:
        print_json(asdict(done))
        return
    wrote = f"wrote {units.format_size(done.bytes_written)} of {units.format_size(done.virtual_bytes)}"
    print(f"{done.output}: point {done.point}; {wrote} ({how}) in {done.seconds:.2f} s", flush=True)


def one_line(text: str) -> str:
    """Messages name files, and images name files: no line breaks, and nothing that a terminal would obey."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))


def complain(message: str) -> str:
    """One line on standard error; that line without the program's name."""
    line = one_line(message)
    print(f"secondsite: {line}", file=sys.stderr)
    return line


def fail(message: str, status: int, *, retryable: bool) -> dict[str, Any]:
    """An error on standard error, and what --json says of it."""
    return {"error": complain(message), "exit": status, "retryable": retryable}


def warn(warnings: Sequence[str]) -> None:
    """One line each on standard error."""
    for warning in warnings:
        complain(f"warning: {warning}")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Aligned columns; those numbered in `right` are aligned to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def rate(count: int, seconds: float) -> str:
    """Bytes a second, for people."""
    return f"{units.format_size(count / seconds)}/s" if seconds > 0 else "-"


@dataclass
class Watch:
    """Draws progress, and turns the first SIGINT or SIGTERM into an orderly end."""

    signal: int = 0
    began: float = field(default_factory=time.monotonic)
    _bar: Bar | None = None
    _task: Any = None
    _stage: str = ""

    def cancelled(self) -> bool:
        """Did somebody ask to stop?"""
        return self.signal != 0

    def progress(self, now: Progress) -> None:
        """Called by the engine ten times a second."""
        if self._bar is None:
            if time.monotonic() - self.began < PATIENCE_SECONDS or not sys.stderr.isatty():
                return
            self._bar = _bar()
            self._bar.start()
        if now.stage != self._stage:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task, self._stage = self._bar.add_task(now.stage, total=now.total or 1, changed=""), now.stage
        changed = f"{units.format_size(now.changed)} changed" if now.changed else ""
        self._bar.update(self._task, completed=now.done, total=now.total or 1, changed=changed)

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as SpeedColumn

    return Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), SpeedColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[changed]}"),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip


@contextmanager
def watching() -> Iterator[Watch]:
    """Progress and signals around one call of the engine. A second signal ends the process at once."""
    watch = Watch()

    def stop(number: int, _: FrameType | None) -> None:
        watch.signal = number
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield watch
    except errors.Cancelled as error:
        error.exit_code = 128 + watch.signal if watch.signal else errors.CANCELLED
        raise
    finally:
        watch.stop()
        for chosen, handler in before.items():
            signal.signal(chosen, handler)


def stall(seconds: float) -> str:
    """How long writers stood still, so that a short time is not said to be none: `24 µs`, `3.1 ms`, `2.0 s`."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 0.001 else f"{seconds * 1e6:.0f} µs"


def until_stopped(watch: Watch, facts: dict[str, Any], line: str, *, as_json: bool) -> None:
    """Say what runs now, at once also into a pipe, and wait for a signal."""
    if as_json:
        print_json(facts)
    else:
        print(line)
    sys.stdout.flush()
    while not watch.cancelled():
        time.sleep(_LOOK_SECONDS)
