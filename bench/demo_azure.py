"""A second site in Azure: a real ext4 image is replicated into an object store, changed, proved, and brought back.

    make demo-azure
    python bench/demo_azure.py --size 512M

Azure is Microsoft's own emulator, Azurite, which is installed below build/, started on a free port and ended again. All
else happens in a temporary folder that is removed. The exit status is not 0 where anything is not as it should be.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from demo import NEW_ORDERS, OLD_ORDERS, Demo, Stage, Unexpected, digest, last_line
from rich.table import Table

from secondsite.engine import errors, units
from secondsite.orchestration.bench import workload

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from azurite import emulator

TOOLS = ("mke2fs", "debugfs", "e2fsck", "qemu-img", "node", "npm")
ROOM = 5  # images: files to fill it, source, restored, and two downloaded
CONTAINER, REPLICA, SECRET, DISK = "backup", "azure://backup/vm", "azure://backup/secret", "azure://backup/vm.vhd"
# The emulator's API is older than the SDK's own.
API_VERSION = "2026-06-06"
WHAT = {"segments": "data, packed", "maps": "where each block lies", "points": "a point each", "": "head and identity"}


class AzureDemo(Demo):
    """The same shop, with its second site in a store."""

    def tell(self) -> None:
        """From the container to the restored past."""
        from azure.storage.blob import ContainerClient

        text = os.environ["AZURE_STORAGE_CONNECTION_STRING"]
        self.store = ContainerClient.from_connection_string(text, CONTAINER, api_version=API_VERSION)
        self.store.create_container()
        self.chapter("A disk image of a shop's server: ext4, with real files of this machine")
        self.step("make an ext4 image", self.image)
        self.chapter("The first copy, into a container of Azure; what opens it is in the environment")
        self.step("replicate all of it", self.replicate)
        self.chapter("The server works on, and two more cycles send what changed")
        self.step("change it through its file system", self.change)
        self.step("replicate what changed", self.replicate)
        self.step("change it once more", self.again)
        self.step("replicate what changed", self.replicate)
        self.run("secondsite", "points", REPLICA)
        self.chapter("Is it right? Every byte that the points hold is fetched and proved")
        self.step("verify the replica", self.verify)
        self.chapter("The note is needed again: the first point, as a new image")
        self.step("restore the first point", self.restore)
        self.step("compare it with the first image", self.same_past)
        self.step("e2fsck it", lambda: self.check("monday.raw"))
        self.step("old files in it", lambda: self.look("monday.raw", OLD_ORDERS, note=True))
        self.chapter("A disk that Azure boots: the newest point as a fixed VHD in a page blob")
        self.step("materialize", self.materialize)
        self.step("download it, compare with qemu-img", self.compare_disk)
        self.chapter("The same again, encrypted with a key that the store never sees")
        self.step("replicate with a key", self.encrypt)
        self.step("restore it with the key", self.decrypt)
        self.chapter("What lies in the container")
        self.step("bytes of three points", self.saved)
        self.chapter("The oldest point goes; what only it had is removed an hour later")
        self.step("prune", self.prune)

    def replicate(self) -> str:
        return self.run("secondsite", "replicate", "vm.raw", REPLICA).split("; ")[1]

    def again(self) -> str:
        """One file more, so that the third point is not the second."""
        self.run("debugfs", "-w", "-R", "write new.csv /shop/2027/second.csv", "vm.raw", quiet=True)
        self.last = digest(self.path("vm.raw"))
        return "one file more"

    def verify(self, *options: str) -> str:
        verdict, _, rest = self.run("secondsite", "verify", REPLICA).partition(": ")
        return f"{verdict}, {rest.split(', ')[1]}"

    def restore(self) -> str:
        told = self.run("secondsite", "restore", REPLICA, "monday.raw", "--at", "1")
        return told.split("; ")[1].split(" (")[0]

    def materialize(self) -> str:
        told = self.run("secondsite", "materialize", REPLICA, DISK)
        return last_line(told).partition("; ")[2].partition(" (")[0]

    def compare_disk(self) -> str:
        """What a virtual machine would boot from."""
        with self.path("vm.vhd").open("wb") as file:
            self.store.download_blob("vm.vhd").readinto(file)
        self.run("qemu-img", "compare", "-f", "raw", "-F", "vpc", "vm.raw", "vm.vhd")
        self.path("vm.vhd").unlink()
        return "identical"

    def encrypt(self) -> str:
        self.run("secondsite", "key", "new", "vm.key")
        told = self.run("secondsite", "replicate", "vm.raw", SECRET, "--encrypt", "--key-file", "vm.key")
        self.run("secondsite", "restore", SECRET, "stolen.raw", status=errors.REFUSED)
        return told.split("; ")[1]

    def decrypt(self) -> str:
        self.run("secondsite", "restore", SECRET, "secret.raw", "--key-file", "vm.key")
        if digest(self.path("secret.raw")) != self.last:
            raise Unexpected("what was decrypted is not what was encrypted")
        orders = self.look("secret.raw", NEW_ORDERS, note=False)
        self.path("secret.raw").unlink()
        return f"equal; {orders}"

    def prune(self) -> str:
        told = self.run("secondsite", "prune", REPLICA, "--keep", "2")
        if self.run("secondsite", "points", REPLICA).count("\n") != 3:
            raise Unexpected("there are not two points")
        return last_line(told)

    def saved(self) -> str:
        """The blobs of the replica, and what three full copies would have taken."""
        count, size = defaultdict[str, int](int), defaultdict[str, int](int)
        for blob in self.store.list_blobs(name_starts_with="vm/"):
            kind = blob.name.split("/")[1] if blob.name.count("/") > 1 else ""
            count[kind], size[kind] = count[kind] + 1, size[kind] + blob.size
        table = Table(header_style="bold")
        for name in ("blobs", "what", "number", "bytes"):
            table.add_column(name, justify="right" if name in ("number", "bytes") else "left")
        for kind in sorted(count, reverse=True):
            what = WHAT.get(kind, "")
            table.add_row(f"vm/{kind}", what, str(count[kind]), units.format_size(size[kind]))
        self.console.print(table)
        points = json.loads(self.run("secondsite", "points", REPLICA, "--json", quiet=True))["points"]
        data, stored = len(points) * workload.data_bytes(self.path("vm.raw")), sum(size.values())
        if len(points) != 3 or stored >= data:
            raise Unexpected(f"{len(points)} points take {stored} bytes")
        told = f"{units.format_size(stored)} instead of {units.format_size(data)}: {data / stored:.1f} times less"
        self.console.print(told, style="dim")
        return told


@contextmanager
def beside_azure(folder: Path, size: int) -> Iterator[Demo]:
    """The emulator runs, and the environment says how to reach it."""
    try:
        with emulator.running() as azure:
            os.environ["AZURE_STORAGE_CONNECTION_STRING"] = azure.connection_string
            os.environ["SECONDSITE_STATE"] = str(folder / "state")
            yield AzureDemo(folder, size)
    except emulator.Unavailable as error:
        raise Unexpected(str(error)) from None


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(Stage("demo-azure", __doc__, TOOLS, ROOM, "128M", beside_azure).play())
