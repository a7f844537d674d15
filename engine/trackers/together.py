"""Cuts of several sources at one instant: the disks of a machine (P9, P16, R6.7).

Each cycle runs as ever, in a thread of its own, over what `Party.join` makes of its tracker. Its `begin` waits until
all are there; the last one cuts all of them, and each cycle goes on with its own. Trackers of one tracking server, or
of one QEMU, are cut by that in one instant. Where there is more than one that cuts, nobody may write meanwhile: the
files are looked at before the first and after the last cut.
"""

from __future__ import annotations

import datetime
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from secondsite.engine import errors
from secondsite.engine.qemu.agent import Quiesce
from secondsite.engine.source import TICK_NS, Source
from secondsite.engine.trackers.base import Cut, Have, Tracker

# A file that was written within the last ticks of the clock may have been written after the look too.
_REST_NS = 2 * TICK_NS
_LOOKS = 10
Ranges = Sequence[tuple[int, int]]


class Apart(errors.Refused):
    """A disk has to be cut again, and with it all others: no single cycle tries that for itself. `distrust`: its
    tracker left out a block that changed.
    """

    retryable = True

    def __init__(self, message: str, *, path: str | None = None, distrust: bool = False) -> None:
        super().__init__(message, path=path)
        self.distrust = distrust


@dataclass
class _Party:
    tracker: Tracker
    origin: Source
    have: Have | None
    sample: Ranges
    cut: Cut | None = None


class Instant:
    """One instant of so many sources. `wait` seconds are how long the first one waits for the last, `quiesce` brings
    to rest around it what writes them. `clock` is looked at once all are cut: that is the time of their points.
    """

    def __init__(
        self, parties: int, wait: float = 600.0, quiesce: Quiesce | None = None, *,
        clock: Callable[[], datetime.datetime],
    ) -> None:  # fmt: skip
        self._clock, self._live = clock, False
        self._time: datetime.datetime | None = None
        self._missing, self._wait, self._quiesce = parties, wait, quiesce
        self._seen: dict[str, tuple[int, ...]] = {}
        self._parties: list[_Party] = []
        self._error: errors.Error | None = None
        self._done = False
        self._changed = threading.Condition()

    def leave(self, error: errors.Error | None = None) -> None:
        """A cycle that ends without a cut: nothing has changed, or it failed, and with it all others."""
        with self._changed:
            self._missing -= 1
            self._error = self._error or error
            self._cut_if_all()

    def now(self) -> datetime.datetime:
        """The present before the cut, and the time of the cut from then on. Where a source tells nothing of being
        written while it is read there is no such time: then it is the present after the cut, too.
        """
        return self._clock() if self._live else self.when()

    def when(self) -> datetime.datetime:
        """As `now`, but the time of the cut in any case."""
        return self._time or self._clock()

    def begin(self, tracker: Tracker, origin: Source, have: Have | None, sample: Ranges) -> Cut:
        party = _Party(tracker, origin, have, sample)
        with self._changed:
            self._parties.append(party)
            self._missing -= 1
            self._cut_if_all()
            if not self._changed.wait_for(lambda: self._done, self._wait):
                self._fail(errors.Busy("another disk of the machine did not get ready for the cut"))
            if party.cut is None:
                assert self._error is not None
                if isinstance(self._error, errors.SourceChanged):
                    raise Apart(str(self._error))
                raise errors.Busy(f"the disks of the machine could not be cut: {self._error}")
            return party.cut

    def _cut_if_all(self) -> None:
        """Under the lock: what is cut takes milliseconds, and nobody else has anything to do."""
        if self._missing or self._done:
            return
        try:
            if self._error is None and self._parties:
                self._seen = _cut(self._parties, self._quiesce, self._mark)
                self._settle()
        except errors.Error as error:
            self._error = error
        finally:
            if self._error is not None:
                self._fail(self._error)
            self._done = True
            self._changed.notify_all()

    def _mark(self) -> None:
        self._time = self._clock()

    def _settle(self) -> None:
        """What is read as it is may have been written since it was cut: none of that is later than the time."""
        found = [party for party in self._parties if party.cut is not None and not party.cut.frozen]
        for party in found:
            assert party.cut is not None
            party.cut.rested = party.origin.settled()
        if found:
            self._mark()
        self._live = any(party.cut is not None and party.cut.rested is None for party in found)

    def written_since(self) -> list[str]:
        """Files that were read as they are, and written since they were at rest: what was read may be of later."""
        return [path for path, seen in self._seen.items() if not os.path.exists(path) or _stamps([path]) != [seen]]

    def _fail(self, error: errors.Error) -> None:
        """What was cut already goes back."""
        self._error = error
        self._done = True
        for party in self._parties:
            if party.cut is not None:
                party.cut.give_back()
                party.cut = None
        self._changed.notify_all()


class Party:
    """One of the sources of an instant. With `distrust` its tracker is asked as if the replica had nothing."""

    def __init__(self, instant: Instant, *, distrust: bool = False) -> None:
        self.instant, self.distrust = instant, distrust
        self.begun = False

    def join(self, tracker: Tracker, origin: Source) -> Tracker:
        """The tracker of a source, whose cut begins with all others."""
        return _Joined(self, tracker, origin)

    def end(self, error: BaseException | None = None) -> None:
        """The cycle has ended; where it made no cut, the others do not wait for it: nothing changed, or all fail."""
        if not self.begun:
            self.begun = True
            known = error if isinstance(error, errors.Error) or error is None else errors.Busy(str(error))
            self.instant.leave(known)


