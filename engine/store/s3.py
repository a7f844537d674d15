"""Stores that speak S3, by obstore. An etag there is a digest of the content; fences are objects (store/leases.py)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from obstore import exceptions
from obstore.store import S3Store as Client

from secondsite.engine import errors
from secondsite.engine.store.base import (
    Absent,
    Changed,
    Content,
    Denied,
    Entry,
    Exists,
    Failed,
    Fence,
    Rejected,
    check_name,
)
from secondsite.engine.store.leases import FencedStore
from secondsite.engine.store.paced import Pace

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,80})</Code>")
_AGAIN = {408, 429, 500, 502, 503, 504}
_BUSY = {408, 429, 503, 504}


def client(bucket: str, prefix: str, timeout: float, **settings: Any) -> Client:
    """A client without retries of its own; what `settings` do not say is asked of the environment (AWS_…)."""
    options: Any = {"timeout": f"{timeout:g}s", "connect_timeout": f"{timeout:g}s"}
    if str(settings.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL", "")).startswith("http://"):
        options["allow_http"] = "true"
    return Client(
        bucket, prefix=prefix or None, client_options=options, retry_config={"max_retries": 0}, **settings
    )


class S3Store(FencedStore):
    """Objects below the prefix that the client was made with. New ones keep to a `pace`, each as a whole."""

    def __init__(self, client: Client, label: str, pace: Pace | None = None) -> None:
        self.client, self.label, self.pace = client, label, pace

    def now(self) -> float:
        """By an object that is made for it: no answer that obstore hands on says when it was given."""
        name = f"clock-{os.urandom(8).hex()}"
        self.put_if_absent(name, b"")
        try:
            found = self.stat(name)
            if found is None:
                raise Failed("an object that was just made is not there", path=self.path(name))
            return found.modified
        finally:
            self.delete(name)

    def put_if_absent(
        self, name: str, data: bytes | bytearray | memoryview, metadata: Mapping[str, str] | None = None
    ) -> str:
        if self.pace is not None:
            self.pace.before(memoryview(data).nbytes)
        return self._put(name, bytes(data), "create", metadata)

    def replace(
        self, name: str, data: bytes, etag: str, metadata: Mapping[str, str] | None = None, fence: Fence | None = None
    ) -> str:
        self.guard(fence)
        return self._put(name, data, {"e_tag": etag}, metadata)

    def _put(self, name: str, data: bytes, mode: Any, metadata: Mapping[str, str] | None) -> str:
        try:
            # One request, since only those have conditions.
            told: Any = dict(metadata or {})
            made = self.client.put(check_name(name), data, attributes=told, mode=mode, use_multipart=False)
        except FileNotFoundError as error:
            if isinstance(mode, dict) and "NoSuchBucket" not in str(error):
                raise Changed("it is gone", path=self.path(name)) from None
            raise self._told(error, name) from None
        except Exception as error:
            raise self._told(error, name) from None
        return str(made["e_tag"])

    def get(self, name: str, start: int = 0, length: int | None = None) -> Content:
        if length == 0:
            return self._nothing(name)
        options: Any = {}
        if start or length is not None:
            options["range"] = {"offset": start} if length is None else (start, start + length)
        try:
            found = self.client.get(check_name(name), options=options)
            data = bytes(found.bytes())
        except Exception as error:
            if _status(error) == 416:
                return self._nothing(name)
            raise self._told(error, name) from None
        told = {key.lower(): value for key, value in found.attributes.items() if "-" not in key}
        return Content(data, int(found.meta["size"]), str(found.meta["e_tag"]), told)

    def _nothing(self, name: str) -> Content:
        found = self.stat(name)
        if found is None:
            raise Absent("there is no such object", path=self.path(name))
        return Content(b"", found.size, found.etag)

    def stat(self, name: str) -> Entry | None:
        try:
            return _entry(self.client.head(check_name(name)))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._told(error, name) from None

    def list(self, folder: str = "") -> Iterator[Entry]:
        try:
            for part in self.client.list(folder or None):
                yield from map(_entry, part)
        except Exception as error:
            raise self._told(error, folder) from None

    def delete(self, name: str) -> None:
        try:
            self.client.delete(check_name(name))
        except FileNotFoundError:
            pass
        except Exception as error:
            raise self._told(error, name) from None

    def close(self) -> None:
        return None

    def _told(self, error: Exception, name: str) -> Exception:
        """The error of ours that says the same, without the words of a library, which may hold anything."""
        path, status, code = self.path(name), _status(error), _code(error)
        if isinstance(error, errors.Error):
            return error
        if isinstance(error, exceptions.AlreadyExistsError):
            return Exists("it is there already", path=path)
        if isinstance(error, exceptions.PreconditionError):
            return Changed("somebody else changed it", path=path)
        if code == "NoSuchBucket":
            return Denied("there is no such bucket", path=path)
        if isinstance(error, FileNotFoundError):
            return Absent("there is no such object", path=path)
        if status in (401, 403) or isinstance(
            error, (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
        ):
            return Denied(f"the store refuses the credentials: {code or status}", path=path)
        if status is not None and status not in _AGAIN:
            return Rejected(f"{status} {code}".rstrip(), path=path)
        if status is None:
            late = "timed out" in str(error) or "timeout" in str(error).lower()
            return Failed("no answer" + (": timed out" if late else ""), path=path, busy=late)
        return Failed(f"{status} {code}".rstrip(), path=path, busy=status in _BUSY)


def _entry(found: Any) -> Entry:
    return Entry(str(found["path"]), int(found["size"]), str(found["e_tag"]), found["last_modified"].timestamp())


def _status(error: Exception) -> int | None:
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def _code(error: Exception) -> str:
    found = _CODE.search(str(error))
    return found[1] if found else ""
