"""The twelve states of a protected item (R8.1), and what may be done in which."""

from __future__ import annotations

import enum


class State(enum.IntEnum):
    """Numbers as in Hyper-V's own interface."""

    NOT_ENABLED = 0
    READY_FOR_INITIAL_REPLICATION = 1
    WAITING_FOR_INITIAL_REPLICATION = 2
    REPLICATING = 3
    SYNCED_REPLICATION_COMPLETE = 4
    FAIL_OVER_WAITING_COMPLETION = 5
    FAILED_OVER = 6
    SUSPENDED = 7
    ERROR = 8
    WAITING_FOR_START_RESYNCHRONIZE = 9
    RESYNCHRONIZING = 10
    RESYNCHRONIZE_SUSPENDED = 11

    @property
    def words(self) -> str:
        return self.name.lower().replace("_", " ")

    @property
    def cycles(self) -> bool:
        """Whether the scheduler runs cycles in it."""
        return self in _CYCLES

    @property
    def readable(self) -> bool:
        """Whether the replica may be read as consistent (R8.8)."""
        return self not in _UNREADABLE


_CYCLES = {
    State.READY_FOR_INITIAL_REPLICATION, State.WAITING_FOR_INITIAL_REPLICATION, State.REPLICATING,
    State.RESYNCHRONIZING,
}  # fmt: skip
_UNREADABLE = {
    State.NOT_ENABLED, State.READY_FOR_INITIAL_REPLICATION, State.WAITING_FOR_INITIAL_REPLICATION,
    State.FAIL_OVER_WAITING_COMPLETION, State.ERROR, State.WAITING_FOR_START_RESYNCHRONIZE, State.RESYNCHRONIZING,
    State.RESYNCHRONIZE_SUSPENDED,
}  # fmt: skip
# What an action of an operator, or an event, makes of a state. What is not here is refused. Failovers have a table of
# their own.
_STEPS: dict[str, dict[State, State]] = {
    "enable": {State.NOT_ENABLED: State.READY_FOR_INITIAL_REPLICATION},
    "await seed": {State.READY_FOR_INITIAL_REPLICATION: State.WAITING_FOR_INITIAL_REPLICATION},
    "first copy done": {
        State.READY_FOR_INITIAL_REPLICATION: State.REPLICATING,
        State.WAITING_FOR_INITIAL_REPLICATION: State.REPLICATING,
    },
    "pause": {State.REPLICATING: State.SUSPENDED, State.RESYNCHRONIZING: State.RESYNCHRONIZE_SUSPENDED},
    "resume": {State.SUSPENDED: State.REPLICATING, State.RESYNCHRONIZE_SUSPENDED: State.RESYNCHRONIZING},
    "fail": {state: State.ERROR for state in (State.READY_FOR_INITIAL_REPLICATION, State.REPLICATING)},
    "recover": {State.ERROR: State.REPLICATING},
    "resync required": {
        state: State.WAITING_FOR_START_RESYNCHRONIZE
        for state in (State.REPLICATING, State.SUSPENDED, State.ERROR, State.RESYNCHRONIZING)
    },
    "resync": {  # R7.9: any time, so that one that began by itself and finds no replica becomes an operator's
        state: State.RESYNCHRONIZING
        for state in (
            State.WAITING_FOR_START_RESYNCHRONIZE, State.REPLICATING, State.SUSPENDED, State.ERROR,
            State.RESYNCHRONIZING,
        )
    },
    "cancel resync": {
        State.RESYNCHRONIZING: State.WAITING_FOR_START_RESYNCHRONIZE,
        State.RESYNCHRONIZE_SUSPENDED: State.WAITING_FOR_START_RESYNCHRONIZE,
    },
    "resync done": {State.RESYNCHRONIZING: State.REPLICATING},
    "disable": {state: State.NOT_ENABLED for state in State if state is not State.NOT_ENABLED},
}
ACTIONS = tuple(_STEPS)


def step(state: State, action: str) -> State | None:
    """The state that follows, or None where the action is refused."""
    return _STEPS[action].get(state)
