"""Azure Blob Storage: block blobs of one container, by the SDK, whose own retries are off (store/retry.py has ours).

`API_VERSION` is pinned: the SDK speaks a newer one than the emulator knows, and the same pin is right for the service.
A small object is put in one request. A larger one is staged block by block and then named in one list: what was staged
before a failure is not sent again. Each carries its MD5, which the service checks, and blocks are called by it.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobBlock, BlobClient, BlobLeaseClient, ContainerClient

from secondsite.engine.store import azurefail
from secondsite.engine.store.account import Account
from secondsite.engine.store.base import (
    MAX_FENCE,
    Absent,
    Content,
    Entry,
    Failed,
    Fence,
    Fenced,
    Held,
    Rejected,
    Store,
    check_name,
    check_seconds,
    new_holder,
)
from secondsite.engine.store.paced import SMALL_BYTES, Body, Pace
from secondsite.engine.units import MIB

API_VERSION = "2026-06-06"
# The documented limits of a block blob, of which the emulator enforces none: blocks, bytes of one and of one request.
MAX_BLOCKS = 50_000
MAX_BLOCK_BYTES, MAX_PUT_BYTES = 4000 * MIB, 5000 * MIB
# What is put in one request, a segment of a log above all; a fault costs at most this that is sent twice, or a block of
# what is larger. In blocks of 4 MiB and a list of them 8 MiB took three requests and 8 ms of processor time, so 3 ms.
PUT_BYTES = 16 * MIB
BLOCK_BYTES = 8 * MIB
# One request for all that a reader asks for at once; the SDK would split what is longer.
_GET_BYTES = 64 * MIB
# urllib3 tells the whole URL of each request, which a SAS is part of; what the SDK warns of is an error of ours.
for _name in ("urllib3", "azure"):
    logging.getLogger(_name).setLevel(logging.ERROR)


def client_settings(timeout: float) -> dict[str, Any]:
    """What every client of ours is made with. `timeout` seconds without a byte end a request."""
    return {
        "api_version": API_VERSION,
        "retry_total": 0,
        "connection_timeout": timeout,
        "read_timeout": timeout,
        "max_single_put_size": PUT_BYTES,
        "max_single_get_size": _GET_BYTES,
        "max_chunk_get_size": _GET_BYTES,
    }


class AzureStore(Store):
    """Blobs below `prefix` in a container; `client` was made with `client_settings`. New objects keep to a `pace`."""

    def __init__(self, client: ContainerClient, prefix: str, label: str, pace: Pace | None = None) -> None:
        self.client, self.prefix, self.label, self.pace = client, prefix, label, pace
        self._staged: dict[str, set[str]] = {}
        self._lock = threading.Lock()

    def blob(self, name: str) -> BlobClient:
        """The SDK's client of one blob."""
        return self.client.get_blob_client(self.prefix + check_name(name))

    def put_if_absent(
        self, name: str, data: bytes | bytearray | memoryview, metadata: Mapping[str, str] | None = None
    ) -> str:
        blob, view, meta = self.blob(name), memoryview(data), dict(metadata or {})
        if self.pace is not None and len(view) <= SMALL_BYTES:
            self.pace.before(len(view))
        if len(view) <= PUT_BYTES:
            return self._upload(name, view, meta, exists=True, pace=self.pace, overwrite=False)
        with azurefail.told(self.path(name), exists=True):
            parts = [view[at : at + BLOCK_BYTES] for at in range(0, len(view), BLOCK_BYTES)]
            if len(parts) > MAX_BLOCKS:
                raise Rejected(f"a blob has at most {MAX_BLOCKS} blocks", path=self.path(name))
            blocks = [self._stage(blob, name, number, part) for number, part in enumerate(parts)]
            return self._commit(blob, name, blocks, meta)

    def _commit(self, blob: BlobClient, name: str, blocks: list[BlobBlock], metadata: dict[str, str]) -> str:
        try:
            made = blob.commit_block_list(blocks, metadata=metadata, match_condition=MatchConditions.IfMissing)
        except HttpResponseError as error:
            if error.status_code is not None and error.status_code < 500:
                self._forget(name)  # the service says that they are gone, or that the blob is there
            raise
        self._forget(name)
        return str(made["etag"])

    def _forget(self, name: str) -> None:
        with self._lock:
            self._staged.pop(name, None)

    def _stage(self, blob: BlobClient, name: str, number: int, part: memoryview) -> BlobBlock:
        if len(part) > MAX_BLOCK_BYTES:
            raise Rejected(f"a block has at most {MAX_BLOCK_BYTES} bytes", path=self.path(name))
        digest = hashlib.md5(part, usedforsecurity=False).digest()
        called = base64.b64encode(number.to_bytes(4, "big") + digest).decode()
        with self._lock:
            staged = called in self._staged.get(name, ())
        if not staged:
            blob.stage_block(called, b"", length=0, headers=_md5(digest), raw_request_hook=_body(part, self.pace))
            with self._lock:
                self._staged.setdefault(name, set()).add(called)
        return BlobBlock(block_id=called)

    def _upload(
        self, name: str, data: bytes | memoryview, metadata: dict[str, str], *, exists: bool = False,
        pace: Pace | None = None, **how: Any,
    ) -> str:  # fmt: skip
        if len(data) > MAX_PUT_BYTES:
            raise Rejected(f"a request has at most {MAX_PUT_BYTES} bytes", path=self.path(name))
        digest = hashlib.md5(data, usedforsecurity=False).digest()
        with azurefail.told(self.path(name), exists=exists):
            blob = self.blob(name)
            said = blob.upload_blob(
                b"", length=0, metadata=metadata, headers=_md5(digest), raw_request_hook=_body(data, pace), **how
            )
            return str(said["etag"])

    def replace(
        self, name: str, data: bytes, etag: str, metadata: Mapping[str, str] | None = None, fence: Fence | None = None
    ) -> str:
        how: dict[str, Any] = {"overwrite": True, "etag": etag, "match_condition": MatchConditions.IfNotModified}
        if isinstance(fence, _Lease):
            how["lease"] = fence.lease
        return self._upload(name, data, dict(metadata or {}), **how)

    def get(self, name: str, start: int = 0, length: int | None = None) -> Content:
        if length == 0:
            return self._nothing(name)
        with azurefail.told(self.path(name)):
            try:
                found = self.blob(name).download_blob(
                    start, length, max_concurrency=1, raw_request_hook=Once(self.path(name))
                )
                data = found.readall()
            except HttpResponseError as error:
                if error.status_code != 416:
                    raise
                return self._nothing(name)
            properties = found.properties
            return Content(data, _size(properties), str(properties.etag), properties.metadata or {})

    def _nothing(self, name: str) -> Content:
        """Of a range in which nothing lies."""
        with azurefail.told(self.path(name)):
            properties = self.blob(name).get_blob_properties()
            return Content(b"", int(properties.size), str(properties.etag), properties.metadata or {})

    def stat(self, name: str) -> Entry | None:
        try:
            with azurefail.told(self.path(name)):
                found = self.blob(name).get_blob_properties()
        except Absent:
            return None
        return Entry(name, int(found.size), str(found.etag), found.last_modified.timestamp())

    def list(self, folder: str = "") -> Iterator[Entry]:
        with azurefail.told(self.path(folder)):
            for found in self.client.list_blobs(name_starts_with=self.prefix + folder):
                name = found.name[len(self.prefix) :]
                yield Entry(name, int(found.size), _quoted(str(found.etag)), found.last_modified.timestamp())

    def delete(self, name: str) -> None:
        try:
            with azurefail.told(self.path(name)):
                self.blob(name).delete_blob()
        except Absent:
            pass

    def fence(self, name: str, seconds: int = MAX_FENCE, *, take: bool = False, holder: str | None = None) -> Fence:
        made = _Lease(self, name, check_seconds(seconds), holder or new_holder())
        try:
            made.acquire()
        except Held:
            if not take:
                raise
            made.seize()
        return made

    def account(self) -> tuple[Account, float]:
        """What the account is, and how many seconds this host's clock is ahead of the service's. Raises Denied."""
        with azurefail.told(self.label):
            said: dict[str, Any] = dict(self.client.get_account_information())
        found = Account(str(said["sku_name"]), str(said["account_kind"]), said.get("is_hns_enabled"))
        return found, time.time() - said["date"].timestamp()

    def close(self) -> None:
        self.client.close()


