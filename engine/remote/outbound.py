"""`replicate` where the replica is another host's: a connection, and one cycle over it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from secondsite.engine import errors, units
from secondsite.engine.delta import format as fmt
from secondsite.engine.files import LocalFiles
from secondsite.engine.images import Image
from secondsite.engine.progress import Monitor, Progress
from secondsite.engine.remote import dial, talk, url
from secondsite.engine.remote.connection import Connection
from secondsite.engine.remote.home import Home
from secondsite.engine.remote.mapcache import MapCache
from secondsite.engine.remote.sender import Sender, Sending
from secondsite.engine.replica.container import check_format
from secondsite.engine.results import Replicated
from secondsite.engine.source import Source
from secondsite.engine.trackers.scan import ScanTracker
from secondsite.engine.workers import default_workers

_ASK_SECONDS = 0.1


def replicate(
    source: str | os.PathLike[str] | Image,
    remote: url.Remote,
    *,
    block_size: int | None = None,
    codec: str = "auto",
    head: str | None = None,
    epoch: int | None = None,
    source_id: str | None = None,
    accept_source: bool = False,
    source_format: str | None = None,
    allow_parent_path: Sequence[str] = (),
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    state: str | os.PathLike[str] | None = None,
) -> Replicated:
    """One cycle to the agent's replica. The arguments are those of `replication.replicate`; `state` is the folder of
    what this host knows of others. Raises what `replicate` and `dial.connect` raise.
    """
    began = time.monotonic()
    if block_size is not None:
        units.check_block_size(block_size)
    if head is not None:
        check_format(head)
    packing = None if codec == "auto" else fmt.parse_codec(codec)
    home = Home.of(state)
    origin = Source(source, source_id, format=source_format, allow_parent_path=allow_parent_path)
    try:
        begin = talk.Begin(
            name=remote.name, source=origin.name, source_format=origin.format, size=0, block_size=block_size,
            head=head, epoch=epoch, accept_source=accept_source,
        )  # fmt: skip
        cache = MapCache(str(home.maps), LocalFiles())
        sender = Sender(
            origin, ScanTracker(origin), begin, cache, codec=packing, workers=workers or default_workers(),
            monitor=Monitor(progress, cancel),
        )  # fmt: skip
        with dial.connect(remote, home) as connection, cancelling(connection, cancel):
            return _result(sender.run(connection), origin, began)
    finally:
        origin.close()


def refuse(**given: object) -> None:
    """Raises Usage for arguments of `replicate` that mean nothing, or nothing yet, for another host's replica."""
    for name, value in given.items():
        if value:
            raise errors.Usage(f"{name.replace('_', '-')} is not for a replica on another host")


def _result(sent: Sending, origin: Source, began: float) -> Replicated:
    done, tally = sent.done, sent.tally
    return Replicated(
        done.kind, done.generation, str(done.generation), sent.tracker, origin.image.size, tally.read_bytes,
        tally.changed_bytes, tally.sent_bytes, time.monotonic() - began, done.history,
        why="the replica is another host's",
    )  # fmt: skip


@contextmanager
def cancelling(connection: Connection, cancel: Callable[[], bool] | None) -> Iterator[None]:
    """Whoever waits for the other side is ended with Cancelled as soon as the caller asks to stop."""
    if cancel is None:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_ASK_SECONDS):
            if cancel():
                connection.close(errors.Cancelled("stopped on request; what was sent stays for the next time"))
                return

    thread = threading.Thread(target=watch, name="cancel", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
