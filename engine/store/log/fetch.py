"""Frames from a store: neighbours in one question, several questions at once, each frame checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

from secondsite.engine import errors, kernel
from secondsite.engine.delta import format as fmt
from secondsite.engine.delta.reader import Frame
from secondsite.engine.store.base import Absent, Store
from secondsite.engine.store.log import layout, segment
from secondsite.engine.store.log.layout import Place
from secondsite.engine.units import MIB

# A gap costs less than another question: at 100 MiB/s and 5 ms a question brings 512 KiB.
_GAP_BYTES = 512 * 1024
_ASK_BYTES = 8 * MIB
_ASKING = 4


class Ask(NamedTuple):
    """One question: a range of one object, with frames in it."""

    places: list[Place]
    start: int
    length: int


class Fetcher:
    """Of one replica's segments, or maps. `header` has its id and block size."""

    def __init__(self, store: Store, kind: str, header: fmt.Header) -> None:
        self.store, self.kind, self.header = store, kind, header
        self._pool: ThreadPoolExecutor | None = None

    def frames(self, places: Iterable[Place]) -> Iterator[tuple[Place, Frame]]:
        """The frames at these places, each once, ordered by place. Raises Damaged."""
        for place, frame in self.each(places):
            if not isinstance(frame, Frame):
                raise frame
            yield place, frame

    def each(self, places: Iterable[Place]) -> Iterator[tuple[Place, Frame | errors.Damaged]]:
        """The same, with what is wrong with those that are damaged."""
        asks = list(plan(sorted(set(places))))
        if len(asks) == 1:
            yield from self._answered(asks[0])
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_ASKING, thread_name_prefix="fetch")
        # Few ahead of who takes them: what is in memory is bounded.
        for at in range(0, len(asks), _ASKING):
            for found in self._pool.map(self._answered, asks[at : at + _ASKING]):
                yield from found

    def _answered(self, ask: Ask) -> list[tuple[Place, Frame | errors.Damaged]]:
        """Where a store proves ranges itself, one that is damaged costs no frame but those in it."""
        try:
            return list(self.ask(ask))
        except errors.Damaged as error:
            if len(ask.places) == 1:
                return [(ask.places[0], error)]
        alone = (Ask([place], place.offset, place.length) for place in ask.places)
        return [found for one in alone for found in self._answered(one)]

    def ask(self, ask: Ask) -> Iterator[tuple[Place, Frame | errors.Damaged]]:
        """The frames of one question, and what is wrong with those that are damaged. Raises what the store raises."""
        name = layout.name(self.kind, ask.places[0].number)
        path = self.store.path(name)
        try:
            data = memoryview(self.store.get(name, ask.start, ask.length).data)
        except Absent:
            for place in ask.places:
                yield place, errors.Damaged("a segment is missing", path=path)
            return
        for place in ask.places:
            try:
                yield place, self._frame(data, place, ask.start, path)
            except errors.Damaged as error:
                yield place, error

    def _frame(self, data: memoryview, place: Place, start: int, path: str) -> Frame:
        packed = data[place.offset - start : place.offset - start + place.length]
        if len(packed) != place.length or not kernel.codec.check_frame(packed):
            raise errors.Damaged("a frame's checksum does not hold", path=path, offset=place.offset)
        head = fmt.FrameHeader.unpack(packed)
        if head.magic != fmt.FRAME_MAGIC or head.tag != self.header.tag:
            raise errors.Damaged("expected a frame of this replica", path=path, offset=place.offset)
        return segment.parse(head, packed[fmt.FRAME_BYTES :], self.header, path, place.offset)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()


def check(place: Place, path: str) -> Place:
    """A place that may be one; it comes from a store. Raises Damaged."""
    most = fmt.FRAME_BYTES + fmt.MAX_BODY
    if not fmt.FRAME_BYTES < place.length <= most or place.offset < fmt.HEADER_BYTES:
        raise errors.Damaged(f"{place.length} bytes at {place.offset} of a segment are no frame", path=path)
    return place


def plan(places: list[Place], most: int = _ASK_BYTES) -> Iterator[Ask]:
    """Questions of at most so many bytes that bring these frames, which are in order."""
    if not places:
        return
    run = [places[0]]
    for last, place in pairwise(places):
        end = last.offset + last.length
        near = place.number == last.number and place.offset <= end + _GAP_BYTES
        if near and place.offset + place.length - run[0].offset <= most:
            run.append(place)
        else:
            yield Ask(run, run[0].offset, run[-1].offset + run[-1].length - run[0].offset)
            run = [place]
    yield Ask(run, run[0].offset, run[-1].offset + run[-1].length - run[0].offset)
