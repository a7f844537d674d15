"""Logs in their order. Each names the one before it; where that does not make one chain, none of them is applied.

A log says nothing of its disk, neither its name nor its size: that it belongs to a replica follows from the chain
alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from uuid import UUID

from secondsite.engine import errors
from secondsite.engine.files import Files
from secondsite.engine.hrl import format as fmt
from secondsite.engine.hrl.reader import HrlReader

# Each log of a chain is kept open while it is applied; a process may hold 1,024 files open.
MAX_LOGS = 512


def open_chain(
    paths: Sequence[str | os.PathLike[str]], *, after: UUID | None = None, files: Files | None = None
) -> list[HrlReader]:
    """Open logs given in any order, and return those to apply, in order; see `check_chain`. Close them after use."""
    readers = open_logs(paths, files)
    try:
        chain = check_chain(readers, after=after)
    except BaseException:
        for reader in readers:
            reader.close()
        raise
    for reader in readers:
        if reader not in chain:
            reader.close()
    return chain


def open_logs(paths: Sequence[str | os.PathLike[str]], files: Files | None = None) -> list[HrlReader]:
    """Open logs as they are given. Raises Refused where they are too many, and what HrlReader raises."""
    if len(paths) > MAX_LOGS:
        raise errors.Refused(f"{len(paths)} logs at once; at most {MAX_LOGS}, apply the oldest first")
    readers: list[HrlReader] = []
    try:
        for path in paths:
            readers.append(HrlReader(os.fspath(path), files))
    except BaseException:
        for reader in readers:
            reader.close()
        raise
    return readers


def check_chain(readers: Sequence[HrlReader], *, after: UUID | None = None) -> list[HrlReader]:
    """The logs ordered by PreviousUniqueId. Raises Refused, which no retry mends (R6.3), naming both identifiers:
    for a gap, a fork, a loop, a log given twice, a log of another disk.

    `after` is the identifier of the last log that was applied. Then the chain must go on from it; logs up to that one
    may be among those given and are left out, so that the result is empty where all of them were applied before.
    """
    by_id: dict[UUID, HrlReader] = {}
    following: dict[UUID, HrlReader] = {}
    for reader in readers:
        twin = by_id.setdefault(reader.unique_id, reader)
        if twin is not reader:
            raise errors.Refused(f"has the identifier {reader.unique_id} of {twin.path}", path=reader.path)
        rival = following.setdefault(reader.previous_id, reader)
        if rival is not reader and reader.previous_id != fmt.NIL:
            raise errors.Refused(
                f"the chain forks: this log {reader.unique_id} and {rival.unique_id} ({rival.path}) "
                f"both follow {reader.previous_id}",
                path=reader.path,
            )
    starts = [reader for reader in readers if reader.previous_id not in by_id]
    chains = [_follow(start, following) for start in sorted(starts, key=lambda reader: reader.header.created)]
    _refuse_loop(readers, chains)
    if after is not None and chains:
        return _after(after, chains)
    if len(chains) > 1:
        raise _gap(chains[1][0], chains[0][-1].unique_id)
    return chains[0] if chains else []


def _after(last: UUID, chains: list[list[HrlReader]]) -> list[HrlReader]:
    """What follows the last log that was applied, where all logs are of its chain: only of those is it known."""
    for chain in chains:
        names = [chain[0].previous_id, *(reader.unique_id for reader in chain)]
        if last in names:
            for other in chains:
                if other is not chain:
                    raise _stranger(other[0], last)
            return chain[names.index(last) :]
    raise _gap(chains[0][0], last)


def _follow(start: HrlReader, following: dict[UUID, HrlReader]) -> list[HrlReader]:
    chain = [start]
    while (reader := following.get(chain[-1].unique_id)) is not None:
        chain.append(reader)
    return chain


def _refuse_loop(readers: Sequence[HrlReader], chains: list[list[HrlReader]]) -> None:
    reached = {reader.unique_id for chain in chains for reader in chain}
    for reader in readers:
        if reader.unique_id not in reached:
            raise errors.Refused(
                f"the chain comes back to itself: this log {reader.unique_id} follows {reader.previous_id}, "
                "which follows it",
                path=reader.path,
            )


def _gap(reader: HrlReader, last: UUID) -> errors.Refused:
    return errors.Refused(
        f"the chain is broken: this log {reader.unique_id} follows {reader.previous_id}, the one before it is {last}; "
        "a log is missing or of another disk (give the missing one, or replicate the disk itself)",
        path=reader.path,
    )


def _stranger(reader: HrlReader, last: UUID) -> errors.Refused:
    return errors.Refused(
        f"this log {reader.unique_id}, which follows {reader.previous_id}, is not in one chain with {last}, the last "
        "that was applied; a log between them is missing, or it is of another disk (leave it out)",
        path=reader.path,
    )
