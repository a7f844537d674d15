"""The present content of a source to a medium, for a replica on another host (R5.4).

From then on cycles go on from the seed's point: the tracker begins there, this host knows the replica's block map, and
where the replica was named it is a placeholder that holds what arrives until the medium does.
"""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from secondsite.engine import errors, scan, units
from secondsite.engine import source as sources
from secondsite.engine.account import Account
from secondsite.engine.batch import SMALL_BATCH_BYTES
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.delta import format as fmt
from secondsite.engine.files import LocalFiles
from secondsite.engine.progress import Monitor, Progress
from secondsite.engine.qemu.machine import Qemu
from secondsite.engine.remote import talk, url
from secondsite.engine.remote.home import Home
from secondsite.engine.remote.sending import announce, chained
from secondsite.engine.remote.sending.mapcache import MapCache
from secondsite.engine.remote.sending.standin import Far
from secondsite.engine.replica.identity import Identity
from secondsite.engine.replica.point import Point, data_time, format_time
from secondsite.engine.replication import utc_now
from secondsite.engine.results.seeds import SeedExported
from secondsite.engine.seeding.medium import GENERATION, Medium, Seed
from secondsite.engine.seeding.parts import Parts
from secondsite.engine.source import Source
from secondsite.engine.trackers import choose
from secondsite.engine.trackers.base import Cut, Have
from secondsite.engine.workers import default_workers

if TYPE_CHECKING:
    from secondsite.engine.trackers.together import Party

_READS = 3


def export_seed(
    source: str | os.PathLike[str],
    medium: str | os.PathLike[str],
    *,
    replica: str | None = None,
    block_size: int | None = None,
    codec: str = "auto",
    anew: bool = False,
    source_id: str | None = None,
    source_format: str | None = None,
    allow_parent_path: Sequence[str] = (),
    tracker: str = "auto",
    qemu: Qemu | None = None,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    clock: Callable[[], datetime.datetime] = utc_now,
    state: str | os.PathLike[str] | None = None,
    part_bytes: int | None = None,
    together: Party | None = None,
) -> SeedExported:
    """Write what `source` holds now to the folder `medium`, as the first point of a replica that is not there yet.

    `replica`, a URL, is told to wait for it: it then holds the deltas that come before. An export that was cut short
    goes on; one that is whole is proved again, and announced. `anew` forgets the seed that lies on the medium, and the
    one that the replica waits for. The other arguments are those of `replicate`; see together.py for `together`.

    Raises Refused where another seed lies on the medium, or the replica has points; SourceChanged, Damaged where the
    medium does not read back what was written, Full, Cancelled; what is whole on the medium stays.
    """
    began, home, files = time.monotonic(), Home.of(state), LocalFiles()
    wish = choose.Wish(tracker, qemu, together=together)
    wish.check()
    if block_size is not None:
        units.check_block_size(block_size)
    remote = None if replica is None else url.parse(replica)
    place, monitor = Medium(os.fspath(medium), files), Monitor(progress, cancel)
    with ExitStack() as stack:
        given = sources.Given(source, source_id, source_format, allow_parent_path, running=qemu is not None)
        origin = chained.opened(given, stack, monitor.check)
        files.mkdir(place.folder)
        stack.enter_context(_alone(place))
        job = _Export(place, origin, home, monitor, fmt.parse_codec(codec), workers or default_workers(), clock)
        stack.callback(job.close)
        found = None if anew else place.read()
        identity = found.identity if found else job.identity(block_size)
        if remote is not None:
            announce.ask(remote, home, identity, anew=anew)
        seed = job.take_up(found, block_size) if found else job.begin(identity)
        kind = "exported" if seed.point is None else "whole"
        if seed.point is None:
            seed = job.run(wish, part_bytes)
        assert seed.point is not None and job.held is not None
        if remote is not None:
            announce.announce(remote, home, seed.identity, seed.point, job.held, anew=anew, cancel=cancel)
        return job.result(kind, seed, replica, time.monotonic() - began)


