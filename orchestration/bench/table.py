"""A report for people: a table on the terminal, and one in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from secondsite.engine.units import format_size

if TYPE_CHECKING:
    from rich.table import Table

# The width that the whole table takes; a narrower terminal gets fewer columns.
WIDE = 132
BAR = 12
# A bar is full at this ratio; each cell stands for the same factor.
_FULL = 64.0


def value(unit: str, number: float | None) -> str:
    """A measured value with its unit: `0.412 s`, `97.1 MiB`, `41.3 MiB` of bytes, `1.0042` without one."""
    if number is None:
        return ""
    if not unit:
        return f"{number:.4f}"
    if unit == "s":
        return f"{number:.3f} s" if number < 10 else f"{number:.1f} s"
    return f"{number:.1f} MiB" if unit == "MiB" else format_size(number)


def speed(row: dict[str, Any]) -> str:
    """Bytes of work a second, on our side."""
    return f"{format_size(row['bytes'] / row['ours'])}/s" if row["bytes"] and row["ours"] else ""


def ratio(number: float | None) -> str:
    """`12.3x`."""
    if number is None:
        return ""
    return f"{number:.2f}x" if number < 10 else f"{number:.0f}x"


def bar(number: float | None) -> str:
    """A logarithmic bar of the ratio: half full at 8 times, full at 64."""
    if number is None or number <= 1:
        return ""
    return "█" * max(min(round(BAR * math.log(number) / math.log(_FULL)), BAR), 1)


def verdict(row: dict[str, Any]) -> str:
    """The figure that was set, and whether it is met."""
    if row["met"] is None:
        return ""
    wanted = "" if row["kind"] == "limit" else f" {row['figure']:g}x"
    return f"met{wanted}" if row["met"] else f"not met{wanted}"


def cells(row: dict[str, Any]) -> list[str]:
    """The columns that both tables share."""
    return [
        row["name"], value(row["unit"], row["ours"]), speed(row), row["peer"], value(row["unit"], row["theirs"]),
        ratio(row["ratio"]),
    ]  # fmt: skip


def draw(report: dict[str, Any], width: int = WIDE) -> Iterator[Table]:
    """The report as one table a folder that was measured; without speeds and bars where there is no room for them."""
    from rich.table import Table

    wide = width >= WIDE
    for place, rows in places(report):
        table = Table(title=title(report, place), title_justify="left", header_style="bold", box=None, padding=(0, 1))
        for name in ("", "ours", *["speed"] * wide, "against", "theirs", "ratio", *["theirs / ours"] * wide, "figure"):
            justify: Any = "right" if name in ("ours", "speed", "theirs", "ratio") else "left"
            table.add_column(name, justify=justify, no_wrap=name != "against")
        before: dict[str, Any] = {}
        for row in rows:
            if before and before["group"] != row["group"]:
                table.add_row()
            name, ours, rate, *rest = cells(row)
            again = before and before["name"] == name
            colour = {None: "", True: "[green]", False: "[bold red]"}[row["met"]]
            start = ["", "", *[""] * wide] if again else [name, ours, *[rate] * wide]
            table.add_row(*start, *rest, *[f"[cyan]{bar(row['ratio'])}"] * wide, colour + verdict(row))
            before = row
        yield table


def title(report: dict[str, Any], place: str) -> str:
    """One line on what was measured, where."""
    work = report["parameters"]
    size = f"{format_size(work['virtual_bytes'])} image, {format_size(work['data_bytes'])} of data ({work['workload']})"
    return f"{place or report['host']['file_system']}: {size}, {work['rounds']} rounds, median"


def notes(report: dict[str, Any]) -> list[str]:
    """What a reader must know besides the numbers."""
    host = report["host"]
    lines = [
        f"{host['cpu']}, {host['cores']} cores, {format_size(host['memory_bytes'])} of memory, {host['system']}, "
        f"{host['kernels']} kernels; load {host['load']} before, {host['load_after']} after"
    ]
    if host["busy"]:
        lines.append("The machine was busy with something else when this began: read the ratios with care.")
    if report["not_installed"]:
        lines.append("not installed: " + ", ".join(report["not_installed"]))
    lines += [f"left out: {name}: {why}" for name, why in report["skipped"].items()]
    missed = [row for row in report["rows"] if row["met"] is False]
    judged = [row for row in report["rows"] if row["met"] is not None]
    if judged:
        lines.append(f"{len(judged) - len(missed)} of {len(judged)} figures met")
    return lines


def places(report: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The rows by the kind of folder that they were measured in."""
    names = list(dict.fromkeys(row.get("place", "") for row in report["rows"]))
    for name in names:
        yield name, [row for row in report["rows"] if row.get("place", "") == name]


def markdown(report: dict[str, Any]) -> str:
    """The same for a README."""
    lines: list[str] = []
    for place, rows in places(report):
        lines += [f"**{title(report, place)}**", "", *_markdown_rows(rows), ""]
    return "\n".join([*lines, *(f"- {note}" for note in notes(report))]) + "\n"


def _markdown_rows(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    yield "| | ours | speed | against | theirs | ratio | figure |"
    yield "|---|--:|--:|---|--:|--:|---|"
    for row in rows:
        yield "| " + " | ".join([*cells(row), verdict(row)]) + " |"
