"""Who this host is to others: a key, and a certificate that it signed itself. Others pin the key, not a name.

The folder holds `key.pem` (readable by its owner only) and `certificate.pem`. The pin of a certificate is the SHA-256
of its public key as DER (SPKI), so that a renewed certificate of the same key is the same peer.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from secondsite.engine import errors

if TYPE_CHECKING:
    from cryptography import x509

KEY, CERTIFICATE = "key.pem", "certificate.pem"
DAYS = 3650
# Clocks of two hosts may be a day apart: a new certificate holds already where it is yesterday.
_BEFORE = datetime.timedelta(days=2)
_MAX_PEM = 64 * 1024


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
    folder: str | os.PathLike[str], *, name: str | None = None, days: int = DAYS, now: datetime.datetime | None = None
) -> Identity:
    """Make a P-256 key and its certificate in a folder. `now` is the clock's. Raises Refused where there is one."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    place = Path(folder)
    if days < 1:
        raise errors.Usage(f"a certificate for {days} days would never hold")
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _sign(
        key, (name or socket.gethostname() or "host")[:40], days, now or datetime.datetime.now(datetime.UTC)
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The key last: a folder without one is no identity, and is completed by the next attempt.
        if (place / KEY).exists():
            raise errors.Refused("has an identity already; peers that pinned it would refuse another", path=str(place))
        write(place / CERTIFICATE, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
        write(place / KEY, secret, 0o600)
    except OSError as error:
        raise errors.from_os(error, place, "make an identity") from None
    return load(place)


def _sign(key: object, name: str, days: int, now: datetime.datetime) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    assert isinstance(key, ec.EllipticCurvePrivateKey)
    # Part of the key in the name: OpenSSL finds trusted certificates by name, and two hosts may be called alike.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} {_spki_pin(key.public_key())[:16]}")])
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        x509.CertificateBuilder()
        .subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE).not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip


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
    try:
        if stat.S_IMODE((place / KEY).stat().st_mode) & 0o077:
            raise errors.Refused("is open to other users; it is to have mode 600", path=str(place / KEY))
        with (place / CERTIFICATE).open("rb") as file:
            text = file.read(_MAX_PEM).decode("ascii", "replace")
    except FileNotFoundError:
        raise errors.Refused("has no identity; `secondsite identity init` makes one", path=str(place)) from None
    except OSError as error:
        raise errors.from_os(error, place, "read the identity") from None
    certificate = parse(text, str(place / CERTIFICATE))
    return Identity(place, text, _spki_pin(certificate.public_key()), certificate.not_valid_after_utc)


def parse(pem: str | bytes, path: str) -> x509.Certificate:
    """One certificate from PEM text, or from DER bytes. Raises Damaged; `path` is for the message."""
    from cryptography import x509

    if len(pem) > _MAX_PEM:
        raise errors.Damaged("is too long for a certificate", path=path)
    try:
        if isinstance(pem, bytes):
            return x509.load_der_x509_certificate(pem)
        return x509.load_pem_x509_certificate(pem.encode("ascii"))
    except ValueError:
        raise errors.Damaged("is no certificate", path=path) from None


def pin(pem: str | bytes, path: str) -> str:
    """The pin of a certificate: 64 hexadecimal digits. Raises Damaged."""
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return _spki_pin(parse(pem, path).public_key())
    except (ValueError, UnsupportedAlgorithm):
        raise errors.Damaged("is a certificate with a key of an unknown kind", path=path) from None


def holds_now(pem: str | bytes, path: str) -> bool:
    """Is the clock within the times of a certificate? Raises Damaged where it is none."""
    found = parse(pem, path)
    return found.not_valid_before_utc <= datetime.datetime.now(datetime.UTC) <= found.not_valid_after_utc


def _spki_pin(key: object) -> str:
    from cryptography.hazmat.primitives import serialization

    der = key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()
