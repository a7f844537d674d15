"""The product at work: a real ext4 image is replicated, changed through its file system, and its past brought back.

    make demo
    python bench/demo.py --size 256M

Everything happens in a temporary folder that is removed again; no rights are needed. The exit status is not 0 where
anything is not as it should be.
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from secondsite.engine import errors, units
from secondsite.orchestration.bench import process, workload

TOOLS = ("mke2fs", "debugfs", "e2fsck", "cmp")
# mke2fs takes half a millisecond a file: the demo should not be a demo of mke2fs.
SMALL_FILES = 5_000
ROOM = 4  # images: files to fill it, source, head, restored
SMALLEST = 64 << 20  # an image that the story still fits into
ORDER, NOTE = "/shop/orders.csv", "/shop/note.txt"
OLD_ORDERS = "order,item,amount\n" + "".join(f"{n},lamp,{n % 7}\n" for n in range(1, 20_001))
NEW_ORDERS = OLD_ORDERS + "".join(f"{n},chair,{n % 5}\n" for n in range(20_001, 30_001))
OLD_NOTE = "The backup site has never been tried.\n"


class Unexpected(Exception):
    """Something is not as it should be."""


@dataclass
class Demo:
    """One run in one folder."""

    folder: Path
    size: int
    console: Console = field(default_factory=lambda: Console(highlight=False))
    steps: list[tuple[str, str, float]] = field(default_factory=list)

    # -- telling -------------------------------------------------------------------------------------------------

    def chapter(self, text: str) -> None:
        """What comes next."""
        self.console.print(f"\n[bold]{escape(text)}[/]")

    def run(self, *command: str, shown: str | None = None, quiet: bool = False, status: int = 0) -> str:
        """Run a command as it is printed, in the demo's folder; its output. Raises Unexpected."""
        self.console.print(f"[cyan]$ {escape(shown or shlex.join(command))}[/]", soft_wrap=True)
        exact = [*process.secondsite(), *command[1:]] if command[0] == "secondsite" else list(command)
        exact[0] = process.which(exact[0]) or exact[0]
        done = subprocess.run(exact, cwd=self.folder, capture_output=True, text=True, errors="replace", check=False)
        output = done.stdout + ("" if quiet and done.returncode == status else done.stderr)
        if output.strip() and not quiet:
            self.console.print(escape(output.rstrip()), style="dim", soft_wrap=True)
        if done.returncode != status:
            raise Unexpected(f"{command[0]} ended with status {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def step(self, name: str, work: Callable[[], str]) -> None:
        """Do a step; what it says of itself goes into the closing table."""
        began = time.monotonic()
        result = work()
        self.steps.append((name, result, time.monotonic() - began))

    def path(self, name: str) -> Path:
        """A file of the demo."""
        return self.folder / name

    # -- the story -----------------------------------------------------------------------------------------------

    def tell(self) -> None:
        """From the first copy to the restored past."""
        self.chapter("A disk image of a shop's server: ext4, with real files of this machine")
        self.step("make an ext4 image", self.image)
        self.chapter("The first copy, to the second site")
        self.step("replicate all of it", self.replicate)
        self.chapter("The server works on: new orders, a new folder, and somebody deletes the note")
        self.step("change it through its file system", self.change)
        self.chapter("The next cycle sends what changed, and keeps the way back")
        self.step("replicate what changed", self.replicate)
        self.run("secondsite", "points", "replica")
        self.chapter("Is it right? From the replica alone, against the source, and by another program")
        self.step("verify the replica alone", self.verify)
        self.step("verify it against the source", lambda: self.verify("--source", "vm.raw"))
        self.step("compare head and source with cmp", self.compare)
        self.chapter("The note is needed again: the first point, as a new image")
        self.step("restore the earlier point", self.restore)
        self.step("compare it with the first image", self.same_past)
        self.chapter("Both are file systems that a machine could boot from")
        self.step("e2fsck the head", lambda: self.check("replica/head.raw"))
        self.step("e2fsck the restored image", lambda: self.check("monday.raw"))
        self.step("old files in the earlier point", lambda: self.look("monday.raw", OLD_ORDERS, note=True))
        self.step("new files in the head", lambda: self.look("replica/head.raw", NEW_ORDERS, note=False))

    def image(self) -> str:
        """Stage files, and let mke2fs make an image of them."""
        files = self.path("files")
        room = int(self.size * 0.85)
        with self.console.status("copying files of /usr/share and /usr/lib to fill it"):
            count = workload.stage(files, room, ("/usr/share", "/usr/lib"), SMALL_FILES)
        (files / "shop").mkdir()
        (files / ORDER[1:]).write_text(OLD_ORDERS)
        (files / NOTE[1:]).write_text(OLD_NOTE)
        shown = (
            f"mke2fs -q -t ext4 -d files vm.raw {units.format_size(self.size).replace(' ', '').replace('.0', '')[:-2]}"
        )
        self.console.print(f"[cyan]$ {shown}[/]")
        mke2fs = process.which("mke2fs")
        assert mke2fs is not None
        workload.make_ext4(mke2fs, self.path("vm.raw"), self.size, files, count + 100)
        shutil.rmtree(files)
        self.first = digest(self.path("vm.raw"))
        data = units.format_size(workload.data_bytes(self.path("vm.raw")))
        return f"{count} files and folders, {data}"

    def change(self) -> str:
        """Through debugfs, which writes what a kernel would."""
        self.path("new.csv").write_text(NEW_ORDERS)
        self.path("changes").write_text(
            f"rm {ORDER}\nwrite new.csv {ORDER}\nrm {NOTE}\nmkdir /shop/2027\nwrite new.csv /shop/2027/opening.csv\n"
        )
        self.run("debugfs", "-w", "-f", "changes", "vm.raw", quiet=True)
        for line in self.path("changes").read_text().splitlines():
            self.console.print(f"  {line}", style="dim")
        if digest(self.path("vm.raw")) == self.first:
            raise Unexpected("debugfs changed nothing")
        return "one file replaced, one removed"

    def replicate(self) -> str:
        """A cycle; how much changed."""
        return self.run("secondsite", "replicate", "vm.raw", "replica").split("; ")[1]

    def verify(self, *options: str) -> str:
        """Prove the replica; the verdict."""
        verdict, _, rest = self.run("secondsite", "verify", "replica", *options).partition(": ")
        return f"{verdict}, {rest.split(', ')[1]}"

    def compare(self) -> str:
        self.run("cmp", "vm.raw", "replica/head.raw")
        return "equal, byte for byte"

    def restore(self) -> str:
        return self.run("secondsite", "restore", "replica", "monday.raw", "--at", "1").split("; ")[1].split(" (")[0]

    def same_past(self) -> str:
        if digest(self.path("monday.raw")) != self.first:
            raise Unexpected("the restored image is not what the source was at the first point")
        return f"SHA-256 {self.first[:8]}…, as before"

    def check(self, image: str) -> str:
        """e2fsck in full, changing nothing; it ends with 0 only for a clean file system."""
        output = self.run("e2fsck", "-fn", image, quiet=True)
        line = last_line(output)
        self.console.print(escape(line), style="dim", soft_wrap=True)
        return "clean, " + line.partition(": ")[2].partition(" (")[0]

    def look(self, image: str, orders: str, *, note: bool) -> str:
        """What the files of the story are in an image."""
        found = self.run("debugfs", "-R", f"cat {ORDER}", image, quiet=True)
        if found != orders:
            raise Unexpected(f"{ORDER} in {image} is not what it should be")
        names = self.run("debugfs", "-R", "ls -p /shop", image, quiet=True)
        here = {line.split("/")[5] for line in names.splitlines() if line.startswith("/")} - {".", ".."}
        wanted = {"orders.csv", "note.txt"} if note else {"orders.csv", "2027"}
        if here != wanted:
            raise Unexpected(f"/shop in {image} holds {sorted(here)}, not {sorted(wanted)}")
        told = f"{found.count(chr(10)) - 1} orders; {', '.join(sorted(here))}"
        self.console.print(f"/shop: {told}", style="dim")
        return told

    def close(self, seconds: float) -> None:
        """The table at the end."""
        table = Table(title=f"\nA second site in {seconds:.0f} seconds", title_style="bold", header_style="bold")
        table.add_column("step")
        table.add_column("result", overflow="fold")
        table.add_column("seconds", justify="right")
        table.add_column("")
        for name, result, took in self.steps:
            table.add_row(name, escape(result), f"{took:.2f}", "[green]✓[/]")
        self.console.print(table)
        self.console.print("[bold green]All as it should be.[/] Everything was removed again.")


def last_line(output: str) -> str:
    """The last line of what a command printed."""
    lines = output.strip().splitlines()
    return lines[-1] if lines else ""


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def terminated(number: int, _: FrameType | None) -> NoReturn:
    """End by an exception, so that the folder is removed."""
    sys.exit(128 + number)


@dataclass(frozen=True)
class Stage:
    """What a demo needs: programs, so many images of room, and what runs around it. `text` is its file's docstring."""

    name: str
    text: str
    tools: tuple[str, ...]
    room: int
    usual: str
    set: Callable[[Path, int], AbstractContextManager[Demo]]

    def play(self) -> int:
        """Tell the story; the exit status."""
        parser = argparse.ArgumentParser(
            description=self.text, formatter_class=argparse.RawDescriptionHelpFormatter
        )  # fmt: skip
        usual = f"{self.usual}, or less where that has no room"
        parser.add_argument("--size", help=f"size of the image (default: {usual})")
        where = tempfile.gettempdir()
        parser.add_argument("--dir", default=where, help="where to work (default: the temporary folder)")
        options = parser.parse_args()
        missing = [tool for tool in self.tools if process.which(tool) is None]
        if missing:
            print(f"{self.name}: not installed: {', '.join(missing)}", file=sys.stderr)
            return errors.UNREACHABLE
        signal.signal(signal.SIGTERM, terminated)
        try:
            asked = units.parse_size(options.size) if options.size else self.fitting(options.dir)
            self._run(asked // workload.BLOCK * workload.BLOCK, options.dir)
        except (Unexpected, errors.Error, OSError) as error:
            print(f"{self.name}: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return errors.CANCELLED
        return 0

    def fitting(self, where: str) -> int:
        """The usual size, halved until so many images have room there, which is said."""
        usual, free = units.parse_size(self.usual), shutil.disk_usage(where).free
        size = usual
        while size > SMALLEST and self.room * size > free:
            size //= 2
        if size < usual and self.room * size <= free:
            told = f"{where} has {units.format_size(free)} free: an image of {units.format_size(size)}"
            print(f"{self.name}: {told} instead of {units.format_size(usual)}", file=sys.stderr)
        return size

    def _run(self, size: int, where: str) -> None:
        needed, free = self.room * size, shutil.disk_usage(where).free
        if free < needed:
            told = f"the demo needs {units.format_size(needed)}, and {units.format_size(free)} are free"
            raise errors.Full(told, path=where)
        made = tempfile.TemporaryDirectory(prefix="secondsite-demo-", dir=where)
        with made as folder, self.set(Path(folder), size) as demo:
            began = time.monotonic()
            demo.tell()
            demo.close(time.monotonic() - began)


@contextmanager
def plain(folder: Path, size: int) -> Iterator[Demo]:
    """Nothing runs around it."""
    yield Demo(folder, size)


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(Stage("demo", __doc__, TOOLS, ROOM, "1G", plain).play())
