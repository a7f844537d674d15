"""Addresses in use, asked of a bridge on which guests without machines answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from namespaces import ip
from netkit import Card, wait_for_port
from station import ALL, Station, answering, arp

from secondsite.engine import errors
from secondsite.orchestration.networks.attaching import attach, detach
from secondsite.orchestration.networks.probing import in_use

pytestmark = pytest.mark.needs("root", "namespaces")


@contextmanager
def living(place: str, address: str, machine: str = "app1") -> Iterator[Station]:
    """A guest that answers for its address, in a thread."""
    (tap,) = attach(machine, [Card("front")], place)
    with Station(tap.name, tap.mac, place, address) as guest:
        wait_for_port(place, tap.name)
        with answering(guest):
            yield guest
    detach(machine, place)


def test_who_answers_has_it(place: str) -> None:
    with living(place, "192.0.2.7") as guest:
        began = time.monotonic()
        assert in_use("front", ["192.0.2.7"], place, seconds=9) == {"192.0.2.7": guest.mac.hex(":")}
        assert time.monotonic() - began < 3  # who is there need not be waited for
        began = time.monotonic()
        assert set(in_use("front", ["192.0.2.8", "192.0.2.7"], place)) == {"192.0.2.7"}
        assert 0.5 < time.monotonic() - began < 3
        # A machine that has it already may have it again.
        assert in_use("front", ["192.0.2.7"], place, seconds=0.3, ours=["52:54:00:00:00:01", guest.mac.hex(":")]) == {}


def test_the_hosts_own_is_in_use(place: str) -> None:
    attach("app1", [Card("front")], place)
    ip("-n", place, "address", "add", "192.0.2.1/24", "dev", "front")
    assert set(in_use("front", ["192.0.2.1", "192.0.2.2"], place, seconds=0.1)) == {"192.0.2.1"}


def test_who_is_about_to_take_it_has_it(place: str) -> None:
    (tap,) = attach("app1", [Card("front")], place)
    with Station(tap.name, tap.mac, place) as guest:
        wait_for_port(place, tap.name)
        probe = arp(1, ALL, guest.mac, "0.0.0.0", bytes(6), "192.0.2.7")
        later = threading.Timer(0.2, lambda: [guest.send(probe[:30]), guest.send(probe)])
        later.start()
        assert in_use("front", ["192.0.2.7"], place) == {"192.0.2.7": tap.mac}
        later.join()


def test_what_is_not_there_uses_nothing(place: str) -> None:
    assert in_use("front", ["192.0.2.7"], place) == {}
    assert in_use("front", ["192.0.2.7"], "nowhere-at-all") == {}
    assert in_use("front", [], place) == {}
    with pytest.raises(errors.Usage, match=r"192.0.2.700"):
        in_use("front", ["192.0.2.700"], place)
    with pytest.raises(errors.Usage, match="256 are the most"):
        in_use("front", [f"10.0.{n}.1" for n in range(256)] + ["10.1.0.0"], place)
