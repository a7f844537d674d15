"""A recovery point as a disk of Azure: a fixed VHD in a page blob, of a replica wherever it lies.

Nothing is remembered of how far a call came that was cut short: the next one compares what is there. So every byte of
a disk that is finished was read back from the store by the call that finished it, and had the hash that the point's
sealed map says.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from secondsite.engine import errors
from secondsite.engine.chosen import Chosen, choose, map_of
from secondsite.engine.progress import Monitor, Progress
from secondsite.engine.replica.point import Point
from secondsite.engine.results.outputs import Materialized
from secondsite.engine.store.again import Again
from secondsite.engine.store.base import Exists
from secondsite.engine.store.diskstate import WHOLE, WRITING, others, refused, said, words
from secondsite.engine.store.opening import open_page_blob

if TYPE_CHECKING:
    from secondsite.engine.store.blobdisk import BlobDisk
    from secondsite.engine.store.pageblob import Found, PageBlob

# A service is content with 8 requests at once (P40); each writes at most what a page blob takes in one.
WORKERS = 8
# What most programs that read a VHD take; a fixed one has room for more, and Azure takes it.
_COMMON_BYTES = 2040 << 30


def materialize(
    replica: str | os.PathLike[str],
    output: str,
    *,
    at: str = "latest",
    in_place: bool = False,
    take: bool = False,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    state: str | os.PathLike[str] | None = None,
) -> Materialized:
    """Write the point `at` as a fixed VHD to the page blob azure://CONTAINER/NAME.vhd; cycles go on meanwhile.

    Zeros are not written. The blob is under a lease while it is written, and has no footer, so that nothing takes it
    for a disk, until all of it has been read back. A call that was cut short, at this point or another one of the same
    replica, is gone on with: what is there is compared, and what differs is written. What is finished or was made by
    somebody else is Refused, unless `in_place`: then it is compared and rewritten in the same way.

    `take` takes the lease of a writer who is dead by its caller's word; what that one writes yet counts no more.

    Raises Held where another holds the lease, Full for more than a page blob has room for, Damaged, Denied, Failed,
    Cancelled; what was written stays.
    """
    began, monitor, told = time.monotonic(), Monitor(progress, cancel), Again()
    with ExitStack() as stack:
        blob = stack.enter_context(open_page_blob(output, told=told.told, cancel=cancel or (lambda: False)))
        from secondsite.engine.store.blobdisk import BlobDisk, disk_bytes  # which load Azure's SDK

        chosen = choose(os.fspath(replica), at, state, workers or WORKERS, monitor, stack)
        size = disk_bytes(chosen.point.virtual_bytes, blob.path)
        try:
            with _admitted(blob, chosen.point, size, in_place, take) as (kind, metadata):
                disk = BlobDisk(blob)
                blob.mark(metadata | words(chosen.point, WRITING))
                disk.fit(chosen.point.virtual_bytes)
                count = written(chosen, disk, workers or WORKERS, monitor, empty=kind == "new")
                blob.follow()
                disk.finish()
                blob.mark(metadata | words(chosen.point, WHOLE))
        except errors.Cancelled as error:
            error.args = ("stopped on request; what was written stays, and the next call goes on",)
            raise
    point, warnings = chosen.point, [*chosen.warnings, *told.warnings, *size_warning(size, blob.path)]
    return Materialized(
        point.name, point.virtual_bytes, count, time.monotonic() - began, kind, blob.path, size, warnings
    )  # fmt: skip


def size_warning(size: int, path: str) -> list[str]:
    """Of a disk that others do not take."""
    told = f"{path}: Azure takes it, but most other programs read VHDs of up to 2040 GiB only"
    return [told] if size > _COMMON_BYTES else []


def written(chosen: Chosen, disk: BlobDisk, workers: int, monitor: Monitor, *, empty: bool) -> int:
    """Make all of a disk equal to a point; what is there is read first, unless it is `empty`. The bytes written."""
    if empty:
        return chosen.fill(disk, None)
    with map_of(disk, chosen.identity, chosen.point.virtual_bytes, workers, monitor) as have:
        return chosen.fill(disk, have)


@contextmanager
def _admitted(
    blob: PageBlob, point: Point, size: int, in_place: bool, take: bool
) -> Iterator[tuple[str, dict[str, str]]]:  # fmt: skip
    """Hold the blob's lease over a blob that may be written: how that is called, and the metadata of others on it."""
    from secondsite.engine.images.vhd.structures import FOOTER_BYTES

    found, made = blob.find(), ""
    if found is None:
        try:
            made = blob.create(size + FOOTER_BYTES, words(point, WRITING))
        except Exists:
            pass  # somebody was faster
    else:
        _admit(found, point.replica_id, in_place, blob.path)
    with blob.held(take=take and not (found is not None and found.pinned)):
        found = blob.find()
        if found is None:
            raise errors.Refused("was deleted meanwhile", path=blob.path)
        # With this etag nobody has written it between its creation and the lease.
        kind = "new" if found.etag == made else _admit(found, point.replica_id, in_place, blob.path)
        yield kind, others(found.metadata)


def _admit(found: Found, replica_id: str, in_place: bool, path: str) -> str:
    """How a blob that is there is written. Raises Refused."""
    check_pages(found, path)
    told = said(found.metadata, path)
    if told.get("state") == WRITING and told.get("replica") == replica_id:
        return "continued"
    if in_place:
        return "in-place"
    raise refused(told, path)


def check_pages(found: Found, path: str) -> None:
    """Raises Refused for a blob of another kind."""
    if not found.pages:
        raise errors.Refused("is there and no page blob, which a disk of Azure is; name another", path=path)
