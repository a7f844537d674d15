"""The log: which of its entries count, and what they write (formats 1.4). It is read here, and never written.

The log is a ring of 4 KiB sectors. An entry counts when everything in it fits together, its checksum and the header's
LogGuid included. Entries that follow each other in the ring with rising sequence numbers are a sequence; one whose
last entry's Tail names an entry of it is complete, and the complete one with the highest number is replayed, from the
entry at that Tail on. A sequence without its tail is what is left of an older round; an entry that fails a test is
torn, or older still, and ends the sequence before it.

What an entry that does count wants to write is another matter: no torn write makes it name the log itself, or the
headers. Then the file is refused, rather than read as it was before that entry.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from secondsite.engine import errors, kernel
from secondsite.engine.images.vhdx.container import Container, Patch
from secondsite.engine.images.vhdx.header import Header
from secondsite.engine.images.vhdx.packing import DESCRIPTOR, LOG_ENTRY, MIB, PAGE
from secondsite.engine.images.vhdx.structures import MAX_FILE, TABLES_START, damaged, guid

_STEP = MIB
# What one look at a log may cost, in bytes of checksum (a descriptor costs as much time as some 2 KiB): an honest log
# needs its own length once, one that was built to be searched for ever is refused.
_WORK_BYTES = 1024 * MIB
_WORK_ROUNDS = 16
_DESCRIPTOR_WORK = 2048
_MAX_DESCRIPTORS = 1 << 19


class Entry(NamedTuple):
    """A valid entry: where in the ring it begins, and its fields."""

    position: int
    length: int
    tail: int
    sequence: int
    descriptors: int
    flushed_size: int
    last_size: int


class Replay(NamedTuple):
    """What replaying the log does: the entries in order and the file's size afterwards."""

    entries: tuple[Entry, ...]
    size: int


def overlay_log(container: Container, header: Header) -> Replay | None:
    """Lay what the log would write over the container; None where there is nothing to replay. Raises Damaged."""
    if not header.dirty:
        return None
    ring = _Ring(container, header)
    entries = ring.active()
    head = entries[-1]
    if container.stored < head.flushed_size:
        raise damaged(
            container.path, ring.place(head.position),
            f"log: the file was cut; it has {container.stored} bytes, {head.flushed_size} were durable",
        )  # fmt: skip
    pages = os.memfd_create("vhdx-log", os.MFD_CLOEXEC)
    try:
        patches = [patch for entry in entries for patch in ring.writes(entry, pages)]
        size = max(head.last_size, container.stored, *(patch.end for patch in patches), 0)
        if size > MAX_FILE:
            raise damaged(
                container.path, ring.place(head.position),
                f"log: the file would grow to {size} bytes, no VHDX has more than {MAX_FILE}",
            )  # fmt: skip
    except OSError as error:
        os.close(pages)
        raise errors.from_os(error, container.path, "keep what its log writes in memory") from None
    except BaseException:
        os.close(pages)
        raise
    container.lay(patches, pages, size)
    return Replay(entries, size)


