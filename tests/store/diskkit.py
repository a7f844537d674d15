"""A replica in a folder and the blob that a point of it becomes; and a client that is cut short at its n-th write."""

from __future__ import annotations

import os
import random
import subprocess
from contextlib import suppress
from pathlib import Path

from store.storekit import azure_store, numbers

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.images import open_image
from secondsite.engine.store import pageblob
from secondsite.orchestration import cli

MIB, BLOCK = 1 << 20, 65536
SEED = random.randrange(1 << 30)
CHANCE = random.Random(SEED)
WRITES = (
    "create_page_blob", "set_blob_metadata", "upload_page", "clear_page", "resize_blob", "set_sequence_number",
    "create_snapshot",
)  # fmt: skip


def changed(data: bytes, count: int = 3) -> bytes:
    """Some blocks written, and one made zeros."""
    made = bytearray(data)
    for _ in range(count):
        at = CHANCE.randrange(len(data) - 5000)
        made[at : at + 5000] = CHANCE.randbytes(5000)
    at = CHANCE.randrange(len(data) // BLOCK) * BLOCK
    made[at : at + BLOCK] = bytes(len(made[at : at + BLOCK]))
    return bytes(made)


FIRST = changed(CHANCE.randbytes(600_000) + bytes(MIB) + CHANCE.randbytes(100_000))


def run(capsys, *arguments):
    """A command: its status, and what it said."""
    status = cli.run([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


class Lab:
    """A disk in a file, its replica, and `url`, a blob that is not there yet."""

    def __init__(self, emulator, folder: Path, data: bytes = b"") -> None:
        from azure.storage.blob import ContainerClient

        from secondsite.engine.store.azure import API_VERSION

        self.folder, self.disk, self.replica = folder, folder / "disk.raw", folder / "replica"
        azure_store(emulator)  # makes the container
        self.container = ContainerClient.from_connection_string(
            emulator.connection_string, "tests", api_version=API_VERSION, retry_total=3
        )
        self.points: list[bytes] = []
        self.anew()
        if data:
            self.cycle(data)

    def anew(self) -> None:
        """Another blob."""
        name = f"d{next(numbers)}/disk.vhd"
        self.url, self.blob = f"azure://tests/{name}", self.container.get_blob_client(name)

    def restart(self) -> None:
        """Another replica and blob, with no point."""
        self.replica, self.points = self.replica.with_name(f"{self.replica.name}-"), []
        self.anew()

    def cycle(self, data: bytes, **more) -> None:
        """One more point."""
        self.disk.write_bytes(data)
        os.utime(self.disk, ns=(len(self.points) * 10**9,) * 2)
        engine.replicate(self.disk, self.replica, **more)
        self.points.append(data)

    def materialize(self, **more):
        return engine.materialize(self.replica, self.url, **more)

    def all_snapshots(self):
        """Of the blob, whoever made them."""
        for each in self.container.list_blobs(name_starts_with=self.blob.blob_name, include=["snapshots", "metadata"]):
            if each.snapshot:
                yield each

    def snapshots(self) -> dict[str, str]:
        """Those of a standby: the point that each says it holds, and its name."""
        ours = [each for each in self.all_snapshots() if "secondsite_snapshot" in each.metadata]
        found = {each.metadata["secondsite_point"]: each.snapshot for each in ours}
        assert len(found) == len(ours)
        return found

    def holds(self, data: bytes, snapshot: str | None = None) -> bool:
        """Is the blob, or a snapshot of it, a whole fixed VHD with this disk, and zeros behind it?"""
        blob = self.container.get_blob_client(self.blob.blob_name, snapshot=snapshot)
        found, said = blob.download_blob().readall(), blob.get_blob_properties()
        path = self.folder / "downloaded.vhd"
        path.write_bytes(found)
        with open_image(path, format="vhd") as image:
            assert image.size == max(-(-len(data) // MIB), 1) * MIB == said.size - 512
            disk = bytes(image.read(0, image.size))
        assert said.metadata["secondsite_state"] == "whole"
        assert snapshot or said.lease.status == "unlocked"
        return disk == data + bytes(len(disk) - len(data))

    def qemu_compares(self) -> None:
        """The blob as `holds` downloaded it, with the source."""
        command = ["qemu-img", "compare", "-f", "raw", "-F", "vpc", self.disk, self.folder / "downloaded.vhd"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 and "identical" in done.stdout, done

    @property
    def state(self) -> str:
        return self.blob.get_blob_properties().metadata["secondsite_state"] if self.blob.exists() else "none"

    def never_wrong(self) -> None:
        """A reader finds no disk, or one of the points, whole; and one where the metadata say that it is whole."""
        if self.state == "none":
            return
        found = self.blob.download_blob().readall()
        disk, footer = found[:-512], found[-512:]
        if any(footer):
            assert footer.startswith(b"conectix")
            assert disk in [data + bytes(max(len(disk) - len(data), 0)) for data in self.points]
        else:
            assert self.state == "writing"


def break_lease(lab: Lab) -> None:
    """As if a minute had passed."""
    from azure.core.exceptions import AzureError
    from azure.storage.blob import BlobLeaseClient

    with suppress(AzureError):
        BlobLeaseClient(lab.blob).break_lease(lease_break_period=0)


def cutting(patch, at: int, made: bool) -> list[Cut]:
    """From now on page blobs are opened whose n-th write is the last."""
    real, cuts = pageblob.PageBlob.of.__func__, []

    def of(cls, store, name):
        blob = real(cls, store, name)
        blob.blob = Cut(blob.blob, at, made=made)
        cuts.append(blob.blob)
        return blob

    patch.setattr(pageblob.PageBlob, "of", classmethod(of))
    return cuts


class Cut:
    """A client of the SDK whose n-th write is the last: it is not made, or made and not answered."""

    def __init__(self, blob, at: int, *, made: bool) -> None:
        self.blob, self.at, self.made, self.count = blob, at, made, 0

    def __getattr__(self, name: str):
        found = getattr(self.blob, name)
        if name not in WRITES:
            return found

        def call(*given, **more):
            self.count += 1
            if self.count == self.at and self.made:
                found(*given, **more)
            if self.count >= self.at:
                raise errors.Cancelled("cut short")
            return found(*given, **more)

        return call
