"""What tests of networks share: cards, what a namespace holds, and what has been heard at a tap."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Card:
    """A card as `attach` takes it."""

    bridge: str | None = None
    mac: str | None = None
    address: str | None = None
    gateway: str | None = None
    isolated: bool = False


def devices(namespace: str) -> dict[str, dict[str, Any]]:
    """What `ip` says of a namespace's devices, by name, without the loopback."""
    words = ("ip", "-n", namespace, "-details", "-json", "link", "show")
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return {one["ifname"]: one for one in json.loads(done.stdout) if one["ifname"] != "lo"}


def addresses(namespace: str) -> dict[str, list[str]]:
    """Those of IPv4 that the host itself has there, by device."""
    words = ("ip", "-n", namespace, "-4", "-json", "address", "show")
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return {
        one["ifname"]: [f"{each['local']}/{each['prefixlen']}" for each in one["addr_info"]]
        for one in json.loads(done.stdout) if one.get("addr_info") and one["ifname"] != "lo"
    }  # fmt: skip


def wait_until(done: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_port(namespace: str, tap: str) -> None:
    """Until a bridge passes on what comes from a tap: up to a second after somebody has opened it."""

    def ready() -> bool:
        found = devices(namespace)[tap]
        return "master" not in found or bool(found["linkinfo"]["info_slave_data"]["state"] == "forwarding")

    wait_until(ready)


def servers(namespace: str) -> list[int]:
    """The processes that answer DHCP there."""
    done = subprocess.run(("ip", "netns", "pids", namespace), capture_output=True, text=True, check=False)
    return [pid for pid in map(int, done.stdout.split()) if b"dhcp.serving" in _command(pid)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
