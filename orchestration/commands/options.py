"""Parameter types and options that several commands share."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import click

from secondsite import engine
from secondsite.engine import units


class Size(click.ParamType[int]):
    """Bytes, written with K, M, G or T."""

    name = "SIZE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return value if isinstance(value, int) else units.parse_size(str(value))


SIZE = Size()
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
state_option = click.option(
    "--state", metavar="DIR", envvar="SECONDSITE_STATE",
    help="What this host knows of others.  [default: secondsite below $XDG_STATE_HOME or ~/.local/state]",
)  # fmt: skip
at_option = click.option(
    "--at", metavar="POINT",
    help="A point as `points` prints it, `latest`, or a time (the newest point not after it; UTC unless it says).",
)  # fmt: skip


def key_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The key of an encrypted replica, for the calls of the engine that the command makes; the innermost decorator."""

    @functools.wraps(command)
    def with_key(*, key_file: str | None, passphrase_file: str | None, **options: Any) -> Any:
        with engine.using_key(engine.Key(key_file, passphrase_file, ask=asking("Passphrase"))):
            return command(**options)

    file = click.option("--key-file", metavar="FILE", help="What opens an encrypted replica: see secondsite key.")
    words = click.option(
        "--passphrase-file", metavar="FILE",
        help="Its passphrase, in a file.  [default: SECONDSITE_PASSPHRASE, or asked]",
    )  # fmt: skip
    return file(words(with_key))


def asking(what: str) -> Callable[[bool], str] | None:
    """Asks whoever sits at the terminal, once; None where nobody does."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        return None

    @functools.cache
    def ask(new: bool) -> str:
        return str(click.prompt(what, hide_input=True, err=True, confirmation_prompt=new))

    return ask


def qemu_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The running QEMU that has the source open."""
    for option in reversed((
        click.option("--qmp", metavar="SOCKET", help="Monitor of the QEMU that has SOURCE open: a path or HOST:PORT."),
        click.option("--qmp-node", metavar="NODE", help="The disk's block node, where the file does not tell which."),
        click.option("--qmp-nbd", metavar="URL", help="An NBD server that runs in that QEMU already."),
        click.option("--guest-agent", metavar="SOCKET", help="Freeze the guest's file systems around the cut with it."),
        click.option("--qmp-copies", metavar="DIR",
                     help="Where old contents of what it writes are kept.  [default: beside SOURCE]"),
        click.option("--qmp-copy-limit", type=SIZE, help="How much of them, at most.  [default: 16G]"),
    )):  # fmt: skip
        command = option(command)
    return command


def qemu_of(options: dict[str, Any]) -> dict[str, Any]:
    """The options, with what qemu_options gave as one `qemu`. Raises UsageError for such without --qmp."""
    qmp = options.pop("qmp")
    names = {"node": "qmp_node", "nbd": "qmp_nbd", "agent": "guest_agent", "folder": "qmp_copies",
             "copy_limit": "qmp_copy_limit"}  # fmt: skip
    given = {field: value for field, name in names.items() if (value := options.pop(name)) is not None}
    if given and qmp is None:
        raise click.UsageError(f"--{names[next(iter(given))].replace('_', '-')} is for the QEMU that --qmp names")
    return {**options, "qemu": engine.Qemu(qmp, **given)} if qmp is not None else options


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


def address(text: str | None, usual: int | None = None, option: str = "--listen") -> tuple[str, int] | None:
    """ADDR:PORT in two, an IPv6 address in brackets; `usual` where no port is named. Raises UsageError."""
    if text is None:
        return None
    if usual is not None and ((text.startswith("[") and text.endswith("]")) or ":" not in text):
        text = f"{text}:{usual}"
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise click.UsageError(f"{option} takes ADDR:PORT, not {text!r}")
    return host.strip("[]") or "localhost", int(port)
