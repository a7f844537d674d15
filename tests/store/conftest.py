"""Stores of every kind, each empty: `store` runs a test over all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from azurite.emulator import Azurite, configure, running
from remote.hosting import Site, site
from store.storekit import azure_store, numbers, s3_server, s3_store

from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.remote.far.store import RemoteStore
from secondsite.engine.remote.home import Home
from secondsite.engine.remote.url import Remote
from secondsite.engine.store.base import Store
from secondsite.engine.store.folder import FolderStore
from secondsite.engine.store.memory import MemoryStore
from secondsite.engine.store.sealed import SealedStore


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    with running() as emulator:
        yield emulator


@pytest.fixture(scope="session")
def azurite_https() -> Iterator[Azurite]:
    with running(https=True) as emulator:
        yield emulator


@pytest.fixture
def opens(azurite: Azurite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of this process opens the emulator, and nothing of the machine's does."""
    configure(azurite, tmp_path, monkeypatch)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("SECONDSITE_STATE", str(tmp_path / "state"))


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """The URL of a server that speaks S3, with the bucket `bucket`."""
    with s3_server() as url:
        yield url


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Path]]:
    """An agent on the loopback, and a host that may do everything with its replicas t1, t2 and so on."""
    with site(tmp_path_factory.mktemp("agent")) as there:
        yield there, there.host("host", *(f"t{number}" for number in range(1, 900)), allow="send,read,administer")


@pytest.fixture(
    params=[
        "memory",
        "folder",
        "folder-memory",
        "agent",
        pytest.param("azure", marks=pytest.mark.needs("azurite")),
        "s3",
        "sealed memory",
        "sealed folder",
        pytest.param("sealed azure", marks=pytest.mark.needs("azurite")),
        "sealed s3",
    ]
)
def stores(request: pytest.FixtureRequest) -> Callable[[], Store]:
    """Makes stores of one kind over the same empty place; the sealed ones have the same key."""
    sealed, _, kind = str(request.param).rpartition(" ")
    make = _stores(request, kind)
    data_key = os.urandom(32)
    return (lambda: SealedStore(make(), data_key)) if sealed else make


def _stores(request: pytest.FixtureRequest, kind: str) -> Callable[[], Store]:
    prefix = f"t{next(numbers)}"
    if kind == "memory":
        made = MemoryStore()
        return lambda: made
    if kind == "s3":
        url = request.getfixturevalue("moto")
        return lambda: s3_store(url, prefix)
    if kind == "folder":
        root = str(request.getfixturevalue("tmp_path") / "store")
        return lambda: FolderStore(root)
    if kind == "folder-memory":
        files = MemoryFiles()
        return lambda: FolderStore("/below/store", files)
    if request.param == "agent":
        there, state = request.getfixturevalue("agent")
        return lambda: RemoteStore(Remote("127.0.0.1", there.port, prefix), Home.of(state))
    emulator = request.getfixturevalue("azurite")
    return lambda: azure_store(emulator, prefix + "/")


@pytest.fixture
def store(stores: Callable[[], Store]) -> Iterator[Store]:
    with stores() as made:
        yield made


@pytest.fixture
def opens_azure(azurite: Azurite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Azurite:
    """The emulator, reached as a user reaches it: by URL, and what the environment says."""
    configure(azurite, tmp_path, monkeypatch)
    return azurite
