"""What an estate file may say. Tables are called as in the overview; each has a name that others refer to it by.

Only shape is checked here (msgspec); whether names lead somewhere is for references.py, and the rules of the scenarios
are in ../scenarios.
"""

from __future__ import annotations

import datetime
from typing import Literal

import msgspec

from secondsite.orchestration.typed import ready

ScenarioName = Literal["S1", "S2", "S3", "S4", "S5"]
Redundancy = Literal["LRS", "ZRS", "GRS", "RAGRS", "GZRS", "RAGZRS"]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file; unknown keys are refused."""


class Vault(Table, frozen=True):
    """`profile` is the year whose rules and limits hold: those of the overview, or today's (R1.1, R1.2, R12.10)."""

    name: str
    region: str
    subscription: str
    profile: Literal["2014", "today"] = "2014"


class Site(Table, frozen=True):
    name: str


class Server(Table, frozen=True):
    """A management server (VMM). `version` is a System Center version as people call it; `provider` the version of
    the Provider on it. Scripts of recovery plans run there: `reach` is the command that runs another one on it, without
    one it is this machine.
    """

    name: str
    site: str
    version: str
    provider: str | None = None
    reach: tuple[str, ...] = ()


class Cloud(Table, frozen=True):
    name: str
    server: str


class Commands(Table, frozen=True):
    """What an `external` hypervisor is driven with; each gets the machine's description as JSON on standard input, and
    has `seconds`. `status` ends with 0 where the machine runs, with 3 where it does not. `stop` presses its button, or
    with SECONDSITE_HOW=kill switches it off. `screenshot` writes a PNG to the file SECONDSITE_OUTPUT.
    """

    start: tuple[str, ...]
    stop: tuple[str, ...]
    status: tuple[str, ...]
    screenshot: tuple[str, ...] = ()
    seconds: int = 120


class Host(Table, frozen=True):
    """A host, or a cluster of them, of a cloud or directly of a site (S1). `agent` and `provider` are the versions
    that are installed on it. `address` is where its agent listens, HOST[:PORT]; without one the host is this one.
    `path` is where replicas lie that nothing else places, and the folder of its agent. `logical` are the logical
    networks that it reaches. `reach` is the command that runs another one on it (["ssh", "root@lds1"]); without one
    it is this machine. Machines that it runs have their files in `run`; `namespace` is that of its bridges. `zone` is
    the time zone in which local times count of what runs there (R5.2), that of this machine without one.
    """

    name: str
    cloud: str | None = None
    site: str | None = None
    version: str = "2012 R2"
    cluster: bool = False
    broker: bool = False
    agent: str | None = None
    provider: str | None = None
    address: str | None = None
    path: str | None = None
    logical: tuple[str, ...] = ()
    reach: tuple[str, ...] = ()
    run: str = "/var/lib/secondsite/machines"
    hypervisor: Literal["qemu", "libvirt", "external"] = "qemu"
    commands: Commands | None = None
    namespace: str | None = None
    zone: str | None = None


class Subnet(Table, frozen=True):
    """`pool` is first and last address that may be given out; without one addresses come from DHCP. `gateway` is the
    router that machines are told of with an address of the pool.
    """

    name: str
    range: str
    pool: tuple[str, str] | None = None
    gateway: str | None = None


class Network(Table, frozen=True):
    """A VM network of a management server or of a site, or with `azure` one of Azure. `gateway` leads on-premises.
    `bridge` is the Linux bridge that it is.
    """

    name: str
    server: str | None = None
    site: str | None = None
    azure: bool = False
    logical: str | None = None
    virtualized: bool = False
    gateway: bool = False
    bridge: str | None = None
    subnets: tuple[Subnet, ...] = ()


class Location(Table, frozen=True):
    """A folder on a host: one place of a storage classification."""

    host: str
    path: str
    kind: Literal["local", "csv", "smb"] = "local"


class Classification(Table, frozen=True):
    name: str
    server: str
    locations: tuple[Location, ...] = ()


class Account(Table, frozen=True):
    """A storage account. `url` is where replicas go, azure://CONTAINER[/PREFIX]."""

    name: str
    url: str
    region: str
    subscription: str
    redundancy: Redundancy
    premium: bool = False


class Array(Table, frozen=True):
    """A storage array that replicates by itself to its `peers`, a pool of its own to one of theirs."""

    name: str
    site: str
    server: str | None = None
    pools: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()


class Group(Table, frozen=True):
    """A replication group: machines whose disks an array moves together (R12.1)."""

    name: str
    array: str
    pool: str
    replicating: bool = False


class Disk(Table, frozen=True):
    """`size` in bytes counts where the file is not there to be looked at. `shared` is a disk of several machines."""

    path: str
    os: bool = False
    size: int | None = None
    format: Literal["raw", "vhd", "vhdx", "vmdk", "qcow2"] | None = None
    exclude: bool = False
    shared: bool = False
    classification: str | None = None


class Nic(Table, frozen=True):
    """Without an address it has one from DHCP. `target_address` is the one it wants after a failover (R11.8)."""

    network: str | None = None
    subnet: str | None = None
    address: str | None = None
    target_address: str | None = None
    mac: str | None = None


class Quiesce(Table, frozen=True):
    """Commands around the instant of an application-consistent point, on the machine's host, with a time limit each."""

    before: tuple[str, ...]
    after: tuple[str, ...] = ()
    seconds: int = 60


