"""Where a replica is: in a folder, or with another host's agent. The calls of the engine take either."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from secondsite.engine.files import Files, LocalFiles
from secondsite.engine.progress import Progress
from secondsite.engine.remote import url
from secondsite.engine.results.cycle import Pruned
from secondsite.engine.results.proof import Verified
from secondsite.engine.scan import Range
from secondsite.engine.store import key
from secondsite.engine.store.place import noting

if TYPE_CHECKING:
    from secondsite.engine.remote.far.point import FarPoint

State = str | os.PathLike[str] | None


@contextmanager
def files_of(
    replica: str | os.PathLike[str], files: Files | None, state: State, cancel: Callable[[], bool] | None = None
) -> Iterator[tuple[str, Files]]:
    """How the replica's folder is called, and the Files to read it with while the context is open."""
    name = os.fspath(replica)
    key.refuse_plain(name)
    if files is not None or not url.is_remote(name):
        yield name, files or LocalFiles()
        return
    from secondsite.engine.remote import dial
    from secondsite.engine.remote.far import files as far
    from secondsite.engine.remote.home import Home
    from secondsite.engine.remote.sending.outbound import cancelling

    remote = url.parse(name)
    with noting(name), dial.connect(remote, Home.of(state)) as connection, cancelling(connection, cancel):
        yield str(remote), far.FarFiles(connection, str(remote), remote.name)


def far_point(
    replica: str, state: State, at: str = "latest", told: Callable[[str], object] = lambda line: None
) -> FarPoint:  # fmt: skip
    """A point of an agent's replica, which stays as it is while it is open."""
    from secondsite.engine.remote.far.point import FarPoint
    from secondsite.engine.remote.home import Home

    with noting(replica):
        return FarPoint(url.parse(replica), Home.of(state), at, told)


def verify(
    replica: str, state: State, *, at: str | None, progress: Callable[[Progress], None] | None,
    cancel: Callable[[], bool] | None,
) -> Verified:  # fmt: skip
    """By the agent: what it holds does not go over the network."""
    from secondsite.engine.remote import dial
    from secondsite.engine.remote import questions as q
    from secondsite.engine.remote.home import Home
    from secondsite.engine.remote.link import protocol
    from secondsite.engine.remote.sending.outbound import cancelling

    key.refuse_plain(replica)
    told: Any = q.Told | q.Part | q.Proved
    remote = url.parse(replica)
    bad: list[Range] = []
    damaged: dict[str, str] = {}
    with (
        noting(replica),
        dial.connect(remote, Home.of(state)) as connection,
        cancelling(connection, cancel),
        connection.call("verify", q.Verify(remote.name, at)) as call,
    ):
        while not isinstance(said := protocol.decode(call.receive().control, told, call.peer), q.Proved):
            if isinstance(said, q.Part):
                bad += [Range(offset, length) for offset, length in said.bad]
                damaged |= said.damaged
            elif progress is not None:
                progress(Progress(said.stage[:40], said.done, said.total, said.changed))
    ok = said.ok and not bad and not damaged
    return Verified(ok, said.point, said.blocks, bad, damaged, said.seconds, said.warnings)


def prune(replica: str, state: State, *, keep: int | None, drop: list[str] | None) -> Pruned:
    """By the agent; how many points went."""
    from secondsite.engine.remote import questions as q

    found = _counted(replica, state, "prune", lambda name: q.Prune(name, keep, drop))
    return Pruned(found.count, warnings=found.warnings[: q.MAX_WARNINGS])


def cancel_resync(replica: str, state: State) -> bool:
    """By the agent; was one pending?"""
    from secondsite.engine.remote import questions as q

    return bool(_count(replica, state, "cancel-resync", lambda name: q.CancelResync(name)))


def raise_epoch(replica: str, state: State, epoch: int) -> int:
    """By the agent; the epoch now."""
    from secondsite.engine.remote import questions as q

    return _count(replica, state, "raise-epoch", lambda name: q.RaiseEpoch(name, epoch))


def delete(replica: str, state: State, replica_id: str, epoch: int | None) -> bool:
    """By the agent; was it there?"""
    from secondsite.engine.remote import questions as q

    return bool(_count(replica, state, "delete", lambda name: q.Delete(name, replica_id, epoch)))


def write_note(replica: str, state: State, packed: str, epoch: int | None) -> None:
    """By the agent."""
    from secondsite.engine.remote import dial
    from secondsite.engine.remote import questions as q
    from secondsite.engine.remote.home import Home
    from secondsite.engine.remote.link import protocol

    remote = url.parse(replica)
    with (
        noting(replica),
        dial.connect(remote, Home.of(state)) as connection,
        connection.call("note", q.Note(remote.name, epoch)) as call,
    ):
        call.send(None, packed.encode())
        protocol.decode(call.receive().control, q.Count, call.peer)


def _count(replica: str, state: State, operation: str, asking: Callable[[str], Any]) -> int:
    return int(_counted(replica, state, operation, asking).count)


def _counted(replica: str, state: State, operation: str, asking: Callable[[str], Any]) -> Any:
    from secondsite.engine.remote import dial
    from secondsite.engine.remote import questions as q
    from secondsite.engine.remote.home import Home

    remote = url.parse(replica)
    with noting(replica), dial.connect(remote, Home.of(state)) as connection:
        return connection.ask(operation, asking(remote.name), q.Count)
