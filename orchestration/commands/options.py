"""Parameter types and options that several commands share."""

from __future__ import annotations

import click

from secondsite.engine import units


class Size(click.ParamType[int]):
    """Bytes, written with K, M, G or T."""

    name = "SIZE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return value if isinstance(value, int) else units.parse_size(str(value))


SIZE = Size()
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
at_option = click.option(
    "--at", metavar="POINT",
    help="A point as `points` prints it, `latest`, or a time (the newest point not after it; UTC unless it says).",
)  # fmt: skip
