"""The bridge of a machine's network is removed by somebody: a start makes it anew, and a machine that runs says so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from machinekit import Machine
from namespaces import ip, row
from netkit import devices

pytestmark = pytest.mark.needs("root", "namespaces", "qemu-system-x86_64")


def test_a_bridge_that_is_gone_is_made_anew_by_a_start(machine: Callable[..., Machine]) -> None:
    """R11.1: of one that was prepared, and of one that runs, whose QEMU stays."""
    with row("h2") as (host,):
        card = {"bridge": "away0", "address": "10.1.0.11/24", "gateway": "10.1.0.1"}
        one = machine(namespace=host.namespace, nics=[card])
        one.call("prepare")
        ip("-n", host.namespace, "link", "del", "away0")
        pid = one.start()["pid"]
        assert joined(host.namespace) == ["away0"] and not one.status()["wrong"]
        ip("-n", host.namespace, "link", "del", "away0")
        found = one.status()
        assert found["state"] == "running"
        assert found["wrong"] == "bridge away0 was removed under it; failover start makes it anew"
        assert one.start()["pid"] == pid and joined(host.namespace) == ["away0"] and not one.status()["wrong"]
        one.end()
        assert not devices(host.namespace)


def joined(namespace: str) -> list[str]:
    """The bridges that cards of machines are on."""
    return [str(link.get("master")) for link in devices(namespace).values() if link["linkinfo"]["info_kind"] == "tun"]
