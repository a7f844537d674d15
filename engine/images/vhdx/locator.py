"""The parent locator: which file a differencing disk is based on, and by which identifier (formats 1.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from uuid import UUID

from secondsite.engine.images.vhdx.container import Container
from secondsite.engine.images.vhdx.metadata import Item
from secondsite.engine.images.vhdx.packing import LOCATOR_HEAD, LOCATOR_PAIR, LOCATOR_TYPE
from secondsite.engine.images.vhdx.structures import NO_GUID, damaged, guid

# The order in which they are tried.
PATH_KEYS = ("relative_path", "volume_path", "absolute_win32_path")


class Locator(NamedTuple):
    """`linkages` are the DataWriteGuids that the parent may have; `paths` its names as Windows wrote them."""

    linkages: tuple[UUID, ...]
    paths: tuple[str, ...]


def read_locator(container: Container, item: Item) -> Locator:
    """The item's contents. Raises Damaged."""
    pairs = _pairs(container, item)
    linkages = tuple(
        value for key in ("parent_linkage", "parent_linkage2") if (value := _linkage(container, item, pairs, key))
    )
    if "parent_linkage" not in pairs or not linkages:
        raise damaged(container.path, item.offset, "parent locator: no parent_linkage, which identifies the parent")
    return Locator(linkages, tuple(pairs[key] for key in PATH_KEYS if pairs.get(key)))


def _linkage(container: Container, item: Item, pairs: Mapping[str, str], key: str) -> UUID | None:
    """The GUID under a key. Windows writes parent_linkage2 as zeros where there is none."""
    text = pairs.get(key)
    if text is None:
        return None
    try:
        if not (text.startswith("{") and text.endswith("}")):
            raise ValueError
        value = UUID(text)
    except ValueError:
        raise damaged(
            container.path, item.offset, f"parent locator: {key} is {text[:80]!r}, a GUID in braces was expected"
        ) from None
    return None if value == NO_GUID else value


def _pairs(container: Container, item: Item) -> dict[str, str]:
    raw = container.read(item.offset, item.length, "parent locator")
    if len(raw) < LOCATOR_HEAD.size:
        raise damaged(
            container.path, item.offset, f"parent locator: {len(raw)} bytes, {LOCATOR_HEAD.size} were expected"
        )
    kind, _, count = LOCATOR_HEAD.unpack_from(raw)
    if guid(kind) != LOCATOR_TYPE:
        raise damaged(
            container.path, item.offset, f"parent locator: type {guid(kind)}, {LOCATOR_TYPE} (VHDX) was expected"
        )
    if LOCATOR_HEAD.size + count * LOCATOR_PAIR.size > len(raw):
        raise damaged(container.path, item.offset + 18, f"parent locator: {count} pairs in {len(raw)} bytes")
    pairs: dict[str, str] = {}
    for index in range(count):
        at = LOCATOR_HEAD.size + index * LOCATOR_PAIR.size
        key_at, value_at, key_length, value_length = LOCATOR_PAIR.unpack_from(raw, at)
        key = _text(container, item, raw, at, key_at, key_length)
        if not key or key in pairs:
            raise damaged(container.path, item.offset + at, f"parent locator: key {key[:80]!r} is empty or there twice")
        pairs[key] = _text(container, item, raw, at, value_at, value_length)
    return pairs


def _text(container: Container, item: Item, raw: bytes, at: int, start: int, length: int) -> str:
    if start + length > len(raw) or length % 2:
        raise damaged(
            container.path, item.offset + at,
            f"parent locator: text of {length} bytes at {start}, expected inside {len(raw)} bytes and even",
        )  # fmt: skip
    try:
        return raw[start : start + length].decode("utf-16-le")
    except UnicodeDecodeError:
        raise damaged(container.path, item.offset + start, "parent locator: the text is not UTF-16") from None