class _Export:
    """One call."""

    def __init__(
        self, medium: Medium, origin: Source, home: Home, monitor: Monitor, codec: tuple[int, int], workers: int,
        clock: Callable[[], datetime.datetime],
    ) -> None:  # fmt: skip
        self.medium, self.origin, self.home, self.monitor = medium, origin, home, monitor
        self.codec, self.workers, self.clock = codec, workers, clock
        self.held: BlockMap | None = None
        self.tally, self.tracker, self.written = scan.Tally(), "", 0
        self.warnings: list[str] = []

    def identity(self, block_size: int | None) -> Identity:
        """Of a new replica."""
        size, now = block_size or units.DEFAULT_BLOCK_SIZE, format_time(self.clock())
        return Identity.new(size, now, self.origin.name, "undo", self.origin.format)

    def take_up(self, seed: Seed, block_size: int | None) -> Seed:
        """The seed that lies there; `held` is the map of what its parts hold."""
        self._admit(seed, block_size)
        if seed.point is None and seed.size != self.origin.image.size:
            return self.begin(seed.identity)
        self.held = self._prove(seed)
        if seed.point is not None and self.held.seal().hex() != seed.point.seal:
            raise errors.Damaged("its parts do not lead to its seal; export it --anew", path=self.medium.folder)
        return seed

    def begin(self, identity: Identity) -> Seed:
        """A seed without any part."""
        seed = Seed(identity, self.origin.image.size)
        if seed.size > units.MAX_BLOCKS * identity.block_size:
            raise errors.Usage(f"{seed.size} bytes are too many blocks of {identity.block_size}", path=self.origin.path)
        self.medium.clear()
        self.medium.write(seed)
        self.held = self._map(seed)
        return seed

    def _admit(self, seed: Seed, block_size: int | None) -> None:
        """Raises Refused for the seed of another source."""
        made, path = seed.identity, self.medium.folder
        if not self.origin.follows(made.source) or self.origin.format != made.source_format:
            raise errors.Refused(f"holds the seed of another image, {seed.source} (--anew overwrites it)", path=path)
        if block_size not in (None, made.block_size):
            raise errors.Refused(f"its blocks have {made.block_size} bytes (--anew begins with others)", path=path)

    def _map(self, seed: Seed) -> BlockMap:
        return BlockMap.create(
            self.medium.files.temporary(self.medium.folder), "the map of the seed", seed.identity.replica_id,
            seed.identity.block_size, seed.size,
        )  # fmt: skip

    def _prove(self, seed: Seed) -> BlockMap:
        """What the whole parts come to. Of a seed that is not whole bad ones are removed: they are written again."""
        while True:
            parts = self.medium.found() if seed.point is None else seed.parts
            self.monitor.begin("verify", sum(max(self.medium.files.size(self.medium.part(n)), 0) for n in parts))
            held = self._map(seed)
            try:
                for number in parts:
                    try:
                        self.medium.prove(seed, number, self.monitor, held)
                    except errors.Damaged:
                        if seed.point is not None:
                            raise
                        self.medium.files.unlink(self.medium.part(number))
                        raise _Again from None
                return held
            except _Again:
                held.close()
            except BaseException:
                held.close()
                raise

    def run(self, wish: choose.Wish, part_bytes: int | None) -> Seed:
        """Scan until the source stood still, at most three times; what was written stays."""
        seed = self.medium.read()
        assert seed is not None and self.held is not None
        parts = Parts(self.medium, seed, self.held, self.codec, **({"part_bytes": part_bytes} if part_bytes else {}))
        far, chosen = self._follow(seed, wish)
        try:
            for left in reversed(range(_READS)):
                try:
                    return self._cycle(seed, parts, far, chosen)
                except errors.SourceChanged:
                    parts.finish()
                    if not left:
                        raise
        except errors.Cancelled:
            parts.finish()
            raise
        finally:
            parts.drop()
            chosen.tracker.close()
            self.warnings += far.warnings
        raise AssertionError

    def _follow(self, seed: Seed, wish: choose.Wish) -> tuple[Far, choose.Chosen]:
        made = seed.identity
        state = talk.State(
            replica_id=made.replica_id, block_size=made.block_size, seed=made.seed, epoch=made.epoch, generation=0,
            virtual_bytes=0, seal="", spool_bytes=0, spool_frames=0,
        )  # fmt: skip
        far = Far(state, self.home.folder / "far")
        replica: Any = far
        return far, choose.choose(choose.Asked(self.origin, replica, wish))

    def _cycle(self, seed: Seed, parts: Parts, far: Far, chosen: choose.Chosen) -> Seed:
        moment, origin, held = self.clock(), self.origin, self.held
        assert held is not None
        before = origin.rested()
        with chosen.tracker.begin(None) as cut:
            if cut.image.size != seed.size:
                raise errors.SourceChanged("it changed its size while it was looked at", path=origin.path)
            if not cut.frozen:
                before = cut.settled(origin)
            cut_at = self.clock() if cut.frozen or before is not None else None
            with origin.standing(before, frozen=cut.frozen):
                tally = self._scan(cut, seed, parts, held)
            if not cut.frozen and origin.stamp() != before:
                raise errors.SourceChanged("it was written while it was read", path=origin.path)
            parts.finish()
            self.tally, self.tracker, self.written = tally, cut.tracker, parts.bytes
            whole = self._commit(seed, cut_at or self.clock(), held)
            self._remember(cut, whole, far, before, moment)
        return whole

    def _scan(self, cut: Cut, seed: Seed, parts: Parts, held: BlockMap) -> scan.Tally:
        cut.read_once()
        self.monitor.begin("export", seed.size)
        return scan.Scan(
            cut.image, held, parts, size=seed.size, block_size=seed.identity.block_size, seed=seed.identity.seed,
            workers=self.workers, batch_bytes=SMALL_BATCH_BYTES, monitor=self.monitor,
        ).run()  # fmt: skip

    def _commit(self, seed: Seed, moment: datetime.datetime, held: BlockMap) -> Seed:
        made, account = seed.identity, Account(seed.identity.block_size, seed.size).whole(held)
        told = data_time(self.origin.moment, moment, self.origin.path)
        point = Point(
            GENERATION, told, seed.size, held.seal().hex(), "initial", self.tracker,
            self.tally.read_bytes, account.changed_bytes, account.data_bytes, made.epoch, made.replica_id.hex(),
        )  # fmt: skip
        whole = replace(seed, parts=self.medium.found(), point=point)
        self.medium.write(whole)
        return whole

    def _remember(self, cut: Cut, seed: Seed, far: Far, before: Any, moment: datetime.datetime) -> None:
        """The next cycle goes on from here; where that fails it reads more, and the seed is whole all the same."""
        assert seed.point is not None and self.held is not None
        replica: Any = far
        self.warnings += cut.warnings
        try:
            MapCache(str(self.home.maps), LocalFiles()).keep(self.held)
            far.becomes(seed.point.seal)
            sources.remember(replica, before, GENERATION, int(moment.timestamp() * 1_000_000) * 1000)
            cut.acknowledge(Have(seed.identity.replica_id.hex(), GENERATION, seed.point.seal))
        except (errors.Error, OSError, ValueError) as error:
            self.warnings.append(f"what is known of the seed could not be kept ({error}); the next cycle may read more")

    def result(self, kind: str, seed: Seed, replica: str | None, seconds: float) -> SeedExported:
        assert seed.point is not None
        stored = sum(self.medium.files.size(self.medium.part(number)) for number in seed.parts)
        return SeedExported(
            kind, self.medium.folder, seed.identity.replica_id.hex(), seed.size, stored, self.tally.read_bytes,
            self.written, len(seed.parts), seed.point.tracker, seed.point.time, replica, seconds, self.warnings,
        )  # fmt: skip

    def close(self) -> None:
        if self.held is not None:
            self.held.close()


@contextmanager
def _alone(medium: Medium) -> Iterator[None]:
    lock = medium.files.lock(os.path.join(medium.folder, "seed.lock"), exclusive=True)
    if lock is None:
        raise errors.Busy("is busy: another process exports to it", path=medium.folder)
    try:
        yield
    finally:
        lock.release()


class _Again(Exception):
    """A part that is bad was removed."""
