"""The state machine of failovers as data: (situation, action) -> (situation, effects), or a refusal with its rule.

`REFUSALS` are looked at first, from the top; then `STEPS`. What is in neither is refused by R8.1. What protection does
(pause, resync, disable ...) leads where health/states.py says, once nothing here forbids it: there is one truth.
`decide` asks nothing and changes nothing (D12): who acts reads the real situation first, each time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from secondsite.orchestration.failover.effects import TEST_EFFECTS, effects
from secondsite.orchestration.failover.situation import RESTING, TESTING, WORKING, Situation, offered, other
from secondsite.orchestration.health.states import ACTIONS as PROTECTION
from secondsite.orchestration.health.states import State, step
from secondsite.orchestration.scenarios.matrix import Abilities

TESTS = ("test", "test-start", "test-cleanup")
BEGINNING = ("planned", "unplanned", "failback", "copy-back")
OPERATOR = (*TESTS, *BEGINNING, "start", "complete", "change-point", "cancel", "commit", "reverse", "give-up")
# What happens rather than is asked for: the effects of a working phase have all been done, or it was refused before
# any of them.
EVENTS = ("done", "refused", "test-done", "test-refused")
ACTIONS = (*OPERATOR, *EVENTS, "cycle", *PROTECTION)

Pattern = Mapping[str, frozenset[Any]]


class Step(NamedTuple):
    """What follows, and what is to be done for it, in this order."""

    situation: Situation
    effects: tuple[str, ...]


class Refusal(NamedTuple):
    rule: str
    words: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.words}"


class Refuse(NamedTuple):
    actions: tuple[str, ...]
    pattern: Pattern
    rule: str
    words: str


class Goes(NamedTuple):
    """`to` are the fields that change; BEFORE, OTHER and HERE stand for values of the situation itself."""

    action: str
    pattern: Pattern
    to: Mapping[str, Any]


def when(**values: Any) -> Pattern:
    """Fields and the values that match; one value, or a set of them."""
    return {
        name: frozenset(value) if isinstance(value, set | frozenset) else frozenset({value})
        for name, value in values.items()
    }


BEFORE, OTHER, HERE = object(), object(), object()
NOT_COPIED = {State.NOT_ENABLED, State.READY_FOR_INITIAL_REPLICATION, State.WAITING_FOR_INITIAL_REPLICATION}
RESYNCING = {State.WAITING_FOR_START_RESYNCHRONIZE, State.RESYNCHRONIZING, State.RESYNCHRONIZE_SUSPENDED}
WITH_POINTS = {State.REPLICATING, State.SUSPENDED, State.ERROR, *RESYNCING}
UNDER_WAY = {*WORKING, *RESTING}
# A failover that may have been refused before anything was done.
BEGUN = {"preparing", "copying"}
# What a planned failover that has not switched may give way to, when its source dies meanwhile.
NOT_SWITCHED = {"preparing", "prepared"}
# What is taken back may not come to its end without its source; then the target is all that there is.
TAKEN_BACK = {"cancelling"}
_BUSY = "a failover is under way; commit or cancel it"
_ALONE = "it is not replicated; reverse it first"
_NOTHING_BACK = (
    "nothing of it came back yet; where the old side is lost, cancel ends the reverse, and `failback --host` brings it "
    "elsewhere"
)
ENDED: Mapping[str, Any] = {"kind": None, "phase": None, "to": None, "before": None}

REFUSALS: tuple[Refuse, ...] = (
    # What R9's table does not have from where the machine runs.
    Refuse(("test", "planned", "unplanned"), when(offered=False), "R9", "from there a machine does not fail over so"),
    Refuse(("failback", "copy-back"), when(active="source"), "R10.1", "it runs where it belongs"),
    # One test at a time (R9.1); what it runs from stays (R9.3).
    Refuse(("test",), when(test={*TESTING} - {"preparing"}), "R9.1", "its test failover is there; clean that up first"),
    Refuse(("test-start",), when(test={None, *TESTING} - {"prepared", "starting"}), "R9.1", "no test is prepared"),
    Refuse(("test-cleanup",), when(test=None), "R9.3", "it has no test failover"),
    Refuse(("commit", "reverse", "disable"), when(test={*TESTING}), "R9.3",
           "its test failover needs the points; clean that up first"),
    # One failover at a time.
    Refuse(("test",), when(phase=UNDER_WAY), "R8.8", "a failover is under way; its replica may not be read now"),
    Refuse(("planned",), when(phase=UNDER_WAY - {"preparing"}), "R9.12", _BUSY),
    Refuse(("planned",), when(phase="preparing", kind="unplanned"), "R9.12", "an unplanned failover is under way"),
    Refuse(("unplanned",), when(phase=UNDER_WAY - NOT_SWITCHED - TAKEN_BACK), "R9.12", _BUSY),
    Refuse(("unplanned",), when(phase="prepared", kind="unplanned"), "R9.12", "it is prepared; start or cancel it"),
    Refuse(("failback",), when(phase=UNDER_WAY - {"preparing"}), "R9.12", _BUSY),
    Refuse(("copy-back",), when(phase=UNDER_WAY - {"copying"}), "R9.12", _BUSY),
    Refuse(("failback", "copy-back"), when(phase=UNDER_WAY, kind={"planned", "unplanned"}), "R9.12",
           "another failover is under way; commit or cancel it"),
    Refuse((*PROTECTION, "cycle"), when(phase=UNDER_WAY), "R9.12", _BUSY),
    # What is not whole cannot fail over.
    Refuse(("test", "planned", "unplanned", "failback"),
           when(copied=False, phase=None, active="target", direction="reverse"), "R5.7", _NOTHING_BACK),
    Refuse(("test", "planned", "unplanned", "failback"), when(state=NOT_COPIED), "R5.7", "its first copy is not done"),
    Refuse(("test", "planned", "unplanned"), when(copied=False, phase=None), "R5.7", "it has no recovery point yet"),
    Refuse(("failback",), when(copied=False, phase=None, direction="reverse"), "R5.7", "it has no recovery point yet"),
    Refuse(("test", "planned", "failback"), when(state=RESYNCING, phase=None), "R7.7", "it needs its resync first"),
    Refuse(("test",), when(state=State.ERROR), "R8.8", "replication has failed; its replica may not be consistent"),
    Refuse(("planned", "failback"), when(state=State.ERROR), "R9.6", "it cannot send: there would be no last delta"),
    Refuse(("planned", "failback"), when(state=State.SUSPENDED), "R9.6", "replication is paused; resume it first"),
    Refuse(("test", "unplanned"), when(state=State.FAILED_OVER, phase=None), "R9.11", _ALONE),
    Refuse(("planned",), when(state=State.FAILED_OVER, active="source"), "R9.11", _ALONE),
    Refuse(("copy-back",), when(state=set(State) - {State.FAILED_OVER}, phase=None), "R10.4",
           "it is copied while it runs only where nothing replicates back"),
    # What a failover under way takes.
    Refuse(("start",), when(phase={None, *UNDER_WAY} - {"prepared", "starting"}), "R9.6", "no failover is prepared"),
    Refuse(("complete",), when(phase={None, *UNDER_WAY} - {"copied"}), "R10.4", "it was not copied back while it runs"),
    Refuse(("change-point",), when(kind={"planned", "failback"}), "R9.6", "a planned failover has one point, the last"),
    Refuse(("change-point",), when(phase={None, *UNDER_WAY} - {"running", "changing"}), "R9.10",
           "no unplanned failover waits for its commit"),
    # R10.1: a reverse is taken back until something has come to the other side.
    *(Refuse(("cancel",), when(phase=None, **one), "R9.10", "no failover waits for its commit")
      for one in ({"active": "source"}, {"direction": "forward"}, {"copied": True})),
    Refuse(("cancel",), when(phase="committing"), "R9.10", "it is being committed"),
    Refuse(("commit",), when(phase={None, *UNDER_WAY} - {"running", "committing"}), "R9.12",
           "no failover waits for its commit"),
    Refuse(("reverse",), when(phase=UNDER_WAY - {"reversing"}), "R9.12", "the failover is not committed"),
    Refuse(("reverse",), when(active="target", reverses=False), "R10.3", "from there a machine comes back by failback"),
    Refuse(("reverse",), when(state=set(State) - {State.FAILED_OVER}, phase=None), "R10.1", "it did not fail over"),
    Refuse(("done",), when(phase={None, *RESTING}), "R9.12", "no failover works"),
    Refuse(("refused",), when(phase={None, *UNDER_WAY} - BEGUN), "R9.12", "no failover begins"),
    Refuse(("test-done",), when(test={None, "prepared", "running"}), "R9.1", "no test failover works"),
    Refuse(("test-refused",), when(test={None, *TESTING} - {"preparing"}), "R9.1", "no test failover begins"),
    # What runs from its replica needs it (R1.10).
    Refuse(("disable",), when(active="target"), "R1.10",
           "it runs from its replica; fail it back first, or where that is lost for good give it up"),
    Refuse(("give-up",), when(test={*TESTING}), "R9.3", "its test failover is there; clean that up first"),
    Refuse(("give-up",), when(active="source", phase=None), "R1.10",
           "it runs where it belongs; leave its item out of the estate instead"),
)  # fmt: skip

_PLANNED = {"kind": "planned", "phase": "preparing", "to": OTHER, "before": HERE}
_FAILBACK = {**_PLANNED, "kind": "failback"}
_UNPLANNED = {"kind": "unplanned", "phase": "preparing", "to": OTHER, "state": State.FAIL_OVER_WAITING_COMPLETION}
_WAITS = {"phase": "running", "state": State.FAIL_OVER_WAITING_COMPLETION}

STEPS: tuple[Goes, ...] = (
    Goes("test", when(test=None, state={State.REPLICATING, State.SUSPENDED}), {"test": "preparing"}),
    Goes("test", when(test="preparing"), {}),
    Goes("test-cleanup", {}, {"test": "cleaning"}),
    Goes("test-start", {}, {"test": "starting"}),
    Goes("test-refused", {}, {"test": None}),
    Goes("test-done", when(test="preparing"), {"test": "prepared"}),
    Goes("test-done", when(test="starting"), {"test": "running"}),
    Goes("test-done", when(test="cleaning"), {"test": None}),
    # R9.7: one that failed on its way is begun again.
    *(Goes(action, when(phase="preparing"), {}) for action in ("planned", "failback")),
    Goes("unplanned", when(phase="preparing", kind="unplanned"), {}),
    Goes("copy-back", when(phase="copying"), {}),
    Goes("planned", when(active="source", phase=None, state=State.REPLICATING), _PLANNED),
    *(Goes(action, when(active="target", phase=None, state={State.REPLICATING, State.FAILED_OVER}), _FAILBACK)
      for action in ("planned", "failback")),
    Goes("copy-back", when(active="target", phase=None), {**_FAILBACK, "phase": "copying"}),
    # R7.7: it ends a resync, which begins anew where the failover is cancelled.
    Goes("unplanned", when(state=RESYNCING, phase=None),
         {**_UNPLANNED, "before": State.WAITING_FOR_START_RESYNCHRONIZE}),
    Goes("unplanned", when(state=WITH_POINTS, phase=None), {**_UNPLANNED, "before": HERE}),
    Goes("unplanned", when(kind={"planned", "failback"}, phase=NOT_SWITCHED), _UNPLANNED),
    Goes("unplanned", when(phase=TAKEN_BACK), _UNPLANNED),
    Goes("start", {}, {"phase": "starting", "active": OTHER}),
    Goes("complete", {}, {"phase": "preparing"}),
    Goes("change-point", {}, {"phase": "changing"}),
    Goes("cancel", when(phase={None, "reversing"}), {**ENDED, "state": State.FAILED_OVER, "direction": "forward"}),
    Goes("cancel", {}, {"phase": "cancelling"}),
    Goes("commit", {}, {"phase": "committing"}),
    Goes("reverse", when(active="target", phase=None), {"phase": "reversing"}),
    Goes("reverse", when(phase="reversing"), {}),
    Goes("reverse", when(active="source"), {"state": State.RESYNCHRONIZING, "direction": "forward"}),
    # R1.10: nothing is left of it, and nothing is done; whoever acts looked that it runs nowhere.
    Goes("give-up", {}, {**ENDED, "state": State.NOT_ENABLED, "active": "source", "direction": "forward",
                         "copied": False}),
    Goes("refused", {}, {**ENDED, "state": BEFORE}),
    Goes("done", when(phase="preparing", kind="unplanned"), {"phase": "prepared"}),
    Goes("done", when(phase="preparing"), {"phase": "prepared", "state": State.SYNCED_REPLICATION_COMPLETE}),
    Goes("done", when(phase={"starting", "changing"}), _WAITS),
    Goes("done", when(phase="copying"), {"phase": "copied"}),
    Goes("done", when(phase="cancelling"), {**ENDED, "state": BEFORE}),
    # R9.6, R10.1: after a planned one replication runs the other way at once.
    Goes("done", when(phase="committing", kind={"planned", "failback"}, active="target", swap=True),
         {"phase": "reversing", "state": State.FAILED_OVER}),
    Goes("done", when(phase="committing", kind={"planned", "failback"}, active="source", swap=True),
         {**ENDED, "state": State.RESYNCHRONIZING, "direction": "forward"}),
    Goes("done", when(phase="committing"), {**ENDED, "state": State.FAILED_OVER}),
    Goes("done", when(phase="reversing"),
         {**ENDED, "state": State.RESYNCHRONIZING, "direction": "reverse"}),
)  # fmt: skip


def decide(situation: Situation, action: str, abilities: Abilities | None = None) -> Step | Refusal:
    """What an action does in a situation, for a scenario with these abilities; what protection does needs none."""
    facts = _facts(situation, action, abilities)
    for one in REFUSALS:
        if action in one.actions and _matches(one.pattern, facts):
            return Refusal(one.rule, one.words)
    if action in PROTECTION or action == "cycle":
        return _protects(situation, action)
    for row in STEPS:
        if row.action == action and _matches(row.pattern, facts):
            return _gone(situation, action, row.to)
    return _refused(situation, action)


def _facts(situation: Situation, action: str, abilities: Abilities | None) -> dict[str, Any]:
    facts = msgspec.structs.asdict(situation)
    if abilities is None:
        return {**facts, "offered": None, "swap": None, "reverses": None}
    return {**facts, "offered": action in offered(situation, abilities), "swap": abilities.swap,
            "reverses": abilities.reverse}  # fmt: skip


def _matches(pattern: Pattern, facts: Mapping[str, Any]) -> bool:
    return all(facts[name] in values for name, values in pattern.items())


def _protects(situation: Situation, action: str) -> Step | Refusal:
    """health/states.py says where it leads."""
    if action == "cycle":
        return Step(situation, ("cycle",)) if situation.state.cycles else _refused(situation, action)
    state = step(situation.state, action)
    if state is None:
        return _refused(situation, action)
    if state is State.NOT_ENABLED:  # nothing is left of it
        return Step(Situation(state=state, copied=False), ())
    return Step(msgspec.structs.replace(situation, state=state), ())


def _gone(situation: Situation, action: str, to: Mapping[str, Any]) -> Step:
    changes = {name: _value(situation, name, value) for name, value in to.items()}
    if to.get("phase") == "cancelling" and situation.to == situation.active:
        changes["active"] = other(situation.active)
    after = msgspec.structs.replace(situation, **changes)
    if action.startswith("test"):
        return Step(after, TEST_EFFECTS.get(after.test or "", ()))
    return Step(after, effects(after))


def _value(situation: Situation, name: str, value: Any) -> Any:
    if value is BEFORE:
        return situation.before
    if value is HERE:
        return situation.state
    if value is OTHER:
        return (situation.to or other(situation.active)) if name in ("to", "active") else value
    return value


def _refused(situation: Situation, action: str) -> Refusal:
    what = "no cycle runs" if action == "cycle" else f"cannot {action.replace('-', ' ')}"
    return Refusal("R8.1", f"it is {situation.state.words}; {what}")
