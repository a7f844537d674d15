"""A server that moves: a Linux writes records in London, is drilled, fails over to Leeds and comes home. None is lost.

    make demo-failover
    python bench/demo_failover.py --size 512M

Both sites are on this machine: a folder each and, where this is run as root, a network namespace each. The server is a
real Linux under software emulation (tests/guests), made of Debian's packages. Everything is removed again; the exit
status is not 0 where anything is not as it should be.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo import NEW_ORDERS, OLD_ORDERS, Demo, Stage, Unexpected

from secondsite.engine import errors
from secondsite.orchestration import hosts
from secondsite.orchestration.bench import process
from secondsite.orchestration.estate.model import Host
from secondsite.orchestration.failover.failovers import Failovers
from secondsite.orchestration.hosts.spec import packed
from secondsite.orchestration.networks import sweeping
from secondsite.orchestration.vault import database

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "guests"))
import guestkit

TOOLS = ("mke2fs", "debugfs", "e2fsck", "qemu-system-x86_64", "busybox", "apt-get")
ROOM = 4  # images: files to fill it, the disk, its replica, the disk that came home
WAIT_SECONDS = 90
ESTATE = """\
vault = { name = "shop", region = "North Europe", subscription = "4f1e" }
site = [{ name = "london" }, { name = "leeds" }]
server = [
    { name = "vmm-london", site = "london", version = "2012 R2", provider = "3.5.468" },
    { name = "vmm-leeds", site = "leeds", version = "2012 R2", provider = "3.5.468" },
]
cloud = [{ name = "gold", server = "vmm-london" }, { name = "gold-dr", server = "vmm-leeds" }]
host = [
    { name = "lon1", cloud = "gold", run = "FOLDER/london/run", path = "FOLDER/london"AT_LONDON },
    { name = "lds1", cloud = "gold-dr", run = "FOLDER/leeds/run", path = "FOLDER/leeds"AT_LEEDS },
]
network = [
    { name = "shop", server = "vmm-london", bridge = "shop0", subnets = [
        { name = "servers", range = "10.1.0.0/24", gateway = "10.1.0.1", pool = ["10.1.0.11", "10.1.0.99"] }] },
    { name = "shop-dr", server = "vmm-leeds", bridge = "shop-dr0", subnets = [
        { name = "servers", range = "10.2.0.0/24", gateway = "10.2.0.1", pool = ["10.2.0.11", "10.2.0.99"] }] },
]
classification = [
    { name = "fast", server = "vmm-london", locations = [{ host = "lon1", path = "FOLDER/london" }] },
    { name = "fast-dr", server = "vmm-leeds", locations = [{ host = "lds1", path = "FOLDER/leeds" }] },
]
policy = [{ name = "five-minutes", copy_frequency = 300, additional = 15 }]
protection = [
    { name = "to-leeds", scenario = "S2", source = "gold", target = "gold-dr", policy = "five-minutes" },
]
item = [{ machine = "shop", protection = "to-leeds" }]

[[machine]]
name = "shop"
host = "lon1"
disks = [{ path = "FOLDER/vm.raw", os = true, format = "raw", classification = "fast" }]
NICSmemory = 192
options = ["-accel", "tcg", "-no-reboot", "-kernel", "KERNEL", "-initrd", "INITRD", "-append", "APPEND"]
signal = { serial = "SYNCED", seconds = 90 }

