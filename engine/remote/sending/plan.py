"""What the source's end hears from the replica before it sends: its state, its map, and what is spooled there. All of
it is as hostile as anything else that comes in.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import TypeVar

from secondsite.engine import errors, units
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.delta import format as fmt
from secondsite.engine.progress import Monitor
from secondsite.engine.remote import talk
from secondsite.engine.remote.link import protocol
from secondsite.engine.remote.link.calls import Call

T = TypeVar("T", bound=talk.FromReplica)


class Spooled:
    """The blocks that are spooled, as runs in no order."""

    def __init__(self) -> None:
        self.firsts, self.counts = array("Q"), array("Q")

    def add(self, numbers: array[int]) -> None:
        """Blocks of one frame, ascending."""
        for number in numbers:
            if self.firsts and number == self.firsts[-1] + self.counts[-1]:
                self.counts[-1] += 1
            else:
                self.add_run(number, 1)

    def add_run(self, first: int, count: int) -> None:
        self.firsts.append(first)
        self.counts.append(count)

    def joined(self, named: Iterable[tuple[int, int]], block_size: int, size: int) -> Iterable[tuple[int, int]]:
        """The ranges of bytes, with those of the spooled blocks among them; in order where `named` are."""
        if not self.firsts:
            return named
        runs = zip(self.firsts, self.counts, strict=True)
        ours = [(first * block_size, min(count * block_size, size - first * block_size)) for first, count in runs]
        return _flat(sorted([*named, *ours]))


def _flat(ranges: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Sorted ranges, each byte in one of them."""
    at = 0
    for start, length in ranges:
        begin = max(start, at)
        if start + length > begin:
            yield begin, start + length - begin
            at = start + length


def check(state: talk.State, peer: str) -> None:
    """What a replica says of itself is as hostile as anything else."""
    size = state.block_size
    if len(state.replica_id) != 16 or not 4096 <= size <= fmt.MAX_RAW or size & (size - 1):
        raise protocol.Garbled("a replica's id or block size that is none", path=peer)
    if min(state.virtual_bytes, state.generation, state.spool_bytes, state.spool_frames) < 0:
        raise protocol.Garbled("a negative size", path=peer)
    if not 0 <= state.seed < 1 << 64 or state.virtual_bytes > size * units.MAX_BLOCKS:
        raise protocol.Garbled("a seed or size out of bounds", path=peer)


def looked(call: Call, monitor: Monitor, end: type[T]) -> T:
    """Show what a resync looks at there until it says that it has done so."""
    stage, at = "", 0
    while not isinstance(said := talk.from_replica(call.receive().control, call.peer), end):
        if not isinstance(said, talk.Looked):
            raise protocol.Garbled("an answer to nothing", path=call.peer)
        if said.stage != stage:
            stage, at = said.stage, 0
            monitor.begin(stage[:40], max(said.total, 0))
        monitor.advance(max(said.done - at, 0))
        at = said.done
    return said


def examined(call: Call, monitor: Monitor) -> list[str]:
    """What is still damaged after a resync. The point is there, whatever becomes of this."""
    try:
        return looked(call, monitor, talk.Examined).warnings[: talk.MAX_WARNINGS]
    except errors.Error as error:
        return [f"it is not known what of older points is lost ({error}); verify tells"]


def fetch(call: Call, ask: talk.Ask) -> Iterator[bytes]:
    """The bodies of an answer."""
    call.send(ask)
    while (message := call.receive()).control == b"":
        yield bytes(message.body)
    if not isinstance(talk.from_replica(message.control, call.peer), talk.Answered):
        raise protocol.Garbled("an answer to nothing", path=call.peer)


def overlay(held: BlockMap, call: Call, state: talk.State, size: int) -> Spooled:
    """Lay over the map what the replica has spooled already: only what differs from both is sent. Those blocks."""
    found = Spooled()
    if not state.spool_frames:
        return found
    call.send(talk.Ask("spool"))
    end = -(-size // state.block_size)
    while True:
        message = call.receive()
        said = talk.from_replica(message.control, call.peer)
        if isinstance(said, talk.Answered):
            return found
        numbers = array("Q")
        width = 24 if isinstance(said, talk.Spooled) and said.kind == fmt.DATA else 16
        if not isinstance(said, talk.Spooled) or said.count < 1 or len(message.body) != width * said.count:
            raise protocol.Garbled("a part of the spool's table that is none", path=call.peer)
        numbers.frombytes(bytes(message.body[: 8 * said.count * (1 if width == 24 else 2)]))
        if width == 24:
            if max(numbers) >= end:
                raise protocol.Garbled("its spool names blocks that are not there", path=call.peer)
            held.store(numbers, message.body[8 * said.count :], said.count)
            if state.generation:  # before the first point all is looked at
                found.add(numbers)
        else:
            for first, count in zip(numbers[0::2], numbers[1::2], strict=True):
                if first + count > end:
                    raise protocol.Garbled("its spool names blocks that are not there", path=call.peer)
                held.clear(first, count)
                found.add_run(first, count)
