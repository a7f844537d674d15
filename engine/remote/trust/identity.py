"""Who this host is to others: a key, and a certificate that it signed itself. Others pin the key, not a name.

The folder holds `key.pem` (readable by its owner only) and `certificate.pem`, which may be made anew of the same key.
"""

from __future__ import annotations

import datetime
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from secondsite.engine import errors
from secondsite.engine.remote.trust import certificate as cert

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

KEY, CERTIFICATE = "key.pem", "certificate.pem"


@dataclass(frozen=True)
class Identity:
    """`certificate` is PEM; `ends` is when it expires, UTC."""

    folder: Path
    certificate: str
    pin: str
    ends: datetime.datetime

    @property
    def key_path(self) -> Path:
        return self.folder / KEY

    @property
    def certificate_path(self) -> Path:
        return self.folder / CERTIFICATE


def create(
    folder: str | os.PathLike[str], *, name: str | None = None, days: int = cert.DAYS,
    now: datetime.datetime | None = None,
) -> Identity:  # fmt: skip
    """Make a P-256 key and its certificate in a folder. `now` is the clock's. Raises Refused where there is one."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    place, key = Path(folder), ec.generate_private_key(ec.SECP256R1())
    made = cert.make(key, name or socket.gethostname() or "host", days, now)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The key last: a folder without one is no identity, and is completed by the next attempt.
        if (place / KEY).exists():
            raise errors.Refused("has an identity already; peers that pinned it would refuse another", path=str(place))
        write(place / CERTIFICATE, made.encode(), 0o644)
        write(place / KEY, secret, 0o600)
    except OSError as error:
        raise errors.from_os(error, place, "make an identity") from None
    return load(place)


def renew(
    folder: str | os.PathLike[str], *, days: int = cert.DAYS, now: datetime.datetime | None = None
) -> Identity:
    """Another certificate of the same key, from now on: who pinned the key takes it. A damaged certificate is replaced,
    too. Raises Refused where there is no identity, Damaged for a key that is none.
    """
    place = Path(folder)
    key = _key(place)
    try:
        name = cert.called(load(place).certificate, str(place / CERTIFICATE))
    except errors.Error:
        name = socket.gethostname()
    try:
        write(place / CERTIFICATE, cert.make(key, name or "host", days, now).encode(), 0o644)
    except OSError as error:
        raise errors.from_os(error, place, "renew the certificate") from None
    return load(place)


def _key(place: Path) -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        found = serialization.load_pem_private_key(_read(place, KEY), None)
    except (ValueError, TypeError):
        raise errors.Damaged("is no private key", path=str(place / KEY)) from None
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise errors.Damaged("is not a P-256 key", path=str(place / KEY))
    return found


def write(path: Path, data: bytes, mode: int) -> None:
    """All of it or nothing, durable, and never readable by others in between."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        give_to_owner(descriptor, path.parent)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def give_to_owner(descriptor: int, folder: Path) -> None:
    """What root writes into a service's folder is to be read by that service."""
    owner = folder.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def load(folder: str | os.PathLike[str]) -> Identity:
    """What `create` made. Raises Unreachable where there is none, Refused where others can read the key, Damaged."""
    place = Path(folder)
    text = _read(place, CERTIFICATE).decode("ascii", "replace")
    path = str(place / CERTIFICATE)
    return Identity(place, text, cert.pin(text, path), cert.ends(text, path))


def _read(place: Path, name: str) -> bytes:
    try:
        if stat.S_IMODE((place / KEY).stat().st_mode) & 0o077:
            raise errors.Refused("is open to other users; it is to have mode 600", path=str(place / KEY))
        with (place / name).open("rb") as file:
            return file.read(cert.MAX_PEM + 1)
    except FileNotFoundError:
        raise errors.Refused("has no identity; `secondsite identity init` makes one", path=str(place)) from None
    except OSError as error:
        raise errors.from_os(error, place, "read the identity") from None
