"""Read a point in place, drop points, fence: what an embedding program needs beyond a cycle."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from secondsite.engine import errors, units
from secondsite.engine.files import Files
from secondsite.engine.images import Image
from secondsite.engine.progress import Monitor
from secondsite.engine.remote import reach, url
from secondsite.engine.replica import prune as pruning
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.view import PointView
from secondsite.engine.results.cycle import Pruned
from secondsite.engine.store.key import refuse_plain
from secondsite.engine.store.place import finding_logs, is_place


@contextmanager
def open_point(
    replica: str | os.PathLike[str], at: str = "latest", *, files: Files | None = None,
    state: str | os.PathLike[str] | None = None,
) -> Iterator[Image]:  # fmt: skip
    """A recovery point as a read-only Image, without a copy; a replica in a folder takes no cycle while it is open, one
    in a store does.
    """
    with ExitStack() as stack:
        yield _opened(replica, at, files, state, stack)


@finding_logs
def _opened(
    replica: str | os.PathLike[str], at: str, files: Files | None, state: str | os.PathLike[str] | None,
    stack: ExitStack,
) -> Image:  # fmt: skip
    if files is None and is_place(os.fspath(replica)):
        from secondsite.engine.store.log import calls

        return stack.enter_context(calls.open_point(os.fspath(replica), at, state))
    with ExitStack() as held:
        opened = Replica.open(*held.enter_context(reach.files_of(replica, files, state)))
        held.enter_context(opened.reading())
        view = held.enter_context(PointView(opened, opened.choose(at)))
        stack.push(held.pop_all())
        return view


def prune(
    replica: str | os.PathLike[str],
    *,
    keep: int | None = None,
    drop: list[str] | None = None,
    files: Files | None = None,
    state: str | os.PathLike[str] | None = None,
) -> int:
    """Drop all but the newest `keep` points, or the points named in `drop`; how many went.

    Those that stay restore the same bytes. The newest point is the head and cannot be dropped.
    """
    if (keep is None) == (drop is None):
        raise errors.Usage("give either keep (at least 1) or the points to drop")
    return prune_report(replica, keep=keep, drop=drop, files=files, state=state).points


@finding_logs
def prune_report(
    replica: str | os.PathLike[str],
    *,
    keep: int | None = None,
    drop: list[str] | None = None,
    collect: bool = False,
    grace: float | None = None,
    files: Files | None = None,
    state: str | os.PathLike[str] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Pruned:
    """As `prune`, and what it freed. In a store the objects that only dropped points named are removed by a later call
    or cycle, `grace` seconds afterwards (an hour) and not while somebody reads such a point; that is done without
    `keep` and `drop` too. `collect` looks through all maps for what no point names.
    """
    if (keep is not None and drop is not None) or (keep is not None and keep < 1):
        raise errors.Usage("give either keep (at least 1) or the points to drop")
    units.check_number(keep or 1, "keep")
    root = os.fspath(replica)
    if files is None and is_place(root):
        from secondsite.engine.store.log import calls

        monitor = Monitor(None, cancel)
        return calls.prune(
            root, keep=keep, drop=drop or [], collect=collect, grace=grace, monitor=monitor, state=state
        )  # fmt: skip
    refuse_plain(root)
    stored = collect or grace is not None or (keep is None and drop is None)
    if stored and url.is_remote(root):
        reach.prune(root, state, keep=None, drop=[])  # it may say that it is a log
    if collect or grace is not None:
        raise errors.Usage("a grace and a collection are for a replica in a store")
    if keep is None and drop is None:
        raise errors.Usage("give either keep (at least 1) or the points to drop")
    if url.is_remote(root):
        return reach.prune(root, state, keep=keep, drop=drop)
    opened = Replica.open(root, files)
    with opened.writing():
        if keep is not None:
            return Pruned(pruning.keep_newest(opened, keep), warnings=opened.warnings)
        chosen = {opened.choose(name).generation for name in drop or []}
        return Pruned(pruning.drop(opened, sorted(chosen)))


@finding_logs
def raise_epoch(
    replica: str | os.PathLike[str], epoch: int, *, files: Files | None = None,
    state: str | os.PathLike[str] | None = None,
) -> int:  # fmt: skip
    """Fence off sources with a lower epoch (DESIGN D9): the replica's epoch becomes `epoch`, never lower. What one of
    them is sending over a network ends within a second.
    """
    units.check_number(epoch, "epoch")
    if files is None and is_place(os.fspath(replica)):
        from secondsite.engine.store.log import calls

        return calls.raise_epoch(os.fspath(replica), epoch, state)
    if url.is_remote(os.fspath(replica)):
        return reach.raise_epoch(os.fspath(replica), state, epoch)
    opened = Replica.open(os.fspath(replica), files)
    with opened.fencing():
        if epoch > opened.identity.epoch:
            opened.write_identity(opened.identity.raised(epoch))
        return opened.identity.epoch


def cancel_resync(
    replica: str | os.PathLike[str], *, files: Files | None = None, state: str | os.PathLike[str] | None = None
) -> bool:
    """Forget a resync that another host began and did not finish: what was compared and sent goes, the replica stays as
    it is. Was there one? Raises Busy while that host is connected: a merge that has begun cannot be cancelled.
    """
    if url.is_remote(os.fspath(replica)):
        return reach.cancel_resync(os.fspath(replica), state)
    from secondsite.engine.remote.agent import resync

    return resync.cancel(Replica.open(os.fspath(replica), files))
