"""Certificates: what carries a host's key through TLS, for some years. Others pin the key, which outlives them.

The pin is the SHA-256 of the public key as DER (SPKI). A certificate names as its issuer the pin of the very key that
signed it, and TLS is told to trust, for each pin, an authority of that name which exists in memory alone: so OpenSSL
takes every certificate of a pinned key that holds now, and refuses one that has expired, without its having been seen.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
from typing import TYPE_CHECKING, Any

from secondsite.engine import errors

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

DAYS = 3650
# An operator is told from then on.
SOON_DAYS = 30
MAX_PEM = 16 * 1024
# Clocks of two hosts may be a day apart: a new certificate holds already where it is yesterday.
_BEFORE = datetime.timedelta(days=2)
_DAY = datetime.timedelta(days=1)
_RENEW = "`secondsite identity renew` makes another for the same key"


def make(key: ec.EllipticCurvePrivateKey, name: str, days: int, now: datetime.datetime | None = None) -> str:
    """A certificate (PEM) of a key, from `now` (the clock's) on. Raises Usage."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    if days < 1:
        raise errors.Usage(f"a certificate for {days} days would never hold")
    now, own = now or datetime.datetime.now(datetime.UTC), _spki_pin(key.public_key())
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    plain = "".join(letter if letter.isprintable() else "-" for letter in name)
    called = plain.encode()[:40].decode(errors="ignore")  # a subject has 64 bytes at most
    made = _begun(key.public_key(), f"{called} {own[:16]}", own)
    made = made.not_valid_before(now - _BEFORE).not_valid_after(now + days * _DAY)
    made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    return _signed(made.add_extension(x509.ExtendedKeyUsage(uses), critical=False), key)


def _begun(key: Any, subject: str, issuer: str) -> x509.CertificateBuilder:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    of, by = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in (subject, issuer))
    begun = x509.CertificateBuilder(subject_name=of, issuer_name=by, public_key=key)
    return begun.serial_number(x509.random_serial_number())


def _signed(made: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives import hashes, serialization

    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode("ascii")


@functools.lru_cache(4096)
def authority(pem: str) -> str:
    """What TLS is to trust (PEM), so that it takes every certificate of the key that is in this one. Raises Damaged."""
    from cryptography import x509

    key = _key(pem, "a paired host's certificate")
    own = _spki_pin(key)
    made = _begun(key, own, own).not_valid_before(datetime.datetime(1970, 1, 1))
    made = made.not_valid_after(datetime.datetime(9999, 12, 31, 23, 59, 59))
    # The signature of what is trusted is not looked at, so that anybody's will do.
    return _signed(made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True), _anybody())


@functools.cache
def _anybody() -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def parse(pem: str | bytes, path: str) -> x509.Certificate:
    """One certificate from PEM text, or from DER bytes. Raises Damaged; `path` is for the message."""
    from cryptography import x509

    if len(pem) > MAX_PEM:
        raise errors.Damaged("is too long for a certificate", path=path)
    try:
        if isinstance(pem, bytes):
            return x509.load_der_x509_certificate(pem)
        return x509.load_pem_x509_certificate(pem.encode("ascii"))
    except ValueError:
        raise errors.Damaged("is no certificate", path=path) from None


def pin(pem: str | bytes, path: str) -> str:
    """The pin of a certificate: 64 hexadecimal digits. Raises Damaged."""
    return _spki_pin(_key(pem, path))


def _key(pem: str | bytes, path: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return parse(pem, path).public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise errors.Damaged("is a certificate with a key of an unknown kind", path=path) from None


def _spki_pin(key: Any) -> str:
    from cryptography.hazmat.primitives import serialization

    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def called(pem: str, path: str) -> str:
    """The name that `make` was given. Raises Damaged."""
    from cryptography.x509.oid import NameOID

    found = parse(pem, path).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value).rpartition(" ")[0] if found else ""


# -- how long it holds --------------------------------------------------------------------------------------------


def holds_now(pem: str | bytes, path: str) -> bool:
    """Is the clock within the times of a certificate? Raises Damaged where it is none."""
    found = parse(pem, path)
    return found.not_valid_before_utc <= datetime.datetime.now(datetime.UTC) <= found.not_valid_after_utc


def ends(pem: str, path: str) -> datetime.datetime:
    """When it expires, UTC. Raises Damaged."""
    return parse(pem, path).not_valid_after_utc


def days_left(end: datetime.datetime) -> float:
    """Until then; negative afterwards."""
    return (end - datetime.datetime.now(datetime.UTC)) / _DAY


def warning(whose: str, end: datetime.datetime, there: str = "") -> str | None:
    """A line where it ends soon; `there` says on which host it is to be renewed, where that is another one."""
    left = days_left(end)
    if left > SOON_DAYS:
        return None
    when = f"ends in {int(left)} days" if left > 0 else "has expired: nobody takes it"
    return f"{whose} {when}; {_RENEW}{there}"
