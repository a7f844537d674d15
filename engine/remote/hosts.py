"""What an operator does about hosts: an identity, keys, pairing, who is paired, and the agent itself."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from secondsite.engine import errors
from secondsite.engine.remote import url
from secondsite.engine.remote.home import Home
from secondsite.engine.remote.trust import access, expiry, identity, pairing

State = str | os.PathLike[str] | None


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """This host as others see it. `pin` is the SHA-256 of its public key, `ends` is when its certificate expires,
    `warning` is set where that is soon.
    """

    name: str
    pin: str
    ends: str
    folder: str
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class PairedHost:
    """Who may connect to the agent here, and what it may do with which replicas."""

    name: str
    pin: str
    replicas: list[str]
    actions: list[str]
    ends: str
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class AgentAt:
    """An agent that runs."""

    address: str
    root: str
    pin: str
    metrics: str | None = None


def init_identity(*, name: str | None = None, state: State = None) -> HostIdentity:
    """Make this host's key and certificate. Raises Refused where there is one."""
    return _told(identity.create(Home.of(state).identity, name=name))


def host_identity(*, state: State = None) -> HostIdentity:
    """This host's identity. Raises Refused where there is none."""
    return _told(identity.load(Home.of(state).identity))


def renew_identity(*, state: State = None) -> HostIdentity:
    """Another certificate of this host's key: whoever is paired with it need do nothing. Raises Refused, Damaged."""
    return _told(identity.renew(Home.of(state).identity))


def _told(found: identity.Identity) -> HostIdentity:
    soon = expiry.End("", found.ends).warning
    return HostIdentity(host_name(), found.pin, found.ends.isoformat(), str(found.folder), soon)


def host_name() -> str:
    """How this host calls itself to others: its name, as far as that is one of ours."""
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in socket.gethostname())
    return name.lstrip("._-")[:60] or "host"


def registration_key(
    replicas: Sequence[str], *, allow: Sequence[access.Action] = ("send",), state: State = None
) -> str:
    """A key for one host, to be used once within five days; what its user will be allowed. Raises Usage, Refused."""
    home = Home.of(state)
    ours = identity.load(home.identity)
    return pairing.format_key(ours.pin, access.give_key(home.peers, list(replicas), list(allow)))


def pair(host: str, key: str, *, name: str | None = None, state: State = None) -> PairedHost:
    """Pair with the agent at HOST[:PORT] that gave the key out; what this host may do there."""
    where, port = url.parse_address(host)
    parsed = pairing.parse_key(key)
    made = pairing.pair(where, port, parsed, name or host_name(), Home.of(state))
    return PairedHost(made.name, parsed.pin, made.replicas, list(made.actions), "")


def peers(*, state: State = None) -> list[PairedHost]:
    """Who is paired with the agent of this host."""
    book = access.load(Home.of(state).peers)
    return [_paired(pin, peer) for pin, peer in sorted(book.peers.items(), key=lambda item: item[1].name)]


def _paired(pin: str, peer: access.Peer) -> PairedHost:
    end = expiry.of(peer.name, peer.certificate)
    when, soon = (end.moment.isoformat(), end.warning) if end else ("", None)
    return PairedHost(peer.name, pin, peer.replicas, list(peer.actions), when, soon)


def revoke(name: str, *, state: State = None) -> None:
    """No longer let a host in, by its name or pin; what it does just now ends within a second. Raises Refused."""
    access.revoke(Home.of(state).peers, name)


@contextmanager
def agent(
    root: str, *, listen: tuple[str, int], metrics: tuple[str, int] | None = None, keep: int | None = None,
    state: State = None,
) -> Iterator[AgentAt]:  # fmt: skip
    """Serve the replicas below a folder while the context is open; `metrics` is where its figures are told to
    Prometheus. After each cycle the newest `keep` points of a replica stay. Raises Usage, Refused, Damaged and
    Unreachable.
    """
    from secondsite.engine.remote.agent.service import Agent

    if keep is not None and keep < 1:
        raise errors.Usage("keep must be at least 1: the newest point is the head")
    with ExitStack() as stack:
        made = stack.enter_context(Agent(root, Home.of(state), keep=keep))
        told = None
        if metrics is not None:
            from secondsite.engine import exporter

            told = exporter.Server(*metrics, made.figures)
            stack.callback(told.close)
        address = url.address(*made.listen(*listen))
        yield AgentAt(address, made.root.path, made.identity.pin, told.address if told else None)
