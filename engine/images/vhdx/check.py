"""What `check` finds in a chain that opens: damage that only a look at everything shows, and what is merely odd."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from secondsite.engine import errors
from secondsite.engine.images.vhdx.layer import Layer
from secondsite.engine.images.vhdx.packing import MIB
from secondsite.engine.images.vhdx.regions import second_table


class Finding(NamedTuple):
    """`damaged`: reading the disk, or a part of it, will be refused. Otherwise a remark."""

    path: str
    text: str
    damaged: bool
    offset: int | None = None


def check_layers(layers: Sequence[Layer]) -> list[Finding]:
    """The findings of every file, the image's own first."""
    return [finding for layer in layers for finding in _check(layer)]


def _check(layer: Layer) -> Iterator[Finding]:
    for error in layer.table.problems():
        yield Finding(layer.path, error.bare, True, error.offset)
    for text in remarks(layer):
        yield Finding(layer.path, text, False)
    try:
        copy = second_table(layer.container, layer.regions)
    except errors.Error as error:
        copy = error.message
    if copy and copy != layer.regions.note:
        yield Finding(layer.path, copy, False)
    counts = layer.table.tally()
    if counts[9]:
        yield Finding(layer.path, f"{counts[9]} blocks without data keep space in the file", False)
    if counts[10]:
        yield Finding(
            layer.path, f"{counts[10]} blocks of zeros have an offset, which Hyper-V refuses", False
        )


def remarks(layer: Layer) -> Iterator[str]:
    """What is unusual and harmless, as far as opening has shown it."""
    container, header = layer.container, layer.header
    if layer.replay:
        count = len(layer.replay.entries)
        yield f"the log is dirty: {count} {'entry is' if count == 1 else 'entries are'} replayed while reading"
    if header.note:
        yield header.note
    if layer.regions.note:
        yield layer.regions.note
    if container.stored % MIB:
        yield f"the file has {container.stored % MIB} bytes after its last whole MiB"
    if not layer.replay and header.log_offset + header.log_length > container.stored:
        yield f"the file ends at {container.stored}, before the end of its (empty) log"
