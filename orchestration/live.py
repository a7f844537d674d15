"""`replicate --watch` as a user sees it: a live view on a terminal, a line for what is new in a pipe, or JSON lines."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from secondsite import engine
from secondsite.engine.units import format_size
from secondsite.orchestration import output
from secondsite.orchestration.commands.replicate import describe, follow

if TYPE_CHECKING:
    from rich.live import Live

    from secondsite.engine import Status


def watch(source: str, replica: str, every: float, as_json: bool, **options: Any) -> None:
    """Cycles until a signal; raises what `engine.watch` raises."""
    view = Json() if as_json else Screen() if sys.stderr.isatty() and sys.stdout.isatty() else Lines()
    with output.watching() as stop:
        try:
            engine.watch(source, replica, every=every, observe=view.show, cancel=stop.cancelled, **options)
        finally:
            view.stop()


class Lines:
    """What is new: cycles that made a point, and whatever began or ended to be wrong."""

    def __init__(self) -> None:
        self._error: str | None = None
        self._follow = self._state = ""
        self._missing = self._begun = False
        self._warned: set[str] = set()

    def show(self, now: Status) -> None:
        if not self._begun and now.metrics is not None:
            self.say(f"metrics at http://{now.metrics}/metrics")
        self._begun = True
        if now.error is not None and now.error != self._error:
            again = f"; tried again in {now.retry:.0f} s" if now.retry else "; tried again now"
            output.complain(f"{now.state}: {now.error}{again}")
        self._error = now.error if now.error is not None or now.last is not None else self._error
        if now.warning is not None:
            output.warn([now.warning])
        if now.missing != self._missing:
            self._missing = now.missing
            if now.missing:
                output.complain(f"warning: more than a fifth of the cycles was missed ({now.missed} so far)")
        if now.last is not None:
            self._cycle(now, now.last)

    def _cycle(self, now: Status, done: engine.Replicated) -> None:
        fresh = [warning for warning in done.warnings if warning not in self._warned]
        # Each is told once; a thousand different ones are no longer worth remembering.
        self._warned = (self._warned if len(self._warned) < 1000 else set()) | set(fresh)
        output.warn(fresh)
        if done.kind != "unchanged" or now.cycles == 1:
            self.say(describe(done))
        if (chosen := f"{done.tracker}: {done.why}") != self._follow:
            self._follow = chosen
            self.say(follow(done))
        if now.state != self._state:
            degraded, self._state = self._state == "degraded", now.state
            if now.state == "degraded":
                self.say(f"degraded: cycles take longer than {now.every:g} s, points are as far apart as they take")
            elif degraded:
                self.say(f"recovered: a point every {now.every:g} s again")

    def say(self, line: str) -> None:
        print(line, flush=True)

    def stop(self) -> None:
        return None


class Json(Lines):
    """An object for each cycle that ended, well or not."""

    def __init__(self) -> None:
        super().__init__()
        self._told = (0, 0)

    def show(self, now: Status) -> None:
        if now.warning is not None:
            output.warn([now.warning])
        if (now.cycles, now.failed) != self._told:
            self._told = (now.cycles, now.failed)
            print(json.dumps(asdict(now), default=str), flush=True)


class Screen(Lines):
    """The state of now below the lines of what is new."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.live import Live

        self._live: Live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
        self._live.start()

    def show(self, now: Status) -> None:
        super().show(now)
        self._live.update(self._table(now), refresh=True)

    def _table(self, now: Status) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        for name, value in rows(now):
            table.add_row(Text(name, style="dim"), Text(output.one_line(value)))
        return table

    def say(self, line: str) -> None:
        from rich.text import Text

        self._live.console.print(Text(line))

    def stop(self) -> None:
        self._live.stop()


def rows(now: Status) -> list[tuple[str, str]]:
    """What the live view shows, as names and values."""
    age = "no point yet" if now.age is None else f"point {now.point}, {now.age:.1f} s old"
    found = [("state", now.state), ("newest", age)]
    if now.rate is not None:
        found.append(("rate", f"{format_size(round(now.rate))}/s"))
    if now.pending is not None:
        found.append(("pending", format_size(now.pending)))
    if now.tracker is not None:
        stall = "" if now.stall_seconds is None else f", writers stood still for {output.stall(now.stall_seconds)}"
        found.append(("tracker", now.tracker + stall))
    found.append(("cycles", f"{now.cycles}, {now.missed} missed, {now.failed} failed"))
    if now.error is not None:
        found.append(("error", f"{now.error} (again in {now.retry or 0:.0f} s)"))
    return found
