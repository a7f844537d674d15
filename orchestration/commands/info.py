"""secondsite info"""

from __future__ import annotations

from dataclasses import asdict

import click

from secondsite import engine
from secondsite.engine.units import format_size
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import image_options, json_option, key_options, state_option


@click.command(short_help="Describe a replica or a disk image.")
@click.argument("path")
@image_options
@state_option
@json_option
@key_options
def command(
    path: str, as_json: bool, state: str | None, source_format: str | None, allow_parent_path: tuple[str, ...]
) -> None:
    """Describe PATH, a replica's folder or a disk image.

    \b
    secondsite info /backup/vm
    secondsite info vm.vhdx --json
    """
    found = engine.info(path, format=source_format, allow_parent_path=allow_parent_path, state=state)
    if isinstance(found, engine.ReplicaInfo):
        output.warn(found.warnings)
    if as_json:
        output.print_json(asdict(found))
    elif isinstance(found, engine.ReplicaInfo):
        _replica(found)
    else:
        _image(found)


def _image(found: engine.ImageInfo) -> None:
    pairs = [
        ("image", found.path),
        ("format", f"{found.format}, {found.subformat}"),
        ("size", _size(found.virtual_bytes)),
        ("allocated", _size(found.allocated_bytes)),
    ]
    if found.block_size:
        pairs.append(("block size", f"{format_size(found.block_size)}, sectors of {found.logical_sector} bytes"))
    pairs += [("parent", f"{path} {identifier}") for path, identifier in found.parents]
    if found.log is not None:
        pairs.append(("log", "dirty: it is replayed in memory" if found.log == "dirty" else found.log))
    pairs += sorted((name.replace("_", " "), value) for name, value in found.identifiers.items())
    pairs += [("note", note) for note in found.notes]
    _lines(pairs)


def _replica(found: engine.ReplicaInfo) -> None:
    clones = [("kept clone", path) for path in found.clones]
    if clones:
        clones.append(("of the source", f"{_size(found.clone_bytes)} that only the clone holds"))
    _lines(
        [
            ("replica of", found.source),
            ("head", found.head or _no_head(found)),
            ("newest point", f"{found.generation}, of {found.time}" if found.time else "none"),
            ("points", f"{found.points}, kept as {found.history}"),
            ("size", _size(found.virtual_bytes)),
            ("block size", format_size(found.block_size)),
            ("history", f"{_size(found.stored_bytes)} of {_kept(found)}"),
            ("epoch", str(found.epoch)),
            ("id", found.replica_id),
            *clones,
            *_resync(found),
        ]
    )


def _kept(found: engine.ReplicaInfo) -> str:
    return "segments, maps and manifests" if found.history == "log" else "undo deltas, block maps and records"


def _no_head(found: engine.ReplicaInfo) -> str:
    if found.history == "log":
        return "none: a replica in a store is a log; restore writes a point of it"
    if not found.waits:
        return "none yet: the first cycle has not been completed"
    held = f"{found.held} delta{'s' * (found.held != 1)} of {format_size(found.held_bytes)}"
    return f"none yet: it waits for its seed, and holds {held} for it"


def _resync(found: engine.ReplicaInfo) -> list[tuple[str, str]]:
    if found.resync is None:
        return []
    told = f"pending, {int(100 * found.compared)} % compared" if found.compared is not None else "required"
    return [("resync", told)]


def _size(count: int) -> str:
    return f"{format_size(count)} ({count} bytes)"


def _lines(pairs: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        click.echo(f"{name.rjust(width)}: {value}")