class Signal(Table, frozen=True):
    """What says that a machine has booted: a text on its serial line, an answer of its guest agent, a TCP port that
    takes a connection, or a URL that answers with a status below 400. `{address}` in `url` is that of its first card.
    """

    serial: str | None = None
    agent: bool = False
    tcp: int | None = None
    url: str | None = None
    seconds: int = 300


class Machine(Table, frozen=True):
    """`qmp` and `guest_agent` are sockets of a machine that QEMU runs. `memory` is in MiB, `options` are further
    arguments for its hypervisor; `addresses` says who gives it its address after a failover.
    """

    name: str
    host: str
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...] = ()
    guest: Literal["windows", "linux"] = "linux"
    bits: Literal[32, 64] = 64
    generation: Literal[1, 2] = 1
    iscsi: bool = False
    group: str | None = None
    qmp: str | None = None
    guest_agent: str | None = None
    quiesce: Quiesce | None = None
    memory: int = 1024
    processors: int = 1
    options: tuple[str, ...] = ()
    signal: Signal | None = None
    addresses: Literal["dhcp", "agent", "guest"] = "dhcp"


class Tier(Table, frozen=True):
    """Keep one point of each `every` seconds for `seconds`."""

    every: int
    seconds: int


class Policy(Table, frozen=True):
    """`copy_frequency` and times are in seconds, other spans in hours as in the overview. `hours`, `additional` and
    `tiers` are the three ways to keep recovery points; none of them is the scenario's default (R1.2, R1.3). A time of
    `initial_at` or `resync_window` that names no zone is that of the source host. Without a window a resync begins by
    itself at night; with "never" an operator begins it (R7.3). `limit` is a calendar of bytes a second over the
    network, as `replicate --schedule` takes it (R12.15): all machines of policies with the same one share it that the
    orchestrator's own host sends, and of a host with a `reach` the disks of each machine.
    """

    name: str
    copy_frequency: int | None = None
    hours: int | None = None
    additional: int | None = None
    tiers: tuple[Tier, ...] | None = None
    application_consistent: int = 0
    initial: Literal["network", "media", "existing"] = "network"
    initial_at: datetime.datetime | None = None
    delete_replica: bool = False
    compress: bool = True
    encrypt: bool = False
    write_order: bool = True
    resync_window: tuple[datetime.time, datetime.time] | Literal["never"] | None = None
    limit: str | None = None
    rpo_threshold: int | None = None
    drill_days: int = 0


class Protection(Table, frozen=True):
    """A pair: what is in `source` (a cloud, a site or an array) is protected in `target` (a cloud, an array or a
    storage account), as scenario and policy say.
    """

    name: str
    scenario: ScenarioName
    source: str
    target: str
    policy: str


class Item(Table, frozen=True):
    """A protected machine. Network and subnet are its own where no mapping decides (S1). `medium` is the folder of its
    first copy by medium, `existing` the copies that lie at the target already, in the order of its disks (R5.1).
    `cards` is how many network cards the target's size of machine has (R11.9), None: as many as the machine.
    """

    machine: str
    protection: str
    network: str | None = None
    subnet: str | None = None
    target_name: str | None = None
    cards: int | None = None
    medium: str | None = None
    existing: tuple[str, ...] = ()


class Step(Table, frozen=True):
    """Of a recovery plan: one of a `script` (a command, on the `side` that is named), a `manual` action that waits
    until somebody confirms it, and an `http` call. `kinds` are the failovers that it belongs to.
    """

    name: str
    script: tuple[str, ...] = ()
    manual: str | None = None
    http: str | None = None
    method: Literal["GET", "POST", "PUT"] = "POST"
    side: Literal["source", "target"] = "target"
    seconds: int = 600
    kinds: tuple[Literal["test", "planned", "unplanned"], ...] = ("test", "planned", "unplanned")


class PlanGroup(Table, frozen=True):
    """Machines (or of an array its replication groups) that start together, and what is done around that (R12.6)."""

    machines: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    before: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()


class RecoveryPlan(Table, frozen=True):
    """Groups start in their order (R12.4, R12.5)."""

    name: str
    group: tuple[PlanGroup, ...] = ()


class Consistency(Table, frozen=True):
    """Machines whose disks are cut at one instant, so that they go back to it together (M13)."""

    name: str
    machines: tuple[str, ...]


class Mapping(Table, frozen=True):
    source: str
    target: str


class Mappings(Table, frozen=True):
    """Networks, classifications, arrays and pools (ARRAY/POOL) by name."""

    network: tuple[Mapping, ...] = ()
    storage: tuple[Mapping, ...] = ()
    array: tuple[Mapping, ...] = ()
    pool: tuple[Mapping, ...] = ()


class Estate(Table, frozen=True):
    """All of it. Names of one kind of table are unique."""

    vault: Vault
    site: tuple[Site, ...] = ()
    server: tuple[Server, ...] = ()
    cloud: tuple[Cloud, ...] = ()
    host: tuple[Host, ...] = ()
    network: tuple[Network, ...] = ()
    classification: tuple[Classification, ...] = ()
    account: tuple[Account, ...] = ()
    array: tuple[Array, ...] = ()
    group: tuple[Group, ...] = ()
    machine: tuple[Machine, ...] = ()
    policy: tuple[Policy, ...] = ()
    protection: tuple[Protection, ...] = ()
    item: tuple[Item, ...] = ()
    recovery: tuple[RecoveryPlan, ...] = ()
    consistency: tuple[Consistency, ...] = ()
    mapping: Mappings = Mappings()


ready(Estate)
