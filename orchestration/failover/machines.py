"""A protected machine as its hosts are told of it: where it belongs, where it fails over to, and as a test.

All of it comes from the estate: the machine's own table, the mappings, and where its replicas lie. It is made once,
when a failover begins, and kept with its intent: a later change of the estate does not move what runs already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import msgspec

from secondsite.engine import errors
from secondsite.orchestration import hosts
from secondsite.orchestration.estate.model import Disk, Estate, Host, Item, Machine, Network
from secondsite.orchestration.estate.pairs import Pair
from secondsite.orchestration.failover.intent import Placed
from secondsite.orchestration.hosts.spec import DiskSpec, MachineSpec, packed
from secondsite.orchestration.mapping.explain import Mapper
from secondsite.orchestration.mapping.placement import Connection, Facts, Placement
from secondsite.orchestration.networks import connections
from secondsite.orchestration.networks.connections import Cards
from secondsite.orchestration.protection.item import Held, Made
from secondsite.orchestration.scenarios import matrix
from secondsite.orchestration.scenarios.matrix import Abilities
from secondsite.orchestration.vault import locations

Format = Literal["raw", "vhd", "vhdx", "vmdk", "qcow2"]
_REMOTE = "secondsite://"


@dataclass(frozen=True)
class Known:
    """What the applied estate says of a machine that may fail over. Raised for others: Refused."""

    mapper: Mapper
    pair: Pair
    item: Item
    machine: Machine

    @classmethod
    def of(cls, estate: Estate, machine: str) -> Known:
        mapper = Mapper.of(estate)
        found = mapper.machine(machine)
        if found is None:
            raise errors.Refused(f"the estate does not protect machine {machine!r}")
        return cls(mapper, *found)

    @property
    def abilities(self) -> Abilities:
        return matrix.load().failover[self.pair.protection.scenario]

    @property
    def azure(self) -> bool:
        """Is its target an account?"""
        return self.pair.target.account is not None

    @property
    def disks(self) -> list[Disk]:
        """Those that are replicated (R6.6)."""
        return [disk for disk in self.machine.disks if not disk.exclude]

    def host(self, name: str) -> Host:
        """Raises Refused."""
        found: Host | None = self.mapper.index.tables["host"].get(name)
        if found is None:
            raise errors.Refused(f"there is no host {name!r} in the estate")
        return found

    def ask(
        self, placed: Placed, operation: str, *, cancel: Callable[[], bool] = lambda: False,
        within: float | None = None, **more: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """An operation of a machine on its host, which is none in Azure; its answer is waited for `within` seconds, or
        as long as such an operation may take. Raises what that raises.
        """
        assert placed.host is not None
        assert placed.spec is not None
        calls, arguments = hosts.reach(self.host(placed.host)), {"machine": packed(placed.spec), **more}
        return calls.call(f"machine.{operation}", arguments, cancel=cancel, seconds=within)

    def home(self, host: str | None = None, cards: Cards | None = None) -> Placed:
        """Where it belongs, or on another host of its side (R10.5), with networks and folders of the same names.
        `cards` are those that a failback found, where it is one.
        """
        where = self.host(host or self.machine.host)
        cards = cards or self.cards_at_home((), ())
        disks = tuple(
            DiskSpec(name, disk.path, format=_format(disk))
            for name, disk in zip(_names(self.machine.disks), self.machine.disks, strict=True)
        )
        own = host in (None, self.machine.host)
        spec = self._spec(where, where.run, disks, cards, own=own)
        return Placed({disk.path: disk.path for disk in self.machine.disks}, where.name, spec)

    def away(self, held: Held, point: Made, number: str, taken: Iterable[str]) -> Placed:
        """At the target, from a point; `number` is that of the attempt, `taken` are addresses in use there. Raises
        Refused where no host or address is left (R11.4 to R11.8).
        """
        made = self._fitting(taken)
        if self.pair.target.account is not None:
            return self._in_azure(made.connections, number)
        host = self._host_of(held.homes, made.host.value if made.host else None)
        if (missed := self.mapper.misses(host, made.connections)) is not None:
            told = f"R11.6: host {host.name!r}, which has its replicas, does not reach {missed}"
            raise errors.Refused(told)
        cards = connections.real(self.machine, made.connections, self.networks)
        spec = self._spec(host, f"{host.run}/{number}", self._over(held.homes, point, host), cards, own=False)
        return Placed({}, host.name, spec)

    def test(
        self, held: Held, point: Made, number: str, *, network: str, group: str | None = None, taken: Iterable[str] = ()
    ) -> Placed:  # fmt: skip
        """At the side that its replicas are at (R9.1), on no network (`none`), on copies of those that it would come to
        (`isolated`), which it shares with tests of the same `group`, or on a network of the estate (R9.2). `taken` are
        addresses of other tests there. Raises Refused.
        """
        if held.direction == "forward" and self.pair.target.account is not None:
            return self._in_azure((), number, test=True)
        back = held.direction == "reverse"
        host = self.host(self.machine.host) if back else self.target(held)
        item = msgspec.structs.replace(self.item, cards=None) if back else self.item  # R11.9 is of the target
        cards = connections.unconnected(self.machine, item.cards)
        if network != "none":
            cards = self._tested(item, network, group or number, host, frozenset(taken))
        disks = self._over(held.disks, point, host)
        return Placed({}, host.name, self._spec(host, f"{host.run}/{number}", disks, cards, own=False, test=True))

    def backs(self, host: str | None = None) -> dict[str, str]:
        """Where the replicas of the way back lie, by path of the disk: as others name them."""
        where = self.host(host or self.machine.host)
        found = {}
        for disk, name in zip(self.disks, _names(self.disks), strict=True):
            folder = where.path or str(PurePosixPath(disk.path).parent)
            found[disk.path] = locations.place(f"{self.machine.name}-back", name, folder, where)
        return found

    def target(self, held: Held) -> Host:
        """The host that has its replicas at the target. Raises Refused where there is none."""
        return self._host_of(held.homes, self._placed())

    def cards_away(self, taken: Iterable[str]) -> Cards:
        """Those of `away`. Raises as that."""
        return connections.real(self.machine, self._fitting(taken).connections, self.networks)

    def cards_at_home(self, then: Sequence[str | None], now: Sequence[str | None]) -> Cards:
        """R11.5: of networks that its cards came to at the failover, and are on now; of none, as they were."""
        return connections.back(self.machine, self.networks, self.mapper.network, then, now)

    @property
    def networks(self) -> Mapping[str, Network]:
        return self.mapper.index.tables["network"]

    def _fitting(self, taken: Iterable[str]) -> Placement:
        made = self.mapper.place(self.pair, self.item, self.machine, Facts(taken=frozenset(taken)))
        if made.all_problems:
            raise errors.Refused(f"machine {self.machine.name!r}: {made.all_problems[0]}")
        return made

    def _placed(self) -> str | None:
        made = self.mapper.place(self.pair, self.item, self.machine, Facts())
        return made.host.value if made.host else None

    def _host_of(self, replicas: Mapping[str, str], placed: str | None) -> Host:
        """The host that the replicas lie on runs the machine; of folders the one that the mapping says."""
        for replica in replicas.values():
            address = replica.removeprefix(_REMOTE).split("/")[0] if replica.startswith(_REMOTE) else None
            for host in self.mapper.index.estate.host:
                if address is not None and host.address == address:
                    return host
        if placed is None:
            raise errors.Refused(f"R11.6: there is no host for machine {self.machine.name!r}")
        return self.host(placed)

    def _over(self, places: Mapping[str, str], point: Made, host: Host) -> tuple[DiskSpec, ...]:
        found = []
        for name, disk in zip(_names(self.disks), self.disks, strict=True):
            if disk.path not in point.generations or disk.path not in places:
                raise errors.Refused(
                    f"P3: point {point.number} does not have disk {disk.path!r}, whose first copy came later, or is "
                    "not done; with `exclude = true` in the estate the machine fails over without it"
                )
            local = lies(places[disk.path], host)
            found.append(DiskSpec(name, replica=local, at=str(point.generations[disk.path])))
        return tuple(found)

    def _spec(
        self, host: Host, folder: str, disks: tuple[DiskSpec, ...], cards: Cards, *, own: bool,
        test: bool = False,
    ) -> MachineSpec:  # fmt: skip
        machine = self.machine
        return MachineSpec(
            name=f"{machine.name} - Test" if test else machine.name, folder=folder, disks=disks,
            hypervisor=host.hypervisor, namespace=cards.namespace or host.namespace, memory=machine.memory,
            processors=machine.processors, generation=machine.generation, options=machine.options, nics=cards.nics,
            guest=machine.guest,
            addresses=machine.addresses, commands=host.commands, qmp=machine.qmp if own else None,
            guest_agent=machine.guest_agent if own else None, alone=folder != host.run,
        )  # fmt: skip

    def _tested(self, item: Item, network: str, group: str, host: Host, taken: frozenset[str]) -> Cards:
        """With the addresses that it would have there, as long as no other test has them (R9.4)."""
        mapper = self.mapper
        if network != "isolated":
            if network not in self.networks:
                raise errors.Refused(f"R9.2: there is no network {network!r} in the estate")
            mapper = connections.onto(mapper, network)
        made = mapper.place(self.pair, item, self.machine, Facts(taken)).connections
        if network == "isolated":
            cards = connections.isolated(self.machine, made, self.networks, group, host.namespace)
        else:
            cards = connections.real(self.machine, made, self.networks)
        if cards.problems:
            raise errors.Refused(f"the test of machine {self.machine.name!r}: {cards.problems[0]}")
        return cards

    def _in_azure(self, connections: Sequence[Connection], number: str, *, test: bool = False) -> Placed:
        """Page blobs, and what a machine is made of in Azure."""
        account = self.pair.target.account
        assert account is not None
        machine, names = self.machine, _names(self.disks)
        name = f"{machine.name} - Test" if test else self.item.target_name or machine.name
        base = f"{account.url.rstrip('/')}/machines/{number}"
        blobs = {disk.path: f"{base}/{name}.vhd" for disk, name in zip(self.disks, names, strict=True)}
        definition: dict[str, object] = {
            "name": name, "memory": machine.memory, "processors": machine.processors,
            "generation": machine.generation,
            "disks": [{"name": name, "os": disk.os, "blob": blobs[disk.path]}
                      for disk, name in zip(self.disks, names, strict=True)],
            "nics": [{"network": one.network.value, "subnet": one.subnet.value if one.subnet else None,
                      "address": one.address.value if one.address else None} for one in connections],
        }  # fmt: skip
        return Placed(blobs, definition=definition)


def lies(replica: str, host: Host) -> str:
    """Where a replica lies for its own host: in the folder of its agent. Raises Refused where that is not known."""
    if not replica.startswith(_REMOTE):
        return replica
    if host.path is None:
        raise errors.Refused(f"host {host.name!r} has no path: where its agent keeps {replica!r} is not known")
    return str(PurePosixPath(host.path, replica.removeprefix(_REMOTE).partition("/")[2]))


def _format(disk: Disk) -> Format:
    """As the estate says, or the file's name."""
    by_name: dict[str, Format] = {".vhd": "vhd", ".vhdx": "vhdx", ".vmdk": "vmdk", ".qcow2": "qcow2"}
    return disk.format or by_name.get(PurePosixPath(disk.path).suffix.lower(), "raw")


def _names(disks: Sequence[Disk]) -> list[str]:
    """Of a machine's disks, in their order."""
    known = locations.names([disk.path for disk in disks])
    return [known[disk.path] for disk in disks]
