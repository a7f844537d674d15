"""Is a store fit for replicas? What its account is, and what its credentials may do, tried with a small object."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from secondsite.engine import errors
from secondsite.engine.results.listed import StoreChecked
from secondsite.engine.store import account, place
from secondsite.engine.store.again import Again
from secondsite.engine.store.base import Absent, Denied, Rejected, Store
from secondsite.engine.store.opening import open_store

if TYPE_CHECKING:
    from secondsite.engine.store.azure import AzureStore
    from secondsite.engine.store.retry import Retrying

# The service takes a signature whose time is this far off, and no more.
_MOST_SKEW = 900.0
_SOME_SKEW = 60.0


def check_store(url: str, *, cancel: Callable[[], bool] | None = None) -> StoreChecked:
    """Look at azure://CONTAINER/PREFIX or s3://BUCKET/PREFIX, and try what a replica needs: list, write, read, delete.
    The object that is tried with has a name that is used once, and is gone afterwards. Raises Failed for no answer.
    """
    if not place.is_url(url):
        raise errors.Usage("a store's URL was expected, azure://CONTAINER/PREFIX or s3://BUCKET/PREFIX")
    told = Again()
    with open_store(url, told=told.told, cancel=cancel or (lambda: False)) as store:
        checked = _Checked(store)
        if place.parse(url).scheme == "azure":
            checked.look()
        checked.tries()
        return checked.result(told.warnings)


class _Checked:
    def __init__(self, store: Retrying) -> None:
        self.store = store
        self.may: dict[str, bool] = {}
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.account: account.Account | None = None
        self.clock: float | None = None
        self.limits: dict[str, int] = {}

    def look(self) -> None:
        """At the account, where it is one of Azure."""
        from secondsite.engine.store import azure, pageblob

        self.limits = {
            "page_blob": pageblob.MAX_BYTES, "pages": pageblob.MAX_PUT, "blocks": azure.MAX_BLOCKS,
            "block": azure.MAX_BLOCK_BYTES,
        }  # fmt: skip
        inner = self.store.store
        assert isinstance(inner, azure.AzureStore)
        try:
            self.account, self.clock = self.store.calling(lambda again: _asked(inner))
        except (Denied, Rejected) as error:
            self.notes.append(f"the account says nothing of itself: {error.message}")
            return
        self._judge(self.account, self.clock)

    def _judge(self, found: account.Account, clock: float) -> None:
        self.notes += [f"{problem.text} ({problem.rule})" for problem in account.problems(found)]
        if not found.block_blobs:
            self.problems.append(f"an account that is {found.kind}, {found.sku} has no block blobs, and so no replicas")
        if not found.page_blobs:
            self.notes.append("the account has no page blobs, and so no disks")
        if abs(clock) > _SOME_SKEW:
            said = f"this host's clock is {abs(clock):.0f} s off the store's"
            (self.problems if abs(clock) > _MOST_SKEW else self.notes).append(said)

    def tries(self) -> None:
        """What a replica needs, on an object of ours."""
        name, data = f"secondsite-probe-{os.urandom(8).hex()}", os.urandom(64)
        if not self._try("list", lambda: next(self.store.list(), None)) and "no such container" in self.problems[-1]:
            return
        there = self._try("write", lambda: self.store.put_if_absent(name, data))
        self._try("read", lambda: _read(self.store, name, data if there else None))
        if there and not self._try("delete", lambda: self.store.delete(name)):
            self.notes.append(f"{name} stays there")

    def _try(self, what: str, call: Callable[[], object]) -> bool:
        try:
            call()
            self.may[what] = True
        except (Denied, Rejected) as error:
            self.may[what] = False
            self.problems.append(f"{what}: {error.message}")
        return self.may[what]

    def result(self, warnings: list[str]) -> StoreChecked:
        """All of it."""
        found = self.account
        return StoreChecked(
            not self.problems, self.store.label, self.may, self.problems, self.notes, found.sku if found else None,
            found.kind if found else None, found.redundancy if found else None, found.page_blobs if found else None,
            found.block_blobs if found else None, self.clock, self.limits, warnings,
        )  # fmt: skip


def _asked(store: AzureStore) -> tuple[account.Account, float]:
    return store.account()


def _read(store: Store, name: str, data: bytes | None) -> None:
    try:
        found = store.get(name).data
    except Absent:
        found = None
    if found != data:
        raise Rejected("what was written reads back differently", path=store.path(name))
