"""What opens a store: from the environment, by the names that Azure's own tools use, or from a file that only we read.

Environment: AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN
or neither (then azure-identity looks for a token), and AZURE_STORAGE_SERVICE_ENDPOINT where it is not the public cloud.
Where it says nothing, `stores.toml` in the user's folder of configuration does, or the file SECONDSITE_STORES names:

    [azure]                     # all containers; [azure.NAME] is for one, and replaces this
    account = "name"
    key = "…"                   # or sas = "…", or connection_string = "…", or none: a token
    [s3]
    endpoint = "https://…"      # what is left out is looked for in AWS_…
    access_key_id = "…"
    secret_access_key = "…"

No error, log line or repr holds a secret.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from secondsite.engine import errors

T = TypeVar("T")
_MAX_FILE = 1 << 20
_LOOPBACK = ("127.", "localhost", "[::1]")


class Azure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to reach containers of an account. One of `key`, `sas` and neither (a token), or all in `connection_string`.
    `ca` is a file with the certificates to trust besides the system's.
    """

    account: str = ""
    key: str = ""
    sas: str = ""
    connection_string: str = ""
    endpoint: str = ""
    ca: str = ""

    def __repr__(self) -> str:
        return f"Azure(account={self.account!r})"


class S3(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What obstore is to be told; what is empty it looks for in the environment."""

    endpoint: str = ""
    region: str = ""
    access_key_id: str = ""
    secret_access_key: str = ""
    session_token: str = ""

    def __repr__(self) -> str:
        return f"S3(endpoint={self.endpoint!r})"

    def settings(self) -> dict[str, str]:
        return {name: value for name in self.__struct_fields__ if (value := getattr(self, name))}


def azure(container: str, environment: Mapping[str, str] | None = None) -> Azure:
    """For a container, checked, and with the connection string taken apart. Raises Usage or Refused."""
    told = os.environ if environment is None else environment
    found = Azure(
        account=told.get("AZURE_STORAGE_ACCOUNT", ""), key=told.get("AZURE_STORAGE_KEY", ""),
        sas=told.get("AZURE_STORAGE_SAS_TOKEN", ""),
        connection_string=told.get("AZURE_STORAGE_CONNECTION_STRING", ""),
        endpoint=told.get("AZURE_STORAGE_SERVICE_ENDPOINT", ""),
    )  # fmt: skip
    place = _place(told)
    where = "the environment"
    if found == Azure():
        found, where = _from_file(place, "azure", container, Azure) or found, str(place)
    if found == Azure():
        raise errors.Refused(
            "nothing says how to open it: set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT with "
            f"AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, or write {place}",
            path=f"azure://{container}",
        )
    return _checked(_apart(found, where), where)


def s3(bucket: str, environment: Mapping[str, str] | None = None) -> S3:
    """For a bucket: what the file says of it."""
    place = _place(os.environ if environment is None else environment)
    return _from_file(place, "s3", bucket, S3) or S3()


def check_ca(path: str) -> str:
    """The file, if certificates to trust can be read from it: a request would say only that it got no answer. Raises
    Refused.
    """
    import ssl  # 10 ms, which most commands need not pay

    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        raise errors.Refused("holds no certificates to trust", path=path) from None
    except OSError as error:
        raise errors.Refused(f"the certificates to trust cannot be read: {error.strerror}", path=path) from None
    return path


def _place(environment: Mapping[str, str]) -> Path:
    given = environment.get("SECONDSITE_STORES")
    base = environment.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(given) if given else Path(base, "secondsite", "stores.toml")


def _from_file(place: Path, kind: str, name: str, shape: type[T]) -> T | None:
    text = read_private(place)
    if text is None:
        return None
    try:
        tables = msgspec.toml.decode(text, type=dict[str, dict[str, object]])
        table = dict(tables.get(kind, {}))
        own = table.get(name)
        if not isinstance(own, dict):
            own = {key: value for key, value in table.items() if not isinstance(value, dict)}
        return msgspec.convert(own, shape) if own else None
    except (msgspec.MsgspecError, ValueError) as error:
        # Where in the file, and no word of what stands there.
        raise errors.Usage(f"does not hold what it should in [{kind}]: {error}", path=str(place)) from None


def read_private(place: Path) -> bytes | None:
    """A file that only we and root can read; None where there is none. Raises Refused, Unreachable."""
    try:
        with place.open("rb") as file:
            held = os.fstat(file.fileno())
            if stat.S_IMODE(held.st_mode) & 0o077 or held.st_uid not in (0, os.geteuid()):
                raise errors.Refused("is open to other users; it is to be yours and have mode 600", path=str(place))
            return file.read(_MAX_FILE)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise errors.from_os(error, place, "read it") from None


def _apart(found: Azure, where: str) -> Azure:
    if not found.connection_string:
        return found
    parts = dict(part.partition("=")[::2] for part in found.connection_string.split(";") if part.strip())
    said = {name.strip().lower(): value.strip() for name, value in parts.items()}
    if said.get("usedevelopmentstorage", "").lower() == "true":
        raise errors.Usage(f"{where}: the emulator is meant by its whole connection string")
    account, endpoint = said.get("accountname", ""), said.get("blobendpoint", "")
    if not endpoint and account:
        protocol, suffix = said.get("defaultendpointsprotocol", "https"), said.get("endpointsuffix", "")
        endpoint = f"{protocol}://{account}.blob.{suffix or 'core.windows.net'}"
    if not endpoint:
        raise errors.Usage(f"the connection string in {where} names neither AccountName nor BlobEndpoint")
    key, sas = said.get("accountkey", ""), said.get("sharedaccesssignature", "")
    return Azure(account=account, key=key, sas=sas, endpoint=endpoint, ca=found.ca)


def _checked(found: Azure, where: str) -> Azure:
    if found.key and found.sas:
        raise errors.Usage(f"{where} has both an account key and a SAS; one of them opens a store")
    if not found.account and not found.endpoint:
        raise errors.Usage(f"{where} names no account")
    if found.key and not found.account:
        raise errors.Usage(f"{where} has an account key, and not the name of its account")
    try:
        base64.b64decode(found.key, validate=True)
    except (binascii.Error, ValueError):
        raise errors.Usage(f"the account key in {where} is not base64") from None
    endpoint = found.endpoint or f"https://{found.account}.blob.core.windows.net"
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise errors.Usage(f"the endpoint in {where} is no URL of the form https://HOST[/ACCOUNT]")
    if parts.scheme == "http" and not found.key and not parts.netloc.startswith(_LOOPBACK):
        raise errors.Refused(f"{where} would send a SAS or token over a connection that anybody can read: use https")
    return msgspec.structs.replace(found, endpoint=endpoint.rstrip("/"), sas=found.sas.lstrip("?"))
