"""Who may connect: both sides over a real socket pair, and everybody who is to be kept out."""

from __future__ import annotations

import datetime
import random
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from secondsite.engine import errors
from secondsite.engine.remote.link import tls
from secondsite.engine.remote.link.secure import Secure
from secondsite.engine.remote.link.wire import Closed, Wire
from secondsite.engine.remote.trust import certificate, identity
from secondsite.engine.remote.trust.identity import Identity


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> list[Identity]:
    return [identity.create(tmp_path_factory.mktemp(name), name="host") for name in ("east", "west", "other")]


def known(*them: Identity) -> dict[str, str]:
    return {one.pin: one.certificate for one in them}


class Meeting:
    """A server's handshake in a thread; `refused` is how it ended where it failed, `pin` who it saw."""

    def __init__(self, server: Identity, peers: Mapping[str, str], timeout: float = 10) -> None:
        self.near, far = socket.socketpair()
        self.refused: errors.Error | None = None
        self.pin = ""
        self._thread = threading.Thread(target=self._serve, args=(far, server, peers, timeout))
        self._thread.start()

    def _serve(self, sock: socket.socket, server: Identity, peers: Mapping[str, str], timeout: float) -> None:
        try:
            secure, self.pin = tls.shake(sock, server, peers, "client", server=True, timeout=timeout)
            wire = Wire(secure, "client", 10)
            wire.send(b"welcome")
            wire.release()
        except errors.Error as error:
            self.refused = error

    def end(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()
        self.near.close()


def heard(secure: Secure) -> bytes:
    got = bytearray(7)
    wire = Wire(secure, "server", 10)
    try:
        wire.read_into(memoryview(got))
    finally:
        wire.release()
    return bytes(got)


def arrive(meeting: Meeting, client: Identity, peers: Mapping[str, str]) -> tuple[bytes, errors.Error | None]:
    """What the client read, or why it did not."""
    try:
        secure, _ = tls.shake(meeting.near, client, peers, "server", server=False)
        return heard(secure), None
    except errors.Error as error:
        return b"", error
    finally:
        meeting.end()


def test_paired_hosts_meet_and_know_each_other(hosts: list[Identity]) -> None:
    east, west, _ = hosts
    meeting = Meeting(east, known(west))
    secure, pin = tls.shake(meeting.near, west, known(east), "server", server=False)
    assert heard(secure) == b"welcome"
    meeting.end()
    assert (pin, meeting.pin) == (east.pin, west.pin)


def test_a_client_that_is_not_paired_is_refused_and_told(hosts: list[Identity]) -> None:
    east, west, other = hosts
    meeting = Meeting(east, known(west))
    got, why = arrive(meeting, other, known(east))
    assert got == b"" and isinstance(meeting.refused, tls.Untrusted)
    assert isinstance(why, tls.Untrusted) and not why.retryable


def test_a_server_that_is_not_the_paired_one_is_refused(hosts: list[Identity]) -> None:
    east, west, other = hosts
    meeting = Meeting(other, known(west))
    got, why = arrive(meeting, west, known(east))
    assert got == b"" and isinstance(why, tls.Untrusted)


def test_a_revoked_client_is_refused_by_the_next_handshake(hosts: list[Identity]) -> None:
    east, west, _ = hosts
    peers = known(west)
    assert arrive(Meeting(east, peers), west, known(east)) == (b"welcome", None)
    del peers[west.pin]
    meeting = Meeting(east, peers)
    got, why = arrive(meeting, west, known(east))
    assert got == b"" and isinstance(why, tls.Untrusted) and isinstance(meeting.refused, tls.Untrusted)


def test_an_expired_certificate_is_refused_by_either_side(hosts: list[Identity], tmp_path: Path) -> None:
    east, west, _ = hosts
    old = expired(tmp_path)
    meeting = Meeting(east, known(old))
    got, why = arrive(meeting, old, known(east))
    assert got == b"" and "expired" in str(meeting.refused) and isinstance(why, tls.Untrusted)
    got, why = arrive(Meeting(old, known(west)), west, known(old))
    assert got == b"" and isinstance(why, tls.Untrusted) and "expired" in str(why)


def expired(folder: Path) -> Identity:
    """An identity whose certificate ended yesterday."""
    return identity.create(folder, days=1, now=datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=2))


