"""Reading what a hostile guest sends: any bytes are a message or none, and never an error."""

from __future__ import annotations

import dataclasses
import random

import pytest
from station import dhcp

from secondsite.orchestration.networks.dhcp import messages
from secondsite.orchestration.networks.dhcp.answers import SERVER, Lease, answer
from secondsite.orchestration.networks.names import Mark

MAC = bytes.fromhex("525400000001")
MARK = Mark("k", 0, "52:54:00:00:00:01", "192.0.2.7/24", "192.0.2.1", True)
LEASE = Lease.of(MARK, 1500)
assert LEASE is not None
OPTIONS = b"\x3d\x07\x01" + MAC + b"\x32\x04\xc0\x00\x02\x07" + b"\x37\x03\x01\x03\x06" + b"\x0c\x03app"


def tried(frame: bytes) -> bool:
    """Whatever it is, it is answered or it is not."""
    assert LEASE is not None
    message = messages.read(frame)
    reply = answer(message, LEASE) if message else None
    if message and reply:
        assert 42 + 300 <= len(messages.write(message, reply, SERVER, MAC)) <= 1500
    return reply is not None


def test_a_good_one_is_read() -> None:
    message = messages.read(dhcp(MAC, 3, OPTIONS, current="192.0.2.7"))
    assert message is not None
    assert (message.asks, message.client, message.transaction) == (3, MAC, 0xC0FFEE)
    assert str(message.current) == str(message.wanted) == "192.0.2.7"
    assert message.server is None and message.identity == b"\x01" + MAC
    assert tried(dhcp(MAC, 3, OPTIONS))


def test_every_length_and_every_turned_byte() -> None:
    good = dhcp(MAC, 1, OPTIONS)
    assert not any(tried(good[:length]) for length in range(len(good)))
    assert tried(good + bytes(60))  # short frames are filled up
    for place in range(len(good)):
        for value in (0, 1, 0x7F, 0xFF, good[place] ^ 0x80):
            tried(good[:place] + bytes([value]) + good[place + 1 :])


@pytest.mark.sweep(sample=2)
@pytest.mark.parametrize("seed", range(60))
def test_random_ones(seed: int) -> None:
    chance, good = random.Random(seed), dhcp(MAC, 1, OPTIONS)
    for _ in range(3000):
        frame = bytearray(good)
        for _ in range(chance.randrange(1, 12)):
            frame[chance.randrange(12, len(frame))] = chance.randrange(256)
        tried(bytes(frame[: chance.randrange(len(frame) + 1)]) + chance.randbytes(chance.randrange(40)))
        tried(good[:42] + chance.randbytes(chance.randrange(1500)))
        tried(good[:282] + chance.randbytes(chance.randrange(600)))


@pytest.mark.parametrize(
    ("address", "gateway"),
    [("", ""), ("2001:db8::7/64", ""), ("192.0.2.7/24", "2001:db8::1"), ("nonsense", ""), ("192.0.2.7/24", "x")],
)
def test_what_dhcp_cannot_tell_is_no_lease(address: str, gateway: str) -> None:
    assert Lease.of(Mark("k", 0, "52:54:00:00:00:01", address, gateway, True), 1500) is None
    assert Lease.of(None, 1500) is None
    assert Lease.of(dataclasses.replace(MARK, dhcp=False), 1500) is None