class _Lease(Fence):
    """A lease of the service on the blob itself."""

    def __init__(self, store: AzureStore, name: str, seconds: int, holder: str) -> None:
        self.store, self.name, self.seconds = store, name, seconds
        self.lease = BlobLeaseClient(store.blob(name), holder)

    def acquire(self) -> None:
        with azurefail.told(self.store.path(self.name)):
            self.lease.acquire(lease_duration=self.seconds)

    def seize(self) -> None:
        with azurefail.told(self.store.path(self.name)):
            self.lease.break_lease(lease_break_period=0)
        self.acquire()

    def renew(self) -> None:
        with azurefail.told(self.store.path(self.name), held=Fenced):
            self.lease.renew()

    def release(self) -> None:
        if self.lease.id is None:  # the SDK's sign for released
            return
        try:
            with azurefail.told(self.store.path(self.name), held=Fenced):
                self.lease.release()
        except (Fenced, Absent):
            pass


class Once:
    """The SDK reads a body that broke off again by itself and says nothing: this is where the second time ends."""

    def __init__(self, path: str) -> None:
        self.path, self.asked = path, 0

    def __call__(self, request: object) -> None:
        self.asked += 1
        if self.asked > 1:
            raise Failed("the answer broke off", path=self.path)


def _body(data: bytes | memoryview, pace: Pace | None = None) -> Callable[[Any], None]:
    """Puts these bytes into a request that was made without any: the SDK takes views of memory for something else, and
    would have them copied.
    """

    def put(asked: Any) -> None:
        asked.http_request.data = data if pace is None or len(data) <= SMALL_BYTES else Body(data, pace)
        asked.http_request.headers["Content-Length"] = str(len(data))

    return put


def _md5(digest: bytes) -> dict[str, str]:
    return {"Content-MD5": base64.b64encode(digest).decode()}


def _size(properties: Any) -> int:
    """Of the whole blob: the SDK's `size` is of what was asked for."""
    said = str(properties.content_range or "")
    return int(said.rpartition("/")[2]) if "/" in said else int(properties.size)


def _quoted(etag: str) -> str:
    return etag if etag.startswith('"') else f'"{etag}"'
