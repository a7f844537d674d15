"""An agent's figures for Prometheus."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable, Iterator, Mapping

from secondsite.engine import errors
from secondsite.engine.figures import Family
from secondsite.engine.files.confined import ConfinedFiles
from secondsite.engine.remote.agent import stored
from secondsite.engine.remote.agent.confined import Root
from secondsite.engine.remote.agent.meter import Counts, Meter
from secondsite.engine.remote.trust import expiry
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.point import parse_time
from secondsite.engine.store.place import is_log

# Replicas below the root of which the newest point is looked for at each question.
_MAX_REPLICAS = 2000

Samples = list[tuple[Mapping[str, str], float]]


def families(meter: Meter, root: Root, connections: int, ends: Iterable[expiry.End]) -> list[Family]:
    """All figures of now."""
    found = sorted(meter.all().items())
    known, counts = [(name, one) for name, one in found if name], dict(found)
    ages: Samples = [({"replica": name}, _age(seconds, counts.get(name), meter)) for name, seconds in _ages(root)]

    def each(what: str) -> Samples:
        return [({"replica": name}, getattr(one, what)) for name, one in known]

    wrong: Samples = [
        ({"replica": name, "kind": kind}, count)
        for name, one in found for kind, count in sorted(one.errors.items())
    ]  # fmt: skip
    return [
        Family("secondsite_last_good_age_seconds", "gauge",
               "Seconds since the replica was last brought to what its source held.", ages),
        Family("secondsite_streams", "gauge", "Streams that come in now.", each("running")),
        Family("secondsite_cycle_seconds", "gauge",
               "How long the last attempt took that ended with a point.", each("cycle_seconds")),
        Family("secondsite_connections", "gauge", "Paired hosts' connections.", [({}, connections)]),
        Family("secondsite_received_bytes_total", "counter", "Bytes of frames that came.", each("received")),
        Family("secondsite_received_twice_bytes_total", "counter",
               "Of them those that were lost here, and came again.", each("twice")),
        Family("secondsite_cycles_total", "counter",
               "Transfers that ended with a point, or found that nothing had changed.", each("cycles")),
        Family("secondsite_errors_total", "counter", "Requests that ended with an error, by its kind.", wrong),
        expiry.family(ends),
    ]  # fmt: skip


def _age(point: float, counts: Counts | None, meter: Meter) -> float:
    """A source that does not change makes no points, and is looked at all the same. A point of a time to come is of a
    clock that was set since: it has been there at least since the agent began.
    """
    last = counts.last_done if counts is not None else None
    if point < 0:
        return time.monotonic() - (meter.began if last is None else last)
    return point if last is None else min(point, time.monotonic() - last)


def _ages(root: Root) -> Iterator[tuple[str, float]]:
    """Of every replica below the root, also of those that nothing was sent to, by the clock of now."""
    for name in root.names()[:_MAX_REPLICAS]:
        try:
            folder = root.replica(name)
            moment = _moment(folder)
            if moment is not None:
                yield name, (datetime.datetime.now(datetime.UTC) - moment).total_seconds()
        except errors.Error:
            continue  # no replica, or one that says nothing: its series ends, which an alert can be on


def _moment(folder: str) -> datetime.datetime | None:
    """Of the newest point."""
    if is_log(folder):
        return stored.moment(folder)
    newest = Replica.open(folder, ConfinedFiles(folder)).newest()
    return parse_time(newest.time) if newest is not None else None