def test_a_renewed_certificate_is_the_same_peer_though_nobody_was_told(hosts: list[Identity], tmp_path: Path) -> None:
    """Also where the one that was pinned has expired since."""
    west, old = hosts[1], expired(tmp_path)
    made = identity.renew(tmp_path)
    assert made.pin == old.pin and made.certificate != old.certificate
    assert arrive(Meeting(made, known(west)), west, known(old)) == (b"welcome", None)
    assert arrive(Meeting(west, known(old)), made, known(west)) == (b"welcome", None)


def refused_with(forged: x509.Certificate, owner: Identity, folder: Path, hosts: list[Identity]) -> None:
    """Who has this certificate of the key of `owner` is not taken for `west`, as the client nor as the server."""
    (folder / "key.pem").write_bytes(owner.key_path.read_bytes())
    (folder / "key.pem").chmod(0o600)
    (folder / "certificate.pem").write_bytes(forged.public_bytes(serialization.Encoding.PEM))
    east, west, _ = hosts
    meeting = Meeting(east, known(west))
    got, _ = arrive(meeting, identity.load(folder), known(east))
    assert got == b"" and isinstance(meeting.refused, tls.Untrusted)
    got, why = arrive(Meeting(identity.load(folder), known(east)), east, known(west))
    assert got == b"" and isinstance(why, tls.Untrusted)


