"""Taps and bridges of machines: what `ip` sees of them, and that nothing is left."""

from __future__ import annotations

import threading
import time

import pytest
from namespaces import ip
from netkit import Card, devices

from secondsite.engine import errors
from secondsite.orchestration.networks import links, names
from secondsite.orchestration.networks.attaching import attach, detach

pytestmark = pytest.mark.needs("root", "namespaces")


def test_cards_join_their_bridges_and_an_unmapped_one_nothing(place: str) -> None:
    """R11.1, R11.2: two source networks may come to one bridge."""
    cards = [Card("front", mac="52-54-00-AB-CD-EF"), Card("back"), Card("front"), Card(None)]
    taps = attach("app1", cards, place)
    seen = devices(place)
    assert [tap.bridge for tap in taps] == ["front", "back", "front", None]
    assert set(seen) == {"front", "back", *(tap.name for tap in taps)}
    for tap in taps:
        device = seen[tap.name]
        assert len(tap.name) <= 15
        assert device.get("master") == tap.bridge
        assert device["linkinfo"]["info_kind"] == "tun"
        assert device["linkinfo"]["info_data"]["persist"] is True
        # A device that is up is heard by its host.
        assert ("UP" in device["flags"]) == (tap.bridge is not None)
        assert device["address"] != tap.mac
        assert device["inet6_addr_gen_mode"] == "none"
    assert taps[0].mac == "52:54:00:ab:cd:ef"
    assert len({tap.mac for tap in taps}) == 4
    assert all(int(tap.mac[:2], 16) & 3 == 2 for tap in taps)
    assert seen["front"]["inet6_addr_gen_mode"] == "none" and "UP" in seen["front"]["flags"]


def test_isolated_cards_without_a_bridge_share_one_of_the_machines_own(place: str) -> None:
    one, other = (attach(machine, [Card(isolated=True)] * 2, place) for machine in ("app1", "app2"))
    assert one[0].bridge == one[1].bridge != other[0].bridge == other[1].bridge
    assert set(devices(place)) >= {one[0].bridge, other[0].bridge}


def test_it_may_be_asked_twice_and_detached_twice(place: str) -> None:
    cards = [Card("front"), Card(None)]
    first = attach("app1", cards, place)
    before = devices(place)
    assert attach("app1", cards, place) == first
    assert {name: one["ifindex"] for name, one in devices(place).items()} == {
        name: one["ifindex"] for name, one in before.items()
    }
    for _ in range(2):
        detach("app1", place)
        assert devices(place) == {}


def test_a_changed_mapping_reconnects_and_a_card_less_goes(place: str) -> None:
    """R11.2; the bridge that is left alone goes with it."""
    first = attach("app1", [Card("front"), Card("back"), Card("front")], place)
    second = attach("app1", [Card("other"), Card(None)], place)
    assert [tap.name for tap in second] == [tap.name for tap in first[:2]]
    seen = devices(place)
    assert set(seen) == {"other", *(tap.name for tap in second)}
    assert seen[second[0].name]["master"] == "other"
    assert "UP" not in seen[second[1].name]["flags"]


def test_a_bridge_stays_while_a_machine_is_on_it(place: str) -> None:
    attach("app1", [Card("front")], place)
    attach("app2", [Card("front")], place)
    detach("app1", place)
    assert "front" in devices(place)
    detach("app2", place)
    assert devices(place) == {}


def test_a_bridge_of_the_users_stays_his(place: str) -> None:
    ip("-n", place, "link", "add", "lan0", "mtu", "1400", "address", "02:00:00:00:00:01", "type", "bridge")
    ip("-n", place, "link", "set", "lan0", "up")
    before = devices(place)["lan0"]
    (tap,) = attach("app1", [Card("lan0")], place)
    assert devices(place)[tap.name]["mtu"] == 1400
    with pytest.raises(errors.Refused, match="was not made by secondsite"):
        attach("app2", [Card("lan0", isolated=True)], place)
    detach("app1", place)
    detach("app2", place)
    after = devices(place)
    assert set(after) == {"lan0"}
    assert after["lan0"]["address"] == before["address"] and "ifalias" not in after["lan0"]


