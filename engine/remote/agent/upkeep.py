"""The agent's work on one of its replicas that another host asks for: verify, prune, fence, delete."""

from __future__ import annotations

import contextlib
from itertools import islice

from secondsite.engine import claiming, deletion, errors, maintain, notes, verification
from secondsite.engine.progress import Progress
from secondsite.engine.remote import questions as q
from secondsite.engine.remote.agent import stored
from secondsite.engine.remote.agent.request import Request
from secondsite.engine.remote.link.calls import Call
from secondsite.engine.replica import claims, record
from secondsite.engine.replica.directory import Replica
from secondsite.engine.results.proof import Verified
from secondsite.engine.store.place import is_log


def verify(request: Request, call: Call, args: q.Verify) -> None:
    """It ends with the call: who asked may go away, or stop it. Raises IsLog for a log that only he has the key to."""
    if is_log(request.folder) and stored.is_sealed(request):
        raise errors.IsLog("is encrypted, and its key is not here", path=request.name)

    def tell(now: Progress) -> None:
        with contextlib.suppress(errors.Error):  # `cancel` sees that nobody listens any more
            call.send(q.Told(now.stage, now.done, now.total, now.changed))

    found = verification.verify(
        request.folder, at=args.at, workers=1, progress=tell, cancel=lambda: call.ended or request.stopping(),
        files=request.files,
    )  # fmt: skip
    _report(request, call, found)


def _report(request: Request, call: Call, found: Verified) -> None:
    bad, damaged = iter(found.bad), iter(found.damaged.items())
    while True:
        some = {point: what[:400] for point, what in islice(damaged, q.MAX_PARTS)}
        part = q.Part([(r.offset, r.length) for r in islice(bad, q.MAX_PARTS)], some)
        if not part.bad and not part.damaged:
            break
        call.send(part)
    warnings = [request.veiled(line)[:1000] for line in found.warnings[: q.MAX_WARNINGS]]
    call.send(q.Proved(found.ok, found.point, found.blocks, found.seconds, warnings))


def prune(request: Request, call: Call, args: q.Prune) -> None:
    done = maintain.prune_report(request.folder, keep=args.keep, drop=args.drop, files=request.files)
    told = done.warnings if call.connection.version >= 3 else []
    call.send(q.Count(done.points, [request.veiled(line)[:1000] for line in told[: q.MAX_WARNINGS]]))


def cancel_resync(request: Request, call: Call, args: q.CancelResync) -> None:
    call.send(q.Count(int(maintain.cancel_resync(request.folder, files=request.files))))


def note(request: Request, call: Call, args: q.Note) -> None:
    """What is said of a replica by who may send to it; nobody here reads it."""
    try:
        said = record.parsed(bytes(call.receive().body).decode())
    except UnicodeDecodeError:
        raise errors.Damaged("a note is JSON") from None
    notes.write_note(request.folder, said, epoch=args.epoch, files=request.files)
    call.send(q.Count(0))


def raise_epoch(request: Request, call: Call, args: q.RaiseEpoch) -> None:
    call.send(q.Count(maintain.raise_epoch(request.folder, args.epoch, files=request.files)))


def claim(request: Request, call: Call, args: q.Claim) -> None:
    """An overlay of another host's stands on a point from now on."""
    wanted = claims.Claim(args.id, args.generation, args.by)
    claiming.in_folder(Replica.open(request.folder, request.files), wanted, args.seal)
    call.send(q.Count(1))


def release(request: Request, call: Call, args: q.Release) -> None:
    call.send(q.Count(int(claims.release(Replica.open(request.folder, request.files), args.id))))


def claimed(request: Request, call: Call, args: q.Claims) -> None:
    found = claims.of(Replica.open(request.folder, request.files))
    call.send(q.Claimed([(one.id, one.generation, one.by) for one in found]))


def delete(request: Request, call: Call, args: q.Delete) -> None:
    call.send(q.Count(int(deletion.delete_folder(request.folder, args.replica_id, args.epoch))))
