"""All points of a replica: the newest are in the head, the others in pages that are fetched when they are needed.

A page that is damaged costs its points and no others.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from secondsite.engine import errors
from secondsite.engine.replica import point as points
from secondsite.engine.replica.point import parse_time
from secondsite.engine.store.base import Store
from secondsite.engine.store.log import pages
from secondsite.engine.store.log.head import Head
from secondsite.engine.store.log.pages import Page
from secondsite.engine.store.log.rows import Row

# A page is 220 KB: 8 on their way fill a line of 1 Gbit/s at 15 ms a question.
_ASKING = 8


def _tell(page: Page, error: errors.Damaged) -> None:
    raise error


class Catalogue:
    """Of a head as it was read."""

    def __init__(self, store: Store, head: Head) -> None:
        self.store, self.head = store, head

    def page(self, page: Page) -> tuple[Row, ...]:
        """The points of one page, ascending. Raises Damaged."""
        return pages.load(self.store, self.head.replica_id, page)

    def rows(self, damaged: Callable[[Page, errors.Damaged], None] = _tell) -> Iterator[Row]:
        """Every point, oldest first; several pages are asked for at once. `damaged` is told of those that are."""
        older = self.head.pages
        if older:
            with ThreadPoolExecutor(_ASKING, thread_name_prefix="catalogue") as pool:
                # Few ahead of who takes them: what is in memory is bounded.
                for at in range(0, len(older), _ASKING):
                    part = older[at : at + _ASKING]
                    for page, found in zip(part, pool.map(self._found, part), strict=True):
                        if isinstance(found, errors.Damaged):
                            damaged(page, found)
                        else:
                            yield from found
        yield from self.head.recent

    def _found(self, page: Page) -> tuple[Row, ...] | errors.Damaged:
        try:
            return self.page(page)
        except errors.NewerFormat:
            raise
        except errors.Damaged as error:
            return error

    def choose(self, at: str) -> Row:
        """The point that `at` names, as users do: a number, `latest`, a time; at most one page is read for a number.
        Raises Refused, Usage, Damaged.
        """
        newest, wanted = self.head.newest, points.parse_name(at)
        if newest is None:
            raise points.none_yet(self.store.label)
        if wanted is None:
            return newest
        found = self.find(wanted) if isinstance(wanted, int) else self._as_old(wanted)
        if found is not None:
            return found
        if isinstance(wanted, int):
            oldest = self.head.pages[0].first if self.head.pages else self.head.recent[0].generation
            raise points.none_called(at, str(oldest), newest.name, self.store.label)
        oldest_time = self.head.pages[0].time if self.head.pages else self.head.recent[0].time
        raise points.none_as_old(at, oldest_time, self.store.label)

    def find(self, generation: int) -> Row | None:
        """The point of a generation. Raises Damaged."""
        held = self.head.recent
        if not held or generation < held[0].generation:
            page = next((page for page in self.head.pages if page.first <= generation <= page.last), None)
            held = self.page(page) if page is not None else ()
        return next((row for row in held if row.generation == generation), None)

    def _as_old(self, moment: datetime.datetime) -> Row | None:
        """The newest point that is not after this time. Times need not ascend, as the data of a point may be older."""
        found = _newest(self.head.recent, moment)
        for page in reversed(self.head.pages):
            if found is not None:
                break
            if parse_time(page.time) <= moment:
                found = _newest(self.page(page), moment)
        return found


def _newest(rows: tuple[Row, ...], moment: datetime.datetime) -> Row | None:
    return next((row for row in reversed(rows) if parse_time(row.time) <= moment), None)
