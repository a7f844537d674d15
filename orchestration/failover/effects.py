"""What a working phase of a failover does, in order. Each effect may be repeated: it looks at what is there first."""

from __future__ import annotations

from collections.abc import Mapping

from secondsite.orchestration.failover.situation import Situation

# By phase, and by kind where that matters. `there` is the side that the machine moves to.
_EFFECTS: Mapping[str, Mapping[str | None, tuple[str, ...]]] = {
    "preparing": {
        # R9.6: the source stops first; then nothing is lost, which is proved (D10). Only then the sides change.
        "planned": ("check there", "stop here", "last delta", "prove", "fence", "make disks"),
        "failback": ("check there", "stop here", "adopt", "last delta", "prove", "fence", "make disks"),
        # R9.8, R9.9: best effort, and never beside a source that is seen running.
        "unplanned": ("check there", "shut down here", "not running here", "fence", "make disks"),
    },
    "starting": {None: ("start there",)},
    "changing": {None: ("stop there", "remove there", "make disks", "start there")},
    # R10.4: while it runs.
    "copying": {None: ("check there", "adopt", "copy")},
    "cancelling": {None: ("stop there", "remove there", "start here")},
    "committing": {None: ("prune", "forget here")},
    "reversing": {None: ("adopt",)},
}
# These change nothing, or say themselves when they begin to: what is refused by them was never begun.
LOOKING = frozenset({"check there", "not running here", "stop here", "shut down here", "check test"})
TEST_EFFECTS: Mapping[str, tuple[str, ...]] = {
    "preparing": ("check test", "test disks"),
    "starting": ("start test",),
    "cleaning": ("stop test", "remove test"),
}
_WORDS: Mapping[str, str] = {
    "check there": "see that the other side has the networks, the room and the point",
    "stop here": "stop the machine where it runs; its guest has five minutes",
    "shut down here": "shut the machine down and send what is new, where that is possible",
    "not running here": "make sure that the machine does not run any more, if its side answers",
    "last delta": "send the last delta",
    "prove": "prove by hashes that both sides are equal",
    "fence": "raise the epoch, so that the old side can no longer send",
    "make disks": "make the disks of the point",
    "start there": "start the machine",
    "stop there": "stop the machine that failed over",
    "remove there": "take its disks away",
    "start here": "start the machine again where it ran, if it did",
    "adopt": "make the old disks the first point of the way back",
    "copy": "send what is new while the machine runs",
    "prune": "drop the other points",
    "forget here": "take away what is left of the machine where it ran",
    "check test": "see that the point is there, and room for its disks",
    "test disks": "make disks of the point for the test",
    "start test": "start the test machine, apart from the networks of the real one",
    "stop test": "stop the test machine",
    "remove test": "take the test machine's disks and networks away",
    "cycle": "replicate",
}
# Of what is done at the side that is Azure, where nothing of ours runs: a machine is made there of the definition.
_IN_AZURE: Mapping[str, str] = {
    "stop here": "see that no machine in Azure has its disks",
    "start there": "leave the machine to whoever makes it in Azure",
    "stop there": "see that no machine in Azure has its disks",
    "start here": "leave the machine to whoever has it in Azure",
    "start test": "leave the test machine to whoever makes it in Azure",
    "stop test": "see that no machine in Azure has its disks",
    "remove test": "take the test's disks away",
}
_AZURE = " in Azure"


def effects(situation: Situation) -> tuple[str, ...]:
    """What the phase that the situation is in has to do; nothing where it rests."""
    by_kind = _EFFECTS.get(situation.phase or "", {})
    return by_kind.get(situation.kind, by_kind.get(None, ()))


def named(effect: str, to: str | None, *, azure: bool) -> str:
    """An effect as it is told: with a name of its own where its side is Azure. `to` is the side that is moved to, for a
    test the one that it is at; `azure` says that this machine's target is.
    """
    there = to == "target" if effect.endswith(("there", "test")) else to == "source"
    return effect + _AZURE if azure and there and effect in _IN_AZURE else effect


def words(effect: str) -> str:
    """An effect as `--plan` and progress tell it."""
    if effect.endswith(_AZURE):
        return _IN_AZURE[effect.removesuffix(_AZURE)]
    return _WORDS[effect]
