"""Pages of the catalogue: the older points, of which the head names a page by its digest (../FORMAT.md, section 2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from secondsite.engine import errors
from secondsite.engine.replica import record
from secondsite.engine.replica.layout import MAX_GENERATION
from secondsite.engine.replica.point import parse_time
from secondsite.engine.store.base import Store
from secondsite.engine.store.log import layout, named, rows
from secondsite.engine.store.log.rows import Row

# 220 bytes a point in two lines: 220 KB, one question. A million points are 977 pages.
PAGE_POINTS = 1024
MAX_PAGES = 2048
_KINDS = (int, int, int, str, int, str)


@dataclass(frozen=True, slots=True)
class Page:
    """As the head has it: of its points those from `first` to `last` count, which are `count`. None of them is older
    than `time`. `born` is the generation in its name.
    """

    first: int
    last: int
    count: int
    time: str
    born: int
    digest: str

    @property
    def name(self) -> str:
        return layout.page(self.born, self.digest)

    @property
    def points(self) -> str:
        """Which it holds, in words."""
        return f"{self.first} to {self.last}" if self.count > 1 else str(self.first)


def pack(pages: tuple[Page, ...]) -> list[list[Any]]:
    """As the head has them."""
    return [[page.first, page.last, page.count, page.time, page.born, page.digest] for page in pages]


def parse(said: list[Any], path: str) -> tuple[Page, ...]:
    """Raises Damaged for what makes no sense."""
    found = tuple(_page(page, path) for page in said)
    if len(found) > MAX_PAGES or any(one.last >= two.first for one, two in pairwise(found)):
        raise errors.Damaged("its pages of the catalogue do not ascend", path=path)
    return found


def _page(said: Any, path: str) -> Page:
    page = Page(*rows.fields(said, _KINDS, "a page", path))
    numbers = 1 <= page.born <= page.first <= page.last <= MAX_GENERATION and 1 <= page.count <= PAGE_POINTS
    if not numbers or page.count > page.last - page.first + 1 or not named.DIGEST.fullmatch(page.digest):
        raise errors.Damaged("a page of the catalogue in it makes no sense", path=path)
    parse_time(page.time, path)
    return page


def save(store: Store, replica_id: str, held: tuple[Row, ...]) -> Page:
    """Put a page there with these points."""
    born = held[0].generation
    said = {"replica_id": replica_id, "points": rows.pack(held)}
    digest = named.save(store, lambda digest: layout.page(born, digest), said)
    return _over(held, born, digest)


def _over(held: tuple[Row, ...], born: int, digest: str) -> Page:
    oldest = min(held, key=lambda row: parse_time(row.time)).time
    return Page(held[0].generation, held[-1].generation, len(held), oldest, born, digest)


def load(store: Store, replica_id: str, page: Page) -> tuple[Row, ...]:
    """Its points that count. Raises Damaged, where it is missing too, and NewerFormat."""
    path = store.path(page.name)
    fields = named.load(store, page.name, page.digest, f"the page of the catalogue of points {page.points}")
    held = record.field(fields, "points", list, path)
    if len(held) > PAGE_POINTS or record.field(fields, "replica_id", str, path) != replica_id:
        raise errors.Damaged("it is no page of this replica's catalogue", path=path)
    found = tuple(row for row in rows.parse(held, path) if page.first <= row.generation <= page.last)
    ends = (found[0].generation, found[-1].generation, len(found)) if found else None
    if ends != (page.first, page.last, page.count):
        raise errors.Damaged("it does not hold the points that the head counts in it", path=path)
    return found


def within(page: Page, kept: tuple[Row, ...]) -> Page:
    """The same object, of which only these points count: neighbours, of which it holds no others between them."""
    return replace(page, first=kept[0].generation, last=kept[-1].generation, count=len(kept))


def joined(store: Store, replica_id: str, pages: tuple[Page, ...], more: tuple[Row, ...]) -> tuple[Page, ...]:
    """The pages with more points behind them: the last page is written anew as long as there is room in it. One that
    is damaged stays what it is.
    """
    if pages and pages[-1].count + len(more) <= PAGE_POINTS:
        try:
            more = (*load(store, replica_id, pages[-1]), *more)
        except errors.NewerFormat:
            raise
        except errors.Damaged:
            pass
        else:
            pages = pages[:-1]
    made = [save(store, replica_id, more[at : at + PAGE_POINTS]) for at in range(0, len(more), PAGE_POINTS)]
    if len(pages) + len(made) > MAX_PAGES:
        raise errors.Refused("the catalogue has too many pages; prune some points first", path=store.label)
    return (*pages, *made)


