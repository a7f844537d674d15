"""Makes stores over the emulator and the S3 server, each in an empty place."""

from __future__ import annotations

import itertools
import logging
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from azurite.emulator import Azurite

from secondsite.engine.store.base import Store

# conftest.py is imported by pytest under a name of its own: what must be there once stands here.
numbers = itertools.count(1)


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
    return AzureStore(client, prefix or f"t{next(numbers)}/", "azure://tests")


def s3_store(url: str, prefix: str | None = None, timeout: float = 20) -> Store:
    from secondsite.engine.store.s3 import S3Store, client

    made = client(
        "bucket", prefix or f"t{next(numbers)}", timeout, endpoint=url, access_key_id="test", secret_access_key="test",
        region="us-east-1", virtual_hosted_style_request=False,
    )  # fmt: skip
    return S3Store(made, "s3://bucket")


@contextmanager
def s3_server() -> Iterator[str]:
    """The URL of a server that speaks S3, with the bucket `bucket`, for a block."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    assert server._server is not None
    server._server.app = one_at_a_time(server._server.app)
    try:
        host, port = server.get_host_and_port()
        request = urllib.request.Request(f"http://{host}:{port}/bucket", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def one_at_a_time(application: Any) -> Any:
    """The server looks at a condition and then writes; in between another of its threads must not write."""
    lock = threading.Lock()

    def answer(environ: dict[str, Any], start: Any) -> Any:
        if not {"HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"} & environ.keys():
            return application(environ, start)
        with lock:
            return application(environ, start)

    return answer
