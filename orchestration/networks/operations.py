"""Operations of a host that are about its networks; see ../hosts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from secondsite.orchestration.estate.model import Table
from secondsite.orchestration.hosts.spec import Json, unpacked
from secondsite.orchestration.networks import probing, sweeping

Cancel = Callable[[], bool]


class Probe(Table, frozen=True):
    """`network.probe`: which of these addresses of IPv4 are in use on a bridge; those of the cards `ours` are not."""

    bridge: str
    addresses: tuple[str, ...]
    namespace: str | None = None
    ours: tuple[str, ...] = ()


class Of(Table, frozen=True):
    """`network.bridges`: those that the cards of a machine are on."""

    machine: str
    namespace: str | None = None


class Sweep(Table, frozen=True):
    """`network.sweep`: all that is no machine's of these goes."""

    known: tuple[str, ...]
    namespace: str | None = None


class Where(Table, frozen=True):
    """`network.list`."""

    namespace: str | None = None


def probe(arguments: Json, cancel: Cancel) -> Json:
    """`in_use`: the card that has it, by address."""
    said = unpacked(Probe, arguments)
    return {"in_use": probing.in_use(said.bridge, said.addresses, said.namespace, ours=said.ours)}


def bridges(arguments: Json, cancel: Cancel) -> Json:
    """`bridges`: a name or null for each card; none where the machine is not attached here."""
    said = unpacked(Of, arguments)
    return {"bridges": sweeping.bridges(said.machine, said.namespace)}


def sweep(arguments: Json, cancel: Cancel) -> Json:
    """`removed`: names of devices and namespaces."""
    said = unpacked(Sweep, arguments)
    return {"removed": sweeping.sweep(lambda: said.known, said.namespace)}


def listed(arguments: Json, cancel: Cancel) -> Json:
    """`devices`: all of ours."""
    said = unpacked(Where, arguments)
    return {"devices": [asdict(one) for one in sweeping.ours(said.namespace)]}