class _Joined(Tracker):
    """A tracker that begins once, with the others."""

    def __init__(self, party: Party, tracker: Tracker, origin: Source) -> None:
        self.name = tracker.name
        self._party, self._tracker, self._origin = party, tracker, origin
        self._had: Have | None = None

    def begin(self, have: Have | None, sample: Ranges = ()) -> Cut:
        path = getattr(self._tracker, "path", None)
        if self._party.begun:
            unmasked = have is None and self._had is not None
            why = "its tracker left out what changed" if unmasked else "it was written meanwhile"
            raise Apart(f"{why}; all disks of the machine have to be cut again", path=path, distrust=unmasked)
        self._party.begun, self._had = True, have
        known = None if self._party.distrust else have
        return self._party.instant.begin(self._tracker, self._origin, known, sample)

    def close(self) -> None:
        self._tracker.close()


def _cut(
    parties: Sequence[_Party], quiesce: Quiesce | None, mark: Callable[[], None]
) -> dict[str, tuple[int, ...]]:
    """Cut all of them, and `mark` when that was. What files looked like at rest that are read as they are: no cut keeps
    that for them.
    """
    groups, seen = _groups(parties), dict[str, tuple[int, ...]]()
    if quiesce is None:
        _cut_all(groups, parties)
        mark()
    elif len(groups) == 1 and groups[0][0].tracker.name == "qemu":
        _begin(groups[0], quiesce)  # which first looks at a disk, for as long as that takes
        mark()
    else:
        with quiesce() as rest:
            _cut_all(groups, parties)
            mark()
            cuts = [party.cut for party in parties if party.cut is not None]
            seen = _look([_path(party.tracker) for party in parties if party.cut and not party.cut.frozen])
        for cut in cuts:
            cut.application = rest.held
        cuts[0].warnings.extend(rest.warnings)
    return seen


def _look(paths: Sequence[str | None]) -> dict[str, tuple[int, ...]]:
    """What files look like; what is no file, or is written although it should be at rest, looks like nothing else."""
    known = [path for path in paths if path is not None]
    stamps = _at_rest(known) or [()] * len(known)
    return {**dict(zip(known, stamps, strict=True)), **({"a source that is no file": ()} if None in paths else {})}


def _cut_all(groups: list[list[_Party]], parties: Sequence[_Party]) -> None:
    if len(groups) == 1:
        _begin(groups[0])
        return
    paths = [path for party in parties if (path := _path(party.tracker)) is not None]
    before = _at_rest(paths)
    for group in groups:
        _begin(group)
    if before is None or before != _stamps(paths):
        raise errors.SourceChanged(
            "the disks of the machine were written while they were cut one after another; behind one tracking server, "
            "or in one QEMU, they are cut together"
        )


def _groups(parties: Sequence[_Party]) -> list[list[_Party]]:
    """Those that can be cut together."""
    found: dict[Any, list[_Party]] = {}
    for party in parties:
        found.setdefault(_shared(party.tracker), []).append(party)
    return list(found.values())


def _shared(tracker: Tracker) -> Any:
    """What cuts it: equal for those that are cut together."""
    if tracker.name == "qemu":
        return "qemu", tracker.qemu.qmp  # type: ignore[attr-defined]
    if tracker.name == "nbd":
        from secondsite.engine.trackers.served import tracking_status

        return "nbd", tracking_status(tracker.path)["pid"]  # type: ignore[attr-defined]
    return "alone", id(tracker)


def _begin(group: list[_Party], quiesce: Quiesce | None = None) -> None:
    first = group[0].tracker
    cuts: Sequence[Cut]
    if first.name == "qemu":
        from secondsite.engine.trackers import qemu

        cuts = qemu.begin_together([(party.tracker, party.have) for party in group], quiesce)  # type: ignore[misc]
    elif first.name == "nbd":
        from secondsite.engine.trackers import served

        cuts = served.begin_together([(party.tracker, party.have, party.sample) for party in group])  # type: ignore[misc]
    else:
        cuts = [party.tracker.begin(party.have, party.sample) for party in group]
    for party, cut in zip(group, cuts, strict=True):
        party.cut = cut


def _path(tracker: Tracker) -> str | None:
    """The file that a tracker without others follows."""
    origin = getattr(tracker, "origin", None)
    found = getattr(tracker, "path", None) or getattr(origin, "path", None)
    return found if isinstance(found, str) and os.path.exists(found) else None


def _at_rest(paths: Sequence[str]) -> list[tuple[int, ...]] | None:
    """What the files look like once none was written for two ticks; None where one is written all the time."""
    for _ in range(_LOOKS):
        found = _stamps(paths)
        if all(time.time_ns() - stamp[0] > _REST_NS for stamp in found):
            return found
        time.sleep(_REST_NS / 1e9)
    return None


def _stamps(paths: Sequence[str]) -> list[tuple[int, ...]]:
    found = [os.stat(path) for path in paths]
    return [(one.st_mtime_ns, one.st_ctime_ns, one.st_size, one.st_ino) for one in found]
