"""The Tracker interface: one instant of a source, and what may have changed in it since the replica's newest point.

A cycle begins a cut, reads its image where `changed` says (all of it where that is unknown), and ends it: acknowledged
when the replica holds the point durably, given back in every other case (DESIGN D7). Each sentence below is tested for
every tracker by tests/conformance/test_tracker.py.

* A byte that differs between the cut before, acknowledged as `have`, and this one lies in a range of `changed`.
* What is marked is forgotten on `acknowledge` alone; after `give_back` the next cut names it again.
* A tracker that does not know says so (None), and everything is read. It never raises for that. Without `have`, and
  with one that it did not acknowledge, it does not know.
* The cut's image has the size that the disk had at its instant; what another size adds or ends is named, or unknown.
* Read are the changed ranges (all of the image where unknown) and the sample: the rest of a cut need not be kept.
* While a cut is open no second one begins (Refused). Ending a cut twice does nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from secondsite.engine.images import Image, Stamp

if TYPE_CHECKING:
    from secondsite.engine.blockmap import BlockMap
    from secondsite.engine.source import Source


class Have(NamedTuple):
    """What the replica holds: its newest point. A generation made anew has another seal."""

    replica_id: str
    generation: int
    seal: str


class Cut(ABC):
    """One instant of a source, for one cycle."""

    tracker: str
    """What names the blocks: scan, clone, nbd, qemu and so on."""
    image: Image
    """What is read. Ending the cut closes it, unless it is the source's own."""
    frozen: bool = False
    """Nobody writes `image` while the cut is open; where False, the cycle looks at the file's times."""
    stall_seconds: float | None = None
    """How long a writer of the source may have stood still for the cut; None where nothing stopped it."""
    kept_bytes: int = 0
    """Room beside the source that its tracking had taken when the cut began, in bytes."""
    rested: tuple[Stamp, ...] | None = None
    """What the source's files looked like at an instant that the cut shares with others, where it is not frozen."""
    application: bool = False
    """File systems or databases were brought to rest around the cut; otherwise it is as after a power loss."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def settled(self, origin: Source) -> tuple[Stamp, ...] | None:
        """What the files look like from which a cut that is not frozen is read: later writes change it. None where
        that does not show. Raises SourceChanged where they are written all the time.
        """
        return self.rested or origin.settled()

    @abstractmethod
    def changed(self) -> Iterable[tuple[int, int]] | None:
        """(start, length) in bytes of what may have changed: ascending, disjoint, inside the image. None: unknown."""

    def changed_from(self, previous: BlockMap, seed: int) -> Iterable[tuple[int, int]] | None:
        """As `changed`, of a replica whose newest point has the map `previous`, hashed by `seed`. It is asked in the
        place of that, and may know more: what another replica's map says.
        """
        return self.changed()

    def read_once(self) -> None:
        """From now on nothing of `image` is read twice: what was read need not be kept for this cut any more."""
        return None

    @abstractmethod
    def acknowledge(self, have: Have) -> None:
        """The replica durably holds this cut as `have`."""

    @abstractmethod
    def give_back(self) -> None:
        """The cycle failed: what was marked stays marked."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()


class Tracker(ABC):
    """Follows one source for one replica."""

    name: str

    @abstractmethod
    def begin(self, have: Have | None, sample: Sequence[tuple[int, int]] = ()) -> Cut:
        """A cut of now. `have` is what the replica holds, None before its first point. `sample` are byte ranges that
        the cycle reads besides the changed ones, ascending.
        """

    def close(self) -> None:
        """Let go of what is open; the tracking goes on where it is kept."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
