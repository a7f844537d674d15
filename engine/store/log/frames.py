"""Frames of a replica's segments for reads at random: fetched several at once, decoded, and kept up to a bound."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from secondsite.engine import errors, kernel
from secondsite.engine.delta.reader import Frame
from secondsite.engine.store.log.fetch import Ask, Fetcher, plan
from secondsite.engine.store.log.kept import Kept
from secondsite.engine.store.log.layout import Place
from secondsite.engine.units import MIB

# What is kept. Two thirds of it hold what four streams are ahead (ahead.py), so that nothing is dropped before it is
# read.
KEPT_BYTES = 96 * MIB
# Of one question. The emulator on a busy machine gave 86 MiB/s in questions of 1 MiB, 138 with 2 and 289 with 4.
_ASK_BYTES = 4 * MIB
# The gate of the calls begins with as many (store/gate.py).
ASKING = 8

Blocks = dict[int, memoryview]


class Frames:
    """Decoded frames by place. Safe from several threads, which do not wait for each other's frames."""

    def __init__(self, fetcher: Fetcher, most: int = KEPT_BYTES) -> None:
        self._fetcher = fetcher
        self._kept: Kept[Place, Blocks] = Kept(most)
        self._own = threading.local()
        self._pool = ThreadPoolExecutor(ASKING, thread_name_prefix="frames")

    def get(self, places: Iterable[Place]) -> dict[Place, Blocks]:
        """The blocks in these frames. Raises Damaged, and what the store raises; that costs no other frame."""
        found, missing = self._kept.claim(set(places))
        asks = list(plan(sorted(missing), _ASK_BYTES))
        self._begin(asks[1:])
        if asks:
            self._bring(asks[0])
        return {place: future.result() for place, future in found.items()}

    def ahead(self, places: Iterable[Place]) -> None:
        """Somebody will want these soon. What goes wrong is told to whoever does."""
        _, missing = self._kept.claim(set(places))
        self._begin(plan(sorted(missing), _ASK_BYTES))

    def run(self, work: Callable[[], object]) -> None:
        """Do this beside the others, or not at all where it is closed."""
        try:
            self._pool.submit(work)
        except RuntimeError:
            pass

    def _begin(self, asks: Iterable[Ask]) -> None:
        for ask in asks:
            try:
                self._pool.submit(self._bring, ask)
            except RuntimeError:
                self._kept.fail(ask.places, _closed(self._fetcher.store.label))

    def _bring(self, ask: Ask) -> None:
        try:
            for place, frame in self._fetcher.ask(ask):
                self._take(place, frame)
        except BaseException as error:
            self._kept.fail(ask.places, error)

    def _take(self, place: Place, frame: Frame | errors.Damaged) -> None:
        if not hasattr(self._own, "decoder"):
            self._own.decoder = kernel.codec.Decoder()
        try:
            if not isinstance(frame, Frame):
                raise frame
            self._kept.put(place, unpacked(frame, self._own.decoder, own=True), frame.head.raw)
        except errors.Damaged as error:
            self._kept.fail([place], error)

    def close(self) -> None:
        """Who waits still is told so."""
        self._pool.shutdown(cancel_futures=True)
        self._kept.end(_closed(self._fetcher.store.label))


def _closed(path: str) -> errors.Error:
    return errors.Unreachable("it was closed", path=path)


def unpacked(frame: Frame, decoder: object, *, own: bool = False) -> Blocks:
    """The data blocks of a frame by number; `own`: not as a view of all that came with it."""
    raw, at, found = frame.payload(decoder), 0, {}
    if own and frame.plain is not None:
        raw = memoryview(bytes(raw))
    for block, length in zip(frame.blocks, frame.lengths, strict=True):
        found[block] = raw[at : at + length]
        at += length
    return found
