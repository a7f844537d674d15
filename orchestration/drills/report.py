"""What a drill found, as JSON and as one page that needs nothing beside it."""

from __future__ import annotations

import base64
import datetime
import html
from string import Template

import msgspec

from secondsite.engine import errors, units

# Where Microsoft's own advice is to drill monthly, a report is looked at months later: it says what it was made with.
FORMAT = 1


class Stage(msgspec.Struct, frozen=True):
    """A part of a drill. `detail` is what went wrong, or what was seen."""

    name: str
    seconds: float
    ok: bool
    detail: str = ""


class Report(msgspec.Struct, frozen=True):
    """`up_seconds` is the RTO that was measured: from the order to fail over to the signal that the machine is up; None
    where it did not come up. `age_seconds` is how old the point was at the order, and so what would have been lost (the
    RPO). Times are UTC.
    """

    id: str
    machine: str
    point: str
    point_time: str
    began: float
    signal: str
    stages: tuple[Stage, ...]
    up_seconds: float | None
    age_seconds: float
    disks: dict[str, int]
    """Sizes of the disks in bytes, by their paths at the source."""
    version: str
    by: str
    notes: str = ""
    screenshot: str | None = None
    """A PNG as base64."""
    format: int = FORMAT

    @property
    def ok(self) -> bool:
        """Did the machine come up, and was all of it cleaned up?"""
        return self.up_seconds is not None and all(stage.ok for stage in self.stages)


def to_json(report: Report) -> bytes:
    """With what can be computed from it, for who reads it without this program."""
    said = msgspec.to_builtins(report)
    return msgspec.json.format(msgspec.json.encode({"ok": report.ok, **said}), indent=1) + b"\n"


def from_json(data: bytes, path: str = "") -> Report:
    """Raises Damaged."""
    try:
        return msgspec.json.decode(data, type=Report)
    except msgspec.DecodeError as error:
        raise errors.Damaged(f"is no report of a drill: {error}", path=path) from None


_PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>$title</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
h1 { font-size: 1.5rem; } .ok { color: #126b2f; } .failed { color: #a11616; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
img { max-width: 100%; border: 1px solid #ccc; } pre { white-space: pre-wrap; margin: 0; font: inherit; }
</style>
<h1>$title: <span class="$verdict">$verdict</span></h1>
<table>$facts</table>
<h2>What was done</h2>
<table><tr><th>Stage</th><th>Seconds</th><th>Result</th></tr>$stages</table>
$screenshot</html>
""")


def to_html(report: Report) -> str:
    """Everything that comes from elsewhere is escaped: a machine's name, an error, what the guest printed."""
    title = html.escape(f"Drill of {report.machine}, {_when(report.began)}")
    facts = "".join(
        f"<tr><th>{name}</th><td><pre>{html.escape(value)}</pre></td></tr>" for name, value in _facts(report)
    )
    stages = "".join(
        f'<tr><td>{html.escape(stage.name)}</td><td class="number">{stage.seconds:.2f}</td>'
        f'<td class="{_verdict(stage.ok)}"><pre>{html.escape(stage.detail or _verdict(stage.ok))}</pre></td></tr>'
        for stage in report.stages
    )
    return _PAGE.substitute(
        title=title, verdict=_verdict(report.ok), facts=facts, stages=stages, screenshot=_screenshot(report)
    )  # fmt: skip


def _facts(report: Report) -> list[tuple[str, str]]:
    up = f"{report.up_seconds:.1f} s" if report.up_seconds is not None else "it did not come up"
    disks = "\n".join(f"{path}: {units.format_size(size)}" for path, size in report.disks.items())
    found = [
        ("Machine", report.machine), ("Disks", disks),
        ("Recovery point", f"{report.point} of {report.point_time}"),
        ("Time to recover (RTO)", f"{up}, until {report.signal}"),
        ("Data that would be lost (RPO)", f"{report.age_seconds:.0f} s"),
        ("Done by", f"{report.by}, secondsite {report.version}"), ("Report", report.id),
    ]  # fmt: skip
    return [*found, ("Notes", report.notes)] if report.notes else found


def _screenshot(report: Report) -> str:
    if report.screenshot is None:
        return ""
    data = base64.b64encode(base64.b64decode(report.screenshot)).decode()  # whatever it was, now it is only that
    return f'<h2>Its screen</h2>\n<img alt="the screen of the machine" src="data:image/png;base64,{data}">\n'


def _verdict(ok: bool) -> str:
    return "ok" if ok else "failed"


def _when(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