[mapping]
network = [{ source = "shop", target = "shop-dr" }]
storage = [{ source = "fast", target = "fast-dr" }]
"""


@dataclass
class FailoverDemo(Demo):
    """The shop's server, and where it is: `spaces` are the namespaces of the two sites, none without the rights."""

    spaces: tuple[str, ...] = ()
    stack: ExitStack = field(default_factory=ExitStack)
    spec: dict[str, Any] = field(default_factory=dict)
    last: int = 0

    def tell(self) -> None:
        """From the first record to the way back."""
        self.chapter("London: the shop's server, a Linux on an ext4 disk. It writes numbered records, each synced")
        self.step("make its disk", self.image)
        self.step("a vault, which knows of both sites", self.vault)
        self.step("apply the estate", self.apply)
        self.step("boot it in London", self.boot)
        self.chapter("It is protected: cycles run, and the estate says where it would go")
        self.cycles()
        self.step("first copy to Leeds, while it writes", self.sync)
        self.run("secondsite", "mapping", "explain", "shop")
        self.chapter("Would it come up in Leeds? A drill boots a copy of it, apart from all networks; it works on")
        self.step("drill", self.drill)
        self.chapter("London is to be switched off. A planned failover: server off, last delta, proof, start in Leeds")
        self.step("planned failover", self.planned)
        self.step("records lost on the way", lambda: self.lost("London"))
        self.chapter("It stays there, and its replication runs back at once, from the old disk on")
        self.step("commit", self.commit)
        self.step("replicate to London, while it writes", self.sync)
        self.chapter("London is back: the same, the other way")
        self.step("failback", lambda: self.moved("failback"))
        self.step("records lost on the way back", lambda: self.lost("Leeds"))
        self.step("commit", self.commit_home)
        self.chapter("Is it right? The server is shut down; its disk by itself, and what is left of the tests")
        self.step("e2fsck, and the shop's files", self.proved)
        self.step("what is left", self.nothing_left)

    # -- London ------------------------------------------------------------------------------------------------

    def vault(self) -> str:
        return self.run("secondsite", "vault", "init").strip().rpartition("/")[2]

    def apply(self) -> str:
        kernel, initrd = guestkit.build()
        words = {"FOLDER": str(self.folder), "KERNEL": str(kernel), "INITRD": str(initrd)}
        words["APPEND"] = guestkit.line("records,network")
        for name, space in zip(("LONDON", "LEEDS"), self.spaces or ("", ""), strict=True):
            words[f"AT_{name}"] = f', namespace = "{space}"' if space else ""
        card = 'nics = [{ network = "shop", subnet = "servers", address = "10.1.0.11" }]\n'
        words["NICS"] = card if self.spaces else ""
        text = re.sub("|".join(sorted(words, key=len, reverse=True)), lambda found: words[found[0]], ESTATE)
        self.path("estate.toml").write_text(text)
        return self.run("secondsite", "apply", "estate.toml", quiet=True).strip().splitlines()[-1]

    def boot(self) -> str:
        """As its host does it."""
        with database.opened(str(self.path("state/vault.db"))) as vault:
            placed = Failovers(vault).known("shop").home()
        assert placed.spec is not None
        self.spec = packed(placed.spec)
        self.call("start")
        self.until("its first record", lambda: self.synced() > 0)
        return self.tell_address()

    def cycles(self) -> None:
        """In the background, until the end of the story."""
        self.console.print("[cyan]$ secondsite run &[/]")
        log = self.stack.enter_context(self.path("run.log").open("wb"))
        running = subprocess.Popen([*process.secondsite(), "run"], cwd=self.folder, stdout=log, stderr=log)
        self.stack.callback(running.wait, 60)
        self.stack.callback(running.terminate)

    def sync(self) -> str:
        """A cycle now, and not when the policy says."""
        told = self.run("secondsite", "protection", "sync", "shop", "--seconds", str(WAIT_SECONDS))
        return told.strip().partition(": ")[2]

    def drill(self) -> str:
        before = self.synced()
        told = self.run("secondsite", "drill", "shop", "--verify", "--reports", "drills")
        wrote = self.synced() - before
        if wrote < 1 or not list(self.path("drills").rglob("*.html")):
            raise Unexpected(f"the server wrote {wrote} records meanwhile")
        return f"{told.splitlines()[0].partition(' from')[0].removeprefix('shop: ')}; {wrote} records meanwhile"

    # -- there and back ----------------------------------------------------------------------------------------

    def planned(self) -> str:
        self.run("secondsite", "failover", "planned", "shop", "--plan")
        return self.moved("planned")

    def moved(self, action: str) -> str:
        """Fail it over, and wait until it writes there."""
        before, began = self.spec, time.monotonic()
        self.run("secondsite", "failover", action, "shop")
        status = self.run("secondsite", "failover", "status", "shop", "--json", quiet=True)
        self.spec = json.loads(status)["machines"][0]["failover"]["there"]["spec"]
        down = re.search(r"^GUEST DOWN (\d+)", self.serial(before), re.MULTILINE)
        if down is None:
            raise Unexpected("the server was not shut down in order")
        self.last = int(down[1])
        self.until("records where it is now", lambda: self.synced() > 0)
        return f"{self.tell_address()}, {time.monotonic() - began:.0f} s after the order"

    def lost(self, where: str) -> str:
        """What it said to have on its disk there, and what it found on its disk here."""
        found = re.search(r"^GUEST READY (\d+)", self.serial(self.spec), re.MULTILINE)
        count = int(found[1]) if found else -1
        told = f"{self.last} were on the disk in {where}, {count} are here"
        self.console.print(told, style="dim")
        if count != self.last:
            raise Unexpected(told)
        return f"0 of {count}"

    def commit(self) -> str:
        return self.run("secondsite", "failover", "commit", "shop").strip().splitlines()[0].partition("; ")[2]

    def commit_home(self) -> str:
        told = self.commit()
        self.sync()
        self.run("secondsite", "status")
        return told

    # -- what is left ------------------------------------------------------------------------------------------

    def proved(self) -> str:
        """The disk as it came home, of a server that was shut down in order."""
        self.call("stop", how=["agent", "acpi"], seconds=WAIT_SECONDS)
        self.call("remove")
        checked = self.check("vm.raw")
        if self.run("debugfs", "-R", "cat /shop/orders.csv", "vm.raw", quiet=True) not in (OLD_ORDERS, NEW_ORDERS):
            raise Unexpected("the shop's orders are not what they were")
        log = self.run("debugfs", "-R", "cat /log", "vm.raw", quiet=True)
        numbers = [int(line.split()[0]) for line in log.splitlines()]
        if numbers != list(range(1, len(numbers) + 1)):
            raise Unexpected("a record is missing")
        return f"{checked}; {len(numbers)} records without a gap"

    def nothing_left(self) -> str:
        """Of the server, its drill, and both of its networks."""
        found = [str(pid) for pid in process.below(self.folder) if b"qemu" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        for space in self.spaces:
            told = json.loads(self.run("secondsite", "network", "list", "--namespace", space, "--json", quiet=True))
            found += [one["name"] for one in told["devices"]]
        if found:
            raise Unexpected(f"machines or network devices are left: {found}")
        return "no machine, and no network device"

    def call(self, operation: str, **more: Any) -> dict[str, Any]:
        """An operation of the host on which it is now."""
        return hosts.reach(Host(name="here")).call(f"machine.{operation}", {"machine": self.spec, **more})

    def serial(self, spec: dict[str, Any]) -> str:
        """What a machine has printed on its serial line."""
        try:
            told = hosts.reach(Host(name="here")).call("machine.console", {"machine": spec, "bytes": 1 << 20})
        except errors.Error:
            return ""
        return str(told["text"]).replace("\r", "")

    def tell_address(self) -> str:
        """What DHCP told it, where there are networks."""
        if not self.spaces:
            return "it writes"
        found: list[str] = []

        def told() -> bool:
            found.extend(re.findall(r"^ADDRESS eth0 (\S+)", self.serial(self.spec), re.MULTILINE))
            return bool(found)

        self.until("its address", told)
        self.console.print(f"it writes, and has address {found[0]}", style="dim")
        return f"at {found[0]}"

    def synced(self) -> int:
        """The last record that it said to have on its disk."""
        return int(([0, *re.findall(r"^SYNCED (\d+)$", self.serial(self.spec), re.MULTILINE)])[-1])

    def until(self, what: str, done: Callable[[], bool]) -> None:
        """Wait, with a line that says for what. Raises Unexpected."""
        deadline = time.monotonic() + WAIT_SECONDS
        with self.console.status(f"waiting for {what}"):
            while not done():
                if time.monotonic() > deadline:
                    raise Unexpected(f"no {what} within {WAIT_SECONDS} s")
                time.sleep(0.1)


@contextmanager
def two_sites(folder: Path, size: int) -> Iterator[Demo]:
    """Namespaces for both where there are the rights for them; in the end no process and no device of the demo."""
    os.environ["SECONDSITE_STATE"] = str(folder / "state")
    with ExitStack() as around:
        spaces = tuple(namespace(f"secondsite-demo-{os.getpid()}-{site}", around) for site in ("london", "leeds"))
        around.callback(process.end_below, folder)
        with ExitStack() as stack:
            yield FailoverDemo(folder, size, spaces=spaces if all(spaces) else (), stack=stack)


def namespace(name: str, around: ExitStack) -> str:
    """One of a site; '' where this is not allowed, and the story is told without networks."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        return ""
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return ""
    around.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
    # Of a drill that was stopped too, which has a namespace of its own.
    around.callback(sweeping.sweep, tuple, name)
    return name


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(Stage("demo-failover", __doc__, TOOLS, ROOM, "256M", two_sites).play())
