"""What devices of ours are called, and the mark by which they are known again.

A name of a network device has 15 characters at most, so it is made of a hash; the mark is the device's alias in the
kernel, which holds the rest. All that is known of a device lies there: a process that is killed leaves nothing that
only it knew.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass

# Hyper-V's machines have twelve cards at most; two digits of a name are for the card.
MOST_CARDS = 32
_MOST_NAME = 15
_OURS = re.compile(r"ss[a-z2-7]{11}[0-9]{2}|ssnew[a-z2-7]{10}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_FIRST_WORD = "secondsite"


def key(name: str) -> str:
    """26 characters that stand for the name of a machine, network or test."""
    return base64.b32encode(hashlib.sha256(name.encode()).digest()[:16]).decode().rstrip("=").lower()


def tap(machine: str, card: int) -> str:
    """The tap of a machine's card, counted from 0."""
    return f"ss{key(machine)[:11]}{card:02d}"


def bridge(network: str) -> str:
    """The bridge of a network for which the estate names none."""
    return f"ssb{key(network)[:12]}"


def unfinished(bridge: str) -> str:
    """What a bridge is called until it has its mark."""
    return f"ssnew{key(bridge)[:10]}"


def looks_ours(name: str) -> bool:
    """Has a device without a mark a name that only we give? It is what a killed process left."""
    return _OURS.fullmatch(name) is not None


def may_be(bridge: str) -> bool:
    """Does the kernel take this as the name of a device?"""
    plain = bridge.isascii() and bridge.isprintable() and not set(bridge) & set("/: %")
    return plain and 0 < len(bridge) <= _MOST_NAME and bridge not in (".", "..")


def mac(machine: str, card: int) -> str:
    """The address of a card for which none is given: the same each time, locally administered, of one station."""
    octets = b"\x02" + hashlib.sha256(f"{machine}/{card}".encode()).digest()[:5]
    return octets.hex(":")


def plain_mac(text: str) -> str:
    """In lower case with colons, as the kernel writes it; '' where it is none, or that of a group."""
    found = text.lower().replace("-", ":")
    if not _MAC.fullmatch(found) or int(found[:2], 16) & 1 or found == "00:00:00:00:00:00":
        return ""
    return found


def own_mac(guest: str) -> str:
    """That of the tap itself, which must not be its guest's. A bridge without one takes the lowest of its ports, and
    changes it as they come and go; this is higher than others, as libvirt does it.
    """
    return ("fe" if guest[:2] != "fe" else "fa") + guest[2:]


@dataclass(frozen=True, slots=True)
class Mark:
    """Of a tap whose it is (`key` of the machine, card), the guest's MAC, its address with its prefix
    (192.0.2.7/24) and its gateway, and whether DHCP answers with them. Of a bridge only that it is ours.
    """

    key: str = ""
    card: int = 0
    mac: str = ""
    address: str = ""
    gateway: str = ""
    dhcp: bool = False

    def text(self) -> str:
        """As the alias of a device, under the kernel's 255 bytes."""
        if not self.key:
            return f"{_FIRST_WORD} bridge"
        words = (self.key, str(self.card), self.mac, self.address or "-", self.gateway or "-",
                 "dhcp" if self.dhcp else "-")  # fmt: skip
        return f"{_FIRST_WORD} tap {' '.join(words)}"


BRIDGE = Mark()


def read(alias: str | None) -> Mark | None:
    """The mark that an alias is; None for whatever else it says."""
    words = (alias or "").split(" ")
    if words == [_FIRST_WORD, "bridge"]:
        return BRIDGE
    if len(words) != 8 or words[:2] != [_FIRST_WORD, "tap"] or not words[3].isdecimal():
        return None
    address, gateway = (word if word != "-" else "" for word in words[5:7])
    return Mark(words[2], int(words[3]), words[4], address, gateway, words[7] == "dhcp")
