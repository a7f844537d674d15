"""What is there of ours, and removing what is no machine's: after a crash of whoever made it no device is left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from dataclasses import dataclass

from secondsite.orchestration.networks import names, namespaces
from secondsite.orchestration.networks.links import Links, changing
from secondsite.orchestration.networks.reading import Link, by_name, everything


@dataclass(frozen=True, slots=True)
class Device:
    """A device of ours. `key` stands for the machine whose tap it is (names.key), '' for none; `bridge` is what it is
    a port of, or of a bridge itself None.
    """

    namespace: str | None
    name: str
    kind: str
    key: str
    bridge: str | None = None
    mac: str = ""
    address: str = ""


def ours(namespace: str | None = None) -> list[Device]:
    """All devices of ours in a namespace and in those of its tests. Raises Refused."""
    found = []
    for one in _places(namespace):
        with contextlib.suppress(namespaces.Missing):
            found += namespaces.within(one, lambda: _listed(one))  # noqa: B023  it is called at once
    return found


def bridges(machine: str, namespace: str | None = None) -> list[str | None]:
    """The bridge that each card of a machine is on now, in their order: a user may have moved one, or disconnected it
    (R11.5). Nothing where the machine has no taps here.
    """

    def look() -> list[str | None]:
        found = [by_name(names.tap(machine, number)) for number in range(names.MOST_CARDS)]
        named = {link.index: link.name for link in everything()}
        return [named.get(tap.master) for tap in found if tap and tap.mark and tap.mark.key == names.key(machine)]

    return namespaces.within(namespace, look) if namespaces.exists(namespace) else []


def sweep(known: Callable[[], Collection[str]], namespace: str | None = None) -> list[str]:
    """Remove all of ours, in a namespace and in those of its tests, that is no machine's of those that `known` names;
    returns what was removed. It is asked after the devices were read: a machine must be known before it is attached.

    Raises Refused, and Busy.
    """
    gone = []
    for one in _places(namespace):
        if namespaces.exists(one):
            with contextlib.suppress(namespaces.Missing):
                gone += changing(one, lambda links: _swept(links, known))
        elif one is not None and namespaces.is_of_test(one) and namespaces.clear(one):
            gone.append(one)
    return gone


def _places(namespace: str | None) -> list[str | None]:
    return [namespace, *(one for one in namespaces.of_tests(namespace))]


def _listed(namespace: str | None) -> list[Device]:
    links = everything()
    named = {link.index: link.name for link in links}
    return [
        Device(namespace, link.name, "tap" if link.kind == "tun" else link.kind, link.mark.key if link.mark else "",
               named.get(link.master), link.mark.mac if link.mark else "", link.mark.address if link.mark else "")
        for link in links if _is_ours(link)
    ]  # fmt: skip


def _is_ours(link: Link) -> bool:
    """By its mark; or by its name, where its maker was killed before the mark."""
    return link.mark is not None or (link.kind in ("tun", "bridge") and names.looks_ours(link.name))


def _swept(links: Links, known: Callable[[], Collection[str]]) -> list[str]:
    taps = [link for link in everything() if link.kind == "tun" and _is_ours(link)]
    keys = {names.key(machine) for machine in known()}
    lost = [link for link in taps if link.mark is None or link.mark.key not in keys]
    links.remove(lost)
    ports = {link.master for link in everything()}
    idle = [
        link for link in everything() if link.kind == "bridge" and _is_ours(link) and link.index not in ports
    ]  # fmt: skip
    links.remove(idle)
    return [link.name for link in (*lost, *idle)]
