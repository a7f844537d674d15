"""Which of a running QEMU's block nodes is a machine's disk."""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from secondsite.engine import errors
from secondsite.engine.images.raw import real_path
from secondsite.engine.qemu.qmp import Json, Monitor

# The node that speaks to the file; what lies over it knows the format.
_PROTOCOLS = {"file", "host_device"}
# All that we add to a QEMU is named so, and nothing else may be removed by us.
PREFIX = "secondsite-"


class Bitmap(NamedTuple):
    """A dirty bitmap of a node. `usable`: neither in somebody's use nor inconsistent, and it marks writes."""

    name: str
    usable: bool
    recording: bool


class Node(NamedTuple):
    """A node: the disk's name in QEMU, what drives it, its bytes, and its bitmaps."""

    name: str
    driver: str
    size: int
    bitmaps: tuple[Bitmap, ...]

    def bitmap(self, name: str) -> Bitmap | None:
        return next((bitmap for bitmap in self.bitmaps if bitmap.name == name), None)


def find(monitor: Monitor, path: str, name: str | None) -> Node:
    """The node of the disk in the file at `path`, or the one called `name`.

    Raises Refused where QEMU has no such disk, and where the file is not what a machine writes (a backing file).
    """
    nodes = monitor.listed("query-named-block-nodes", {"flat": True})
    if name is not None:
        return look(monitor, name, nodes)
    wanted = real_path(path)
    of_file = [node for node in nodes if _file_of(node) == wanted and not _ours(node)]
    if not of_file:
        raise errors.Refused(f"this QEMU does not have {path} open", path=monitor.name)
    found = _in_use(monitor, of_file)
    if len(found) != 1:
        names = ", ".join(sorted(str(node.get("node-name")) for node in found or of_file))
        why = "several of its nodes are this file" if found else "no device of this machine writes to this file"
        raise errors.Refused(f"{why}: {names} (--qmp-node says which one to follow)", path=monitor.name)
    return _node(monitor, found[0])


def look(monitor: Monitor, name: str, nodes: list[Json] | None = None) -> Node:
    """The node of that name as it is now. Raises Refused where there is none."""
    for node in monitor.listed("query-named-block-nodes", {"flat": True}) if nodes is None else nodes:
        if node.get("node-name") == name:
            return _node(monitor, node)
    raise errors.Refused(f"this QEMU has no block node {name!r}", path=monitor.name)


def _in_use(monitor: Monitor, of_file: list[Json]) -> list[Json]:
    """Those that a device of the machine sits on; in a storage daemon, which has none, that an export does."""
    devices = [disk.get("inserted") for disk in monitor.listed("query-block")]
    used = {device.get("node-name") for device in devices if isinstance(device, dict)}
    if not used:
        used = {export.get("node-name") for export in monitor.listed("query-block-exports")}
    named = [node for node in of_file if node.get("node-name") in used]
    if named or not any(str(name).startswith(PREFIX) for name in used):
        return named
    return [node for node in of_file if node.get("drv") not in _PROTOCOLS] or of_file


def _ours(node: Json) -> bool:
    return str(node.get("node-name")).startswith(PREFIX)


def _file_of(node: Json) -> str | None:
    """The real path of a node's file; QEMU gives options as JSON where a file's name is not all there is."""
    name = node.get("file")
    if not isinstance(name, str):
        return None
    if name.startswith("json:"):
        try:
            name = _filename(json.loads(name.removeprefix("json:")))
        except (ValueError, RecursionError):
            return None
    return real_path(name) if name and os.path.isabs(name) else name


def _filename(options: Any) -> str | None:
    """Down the chain of `file` to the one that has a name."""
    while isinstance(options, dict):
        name = options.get("filename")
        if isinstance(name, str):
            return name
        options = options.get("file")
    return None


def _node(monitor: Monitor, node: Json) -> Node:
    name, image = node.get("node-name"), node.get("image")
    size = image.get("virtual-size") if isinstance(image, dict) else None
    bitmaps = node.get("dirty-bitmaps", [])
    if not isinstance(name, str) or type(size) is not int or not 0 <= size < 1 << 63 or not isinstance(bitmaps, list):
        raise errors.Unreachable("its description of a block node makes no sense", path=monitor.name)
    return Node(name, str(node.get("drv")), size, tuple(_bitmap(entry) for entry in bitmaps if isinstance(entry, dict)))


def _bitmap(entry: Json) -> Bitmap:
    broken = entry.get("busy") is not False or entry.get("inconsistent") is True
    return Bitmap(str(entry.get("name", "")), not broken, entry.get("recording") is True)
