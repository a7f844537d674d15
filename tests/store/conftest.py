"""Stores of every kind, each empty: `store` runs a test over all of them."""

from __future__ import annotations

import itertools
import logging
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from azurite.emulator import Azurite, running

from secondsite.engine.store.base import Store
from secondsite.engine.store.memory import MemoryStore

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    with running() as emulator:
        yield emulator


@pytest.fixture(scope="session")
def azurite_https() -> Iterator[Azurite]:
    with running(https=True) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """The URL of a server that speaks S3, with the bucket `bucket`."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    request = urllib.request.Request(f"http://{host}:{port}/bucket", method="PUT")
    urllib.request.urlopen(request, timeout=10).close()
    yield f"http://{host}:{port}"
    server.stop()


def azure_store(emulator: Azurite, prefix: str | None = None, timeout: float = 20, port: int | None = None) -> Store:
    """An empty store in the container `tests`, reached at another `port` where one is given."""
    from azure.core.exceptions import ResourceExistsError
    from azure.storage.blob import ContainerClient

    from secondsite.engine.store.azure import AzureStore, client_settings

    more = {"connection_verify": str(emulator.ca)} if emulator.ca else {}
    text = emulator.connection_string
    try:
        ContainerClient.from_connection_string(text, "tests", **client_settings(timeout), **more).create_container()
    except ResourceExistsError:
        pass
    text = text.replace(f":{emulator.port}/", f":{port or emulator.port}/")
    client = ContainerClient.from_connection_string(text, "tests", **client_settings(timeout), **more)
    return AzureStore(client, prefix or f"t{next(_numbers)}/", "azure://tests")


def s3_store(url: str, prefix: str | None = None, timeout: float = 20) -> Store:
    from secondsite.engine.store.s3 import S3Store, client

    made = client(
        "bucket", prefix or f"t{next(_numbers)}", timeout, endpoint=url, access_key_id="test", secret_access_key="test",
        region="us-east-1", virtual_hosted_style_request=False,
    )  # fmt: skip
    return S3Store(made, "s3://bucket")


@pytest.fixture(
    params=[
        "memory",
        pytest.param("azure", marks=pytest.mark.needs("azurite")),
        "s3",
    ]
)
def stores(request: pytest.FixtureRequest) -> Callable[[], Store]:
    """Makes stores of one kind over the same empty place."""
    prefix = f"t{next(_numbers)}"
    if request.param == "memory":
        made = MemoryStore()
        return lambda: made
    if request.param == "s3":
        url = request.getfixturevalue("moto")
        return lambda: s3_store(url, prefix)
    emulator = request.getfixturevalue("azurite")
    return lambda: azure_store(emulator, prefix + "/")


@pytest.fixture
def store(stores: Callable[[], Store]) -> Iterator[Store]:
    with stores() as made:
        yield made
