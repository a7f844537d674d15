"""A catalogue without some of its points: which runs of them go, and what the pages are then."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from secondsite.engine import errors
from secondsite.engine.store.base import Store
from secondsite.engine.store.log import pages
from secondsite.engine.store.log.dead import Run
from secondsite.engine.store.log.head import Head
from secondsite.engine.store.log.pages import Page
from secondsite.engine.store.log.rows import Row


@dataclass
class Dropped:
    """What `head` becomes, the runs that go, the names of pages that it names no more; and points of damaged pages
    that go without being known.
    """

    head: Head
    runs: list[Run] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)
    unknown: list[Page] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(len(run.rows) for run in self.runs) + sum(page.count for page in self.unknown)


class Dropping:
    """Pages are fetched when they are needed. The newest point stays."""

    def __init__(self, store: Store, head: Head) -> None:
        self.store, self.head = store, head
        self._rows: dict[int, tuple[Row, ...]] = {len(head.pages): head.recent}

    def rows(self, at: int) -> tuple[Row, ...]:
        """Of page `at`; behind the last one those in the head."""
        if at not in self._rows:
            self._rows[at] = pages.load(self.store, self.head.replica_id, self.head.pages[at])
        return self._rows[at]

    def oldest(self, count: int, but: Collection[int] = ()) -> Dropped:
        """Drop so many, from the oldest on, `but` those generations. A damaged page of which all go takes its points
        along.
        """
        chosen: list[int] = []
        unknown: list[Page] = []
        for at, page in enumerate(self.head.pages):
            if count >= page.count:
                try:
                    chosen += [row.generation for row in self.rows(at)]
                except errors.NewerFormat:
                    raise
                except errors.Damaged:
                    if not any(page.first <= generation <= page.last for generation in but):
                        unknown.append(page)
            elif count:
                chosen += [row.generation for row in self.rows(at)[:count]]
            count = max(count - page.count, 0)
        chosen += [row.generation for row in self.head.recent[:count]]
        return self.drop([generation for generation in chosen if generation not in but], unknown)

    def drop(self, generations: Iterable[int], unknown: Iterable[Page] = ()) -> Dropped:
        """Drop these points, which are all there. Raises Refused for the newest, Damaged."""
        chosen, gone = set(generations), list(unknown)
        if self.head.generation in chosen:
            raise errors.Refused("the newest point is the head and stays", path=self.store.label)
        made = Dropped(self.head, self._runs(sorted(chosen)), [page.name for page in gone], gone)
        older = [self._page(at, page, chosen, made) for at, page in enumerate(self.head.pages) if page not in gone]
        recent = tuple(row for row in self.head.recent if row.generation not in chosen)
        made.head = replace(self.head, pages=self._joined([page for page in older if page], made), recent=recent)
        return made

    # -- runs ----------------------------------------------------------------------------------------------------

    def _runs(self, chosen: list[int]) -> list[Run]:
        runs: list[Run] = []
        rows: list[Row] = []
        before = 0
        for at, generation in enumerate(chosen):
            chunk, inside = self._find(generation)
            if not rows:
                before = self._before(chunk, inside)
            rows.append(self.rows(chunk)[inside])
            after = self._after(chunk, inside)
            if at + 1 == len(chosen) or after.generation != chosen[at + 1]:
                runs.append(Run(before, tuple(rows), after))
                rows = []
        return runs

    def _find(self, generation: int) -> tuple[int, int]:
        lasts = [page.last for page in self.head.pages]
        chunk = bisect_left(lasts, generation)
        inside = next((at for at, row in enumerate(self.rows(chunk)) if row.generation == generation), None)
        if inside is None:
            raise errors.Refused(f"no point {generation}", path=self.store.label)
        return chunk, inside

    def _before(self, chunk: int, inside: int) -> int:
        if inside:
            return self.rows(chunk)[inside - 1].generation
        return self.head.pages[chunk - 1].last if chunk else 0

    def _after(self, chunk: int, inside: int) -> Row:
        rows = self.rows(chunk)
        return rows[inside + 1] if inside + 1 < len(rows) else self.rows(chunk + 1)[0]

    # -- pages ---------------------------------------------------------------------------------------------------

    def _page(self, at: int, page: Page, chosen: set[int], made: Dropped) -> Page | None:
        """What a page becomes: it is written anew only where it has gaps then."""
        if not any(page.first <= generation <= page.last for generation in chosen):
            return page
        rows = self.rows(at)
        kept = tuple(row for row in rows if row.generation not in chosen)
        if not kept:
            made.pages.append(page.name)
            return None
        first = rows.index(kept[0])
        if rows[first : first + len(kept)] == kept:
            return pages.within(page, kept)
        made.pages.append(page.name)
        return pages.save(self.store, self.head.replica_id, kept)

    def _joined(self, older: list[Page], made: Dropped) -> tuple[Page, ...]:
        """Neighbours that have become small are put together, so that the head does not name many."""
        found: list[Page] = []
        untouched = set(self.head.pages)
        for page in older:
            small = found and found[-1].count + page.count <= pages.PAGE_POINTS // 2
            if small and not {found[-1], page} <= untouched:
                two = (found[-1], page)
                try:
                    rows = [row for each in two for row in pages.load(self.store, self.head.replica_id, each)]
                except errors.NewerFormat:
                    raise
                except errors.Damaged:
                    found.append(page)
                    continue
                made.pages += [each.name for each in two]
                found[-1] = pages.save(self.store, self.head.replica_id, tuple(rows))
            else:
                found.append(page)
        return tuple(found)