def test_what_a_killed_process_left_is_taken_up_and_removed(place: str) -> None:
    """Killed between the making of a device and its mark."""
    ip("-n", place, "tuntap", "add", names.tap("app1", 0), "mode", "tap")
    ip("-n", place, "link", "add", names.unfinished("front"), "type", "bridge")
    attach("app1", [Card("front")], place)
    detach("app1", place)
    assert devices(place) == {}
    ip("-n", place, "tuntap", "add", names.tap("app1", 5), "mode", "tap")
    detach("app1", place)
    assert devices(place) == {}


def test_what_was_about_to_go_and_is_used_again_stays(place: str) -> None:
    """Killed in a detach, between naming what goes and its end: another machine's detach must not take it along."""
    (tap,) = attach("app1", [Card("front")], place)
    for name in (tap.name, "front"):
        ip("-n", place, "link", "set", name, "group", str(links.GOING))
    assert attach("app1", [Card("front")], place) == [tap]
    attach("app2", [Card("front")], place)
    detach("app2", place)
    assert set(devices(place)) == {tap.name, "front"}


def test_what_is_there_and_is_not_ours_is_refused(place: str) -> None:
    ip("-n", place, "link", "add", "one", "type", "veth", "peer", "name", "two")
    with pytest.raises(errors.Refused, match="one is a network device, but no bridge"):
        attach("app1", [Card("one")], place)
    ip("-n", place, "tuntap", "add", names.tap("app2", 0), "mode", "tap")
    ip("-n", place, "link", "set", names.tap("app2", 0), "alias", names.Mark(names.key("other"), 0, "x").text())
    with pytest.raises(errors.Refused, match="is not of machine 'app2'"):
        attach("app2", [Card(None)], place)
    detach("app2", place)
    assert names.tap("app2", 0) in devices(place)
    with pytest.raises(errors.Refused, match="no network namespace 'nowhere-at-all'"):
        attach("app1", [Card("front")], "nowhere-at-all")
    detach("app1", "nowhere-at-all")
    with pytest.raises(errors.Usage, match="no name of a network namespace"):
        attach("app1", [Card("front")], "../../proc/self/ns/net")


def test_two_of_ours_do_not_have_one_address_on_a_bridge(place: str) -> None:
    """R11.7: two that were placed at the same instant."""
    card = Card("front", address="10.1.0.7/24")
    attach("app1", [card], place, dhcp=False)
    with pytest.raises(errors.Refused, match=r"R11\.7: another machine on front has 10\.1\.0\.7/24"):
        attach("app2", [card], place)
    attach("app1", [card], place)
    attach("app2", [Card("back", address="10.1.0.7/24")], place, dhcp=False)


@pytest.mark.parametrize(
    "card",
    [Card("a-name-that-is-too-long"), Card("../x"), Card("a b"), Card("brücke"), Card("b", mac="01:00:5e:00:00:01"),
     Card("b", mac="52:54:00"), Card("b", address="10.0.0.300/24"), Card("b", gateway="10.0.0.1/24"),
     Card("b", mac="ff:ff:ff:ff:ff:ff")],
)  # fmt: skip
def test_a_card_that_cannot_be_changes_nothing(place: str, card: Card) -> None:
    with pytest.raises(errors.Usage, match="card 2 of 'app1'"):
        attach("app1", [Card("front"), card], place)
    assert devices(place) == {}


def test_many_come_and_go_at_once(place: str) -> None:
    """Four threads attach and detach machines on one bridge: nobody loses it under its feet, and nothing is left."""
    failed: list[BaseException] = []

    def come_and_go(number: int) -> None:
        try:
            for turn in range(5):
                machine = f"app{number}-{turn}"
                (tap,) = attach(machine, [Card("front")], place)
                assert devices(place)[tap.name]["master"] == "front"
                detach(machine, place)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert devices(place) == {}


def test_a_hundred_machines_are_attached_in_seconds(place: str) -> None:
    """Of two cards each: 0.5 s and 3.4 s to remove them again, on two cores of which others had most."""
    began = time.monotonic()
    for number in range(100):
        attach(f"app{number}", [Card("front"), Card("back")], place)
    assert time.monotonic() - began < 20
    assert len(devices(place)) == 202
    for number in range(100):
        detach(f"app{number}", place)
    assert devices(place) == {}
