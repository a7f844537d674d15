"""A replica in a folder and the blob that a point of it becomes; and a client that is cut short at its n-th write."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from store.storekit import azure_store, numbers

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.images import open_image

MIB = 1 << 20
WRITES = ("create_page_blob", "set_blob_metadata", "upload_page", "clear_page", "resize_blob")


class Lab:
    """A disk in a file, its replica, and `url`, a blob that is not there yet."""

    def __init__(self, emulator, folder: Path, data: bytes = b"") -> None:
        self.folder, self.disk, self.replica = folder, folder / "disk.raw", folder / "replica"
        self.container = azure_store(emulator).client
        self.points: list[bytes] = []
        self.anew()
        if data:
            self.cycle(data)

    def anew(self) -> None:
        """Another blob."""
        name = f"d{next(numbers)}/disk.vhd"
        self.url, self.blob = f"azure://tests/{name}", self.container.get_blob_client(name)

    def cycle(self, data: bytes) -> None:
        """One more point."""
        self.disk.write_bytes(data)
        os.utime(self.disk, ns=(len(self.points) * 10**9,) * 2)
        engine.replicate(self.disk, self.replica)
        self.points.append(data)

    def materialize(self, **more):
        return engine.materialize(self.replica, self.url, **more)

    def holds(self, data: bytes) -> bool:
        """Is the blob a whole fixed VHD with this disk, and zeros behind it?"""
        found, said = self.blob.download_blob().readall(), self.blob.get_blob_properties()
        path = self.folder / "downloaded.vhd"
        path.write_bytes(found)
        with open_image(path, format="vhd") as image:
            assert image.size == max(-(-len(data) // MIB), 1) * MIB == said.size - 512
            disk = bytes(image.read(0, image.size))
        assert said.metadata["secondsite_state"] == "whole" and said.lease.status == "unlocked"
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
