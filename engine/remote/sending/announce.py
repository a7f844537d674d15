"""The source's word to an agent that a seed is on its way, with the seed's block map: what comes meanwhile is held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from secondsite.engine.blockmap import BlockMap
from secondsite.engine.remote import dial, maps, talk, url
from secondsite.engine.remote.home import Home
from secondsite.engine.remote.link import protocol
from secondsite.engine.remote.sending.outbound import cancelling
from secondsite.engine.replica.identity import Identity
from secondsite.engine.replica.point import Point

_FROM_AGENT: Any = talk.Ask | talk.Answered


def ask(remote: url.Remote, home: Home, identity: Identity, *, anew: bool) -> None:
    """Would the agent's replica wait for this seed? Raises what forbids it, before the work is done."""
    told = talk.Expect(
        name=remote.name, source=identity.source, source_format=identity.source_format, anew=anew,
        replica_id=identity.replica_id,
    )  # fmt: skip
    _say(remote, home, told, None)


def announce(
    remote: url.Remote, home: Home, identity: Identity, point: Point, block_map: BlockMap, *, anew: bool,
    cancel: Callable[[], bool] | None,
) -> None:  # fmt: skip
    """Have the agent's replica wait for this seed. Once more does nothing. Raises Refused where it has points, or waits
    for another seed.
    """
    told = talk.Expect(
        name=remote.name, source=identity.source, source_format=identity.source_format, anew=anew,
        replica_id=identity.replica_id, block_size=identity.block_size, seed=identity.seed, epoch=identity.epoch,
        point=point.fields(),
    )  # fmt: skip
    _say(remote, home, told, block_map, cancel)


def _say(
    remote: url.Remote, home: Home, told: talk.Expect, block_map: BlockMap | None,
    cancel: Callable[[], bool] | None = None,
) -> None:  # fmt: skip
    with (
        dial.connect(remote, home) as connection,
        cancelling(connection, cancel),
        connection.call(talk.EXPECT, told) as call,
    ):
        while True:
            said = protocol.decode(call.receive().control, _FROM_AGENT, call.peer)
            if isinstance(said, talk.Answered):
                return
            if block_map is None:
                raise protocol.Garbled("asks for the map of a seed that is not there yet", path=call.peer)
            maps.answer(call, block_map, said)
            call.send(talk.Answered())
