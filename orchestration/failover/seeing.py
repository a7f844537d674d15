"""What hosts see of machines just now (R9.13): all are asked beside each other, and nobody is waited for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import NamedTuple

from secondsite.engine import errors
from secondsite.orchestration.failover.failovers import Failovers
from secondsite.orchestration.failover.intent import Placed
from secondsite.orchestration.failover.machines import Known
from secondsite.orchestration.protection.item import Held

# For all of them together; who has not answered by then is unknown.
SECONDS = 15.0
_PARALLEL = 16
_NO_ANSWER = f"unknown: no answer in {SECONDS:.0f} s"


class _Question(NamedTuple):
    machine: str
    side: str
    known: Known
    placed: Placed


def seen(failovers: Failovers, items: Sequence[Held]) -> dict[str, dict[str, str]]:
    """By machine and side where it may be: running, stopped or unknown, with why; and what keeps one that runs from its
    work.
    """
    found: dict[str, dict[str, str]] = {item.machine: {} for item in items}
    wanted: SimpleQueue[_Question] = SimpleQueue()
    for item in items:
        try:
            for one in _questions(failovers, item):
                found[one.machine][one.side] = _NO_ANSWER
                wanted.put(one)
        except errors.Error as error:
            found[item.machine][item.active] = f"unknown: {error}"
    answers: dict[tuple[str, str], str] = {}
    until = time.monotonic() + SECONDS
    for thread in [_asker(wanted, answers) for _ in range(min(_PARALLEL, wanted.qsize()))]:
        thread.join(max(until - time.monotonic(), 0.0))
    for (machine, side), told in dict(answers).items():
        found[machine][side] = told
    return found


def _questions(failovers: Failovers, item: Held) -> Iterator[_Question]:
    known, way = failovers.known(item.machine), item.failover
    sides = {"source": known.home(), "target": item.away or (way.there if way and way.to == "target" else None)}
    for side, placed in sides.items():
        if placed is not None and placed.spec is not None and placed.host is not None:
            yield _Question(item.machine, side, known, placed)


def _asker(wanted: SimpleQueue[_Question], answers: dict[tuple[str, str], str]) -> threading.Thread:
    """A thread that the program does not wait for at its end."""

    def run() -> None:
        while True:
            try:
                one = wanted.get_nowait()
            except Empty:
                return
            answers[one.machine, one.side] = _ask(one)

    thread = threading.Thread(target=run, name="seeing", daemon=True)
    thread.start()
    return thread


def _ask(one: _Question) -> str:
    try:
        told = one.known.ask(one.placed, "status", within=SECONDS)
    except errors.Error as error:
        return f"unknown: {error}"
    if told["state"] == "running" and told.get("wrong"):
        return f"running, but {told['wrong']}"
    return f"unknown: {told['why']}" if told["state"] == "unknown" and told.get("why") else str(told["state"])


def whereabouts(where: str, active: str, found: Mapping[str, str]) -> str:
    """The words of where a machine runs, once it was looked for there."""
    told = found.get(active)
    if told is None or told == "running" or not where.startswith("runs"):
        return where
    if told.startswith("running"):
        return where + told.removeprefix("running")
    return f"does not run at the {active}" if told == "stopped" else f"is not seen running at the {active}"
