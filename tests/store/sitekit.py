"""A disk, its replica in the emulator by URL, and other hosts that may write into it."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from store.storekit import azure_store, numbers, s3_store

from secondsite import engine
from secondsite.engine.store.base import Store
from secondsite.engine.store.folder import FolderStore

MIB = 1 << 20


class Site:
    """`points` is what each point must be. `state` is this host's folder of what it knows."""

    def __init__(self, emulator: Any, folder: Path) -> None:
        name = f"v{next(numbers)}"
        self._begin(folder, f"azure://tests/{name}", azure_store(emulator, name + "/"))

    def _begin(self, folder: Path, url: str, store: Store) -> None:
        self.folder, self.url, self.disk, self.store = folder, url, folder / "disk.raw", store
        self.state = folder / "state"
        self.points: list[bytes] = []
        self.data = bytearray(random.Random(4).randbytes(9 * MIB + 99) + bytes(MIB))

    @property
    def again(self) -> dict[str, Any]:
        """Attempts are made again soon."""
        return {"link": engine.Link(retries=3, delays=(0.1,))}

    def write(self, length: int = 5000) -> None:
        """Other bytes on the disk, each time elsewhere."""
        at = (len(self.points) + 1) % 9 * MIB
        self.data[at : at + length] = os.urandom(length)
        self.disk.write_bytes(self.data)
        os.utime(self.disk, ns=(time.time_ns(),) * 2)

    def replicate(self, **more: Any) -> engine.Replicated:
        given: dict[str, Any] = {"state": self.state, "tracker": "scan", **more}
        return engine.replicate(self.disk, self.url, **given)

    def cycle(self, **more: Any) -> engine.Replicated:
        """One more point."""
        self.write()
        done = self.replicate(**{"block_size": None if self.points else 4096, **more})
        self.points.append(bytes(self.data))
        return done

    def restored(self, at: str = "latest") -> bytes:
        target = self.folder / f"restored-{time.monotonic_ns()}.raw"
        engine.restore(self.url, target, at=at)
        return target.read_bytes()


class OtherSite(Site):
    """The same in a store that speaks S3, or in a folder."""

    def __init__(self, folder: Path, url: str, store: Store) -> None:
        self._begin(folder, url, store)

    def replicate(self, **more: Any) -> engine.Replicated:
        return super().replicate(**{**({} if "://" in self.url else {"history": "log"}), **more})


def site_of(request: pytest.FixtureRequest, folder: Path) -> Site:
    """Of the kind that a fixture has as its parameter: azure, s3 or folder."""
    if request.param == "azure":
        return Site(request.getfixturevalue("opens_azure"), folder)
    if request.param == "folder":
        return OtherSite(folder, str(folder / "log"), FolderStore(str(folder / "log")))
    server, patch = request.getfixturevalue("moto"), request.getfixturevalue("monkeypatch")
    for name, value in {"ENDPOINT_URL": server, "ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test"}.items():
        patch.setenv(f"AWS_{name}", value)
    patch.setenv("AWS_REGION", "us-east-1")
    prefix = f"v{next(numbers)}"
    return OtherSite(folder, f"s3://bucket/{prefix}", s3_store(server, prefix))
