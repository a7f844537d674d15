"""A block map over a call: its pages' digests, and the pages that are asked for, each proved by its digest."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator

from secondsite.engine import errors
from secondsite.engine.blockmap import DIGEST_BYTES, PAGE_BLOCKS, PAGE_BYTES, ZERO_DIGEST, BlockMap
from secondsite.engine.remote import talk
from secondsite.engine.remote.link import protocol
from secondsite.engine.remote.link.calls import Call

Fetch = Callable[[talk.Ask], Iterator[bytes]]


def answer(call: Call, held: BlockMap, asked: talk.Ask) -> None:
    """The bodies of an answer about a map. Raises Garbled for what cannot be asked."""
    if asked.what == "table":
        digests = held.digests()
        for at in range(0, len(digests), talk.TABLE_PIECE):
            call.send(None, digests[at : at + talk.TABLE_PIECE])
    elif asked.what == "pages" and len(asked.pages) <= talk.MAX_PAGES:
        for page in asked.pages:
            call.send(None, _page(call, held, page))
    else:
        raise protocol.Garbled(f"asks for {asked.what!r}, which is not there", path=call.peer)


def _page(call: Call, held: BlockMap, page: int) -> bytes:
    if not 0 <= page < held.pages:
        raise protocol.Garbled(f"asks for page {page} of {held.pages}", path=call.peer)
    count = min(PAGE_BLOCKS, held.blocks - page * PAGE_BLOCKS)
    found = held.read(page * PAGE_BLOCKS, count)
    return bytes(found) if found is not None else bytes(16 * count)


def fill(
    made: BlockMap, fetch: Fetch, peer: str, has: Callable[[int, bytes], bool] = lambda page, digest: False
) -> None:
    """The other side's map into an empty one; pages that `has` puts there, by their digest, are not asked for."""
    wanted = _table(made, fetch(talk.Ask("table")), peer)
    missing = [page for page, digest in enumerate(wanted) if digest != ZERO_DIGEST and not has(page, digest)]
    for at in range(0, len(missing), talk.MAX_PAGES):
        part = missing[at : at + talk.MAX_PAGES]
        for page, body in zip(part, fetch(talk.Ask("pages", part)), strict=True):
            _store(made, page, body, wanted[page], peer)


def _table(made: BlockMap, pieces: Iterable[bytes], peer: str) -> list[bytes]:
    table = bytearray()
    expected = made.pages * DIGEST_BYTES
    for piece in pieces:
        table += piece
        if len(table) > expected:
            break
    if len(table) != expected:
        raise protocol.Garbled(f"a table of {len(table)} bytes, {expected} were expected", path=peer)
    return [bytes(table[at : at + DIGEST_BYTES]) for at in range(0, expected, DIGEST_BYTES)]


def _store(made: BlockMap, page: int, body: bytes, digest: bytes, peer: str) -> None:
    first = page * PAGE_BLOCKS
    count = min(PAGE_BLOCKS, made.blocks - first)
    if len(body) != 16 * count or hashlib.sha256(bytes(body).ljust(PAGE_BYTES, b"\0")).digest() != digest:
        raise errors.Damaged(f"page {page} of its block map does not match its digest", path=peer)
    made.store(array("Q", range(first, first + count)), body, count)
