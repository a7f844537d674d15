"""The tripwire (M15): a machine's disks are suddenly rewritten with what does not pack, as by who encrypts its files.

It goes by what a cycle says of its data: how much changed, and how much of that is sealed (replaced other data and does
not pack). It trips when in a few cycles (RECENT) so much was sealed that all of this holds:

* it is more than a hundredth of the disks, and than LEAST_BYTES: who encrypts files does not stop at logs;
* it is two fifths or more of what changed, and that share is well above the item's own before;
* it is far outside what the item's own cycles sealed until then (median and median deviation of as many cycles);
* it is more than twice what a person once called all right.

Before WARM_UP cycles it says nothing, and an item whose data never packs, as that of a guest with an encrypted disk, it
cannot judge: it says so. What it knows is a pure function of the cycles that it saw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import msgspec

from secondsite.orchestration.typed import ready

MIB = 1 << 20
RECENT = 6
WARM_UP = 12
# A day of cycles at five minutes is as much as is worth to remember; the newest so many are.
KEPT = 96
LEAST_BYTES = 8 * MIB
LEAST_SHARE = 0.01
# Of what changed. Where files of 100 KiB are encrypted one here and one there, in blocks of 64 KiB 0.4 to 0.8 of it is
# sealed, as a block that changed holds more than one file; of whole folders 0.8 to 1.
SEALED, JUMP = 0.4, 0.3
DEVIATIONS = 8.0
# A share of sealed data from which on a jump could not be seen any more.
BLIND = 1 - JUMP


class Seen(NamedTuple):
    """Of one cycle, in bytes: data that changed, and sealed of it."""

    data: int
    sealed: int


class Tripwire(msgspec.Struct, frozen=True):
    """`history` is what it saw, written as one text: only a cycle reads it, and status of a thousand machines does not.
    `condition` is what follows from it: learning, blind or watching. `tripped`: the UTC time at which it did, and
    `words` what it saw; until a person looks it stays so. `bytes` were sealed then at most; `accepted` is what a person
    called all right.
    """

    history: str = ""
    condition: str = "learning"
    tripped: float | None = None
    words: str | None = None
    bytes: int = 0
    accepted: int = 0

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Tripwire:
        """As the vault has it; one that was written before histories were texts has the list `seen`."""
        if "seen" in said:
            seen = msgspec.convert(said["seen"], list[Seen])
            said = {**said, "history": _text(seen), "condition": _condition(seen)}
        return msgspec.convert(said, cls)

    def after(self, cycle: Seen, virtual_bytes: int, now: float) -> Tripwire:
        """With one more cycle. A first copy and a resync are none: what they send says nothing of what was written."""
        seen = (*self.seen, cycle)[-KEPT:]
        grown = msgspec.structs.replace(self, history=_text(seen), condition=_condition(seen))
        sealed = sum(one.sealed for one in seen[-RECENT:])
        if self.tripped is not None:
            return msgspec.structs.replace(grown, bytes=max(self.bytes, sealed))
        if grown.state != "watching" or not _jumped(seen, virtual_bytes, self.accepted):
            return grown
        words = f"{sealed / MIB:.0f} MiB were rewritten with data that does not pack, as by who encrypts them"
        return msgspec.structs.replace(grown, tripped=now, words=words, bytes=sealed)

    @property
    def state(self) -> str:
        """tripped, learning, blind or watching."""
        return self.condition if self.tripped is None else "tripped"

    @property
    def seen(self) -> tuple[Seen, ...]:
        """Cycles, the newest last."""
        return tuple(Seen(*map(int, one.split("/"))) for one in self.history.split())

    @property
    def tainted(self) -> int:
        """Of how many of the newest cycles the points may hold sealed data: since the first that sealed noticeably."""
        recent = self.seen[-RECENT:]
        most = max((one.sealed for one in recent), default=0)
        first = next((place for place, one in enumerate(recent) if 8 * one.sealed > most), len(recent))
        return len(recent) - first

    @property
    def uneasy(self) -> int:
        """How many of the newest cycles there are since the first that looks as if it might trip; 0 without one. As
        long as that is open, the point before it is not to go.
        """
        if self.condition == "learning":
            return 0
        seen = self.seen
        usual = _share(seen[:-RECENT])
        for place, one in enumerate(seen[-RECENT:]):
            if RECENT * one.sealed >= LEAST_BYTES and _share([one]) >= usual + JUMP / 2:
                return RECENT - place
        return 0

    def acknowledged(self) -> Tripwire:
        """A person looked: as much as was seen is all right from now on."""
        return Tripwire(self.history, self.condition, accepted=max(self.accepted, self.bytes))


def _text(seen: Sequence[Seen]) -> str:
    return " ".join(f"{one.data}/{one.sealed}" for one in seen)


def _condition(seen: Sequence[Seen]) -> str:
    before = seen[:-RECENT]
    if len(before) < WARM_UP:
        return "learning"
    return "blind" if _share(before) > BLIND else "watching"


def _jumped(seen: Sequence[Seen], virtual_bytes: int, accepted: int) -> bool:
    before, recent = seen[:-RECENT], seen[-RECENT:]
    sealed = sum(one.sealed for one in recent)
    if sealed <= max(LEAST_BYTES, LEAST_SHARE * virtual_bytes, 2 * accepted):
        return False
    # The first of the recent cycles may be as ever; what is left has most of what was sealed.
    ends = [recent[place:] for place in range(len(recent))]
    share = max(_share(some) for some in ends if 2 * sum(one.sealed for one in some) >= sealed)
    if share < SEALED or share < _share(before) + JUMP:
        return False
    windows = [sum(one.sealed for one in before[at : at + RECENT]) for at in range(len(before) - RECENT + 1)]
    middle = median(windows)
    deviation = 1.4826 * median(abs(one - middle) for one in windows)
    return sealed > 2 * middle + DEVIATIONS * deviation


def _share(seen: Sequence[Seen]) -> float:
    data = sum(one.data for one in seen)
    return sum(one.sealed for one in seen) / data if data else 0.0


ready(Tripwire, list[Seen])
