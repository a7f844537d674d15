"""An estate held to the matrix: every row of every pair, with what it found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from secondsite.orchestration.estate import values
from secondsite.orchestration.estate.findings import Finding
from secondsite.orchestration.estate.model import Estate
from secondsite.orchestration.estate.pairs import Pair, Sides
from secondsite.orchestration.estate.references import Index
from secondsite.orchestration.scenarios import addressing, firstcopy, machines, matrix, points, rows, whole
from secondsite.orchestration.scenarios.matrix import Row

CHECKS: Mapping[str, rows.Check] = {
    "data": rows.data,
    "vault": rows.nothing,
    "replication": rows.replication,
    "machine-storage": rows.machine_storage,
    "account": rows.account,
    "array": rows.array,
    "servers": rows.servers,
    "version": rows.version,
    "configuration": rows.configuration,
    "provider": rows.provider,
    "agent": rows.agent,
    "points": points.check,
    "network-mapping": rows.mapping,
    "storage-mapping": rows.storage,
}


@dataclass(frozen=True)
class Judged:
    """A row of the matrix for one pair: what the scenario says there, and what is wrong."""

    pair: Pair
    row: Row
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Report:
    """`others` is what is in no row: names, sides that a scenario does not have, machines, rules over several pairs."""

    judged: tuple[Judged, ...]
    others: tuple[Finding, ...]

    @property
    def findings(self) -> list[Finding]:
        """All that is wrong, each once."""
        found = [*self.others, *(finding for judged in self.judged for finding in judged.findings)]
        return list(dict.fromkeys(found))


def check(estate: Estate) -> Report:
    """Everything that is wrong with an estate, before anything moves (R12.10 to R12.13)."""
    index = Index(estate)
    others = [*values.check(estate), *index.problems()]
    pairs, judged = [], []
    for pair in Sides(index).pairs():
        wrong = list(_sides(pair, index))
        others += [*wrong, *machines.check(pair, index), *firstcopy.check(pair, index)]
        if not wrong:
            pairs.append(pair)
            judged += [_judge(row, pair, index) for row in matrix.load().row]
    others += [*whole.check(pairs, index), *firstcopy.hosts(index), *addressing.check(index)]
    return Report(tuple(judged), tuple(dict.fromkeys(others)))


def pair_findings(pair: Pair, index: Index) -> list[Finding]:
    """What is wrong with one pair and the machines in it."""
    judged = [_judge(row, pair, index) for row in matrix.load().row]
    found = [finding for one in judged for finding in one.findings]
    return list(dict.fromkeys([*machines.check(pair, index), *firstcopy.check(pair, index), *found]))


def _judge(row: Row, pair: Pair, index: Index) -> Judged:
    cell = row.cell(pair.protection.scenario, index.estate.vault.profile)
    return Judged(pair, row, tuple(CHECKS[row.id](cell, pair, index)))


def _sides(pair: Pair, index: Index) -> Iterator[Finding]:
    """A scenario leads from one kind of thing to another."""
    scenario = matrix.load().scenario[pair.protection.scenario]
    for key, side in pair.sides:
        wanted = getattr(scenario, key)
        if side.kind != wanted:
            where = index.place(pair.protection, key)
            title = f"{pair.protection.scenario} ({scenario.title})"
            yield Finding("SEED", where, f"the {key} of {title} is {_one(wanted)}; {side.name!r} is {_one(side.kind)}")


def _one(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