class _Ring:
    """The log of one file, as the header tells it."""

    def __init__(self, container: Container, header: Header) -> None:
        self.container, self.guid = container, header.log
        self.offset, self.length = header.log_offset, header.log_length
        self.work = max(_WORK_BYTES, _WORK_ROUNDS * self.length)
        self.pages = 0
        self.replayed = 0
        if self.offset + self.length > container.stored:
            raise damaged(
                container.path, header.offset + 68,
                f"header: the log ends at {self.offset + self.length}, the file at {container.stored}",
            )  # fmt: skip

    def place(self, position: int) -> int:
        """The offset in the file."""
        return self.offset + position % self.length

    def read(self, position: int, length: int) -> bytes:
        """Bytes from a place in the ring, round its end where it must be."""
        position %= self.length
        first = min(length, self.length - position)
        data = self.container.read(self.offset + position, first, "log")
        return data if first == length else data + self.container.read(self.offset, length - first, "log")

    def spend(self, work: int) -> None:
        self.work -= work
        if self.work < 0:
            raise damaged(
                self.container.path, self.offset,
                "log: its entries overlap so much that searching them has no end; entries side by side were expected",
            )  # fmt: skip

    # -- the active sequence --------------------------------------------------------------------------------

    def active(self) -> tuple[Entry, ...]:
        """The entries to replay, from the tail to the head."""
        valid = {entry.position: entry for entry in self._valid()}
        best: tuple[Entry, ...] = ()
        seen: set[int] = set()
        for start in sorted(valid):
            # What begins inside a sequence has the same head, and fewer entries for its Tail to be among.
            if start in seen:
                continue
            sequence = self._sequence(valid, start)
            seen.update(entry.position for entry in sequence)
            head = sequence[-1]
            if best and head.sequence <= best[-1].sequence:
                continue
            tails = [index for index, entry in enumerate(sequence) if entry.position == head.tail]
            if tails:
                best = sequence[tails[0] :]
        if not best:
            raise damaged(
                self.container.path, self.offset,
                f"log: no complete sequence of entries of log {self.guid}, which the header says is to be replayed",
            )  # fmt: skip
        return best

    def _sequence(self, valid: dict[int, Entry], start: int) -> tuple[Entry, ...]:
        found = [valid[start]]
        while True:
            last = found[-1]
            after = valid.get((last.position + last.length) % self.length)
            # Numbers rise by one, so no entry comes twice and this ends.
            if after is None or after.sequence != last.sequence + 1:
                return tuple(found)
            found.append(after)

    def _valid(self) -> Iterator[Entry]:
        for at in range(0, self.length, _STEP):
            piece = self.read(at, _STEP)
            for inside in range(0, _STEP, PAGE):
                if piece.startswith(b"loge", inside):
                    entry = self._examine(at + inside, piece[inside : inside + PAGE])
                    if entry is not None:
                        yield entry

    def _examine(self, position: int, sector: bytes) -> Entry | None:
        """The entry that begins with this sector, if it is valid."""
        _, checksum, length, tail, sequence, count, log, flushed, last = LOG_ENTRY.unpack_from(sector)
        entry = Entry(position, length, tail, sequence, count, flushed, last)
        pages = (length - _descriptor_bytes(entry)) // PAGE
        if (
            guid(log) != self.guid
            or length % PAGE
            or not PAGE <= length < self.length
            or tail % PAGE
            or tail >= self.length
            or sequence == 0
            or not 0 <= pages <= count
        ):
            return None
        if self._checksum(entry) != checksum:
            return None
        found = 0
        for signature, _, _, _, number in self._descriptors(entry):
            if number != sequence or signature not in (b"desc", b"zero"):
                return None
            found += signature == b"desc"
        return entry if found == pages else None

    def _checksum(self, entry: Entry) -> int | None:
        """CRC-32C of the entry with its own field as zeros; None where a data sector is not this entry's."""
        self.spend(entry.length)
        first = _descriptor_bytes(entry)
        number = entry.sequence.to_bytes(8, "little")
        begins, ends = b"data" + number[4:], number[:4]
        value = 0
        for at in range(0, entry.length, _STEP):
            piece = self.read(entry.position + at, min(_STEP, entry.length - at))
            for inside in range(max(0, first - at), len(piece), PAGE):
                if not piece.startswith(begins, inside) or not piece.startswith(ends, inside + PAGE - 4):
                    return None
            if at == 0:
                piece = piece[:4] + bytes(4) + piece[8:]
            value = kernel.crc.crc32c(piece, value)
        return value

    def _descriptors(self, entry: Entry) -> Iterator[tuple[bytes, bytes, bytes, int, int]]:
        self.spend(_DESCRIPTOR_WORK * entry.descriptors)
        size = DESCRIPTOR.size * entry.descriptors
        for at in range(0, size, _STEP):
            raw = self.read(entry.position + LOG_ENTRY.size + at, min(_STEP, size - at))
            yield from DESCRIPTOR.iter_unpack(raw)

    # -- what the entries write -----------------------------------------------------------------------------

    def writes(self, entry: Entry, pages: int) -> Iterator[Patch]:
        """An entry's writes in order; pages of data are put into the file `pages`, one behind another."""
        self.replayed += entry.descriptors
        if self.replayed > _MAX_DESCRIPTORS:
            raise self._bad(entry, 0, f"more than {_MAX_DESCRIPTORS} descriptors to replay")
        sector = entry.position + _descriptor_bytes(entry)
        for index, (signature, trailing, leading, offset, _) in enumerate(self._descriptors(entry)):
            length = PAGE if signature == b"desc" else int.from_bytes(leading, "little")
            self._check_target(entry, index, offset, length)
            if signature == b"zero":
                if length:
                    yield Patch(offset, offset + length, -1)
                continue
            data = self.read(sector, PAGE)
            os.pwrite(pages, leading + data[8 : PAGE - 4] + trailing, self.pages)
            yield Patch(offset, offset + PAGE, self.pages)
            self.pages += PAGE
            sector += PAGE

    def _check_target(self, entry: Entry, index: int, offset: int, length: int) -> None:
        if offset % PAGE or length % PAGE:
            raise self._bad(entry, index, f"{length} bytes at {offset}, multiples of {PAGE} were expected")
        if offset < TABLES_START:
            raise self._bad(entry, index, f"a write at {offset}, expected behind the headers, from {TABLES_START}")
        if offset + length > MAX_FILE:
            raise self._bad(entry, index, f"{length} bytes at {offset}, no VHDX has more than {MAX_FILE}")
        if offset < self.offset + self.length and offset + length > self.offset:
            raise self._bad(entry, index, f"{length} bytes at {offset}, which is in the log itself")

    def _bad(self, entry: Entry, index: int, what: str) -> Exception:
        return damaged(
            self.container.path, self.place(entry.position + LOG_ENTRY.size + DESCRIPTOR.size * index),
            f"log: entry {entry.sequence}, descriptor {index}: {what}",
        )  # fmt: skip


def _descriptor_bytes(entry: Entry) -> int:
    """The sectors of an entry before its data: its header of 64 bytes and its descriptors."""
    return PAGE * -(-(LOG_ENTRY.size + DESCRIPTOR.size * entry.descriptors) // PAGE)
