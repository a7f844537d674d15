"""What whoever protects a machine notes in each replica of its disks, so that a loss of his own database loses nothing.

A point of a machine is generations of several replicas that were cut at one instant. The engine does not know machines:
it keeps a note, an object of the caller's, durably and as a whole, and gives it back. Written once all disks of a cycle
are committed, it names no point of which only some disks have their part (P16). What it names may have been dropped
since: `points` says what is there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from secondsite.engine import errors
from secondsite.engine.files import Files
from secondsite.engine.remote import reach, url
from secondsite.engine.replica import record
from secondsite.engine.replica.directory import READER_SECONDS, Replica
from secondsite.engine.store.key import refuse_plain
from secondsite.engine.store.place import finding_logs, is_place

# Two lines of it and what is around them are a record; over a network it is the body of one message.
MAX_BYTES = record.MAX_BYTES // 2 - 4096
_LOOK_SECONDS = 0.003


@finding_logs
def write_note(
    replica: str | os.PathLike[str], note: Mapping[str, Any], *, epoch: int | None = None, files: Files | None = None,
    state: str | os.PathLike[str] | None = None,
) -> None:  # fmt: skip
    """Put a note in the place of the one before: what JSON holds, at most half a MiB of it. It is durable when this
    returns. Cycles and readers go on meanwhile.

    Raises Refused where the replica knows a higher `epoch` (DESIGN D9), Usage for a note that is too large, Busy, and
    what reaching the replica raises.
    """
    root, packed = os.fspath(replica), pack(note)
    if files is None and is_place(root):
        from secondsite.engine.store.log import note as stored

        stored.write(root, packed, epoch, state)
        return
    refuse_plain(root)
    if files is None and url.is_remote(root):
        reach.write_note(root, state, packed, epoch)
        return
    opened = Replica.open(root, files)
    with _alone(opened):
        check_epoch(opened.look_again().epoch, epoch, root)
        _replace(opened, record.pack(fields(packed, opened.identity.replica_id.hex())))


@contextmanager
def _alone(opened: Replica) -> Iterator[None]:
    """Of those who write notes; whoever writes or reads points is not held up. Raises Busy."""
    path, end = f"{opened.layout.root}/note.lock", time.monotonic() + READER_SECONDS
    while (lock := opened.files.lock(path, exclusive=True)) is None:
        if time.monotonic() > end:
            raise errors.Busy("is busy: another process writes its note; try again later", path=opened.layout.root)
        time.sleep(_LOOK_SECONDS)
    try:
        yield
    finally:
        lock.release()


def _replace(opened: Replica, data: bytes) -> None:
    """All of it or nothing. The writer of the replica, who may begin just now, removes what ends in `.tmp`."""
    files, layout = opened.files, opened.layout
    coming = f"{layout.root}/note.new"
    with files.open(coming, "create") as file:
        file.write(0, data)
        file.flush()
    files.replace(coming, layout.note)
    files.flush_dir(layout.root)


@finding_logs
def read_note(
    replica: str | os.PathLike[str], *, files: Files | None = None, state: str | os.PathLike[str] | None = None
) -> dict[str, Any] | None:
    """The note that was written last, or None. Raises Damaged, and what reaching the replica raises."""
    root = os.fspath(replica)
    if files is None and is_place(root):
        from secondsite.engine.store.log import note as stored

        return stored.read(root, state)
    with reach.files_of(replica, files, state) as (name, found):
        opened = Replica.open(name, found)
        if found.size(opened.layout.note) < 0:
            return None
        said, _ = record.read(found, opened.layout.note)
        return unpack(said, opened.layout.note, opened.identity.replica_id.hex())


def pack(note: Mapping[str, Any]) -> str:
    """As JSON. Raises Usage for what is none, or too large."""
    try:
        packed = record.plain(note)
    except (TypeError, ValueError, RecursionError) as error:
        raise errors.Usage(f"a note is what JSON holds: {error}") from None
    if len(packed) > MAX_BYTES:
        raise errors.Usage(f"a note has at most {MAX_BYTES} bytes, not {len(packed)}")
    return packed


def fields(packed: str, replica_id: str) -> dict[str, Any]:
    """The members of the record. Raises Damaged for what somebody sent that is no note."""
    if len(packed) > MAX_BYTES:
        raise errors.Damaged(f"a note has at most {MAX_BYTES} bytes, not {len(packed)}")
    return {"note": record.parsed(packed), "replica_id": replica_id}


def unpack(said: dict[str, Any], path: str, replica_id: str) -> dict[str, Any]:
    """The note in a record's fields. Raises Damaged."""
    if record.field(said, "replica_id", str, path) != replica_id:
        raise errors.Damaged("it is the note of another replica", path=path)
    found: dict[str, Any] = record.field(said, "note", dict, path)
    return found


def check_epoch(found: int, epoch: int | None, path: str) -> None:
    """D9: who was fenced off notes nothing. Raises Refused."""
    if epoch is not None and found > epoch:
        raise errors.Refused(f"is in epoch {found}, and this comes from {epoch}: a failover happened", path=path)
