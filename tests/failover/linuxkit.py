"""A bench whose machine is a Linux under QEMU at both sites: what it has on its disks it tells by numbered records.

What it said to have SYNCED is on its disks; when it boots it counts what it finds, and says so (tests/guests).
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import guestkit
from killing import servers

from bench import Bench
from secondsite import engine
from secondsite.orchestration.failover import asking
from secondsite.orchestration.failover.intent import Placed

Make = Callable[..., "Linux"]
BOOT_SECONDS = 120
SIZE = 48 << 20
COMMANDS = 'hypervisor = "external"\ncommands = {{ start = {start}, stop = {stop}, status = {status} }}\n'
DISKS = '[{{ path = "{folder}/system.raw", os = true }}, {{ path = "{folder}/data.raw" }}]\n'


@dataclass
class Linux(Bench):
    """`disks` are the formats of its disks, each an ext4: its first one the system's, a second one of data."""

    disks: Sequence[str] = ("raw",)
    host: str = "h1"

    def __post_init__(self) -> None:
        self.text = self._with_qemu
        for name in ("replicas", "run1", "run2", "run3"):
            (self.folder / name).mkdir()
        for path, format in zip(self.paths, self.disks, strict=True):
            made = guestkit.make_disk(path.with_suffix(".new"), SIZE)
            if format == "raw":
                made.rename(path)
            else:
                engine.convert(made, path, format=format)
                made.unlink()
        self.apply()

    @property
    def paths(self) -> list[Path]:
        names = ("system", "data")[: len(self.disks)]
        return [self.folder / f"{name}.{format}" for name, format in zip(names, self.disks, strict=True)]

    def _with_qemu(self, estate: str) -> str:
        """On hosts whose hypervisor is QEMU."""
        kernel, initrd = guestkit.build()
        disks = [f'{{{{ path = "{path}", format = "{format}", os = {str(not number).lower()} }}}}'
                 for number, (path, format) in enumerate(zip(self.paths, self.disks, strict=True))]  # fmt: skip
        options = ["-accel", "tcg", "-kernel", str(kernel), "-initrd", str(initrd), "-append", guestkit.line("records")]
        words = ", ".join(f'"{option}"' for option in options)
        assert estate.count(COMMANDS) == 3 and DISKS in estate
        machine = f"[{', '.join(disks)}]\nmemory = 160\noptions = [{words}]\n"
        estate = estate.replace('name = "app1"\nhost = "h1"', f'name = "app1"\nhost = "{self.host}"')
        return estate.replace(COMMANDS, "").replace(DISKS, machine)

    # -- what it says -------------------------------------------------------------------------------------------

    def serial(self, placed: Placed) -> str:
        """What a machine has printed since it was started."""
        return str(self.machine(placed, "console", bytes=1 << 20)["text"]).replace("\r", "")

    def where(self) -> Placed:
        """The machine where the vault has it."""
        placed = self.placed(self.item.active)
        assert placed is not None
        return placed

    def said(self, what: str, placed: Placed | None = None) -> str | None:
        """The last that it said with these words: SYNCED, GUEST READY and GUEST DOWN with a number, GUEST BOOT with a
        word that it writes into each record.
        """
        found = re.findall(rf"^{what} (\w+)$", self.serial(placed or self.where()), re.MULTILINE)
        return found[-1] if found else None

    def number(self, what: str) -> int:
        return int(self.said(what) or 0)

    def wait(self, what: str, least: int = 0, placed: Placed | None = None) -> int:
        """Until it has said such a number."""
        until = time.monotonic() + BOOT_SECONDS
        while (found := self.said(what, placed)) is None or int(found) < least:
            assert time.monotonic() < until, self.serial(placed or self.where())[-2000:]
            time.sleep(0.1)
        return int(found)

    def ready(self) -> int:
        """How many records it found when it booted; it writes more by now."""
        found = self.wait("GUEST READY")
        self.wait("SYNCED", found + 1)
        return found

    def write_on(self, records: int) -> int:
        """So many more; the number of the last."""
        return self.wait("SYNCED", self.number("SYNCED") + records)

    def sides(self) -> dict[str, str]:
        """Where it is seen, as `failover status` tells it."""
        return asking.seen(self.failovers(), self.item)

    # -- what is done to it -------------------------------------------------------------------------------------

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """It stands still, and what it wrote is where it belongs."""
        with engine.Monitor.connect(self.machine(self.where(), "status")["qmp"], 20) as monitor:
            monitor.run("stop")
        yield
        with engine.Monitor.connect(self.machine(self.where(), "status")["qmp"], 20) as monitor:
            monitor.run("cont")

    def kill(self, side: str, *, whole_host: bool = False) -> None:
        """SIGKILL for its QEMU, or for all that runs of it there, as when a host breaks."""
        placed = self.placed(side)
        assert placed is not None and placed.spec is not None
        pid = int(self.machine(placed, "status")["pid"])
        for number in servers(Path(placed.spec.folder)) if whole_host else [pid]:
            os.kill(number, signal.SIGKILL)
        until = time.monotonic() + 20
        while self.machine(placed, "status")["state"] == "running":
            assert time.monotonic() < until
            time.sleep(0.02)

    def kill_server(self, placed: Placed) -> None:
        """That of its disks, under the machine that runs."""
        assert placed.spec is not None
        qemu = self.machine(placed, "status")["pid"]
        (server,) = set(servers(Path(placed.spec.folder))) - {qemu}
        os.kill(server, signal.SIGKILL)
        until = time.monotonic() + 20
        while not self.machine(placed, "status")["wrong"]:
            assert time.monotonic() < until
            time.sleep(0.02)

    # -- what is on disks ---------------------------------------------------------------------------------------

    def records(self, disks: dict[str, bytes]) -> list[str]:
        """Which boot wrote each record of some disks, from the first on without a gap, in file systems that are in
        order as after a power loss. A second disk may be one behind: it is written after the first one.
        """
        logs = [self._log(disks[str(path)]) for path in self.paths]
        assert all(0 <= len(logs[0]) - len(log) <= 1 and logs[0][: len(log)] == log for log in logs)
        return logs[0]

    def _log(self, disk: bytes) -> list[str]:
        image = self.folder / "look.raw"
        image.write_bytes(disk)
        found = guestkit.check_records(image, image.with_suffix(".copy"))
        assert [number for number, _ in found] == list(range(1, len(found) + 1))
        return [boot for _, boot in found]

    def home(self) -> dict[str, bytes]:
        """What its disks at home have, as a guest sees it."""
        return self.images(self.known().home())

    @staticmethod
    def format(path: Path) -> str:
        found = engine.info(path)
        assert isinstance(found, engine.ImageInfo)
        return found.format
