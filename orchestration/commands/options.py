"""Parameter types and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


def parents_option(whose: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Where the parents of an image may lie, beside its own folder."""
    return click.option(
        "--allow-parent-path", multiple=True, metavar="DIR",
        help=f"{whose} may lie in this folder too, not only in the image's own.",
    )  # fmt: skip


def image_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How to open an image: its format where name and bytes do not tell, and where its parents may lie."""
    kinds = click.Choice(["raw", "vhdx", "vhd", "vmdk"])
    allow = parents_option("Parents and extents of the image")
    return click.option("--source-format", type=kinds, help="Of the image.  [default: found out]")(allow(command))
