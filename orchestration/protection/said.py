"""What the applied estate says of each item."""

from __future__ import annotations

from collections.abc import Mapping

from secondsite.orchestration.estate.model import Estate
from secondsite.orchestration.estate.pairs import Sides
from secondsite.orchestration.estate.references import Index
from secondsite.orchestration.protection.cycle import Protected
from secondsite.orchestration.scenarios import matrix, points


def protected(estate: Estate) -> Mapping[str, Protected]:
    """By machine. Of items whose estate is gone there is nothing."""
    row, profile = matrix.load().by_id("points"), estate.vault.profile
    return {
        machine.name: Protected(
            machine, pair.policy, points.keep(row.cell(pair.protection.scenario, profile), pair.policy, profile)
        )
        for pair in Sides(Index(estate)).pairs()
        for _, machine in pair.machines
    }
