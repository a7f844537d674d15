"""Prerequisites that only the thing itself can answer, asked before any data move (R12.10 to R12.13)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.estate.findings import Finding
from secondsite.orchestration.estate.model import Account, Estate
from secondsite.orchestration.estate.pairs import Pair, Sides
from secondsite.orchestration.estate.references import Index
from secondsite.orchestration.scenarios import matrix
from secondsite.orchestration.scenarios.matrix import Cell

Ask = Callable[[str], engine.StoreChecked]


def accounts(estate: Estate, ask: Ask | None = None) -> Iterator[Finding]:
    """Each storage account that something is protected in: is it what the estate says, and what its scenario needs
    (R12.11)? May replicas be written there? One that does not answer is a finding too.
    """
    index, seen = Index(estate), set[str]()
    for pair in Sides(index).pairs():
        found = pair.target.account
        if found is not None and found.name not in seen:
            seen.add(found.name)
            yield from account(pair, index, ask or engine.check_store)


def account(pair: Pair, index: Index, ask: Ask) -> Iterator[Finding]:
    """The account of one pair, where it has one."""
    if pair.target.account is not None:
        cell = matrix.load().by_id("account").cell(pair.protection.scenario, index.estate.vault.profile)
        yield from _account(pair.target.account, cell, index, ask)


def _account(account: Account, cell: Cell, index: Index, ask: Ask) -> Iterator[Finding]:
    where = index.place(account, "url")
    try:
        found = ask(account.url)
    except errors.Error as error:
        yield Finding("R12.11", where, f"account {account.name!r} cannot be asked: {error}")
        return
    for problem in found.problems:
        yield Finding("R12.11", where, f"account {account.name!r}: {problem}")
    if found.redundancy is None:
        return
    where = index.place(account, "redundancy")
    if found.redundancy != account.redundancy:
        message = f"account {account.name!r} is {found.sku}, and the estate says {account.redundancy}"
        yield Finding("R12.11", where, message)
    if cell.redundancy and found.redundancy not in cell.redundancy:
        known = ", ".join(cell.redundancy)
        yield Finding("R12.11", where, f"account {account.name!r} is {found.sku}", f"geo-redundant ones: {known}")
