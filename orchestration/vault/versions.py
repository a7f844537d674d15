"""What registered at the vault, held to what an estate says is installed (R1.8)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from secondsite.orchestration.estate.findings import Finding
from secondsite.orchestration.estate.model import Estate
from secondsite.orchestration.vault.keys import AGENT, PROVIDER, Registered

_WORDS = {PROVIDER: "Provider", AGENT: "agent"}


def differing(estate: Estate, registered: Iterable[Registered]) -> Iterator[Finding]:
    """Of those that both know. What registered and is in no estate yet, or did not register, is no contradiction."""
    known: Mapping[tuple[str, str], str] = {(one.kind, one.name): one.version for one in registered}
    for table, kinds in (("server", (PROVIDER,)), ("host", (PROVIDER, AGENT))):
        for place, row in enumerate(getattr(estate, table)):
            for kind in kinds:
                said, found = getattr(row, kind), known.get((kind, row.name))
                if said is not None and found is not None and said != found:
                    message = f"the {_WORDS[kind]} of {row.name!r} registered with version {found}, not {said}"
                    yield Finding("R1.8", (table, place, kind), message, "write what is installed, or register it anew")
