"""Whose certificate ends when, of all that this host goes by, and what is said of those that end soon."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import NamedTuple

from secondsite.engine import errors
from secondsite.engine.figures import Family
from secondsite.engine.remote import url
from secondsite.engine.remote.home import Home
from secondsite.engine.remote.trust import access, agents, certificate, identity


class End(NamedTuple):
    """`peer` is empty for this host's own certificate."""

    peer: str
    moment: datetime.datetime

    @property
    def days(self) -> float:
        """Left; negative afterwards."""
        return certificate.days_left(self.moment)

    @property
    def warning(self) -> str | None:
        """A line where that is soon."""
        whose = f"the certificate of {self.peer}" if self.peer else "this host's certificate"
        return certificate.warning(whose, self.moment, " there" if self.peer else "")


def at_agent(home: Home) -> list[End]:
    """Of this host and of those that are paired with its agent. Raises Refused, Damaged, Unreachable."""
    book = access.load(home.peers)
    found = [of(peer.name, peer.certificate) for _, peer in sorted(book.peers.items())]
    return [_own(home), *(end for end in found if end is not None)]


def at_source(home: Home, remote: url.Remote) -> list[End]:
    """Of this host and of the agent that it sends to. Raises Refused, Damaged, Unreachable."""
    (known,) = agents.find(home.agents, remote.host, remote.port).values()
    found = of(url.address(remote.host, remote.port), known)
    return [_own(home), *([found] if found else [])]


def at_source_soon(home: Home, remote: url.Remote) -> list[str]:
    """The lines to warn with after a cycle, which nothing here makes fail."""
    try:
        return warnings(at_source(home, remote))
    except errors.Error:
        return []


def family(ends: Iterable[End]) -> Family:
    """As a figure for Prometheus."""
    about = "Days until a certificate ends, this host's own where no peer is named."
    return Family("secondsite_certificate_days", "gauge", about, [({"peer": end.peer}, end.days) for end in ends])


def warnings(ends: list[End]) -> list[str]:
    """A line for each that ends soon."""
    return [line for end in ends if (line := end.warning) is not None]


def _own(home: Home) -> End:
    return End("", identity.load(home.identity).ends)


def of(peer: str, pem: str) -> End | None:
    """None for what is no certificate."""
    try:
        return End(peer, certificate.ends(pem, peer))
    except errors.Damaged:
        return None
