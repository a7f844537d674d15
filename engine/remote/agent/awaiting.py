"""A replica that is to wait for its seed: the agent's answer to who has exported one."""

from __future__ import annotations

from dataclasses import replace

from secondsite.engine import errors, units
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.remote import maps, talk
from secondsite.engine.remote.agent.receiver import MAX_NAME
from secondsite.engine.remote.agent.request import Request
from secondsite.engine.remote.agent.spool import alone
from secondsite.engine.remote.link import protocol
from secondsite.engine.remote.link.calls import Call
from secondsite.engine.remote.sending import plan
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.identity import Identity
from secondsite.engine.replica.point import Point
from secondsite.engine.seeding.medium import GENERATION
from secondsite.engine.seeding.waiting import Waiting


def expect(request: Request, call: Call, args: talk.Expect) -> None:
    """Raises Refused where the replica has points, follows another source, or waits for another seed."""
    if max(len(args.source), len(args.source_format)) > MAX_NAME:
        raise protocol.Garbled("a name that is too long", path=call.peer)
    folder, files = request.folder, request.files
    found = Replica.open(folder, files) if files.size(f"{folder}/replica.json") >= 0 else None
    if found is not None:
        _admit(found, args, request)
    if args.point:
        identity, point = _identity(args, call.peer), _point(args, call.peer)
        made = found or Replica.create(folder, files, identity)
        with alone(made), made.writing():
            _admit(made, args, request)
            _begin(made, identity, point, call)
    call.send(talk.Answered())


def _admit(replica: Replica, args: talk.Expect, request: Request) -> None:
    path, waits = replica.layout.root, Waiting.of(replica)
    if newest := replica.head_generation():
        raise errors.Refused(f"has point {newest} already: a seed is for a replica without any", path=path)
    if replica.files.exists(replica.layout.head):
        raise errors.Damaged("there is a head but no record of any point", path=replica.layout.points)
    other = waits is not None and args.replica_id not in (b"", replica.identity.replica_id)
    if waits is not None and args.source != replica.identity.source and not args.anew:
        told = f"waits for the seed of another image, {replica.identity.source.partition(':')[2]}"
        raise errors.Refused(f"{told} (export-seed --anew sends it another one)", path=path)
    if other and not args.anew:
        raise errors.Refused("waits for another seed (export-seed --anew sends it this one)", path=path)
    if other and waits is not None and waits.generations():
        request.require("administer")  # what is held for the other one goes, and who may only send drops nothing
    if waits is not None and args.epoch > replica.identity.epoch:
        request.require("administer")  # it fences


def _identity(args: talk.Expect, peer: str) -> Identity:
    if len(args.replica_id) != 16 or not args.epoch:
        raise protocol.Garbled("a replica's id, seed or epoch that is none", path=peer)
    units.check_block_size(args.block_size)
    return Identity(
        args.replica_id, args.block_size, args.seed, args.epoch, str(args.point.get("time", "")), args.source, "undo",
        args.source_format, "raw",
    )  # fmt: skip


def _point(args: talk.Expect, peer: str) -> Point:
    point = Point.parse(dict(args.point), peer, args.replica_id.hex(), GENERATION)
    if point.virtual_bytes > units.MAX_BLOCKS * args.block_size or len(point.tracker) + len(point.kind) > 100:
        raise protocol.Garbled("a point out of bounds", path=peer)
    return point


def _begin(replica: Replica, identity: Identity, point: Point, call: Call) -> None:
    waits, was = Waiting.of(replica), replica.identity
    if waits is not None and was.replica_id == identity.replica_id and waits.seed.seal == point.seal:
        return  # it was told before, and may hold something by now
    temporary = replica.files.temporary(replica.layout.root)
    with BlockMap.create(
        temporary, f"the map of {call.peer}", identity.replica_id, identity.block_size, point.virtual_bytes
    ) as block_map:
        maps.fill(block_map, lambda asked: plan.fetch(call, asked), call.peer)
        if block_map.seal().hex() != point.seal:
            raise errors.Damaged("the map of the seed does not have its seal", path=call.peer)
        made = replace(identity, history=was.history, epoch=max(identity.epoch, was.epoch))
        Waiting.begin(replica, made, point, block_map)
