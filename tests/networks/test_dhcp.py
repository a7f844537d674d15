"""A guest without a machine asks at its tap, and is told what the mapping chose; nobody else is told anything."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from netkit import Card, devices, servers, wait_until
from station import ALL, Station, answered, dhcp, is_dhcp_answer

from secondsite.engine import errors
from secondsite.orchestration.networks.attaching import attach, detach

pytestmark = pytest.mark.needs("root", "namespaces")
MINE = Card("front", mac="52:54:00:00:00:01", address="192.0.2.7/25", gateway="192.0.2.1")
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
WANTS = b"\x32\x04\xc0\x00\x02"  # option 50, 192.0.2.
SERVER = b"\x36\x04\xa9\xfe\x43\x44"


def ask(station: Station, frame: bytes, seconds: float = 5.0) -> tuple[str, dict[int, bytes]] | None:
    station.send(frame)
    found = station.wait(is_dhcp_answer, seconds)
    return answered(found) if found else None


def first(station: Station) -> tuple[str, dict[int, bytes]]:
    """As a client that asks again until it hears: the server may just be starting."""
    for _ in range(60):
        found = ask(station, dhcp(station.mac, DISCOVER), 0.5)
        if found:
            return found
    raise AssertionError("nobody answers")


def test_a_guest_is_told_its_address_for_ever(place: str) -> None:
    (tap,) = attach("app1", [MINE], place)
    with Station(tap.name, tap.mac, place) as guest:
        address, options = first(guest)
        assert (address, options[53]) == ("192.0.2.7", bytes([OFFER]))
        assert options[1] == b"\xff\xff\xff\x80"
        assert options[3] == b"\xc0\x00\x02\x01"
        assert options[51] == b"\xff\xff\xff\xff"
        assert 26 not in options
        found = ask(guest, dhcp(guest.mac, REQUEST, WANTS + b"\x07" + b"\x36\x04" + options[54]))
        assert found and (found[0], found[1][53]) == ("192.0.2.7", bytes([ACK]))
        # As after a failover: it asks for what it had at the other site.
        refused = ask(guest, dhcp(guest.mac, REQUEST, WANTS + b"\x09"))
        assert refused and (refused[0], refused[1][53]) == ("0.0.0.0", bytes([NAK]))
        assert guest.heard[-1][:6] == ALL
        told = ask(guest, dhcp(guest.mac, INFORM, current="192.0.2.7"))
        assert told and (told[0], told[1][53]) == ("0.0.0.0", bytes([ACK])) and 51 not in told[1]


def test_who_is_not_meant_hears_nothing(place: str) -> None:
    """Another card, a choice of another server, a relay, a refusal; and a tap without an address at all."""
    (mine,), (other,) = attach("app1", [MINE], place), attach("app2", [Card("front")], place)
    with Station(mine.name, mine.mac, place) as guest, Station(other.name, other.mac, place) as stranger:
        first(guest)
        strange = bytes.fromhex("525400000099")
        for frame in (
            dhcp(strange, DISCOVER), dhcp(guest.mac, REQUEST, WANTS + b"\x07" + b"\x36\x04\xc0\x00\x02\x01"),
            dhcp(guest.mac, DISCOVER, relay="192.0.2.1"), dhcp(guest.mac, DECLINE, SERVER),
            dhcp(guest.mac, RELEASE, SERVER), dhcp(guest.mac, 77),
        ):  # fmt: skip
            guest.send(frame)
        # Not even who says that he is the one: he is at another tap.
        stranger.send(dhcp(guest.mac, DISCOVER))
        stranger.send(dhcp(stranger.mac, DISCOVER))
        assert stranger.wait(is_dhcp_answer, 0.5) is None
        assert guest.wait(is_dhcp_answer, 0.1) is None
        assert first(guest)


def test_a_changed_address_and_a_small_network_are_told(place: str) -> None:
    subprocess.run(["ip", "-n", place, "link", "add", "front", "mtu", "1400", "type", "bridge"], check=True)
    (tap,) = attach("app1", [MINE], place)
    with Station(tap.name, tap.mac, place) as guest:
        assert first(guest)[1][26] == (1400).to_bytes(2, "big")
        attach("app1", [Card("front", mac=tap.mac, address="192.0.2.9/24")], place)
        wait_until(lambda: first(guest)[0] == "192.0.2.9")
        assert 3 not in first(guest)[1]


def test_one_process_serves_a_namespace_and_ends_with_its_last_tap(place: str) -> None:
    for number in range(3):
        attach(f"app{number}", [Card("front", address=f"192.0.2.{number + 2}/24")], place)
    wait_until(lambda: len(servers(place)) == 1)
    (process,) = servers(place)
    resident = next(line for line in Path(f"/proc/{process}/status").read_text().splitlines() if "VmRSS" in line)
    assert int(resident.split()[1]) < 64 << 10
    detach("app0", place)
    detach("app2", place)
    assert servers(place) == [process]
    detach("app1", place)
    wait_until(lambda: not servers(place))
    assert devices(place) == {}


def test_a_killed_server_is_started_again(place: str) -> None:
    (tap,) = attach("app1", [MINE], place)
    wait_until(lambda: len(servers(place)) == 1)
    os.kill(servers(place)[0], signal.SIGKILL)
    wait_until(lambda: not servers(place))
    assert attach("app1", [MINE], place) == [tap]
    with Station(tap.name, tap.mac, place) as guest:
        assert first(guest)[0] == "192.0.2.7"


def test_a_guest_that_floods_is_the_only_one_that_waits(place: str) -> None:
    (mine,), (other,) = attach("app1", [MINE], place), attach("app2", [Card("front", address="192.0.2.8/24")], place)
    with Station(mine.name, mine.mac, place) as guest, Station(other.name, other.mac, place) as flooding:
        first(guest)
        for _ in range(500):
            flooding.send(dhcp(flooding.mac, DISCOVER))
        assert ask(guest, dhcp(guest.mac, DISCOVER), 1.0)
        heard = sum(map(is_dhcp_answer, flooding.hear(0.5)))
        assert 0 < heard <= 41


def test_hostile_frames_do_not_end_it(place: str) -> None:
    """Each field of a good request cut short and turned over: it goes on answering the others."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    (mine,), (other,) = attach("app1", [MINE], place), attach("app2", [Card("front", address="192.0.2.8/24")], place)
    with Station(mine.name, mine.mac, place) as guest, Station(other.name, other.mac, place) as hostile:
        first(guest)
        for _ in range(40):
            frame = bytearray(dhcp(hostile.mac, DISCOVER, b"\x3d\xff" + bytes(255) + b"\x3d\xff" + bytes(255)))
            for _ in range(chance.randrange(1, 4)):
                frame[chance.randrange(34, len(frame))] = chance.randrange(256)
            hostile.send(bytes(frame[: chance.randrange(60, len(frame))]))
        assert first(guest)[0] == "192.0.2.7"


def test_a_name_that_somebody_else_has_is_told(place: str) -> None:
    """Any process of the namespace may take the name under which the server is known."""
    code = "import os,socket,time; os.setuid(65534); s=socket.socket(socket.AF_UNIX); s.bind(chr(0)+'secondsite-dhcp')"
    code += "; s.listen(); print(flush=True); time.sleep(60)"
    squatter = subprocess.Popen(["ip", "netns", "exec", place, sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert squatter.stdout and squatter.stdout.readline() == b"\n"
        with pytest.raises(errors.Refused, match="of user 65534 has its name"):
            attach("app1", [MINE], place)
    finally:
        squatter.kill()
        squatter.wait()
    detach("app1", place)
