"""A store by its URL. What speaks to a service is loaded here, when it is needed: Azure's SDK takes 0.4 s."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from secondsite.engine import errors
from secondsite.engine.store import credentials, place
from secondsite.engine.store.base import Store
from secondsite.engine.store.retry import Limits, Retry, Retrying

# A request is given up after so many seconds without a byte. A stalled one costs this and is then made again.
TIMEOUT = 30.0


def open_store(
    url: str, *, told: Callable[[Retry], object] = lambda retry: None, cancel: Callable[[], bool] = lambda: False,
    limits: Limits | None = None, timeout: float = TIMEOUT,
) -> Retrying:  # fmt: skip
    """`told` hears of each call that is made again. Raises Usage for what is no URL, Refused where nothing opens it."""
    where = place.parse(url)
    try:
        made = _azure(where, timeout) if where.scheme == "azure" else _s3(where, timeout)
    except ImportError as error:
        raise errors.Refused(f"needs {error.name}: pip install 'secondsite[{where.scheme}]'", path=str(where)) from None
    return Retrying(made, limits=limits, told=told, cancel=cancel)


def _azure(where: place.Place, timeout: float) -> Store:
    from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
    from azure.storage.blob import ContainerClient

    from secondsite.engine.store.azure import AzureStore, client_settings

    found = credentials.azure(where.container)
    opens: Any
    if found.key:
        opens = AzureNamedKeyCredential(found.account, found.key)
    elif found.sas:
        opens = AzureSasCredential(found.sas)
    else:
        from azure.identity import DefaultAzureCredential

        opens = DefaultAzureCredential()
    settings = client_settings(timeout)
    if found.ca:
        settings["connection_verify"] = found.ca
    client = ContainerClient(found.endpoint, where.container, opens, **settings)
    return AzureStore(client, where.prefix + "/", str(where))


def _s3(where: place.Place, timeout: float) -> Store:
    from secondsite.engine.store.s3 import S3Store, client

    settings: dict[str, Any] = dict(credentials.s3(where.container).settings())
    if settings.get("endpoint"):
        settings["virtual_hosted_style_request"] = False  # what is not Amazon's has buckets in the path
    return S3Store(client(where.container, where.prefix, timeout, **settings), str(where))