@pytest.mark.parametrize("authority", [False, True])
def test_a_key_that_names_a_pinned_one_as_its_issuer_opens_nothing(
    hosts: list[Identity], tmp_path: Path, authority: bool
) -> None:
    """A certificate as that of `west`, or what stands for its authority, but of the key of `other`."""
    _, west, other = hosts
    mine = serialization.load_pem_private_key(other.key_path.read_bytes(), None)
    like = certificate.parse(certificate.authority(west.certificate) if authority else west.certificate, "it")
    forged = (
        x509.CertificateBuilder().subject_name(like.subject).issuer_name(like.issuer).public_key(mine.public_key())
        .serial_number(like.serial_number)
        .not_valid_before(like.not_valid_before_utc).not_valid_after(like.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .sign(mine, hashes.SHA256())  # type: ignore[arg-type]
    )  # fmt: skip
    refused_with(forged, other, tmp_path, hosts)


def test_clocks_may_differ_by_a_day_and_not_by_a_week(hosts: list[Identity], tmp_path: Path) -> None:
    east = hosts[0]
    now = datetime.datetime.now(datetime.UTC)
    ahead = identity.create(tmp_path / "day", now=now + datetime.timedelta(days=1))
    assert arrive(Meeting(east, known(ahead)), ahead, known(east)) == (b"welcome", None)
    far = identity.create(tmp_path / "week", now=now + datetime.timedelta(days=7))
    meeting = Meeting(east, known(far))
    got, _ = arrive(meeting, far, known(east))
    assert got == b"" and "compare the clocks" in str(meeting.refused)


def test_a_client_without_a_certificate_is_refused(hosts: list[Identity]) -> None:
    east, west, _ = hosts
    meeting = Meeting(east, known(west))
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
    with bare.wrap_socket(meeting.near) as secure, pytest.raises(OSError) as caught:
        secure.recv(7)
    meeting.end()
    assert "no certificate" in str(meeting.refused)
    assert isinstance(tls.refusal(caught.value, "server"), tls.Untrusted)


def test_an_older_tls_is_refused(hosts: list[Identity]) -> None:
    east, west, _ = hosts
    meeting = Meeting(east, known(west))
    made = tls.context(west, known(east), server=False)
    made.minimum_version = made.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        made.wrap_socket(meeting.near)
    meeting.end()
    assert meeting.refused is not None and meeting.pin == ""


def test_another_certificate_that_a_paired_key_signed_opens_nothing(hosts: list[Identity], tmp_path: Path) -> None:
    """The key of `other` under a certificate that the paired `west` signed: OpenSSL takes it, the pin does not."""
    _, west, other = hosts
    signer = serialization.load_pem_private_key(west.key_path.read_bytes(), None)
    parent, child = (certificate.parse(one.certificate, "it") for one in (west, other))
    forged = (
        x509.CertificateBuilder().subject_name(child.subject).issuer_name(parent.issuer)
        .public_key(child.public_key()).serial_number(7)
        .not_valid_before(child.not_valid_before_utc).not_valid_after(child.not_valid_after_utc)
        .sign(signer, hashes.SHA256())  # type: ignore[arg-type]
    )  # fmt: skip
    refused_with(forged, other, tmp_path, hosts)


def test_who_does_not_shake_hands_is_given_up(hosts: list[Identity]) -> None:
    east, west, _ = hosts
    meeting = Meeting(east, known(west), timeout=0.2)
    meeting.end()
    assert isinstance(meeting.refused, errors.Unreachable) and meeting.refused.retryable
    assert not isinstance(meeting.refused, tls.Untrusted)


def test_who_drips_bytes_has_no_more_time_for_the_handshake(hosts: list[Identity]) -> None:
    east, west, _ = hosts
    meeting, began = Meeting(east, known(west), timeout=0.5), time.monotonic()
    said = bytes.fromhex("16030100ff010000fb0303") + bytes(200)
    try:
        for at in range(len(said)):
            meeting.near.send(said[at : at + 1])
            time.sleep(0.02)
    except OSError:
        pass
    meeting.end()
    assert time.monotonic() - began < 2
    assert isinstance(meeting.refused, errors.Unreachable) and "handshake" in str(meeting.refused)


def test_both_sides_send_at_once_messages_of_any_length(hosts: list[Identity]) -> None:
    east, west, _ = hosts
    lengths = [1, 16384, 16385, 262144, 262145, 3_000_001, 7]
    there: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        secure, _ = tls.shake(sock, east, known(west), "client", server=True)
        there.extend(_exchange(Wire(secure, "client", 10), lengths, 2))

    near, far = socket.socketpair()
    thread = threading.Thread(target=serve, args=(far,))
    thread.start()
    secure, _ = tls.shake(near, west, known(east), "server", server=False)
    here = _exchange(Wire(secure, "server", 10), lengths, 1)
    thread.join(20)
    assert here == [random.Random(2 * n).randbytes(n) for n in lengths]
    assert there == [random.Random(n).randbytes(n) for n in lengths]


def _exchange(wire: Wire, lengths: list[int], seed: int) -> list[bytes]:
    """What came while as much was sent, all of it in another thread."""
    sender = threading.Thread(target=lambda: [wire.send(random.Random(seed * n).randbytes(n)) for n in lengths])
    sender.start()
    found = []
    for n in lengths:
        got = bytearray(n)
        wire.read_into(memoryview(got))
        found.append(bytes(got))
    sender.join(20)
    wire.release()
    return found


def test_who_goes_away_inside_a_record_is_gone(hosts: list[Identity]) -> None:
    east, west, _ = hosts
    near, far = socket.socketpair()
    shaken: list[Secure] = []
    thread = threading.Thread(
        target=lambda: shaken.append(tls.shake(far, east, known(west), "client", server=True)[0])
    )
    thread.start()
    secure, _ = tls.shake(near, west, known(east), "server", server=False)
    thread.join(20)
    far.sendall(shaken[0].seal(memoryview(bytes(5000)))[:-1])
    far.close()
    wire = Wire(secure, "server", 10)
    with pytest.raises(Closed, match="closed the connection"):
        wire.read_into(memoryview(bytearray(5000)))
    wire.release()
