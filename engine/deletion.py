"""Delete a replica: what protection of its source ends with, where the policy says so (R1.10).

Only what is the replica's own goes, by its names; no link is followed, and what else lies there stays. What says which
replica it is goes last, so that a deletion which was killed is gone on with.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable

from secondsite.engine import errors
from secondsite.engine.remote import reach, url
from secondsite.engine.replica import claims, lease
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.layout import WIDTH, Layout
from secondsite.engine.store.place import finding_logs, is_place

_KINDS = "raw|vhdx|vhd"
_NUMBER = f"[0-9]{{{WIDTH}}}"
# FORMAT.md, section 1, and what an agent that receives keeps beside it.
_OWN = re.compile(
    rf"(head\.({_KINDS}|map)|next-{_NUMBER}\.({_KINDS}|map)|lease-(far-)?[0-9a-f]+|held-{_NUMBER}\.(json|delta)"
    r"|(checked|bitmap|hrl|damage|waiting|resync|note)\.json|note\.(new|lock)|claim-[0-9a-f]{16}\.json"
    r"|(seed|waiting|resync)\.map|incoming\.(raw|map|spool|json)|epoch\.lock|replica\.json)(\.tmp)?|head\.tmp"
)
# They go last: whoever holds one finds no replica behind it.
_LOCKS = ("incoming.lock", "lock")
_POINT = re.compile(rf"{_NUMBER}\.(json|undo|{_KINDS}|map|merge)(\.tmp)?")


@finding_logs
def delete_replica(
    replica: str | os.PathLike[str], *, replica_id: str, epoch: int | None = None,
    state: str | os.PathLike[str] | None = None,
) -> bool:  # fmt: skip
    """Delete the replica that is known by this id; False where there is none any more. Of a store all objects below the
    prefix go, under its fence. A folder in which something else lies stays, with that.

    Raises Refused where another replica is there, or one that knows a higher `epoch`; at an agent also without the
    right to administer it. Busy while somebody reads or writes it, and what a store raises.
    """
    root = os.fspath(replica)
    if is_place(root):
        from secondsite.engine.store.log import deleting

        return deleting.delete(root, replica_id, epoch, state)
    if url.is_remote(root):
        return reach.delete(root, state, replica_id, epoch)
    return delete_folder(root.rstrip("/") or "/", replica_id, epoch)


def check_id(found: str, wanted: str, path: str) -> None:
    """Raises Refused."""
    if found != wanted:
        raise errors.Refused(f"is another replica, {found[:8]}…; that of {wanted[:8]}… is not there", path=path)


def check_epoch(found: int, epoch: int | None, path: str) -> None:
    """D9: who was fenced off deletes nothing. Raises Refused."""
    if epoch is not None and found > epoch:
        raise errors.Refused(f"is in epoch {found}, and this comes from {epoch}", path=path)


def delete_folder(root: str, replica_id: str, epoch: int | None) -> bool:
    """As `delete_replica`, of one in a folder that is no log."""
    from secondsite.engine.remote.agent.spool import alone

    layout = Layout(root)
    for path in (layout.root, layout.points):
        if os.path.islink(path):
            raise errors.Refused("is a link, which is not followed to delete anything", path=path)
    if not os.path.isdir(os.path.dirname(root) or "."):
        raise errors.Unreachable("the folder that it lies in is not there", path=root)  # it may not be mounted
    if not os.path.isdir(root):
        return False
    if not os.path.lexists(layout.identity) and set(os.listdir(root)) <= set(_LOCKS):  # noqa: PTH208
        remove_folder(root, _LOCKS)  # a deletion was killed here
        return False
    opened = Replica.open(root)
    check_id(opened.identity.replica_id.hex(), replica_id, root)
    with alone(opened), opened.locked(exclusive=True):
        known = opened.look_again()
        check_id(known.replica_id.hex(), replica_id, root)
        check_epoch(known.epoch, epoch, root)
        if lease.lowest(root) is not None:
            raise errors.Busy("somebody reads a point of it; try again later", path=root)
        for claim in claims.of(opened):
            raise errors.Refused(f"stays: an overlay stands on point {claim.generation} ({claim.by})", path=root)
        _empty(layout)
    remove_folder(root, _LOCKS)
    return True


def _empty(layout: Layout) -> None:
    """The points first, the identity last."""
    if os.path.isdir(layout.points):
        remove_folder(layout.points, filter(_POINT.fullmatch, os.listdir(layout.points)))  # noqa: PTH208
    identity = os.path.basename(layout.identity)
    names = [name for name in os.listdir(layout.root) if _OWN.fullmatch(name)]  # noqa: PTH208
    for name in sorted(names, key=lambda name: name == identity):
        _unlink(os.path.join(layout.root, name))


def remove_folder(path: str, names: Iterable[str]) -> None:
    """The files of these names, and the folder where nothing else is in it."""
    for name in names:
        _unlink(os.path.join(path, name))
    try:
        if not os.listdir(path):  # noqa: PTH208
            os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise errors.from_os(error, path, "remove the folder") from None


def _unlink(path: str) -> None:
    """A file or a link of ours; a folder that has such a name is not."""
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise errors.from_os(error, path, "delete") from None
