"""The engine's calls where the replica is in a store: `azure://CONTAINER/PREFIX`, or a folder with a log."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

from secondsite.engine import conversion, errors
from secondsite.engine import source as sources
from secondsite.engine.admission import Terms
from secondsite.engine.files import LocalFiles
from secondsite.engine.filling import Filling
from secondsite.engine.frozen import compare_source, differing
from secondsite.engine.images import Image, RawImage, open_image
from secondsite.engine.progress import Monitor
from secondsite.engine.remote.home import Home
from secondsite.engine.remote.sending import chained
from secondsite.engine.remote.sending.asking import Asking, at_rest, result
from secondsite.engine.remote.sending.mapcache import MapCache
from secondsite.engine.remote.sending.outbound import Link
from secondsite.engine.remote.sending.sender import Sending, Transfer
from secondsite.engine.replica.container import open_existing
from secondsite.engine.results.cycle import Pruned, Replicated
from secondsite.engine.results.listed import PointInfo, ReplicaInfo
from secondsite.engine.results.outputs import Restored
from secondsite.engine.results.proof import Verified
from secondsite.engine.scan import Range
from secondsite.engine.source import Given
from secondsite.engine.store import place
from secondsite.engine.store.base import MAX_FENCE
from secondsite.engine.store.locked import Locked
from secondsite.engine.store.log import head as heads
from secondsite.engine.store.log import readers, reading, session
from secondsite.engine.store.log.collect import unnamed
from secondsite.engine.store.log.doubt import Doubt
from secondsite.engine.store.log.mine import of_host
from secondsite.engine.store.log.prune import GRACE_SECONDS, Pruning, check_allowed
from secondsite.engine.store.log.reading import LogPoint, Replica
from secondsite.engine.store.log.session import Opened, Route
from secondsite.engine.store.log.writing import Into, attempt, holding, take_over
from secondsite.engine.trackers import choose
from secondsite.engine.units import larger_disk
from secondsite.engine.work import Options

State = str | os.PathLike[str] | None


def refuse(**given: object) -> None:
    """Raises Usage for arguments that mean nothing, or nothing yet, for a replica in a store."""
    for name, value in given.items():
        if value:
            raise errors.Usage(f"{name.replace('_', '-')} is not yet for a replica in a store")


def replicate(
    given: Given, url: str, terms: Terms, wish: choose.Wish, options: Options, monitor: Monitor, *, state: State,
    link: Link, take_over: bool = False,
) -> Replicated:  # fmt: skip
    """One cycle into the store; `state` is the folder of what this host knows of replicas elsewhere, and `take_over` is
    for after a failover (writing.py). Raises what `replication.replicate` raises, and Denied, Failed, Held, Fenced.
    """
    if terms.head not in (None, "raw"):
        raise errors.Usage("a replica in a store has no head; `restore` writes points in other formats")
    began, home, files = time.monotonic(), Home.of(state), LocalFiles()
    wish.find_list()  # no other attempt brings it
    with ExitStack() as stack:
        route = link.opened if isinstance(link, Route) else None
        opened = route or stack.enter_context(
            Opened(url, monitor.cancel, state, link.pace, encrypt=terms.encrypt)
        )
        origin = chained.opened(given, stack, monitor.check)
        if place.is_log(url):
            sources.refuse_inside(origin, url)
        # Who takes over knows of the failover.
        known = replace(terms, epoch=0) if take_over and terms.epoch is None else terms
        asking, cache = Asking(origin, wish, home, known), MapCache(str(home.maps), files)
        stack.callback(asking.close)
        transfer = Transfer(
            origin, asking.follow, cache, codec=options.codec, workers=options.workers, monitor=monitor,
            sent=link.sent, sample=options.distrust, meet=asking.meet, resync=options.resync,
            trusted=asking.unchanged if options.trust_mtime else lambda state: False, clock=options.clock,
        )  # fmt: skip
        mine = partial(of_host, home.folder / "far")

        def cycle() -> Sending:
            into = Into(
                opened.store, lambda: files.temporary(str(home.maps)), options.clock, mine=mine, take=take_over,
                known=opened.known, keep=options.keep, resync=options.resync, monitor=monitor,
            )  # fmt: skip
            with attempt(into, origin, terms) as target:
                doubt = Doubt(home.folder / "far", target.identity.replica_id)
                if not options.resync:
                    doubt.check(url)
                made = transfer.attempt(target, origin.image.size, began)
                if options.resync:
                    doubt.end()
                return made

        found = session.run(lambda: at_rest(cycle), opened, link, monitor.cancel)
        asking.remember(found)
        found.warnings.extend(opened.fresh())
        return result(found, origin.image.size, began, asking, link.sent)


def raise_epoch(url: str, epoch: int, state: State = None) -> int:
    """Fence off who writes in a lower one; the epoch now. Raises Changed where he was faster."""
    with Opened(url, None, state) as opened:
        Replica.open(opened.store)
        return take_over(opened.store, epoch).epoch


@contextmanager
def open_point(url: str, at: str, state: State = None) -> Iterator[LogPoint]:
    """A point as a read-only Image, each block proved when it is read."""
    with Opened(url, None, state) as opened, Replica.open(opened.store).reading(at, opened.say) as point:
        yield point


def points(url: str, warnings: list[str] | None = None, state: State = None) -> list[PointInfo]:
    """Every point, oldest first; nothing but the head and the catalogue is looked at, and what `verify` found here."""
    with Opened(url, None, state) as opened:
        missed: list[str] = []
        replica = Replica.open(opened.store)
        damaged = Doubt(Home.of(state).folder / "far", replica.identity.replica_id).damaged
        found = [
            PointInfo(
                row.name, row.generation, row.time, row.virtual_bytes, row.changed_bytes, "log", row.name in damaged
            )
            for row in replica.catalogue.rows(
                lambda page, error: missed.append(f"points {page.points} cannot be listed: {error}")
            )
        ]
        if warnings is not None:
            warnings += [*missed, *opened.warnings]
        return found


def info(url: str, state: State = None) -> ReplicaInfo:
    """What the replica says of itself, and what all its objects take."""
    with Opened(url, None, state) as opened:
        replica = Replica.open(opened.store)
        head, identity = replica.head, replica.head.of(replica.identity)
        newest = head.newest
        return ReplicaInfo(
            kind="replica", head=None, generation=head.generation, epoch=head.epoch, block_size=identity.block_size,
            virtual_bytes=newest.virtual_bytes if newest else 0, history="log", replica_id=head.replica_id,
            source=identity.source.partition(":")[2], points=head.count, time=newest.time if newest else None,
            stored_bytes=sum(entry.size for entry in opened.store.list()), warnings=opened.warnings,
        )  # fmt: skip


def verify(url: str, *, at: str | None, monitor: Monitor, sealed: bool = False, state: State = None) -> Verified:
    """Read and prove a point, or everything that the points hold, each page of their maps once. An encrypted replica
    without its key, or `sealed`: whether its objects are what was stored.
    """
    if not sealed:
        try:
            return _verify(url, at, monitor, state)
        except Locked:
            if at is not None:
                raise
    elif at is not None:
        raise errors.Usage("which objects belong to a point is sealed: without the key all are looked at, or none")
    from secondsite.engine.store import intact

    return intact.verify(url, monitor, state)


def _verify(url: str, at: str | None, monitor: Monitor, state: State) -> Verified:
    began = time.monotonic()
    with Opened(url, monitor.cancel, state) as opened, readers.registered(opened.store, readers.EVERY, opened.say):
        replica = Replica.open(opened.store)
        damaged: dict[str, str] = {}
        if at is None:
            replica.catalogue.choose("latest")
            rows = list(replica.catalogue.rows(lambda page, error: damaged.update({page.points: str(error)})))[::-1]
        else:
            rows = [replica.catalogue.choose(at)]
        proved: set[bytes] = set()
        blocks, newest = 0, ""
        for row in rows:
            newest = newest or row.name
            try:
                with replica.opened(row) as point:
                    blocks = blocks or point.blocks
                    reading.verify(point, monitor, proved)
            except errors.Damaged as error:
                damaged[row.name] = str(error)
        doubt = Doubt(Home.of(state).folder / "far", replica.identity.replica_id)
        doubt.found([row.name for row in rows], damaged, str(replica.head.generation), opened.say)
        seconds = time.monotonic() - began
        return Verified(not damaged, newest, blocks, [], damaged, seconds, opened.warnings)


def prune(
    url: str, *, keep: int | None, drop: list[str], collect: bool, grace: float | None, monitor: Monitor,
    state: State = None,
) -> Pruned:  # fmt: skip
    """Drop points, condemn what nothing names any more, and remove what was condemned `grace` seconds ago (an hour).
    `collect` reads every map for that. Raises Held while a cycle runs, Busy where this host runs it.
    """
    with Opened(url, monitor.cancel, state) as opened:
        identity, store = Replica.open(opened.store).identity, opened.store
        check_allowed(store)
        mine = of_host(Home.of(state).folder / "far", identity.replica_id)
        with mine as holder, holding(store, identity, MAX_FENCE, holder=holder) as fence:
            made = Pruning(store, identity, heads.load(store, identity), fence, monitor)
            if keep is not None:
                made.planned(lambda: made.keep(keep))
            made.planned(lambda: made.drop(drop))
            if collect:
                made.planned(lambda: made.condemn(made.head, unnamed(store, identity, made.head, monitor)))
            made.planned(lambda: made.sweep(GRACE_SECONDS if grace is None else grace))
        tally = made.tally
        return Pruned(
            tally.points, tally.freed_bytes, tally.condemned_bytes, [*tally.warnings, *opened.warnings]
        )  # fmt: skip


def restore(
    url: str, output: str | os.PathLike[str], *, at: str, format: str, subformat: str | None, workers: int,
    monitor: Monitor, state: State = None,
) -> Restored:  # fmt: skip
    """A point as a new file, every block proved when it is read and again when it is written."""
    began, target = time.monotonic(), os.fspath(output)
    conversion.refuse_existing(target)
    if place.is_log(url):
        conversion.refuse_inside(url, target)
    with Opened(url, monitor.cancel, state) as opened, Replica.open(opened.store).reading(at, opened.say) as point:
        tally = conversion.write_new(point, target, format, subformat, workers, monitor)
        with open_image(target, format=format) as made:
            size = made.size
        return Restored(
            point.point.name, point.size, tally.sent_bytes, time.monotonic() - began, "copy", target, size,
            opened.warnings,
        )  # fmt: skip


def restore_in_place(
    url: str, target: str, format: str | None, allow: Sequence[str], *, at: str, workers: int, monitor: Monitor,
    state: State,
) -> Restored:  # fmt: skip
    """An existing image or device made equal to a point: it is hashed, and what differs is fetched and written."""
    from secondsite.engine.tracked.mapfile import void

    began, files = time.monotonic(), LocalFiles()
    if place.is_log(url):
        conversion.refuse_inside(url, target)
    with Opened(url, monitor.cancel, state) as opened, Replica.open(opened.store).reading(at, opened.say) as point:
        void(target)
        with (
            point.block_map(files.temporary(target)) as want,
            open_existing(files, target, format, allow) as image,
        ):
            filling = Filling(point, want, point.identity.seed, workers=workers, monitor=monitor)
            written = filling.rewrite(image, lambda: files.temporary(target))
            size, device = image.size, isinstance(image, RawImage) and image.device
        warnings = opened.warnings
        if size > point.size and not device:
            warnings.append(larger_disk(target, point.size, size))
        return Restored(
            point.point.name, point.size, written, time.monotonic() - began, "in-place", target, size, warnings
        )


def verify_source(
    url: str, source: str | os.PathLike[str] | Image, format: str | None, allow: Sequence[str], *, at: str,
    workers: int, monitor: Monitor, state: State,
) -> Verified:  # fmt: skip
    """An image, or what was kept of it, against the hashes of a point; what the store holds of that is not read."""
    began, files = time.monotonic(), LocalFiles()
    with Opened(url, monitor.cancel, state) as opened:
        replica = Replica.open(opened.store)
        with replica.reading(at, opened.say) as point, point.block_map(files.temporary(".")) as want:

            def compare(image: Image) -> list[Range]:
                return differing(
                    "source", image, want, point.identity.seed, lambda: files.temporary("."), workers=workers,
                    monitor=monitor,
                )  # fmt: skip

            identity = replica.head.of(replica.identity)
            against, bad = compare_source(identity, point.point, source, format, allow, compare)
        return Verified(
            not bad, point.point.name, point.blocks, bad, {}, time.monotonic() - began, opened.warnings, against
        )
