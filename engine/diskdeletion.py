"""Delete a disk of Azure that `materialize` made: nobody runs from it any more, and it costs room.

Only what says of itself that it holds a point of the replica that the caller names is deleted, under a lease of ours,
as it was when it said so. Our own snapshots of it go first, so that a deletion which was killed is gone on with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from secondsite.engine import errors
from secondsite.engine.store.base import Held
from secondsite.engine.store.diskstate import said
from secondsite.engine.store.opening import open_page_blob

if TYPE_CHECKING:
    from secondsite.engine.store.pageblob import Found, PageBlob


def delete_disk(
    output: str, *, replica_id: str, take: bool = False, cancel: Callable[[], bool] | None = None
) -> bool:  # fmt: skip
    """Delete the page blob azure://CONTAINER/NAME.vhd, which holds a point of the replica that is known by this id, or
    was to hold one; False where there is none any more. `take` takes the lease of who is dead by its caller's word.

    Raises Refused for a blob that somebody else made, that holds a point of another replica, or of which somebody took
    a snapshot; Held while it is written, or a machine has it (a lease without end, which is never taken).
    """
    with open_page_blob(output, cancel=cancel or (lambda: False)) as blob:
        found = blob.find()
        if found is None:
            return False
        _check(found, replica_id, blob.path)
        with blob.held(take=take):
            again = blob.find()  # from here on nobody writes it, and what is deleted is what was looked at
            if again is None:
                return False
            _check(again, replica_id, blob.path)
            _delete_snapshots(blob)
            blob.delete()
    return True


def disk_in_use(output: str) -> bool:
    """Does a machine of Azure have the page blob azure://CONTAINER/NAME.vhd as its disk, whether it runs or not? Its
    lease has no end then. False where there is no such blob.
    """
    with open_page_blob(output) as blob:
        found = blob.find()
        return found is not None and found.pinned


def _check(found: Found, replica_id: str, path: str) -> None:
    """Raises Refused, Held."""
    told = said(found.metadata, path) if found.pages else {}
    if "replica" not in told:
        raise errors.Refused("was not made by secondsite, and is not deleted", path=path)
    if told["replica"] != replica_id:
        raise errors.Refused(f"holds a point of another replica, {told['replica'][:8]}…, and is not deleted", path=path)
    if found.pinned:
        raise Held("a machine in Azure has it; delete that machine there, and keep its disks", path=path)


def _delete_snapshots(blob: PageBlob) -> None:
    """Raises Refused where one is not ours, before any goes."""
    from secondsite.engine.store.snapshots import Snapshots

    snapshots = Snapshots(blob)
    ours, strange = snapshots.all_taken()
    if strange:
        raise errors.Refused(f"somebody took a snapshot of it ({strange[0]}); delete that first", path=blob.path)
    for one in ours:
        snapshots.delete(one)
