"""TLS between hosts that pinned each other: version 1.3, both show certificates, nothing else is spoken.

OpenSSL refuses who has none, an expired or an unknown one, and takes any other of a pinned key (trust/certificate.py);
afterwards the key itself is compared with the pins, so that whatever a pinned key may have signed opens nothing. A
context holds the peers of the moment it was made: the agent
makes one for each connection, which is what lets a revocation count at once.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping

from secondsite.engine import errors
from secondsite.engine.remote.link.secure import Secure
from secondsite.engine.remote.trust import certificate as cert
from secondsite.engine.remote.trust.identity import Identity

HANDSHAKE_SECONDS = 20.0


class Untrusted(errors.Refused):
    """The other side is not who it is to be, or does not take us. Trying again changes nothing."""


class Cut(errors.Unreachable):
    """The other side went away in the handshake, without a word about it."""


def context(
    identity: Identity, peers: Mapping[str, str], *, server: bool, strangers: bool = False
) -> ssl.SSLContext:
    """For one side; `peers` are certificates (PEM) by pin, whose keys it takes. A server that takes `strangers` also
    lets in who shows no certificate: who comes to pair. Raises Unreachable, Damaged.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False  # keys are pinned; a host may have any name and address
    made.verify_mode = ssl.CERT_OPTIONAL if server and strangers else ssl.CERT_REQUIRED
    if server:
        made.num_tickets = 0  # a resumed session would pass without its certificate being looked at
    try:
        made.load_cert_chain(identity.certificate_path, identity.key_path, password="")
        if peers:
            made.load_verify_locations(cadata="\n".join(map(cert.authority, peers.values())))
    except ssl.SSLError as error:
        what = f"cannot be used for TLS: {error.reason or error}"
        raise errors.Damaged(what, path=str(identity.folder)) from None
    except OSError as error:
        raise errors.from_os(error, identity.folder, "read the identity") from None
    return made


def shake(
    sock: socket.socket, identity: Identity, peers: Mapping[str, str], peer: str, *,
    server: bool, timeout: float = HANDSHAKE_SECONDS, strangers: bool = False,
) -> tuple[Secure, str]:  # fmt: skip
    """Encrypt a connected socket; it and the pin of who is there, which is empty for a stranger. Raises Untrusted,
    Unreachable; then it is closed.

    With TLS 1.3 a client's handshake is over before the server has looked at its certificate: that the server does not
    take it is an SSLError of the client's first read.
    """
    try:
        secure = Secure(sock, context(identity, peers, server=server, strangers=strangers), server=server)
        secure.shake(timeout)
        if server and strangers and secure.certificate() is None:
            return secure, ""
        return secure, _pinned(secure, peers, peer)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):  # every SSLError is one
            raise refusal(error, peer) from None
        raise


def shake_to_pair(
    sock: socket.socket, pin: str, peer: str, timeout: float = HANDSHAKE_SECONDS
) -> tuple[Secure, str]:
    """Encrypt a socket to an agent of which only the pin is known, showing nothing; it and the agent's certificate
    (PEM). Raises Untrusted where another key is there, before anything was said; then the socket is closed.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    # TLS proves that the key of the shown certificate is there; whether it is the right one is looked at below.
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    try:
        secure = Secure(sock, made, server=False)
        secure.shake(timeout)
        shown = secure.certificate() or b""
        if cert.pin(shown, peer) != pin:
            raise Untrusted("is not the agent that gave this key out", path=peer)
        if not cert.holds_now(shown, peer):
            raise Untrusted("its certificate does not hold now: it has expired, or a clock is wrong", path=peer)
        return secure, ssl.DER_cert_to_PEM_cert(shown)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            raise refusal(error, peer) from None
        raise


def renewed(secure: Secure, known: str) -> str | None:
    """The certificate (PEM) of who is there, where it is another than the `known` one and holds longer."""
    shown = secure.certificate() or b""
    text = ssl.DER_cert_to_PEM_cert(shown)
    if len(text) > cert.MAX_PEM or cert.ends(text, "it") <= cert.ends(known, "it"):
        return None
    return text


def _pinned(secure: Secure, peers: Mapping[str, str], peer: str) -> str:
    shown = secure.certificate()
    found = cert.pin(shown, peer) if shown else ""
    if found not in peers:
        raise Untrusted("shows a key that is not paired with this host", path=peer)
    return found


def refusal(error: OSError, peer: str) -> errors.Error:
    """What a failed handshake, or a first read that fails, means: Untrusted where it is about certificates."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code == 10:
            return Untrusted("its certificate has expired: `secondsite identity renew` there makes another", path=peer)
        if error.verify_code == 9:
            return Untrusted("its certificate does not hold yet: compare the clocks", path=peer)
        return Untrusted("its certificate is not paired with this host", path=peer)
    reason = str(getattr(error, "reason", "") or "")
    if "PEER_DID_NOT_RETURN" in reason:
        return Untrusted("shows no certificate", path=peer)
    if "ALERT_CERTIFICATE_EXPIRED" in reason:
        return Untrusted("this host's certificate has expired: `secondsite identity renew` makes another", path=peer)
    if "ALERT" in reason and any(word in reason for word in ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")):
        return Untrusted("does not take this host's certificate: it is not paired, or was revoked", path=peer)
    if isinstance(error, TimeoutError):
        return errors.Unreachable("does not finish the TLS handshake", path=peer)
    if isinstance(error, ssl.SSLEOFError | ConnectionError):
        return Cut("the connection ended in the TLS handshake", path=peer)
    if isinstance(error, ssl.SSLError):
        return errors.Unreachable(f"TLS fails: {reason or error}", path=peer)
    return errors.from_os(error, peer, "connect")
