"""A store by its URL. What speaks to a service is loaded here, when it is needed: Azure's SDK takes 0.4 s."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from secondsite.engine import errors
from secondsite.engine.remote.home import Home
from secondsite.engine.remote.link.schedule import Throttle
from secondsite.engine.remote.url import is_remote
from secondsite.engine.remote.url import parse as parse_remote
from secondsite.engine.store import credentials, place, unlocking
from secondsite.engine.store.base import Store
from secondsite.engine.store.paced import Pace
from secondsite.engine.store.retry import Limits, Retry, Retrying

if TYPE_CHECKING:
    from secondsite.engine.store.pageblob import PageBlob

# A request is given up after so many seconds without a byte. A stalled one costs this and is then made again.
TIMEOUT = 30.0


def open_replica(
    url: str, *, told: Callable[[Retry], object] = lambda retry: None, cancel: Callable[[], bool] = lambda: False,
    limits: Limits | None = None, timeout: float = TIMEOUT, encrypt: bool = False,
    state: str | os.PathLike[str] | None = None, pace: Throttle | None = None,
) -> Store:  # fmt: skip
    """What the log of a replica lies in, sealed or not. `encrypt`: a replica that is made there is to be encrypted, see
    unlocking.py. Raises as `open_store`, and Locked.
    """
    below = open_store(url, told=told, cancel=cancel, limits=limits, timeout=timeout, state=state, pace=pace)
    return unlocking.unlocked(below, encrypt=encrypt)


def open_store(
    url: str, *, told: Callable[[Retry], object] = lambda retry: None, cancel: Callable[[], bool] = lambda: False,
    limits: Limits | None = None, timeout: float = TIMEOUT, state: str | os.PathLike[str] | None = None,
    pace: Throttle | None = None,
) -> Retrying:  # fmt: skip
    """The objects as they are, sealed or not. `told` hears of each call that is made again; `state` is the folder of
    what this host knows of agents; `pace` is kept by new objects. What is no URL is a folder. Raises Usage for what is
    none of a store, Refused where nothing opens it.
    """
    made: Store
    kept = Pace(pace, cancel) if pace is not None else None
    if is_remote(url):
        from secondsite.engine.remote.far.store import RemoteStore

        made = RemoteStore(parse_remote(url), Home.of(state), cancel=cancel, pace=kept)
    elif "://" not in url:
        from secondsite.engine.store.folder import FolderStore

        made = FolderStore(url, pace=kept)
    else:
        where = place.parse(url)
        with _needs(where):
            made = _azure(where, timeout, kept) if where.scheme == "azure" else _s3(where, timeout, kept)
    return Retrying(made, limits=limits, told=told, cancel=cancel)


@contextmanager
def open_page_blob(
    url: str, *, told: Callable[[Retry], object] = lambda retry: None, cancel: Callable[[], bool] = lambda: False,
    limits: Limits | None = None, timeout: float = TIMEOUT,
) -> Iterator[PageBlob]:  # fmt: skip
    """The blob azure://CONTAINER/NAME.vhd, which need not be there. Raises as `open_store`."""
    where = place.parse(url)
    folder, _, name = where.prefix.rpartition("/")
    if where.scheme != "azure" or not name.endswith(".vhd"):
        raise errors.Usage(f"{where} is no disk of Azure; the form is azure://CONTAINER/NAME.vhd")
    with _needs(where):
        from secondsite.engine.store.pageblob import PageBlob

        made = _azure(replace(where, prefix=folder), timeout)
    with Retrying(made, limits=limits, told=told, cancel=cancel) as store:
        yield PageBlob.of(store, name)


@contextmanager
def _needs(where: place.Place) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise errors.Refused(f"needs {error.name}: pip install 'secondsite[{where.scheme}]'", path=str(where)) from None


def _azure(where: place.Place, timeout: float, pace: Pace | None = None) -> Store:
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
        settings["connection_verify"] = credentials.check_ca(found.ca)
    client = ContainerClient(found.endpoint, where.container, opens, **settings)
    return AzureStore(client, where.prefix + "/" if where.prefix else "", str(where).rstrip("/"), pace)


def _s3(where: place.Place, timeout: float, pace: Pace | None) -> Store:
    from secondsite.engine.store.s3 import S3Store, client

    settings: dict[str, Any] = dict(credentials.s3(where.container).settings())
    if settings.get("endpoint"):
        settings["virtual_hosted_style_request"] = False  # what is not Amazon's has buckets in the path
    return S3Store(client(where.container, where.prefix, timeout, **settings), str(where), pace)
