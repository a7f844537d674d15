"""Making, changing and removing network devices in a namespace, through pyroute2 (imported only here)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from secondsite.engine import errors
from secondsite.orchestration.networks import names
from secondsite.orchestration.networks.namespaces import alone, is_of_test, remove
from secondsite.orchestration.networks.reading import Link, by_name, everything

_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_ADDR_GEN_MODE_NONE = 1
# A group of devices that only exists while they are removed.
GOING = 0x5E517E
Result = TypeVar("Result")


class Links:
    """What there is in this thread's namespace. Raises Refused where the kernel does."""

    def __init__(self, route: Any) -> None:
        self._route = route
        self._ipv6 = Path("/proc/net/if_inet6").exists()

    def make_bridge(self, name: str) -> Link:
        """A bridge of ours. It has its mark before it has its name, so that a kill in between is swept up."""
        early = names.unfinished(name)
        if by_name(early) is None:
            # It passes on everything, and says nothing itself.
            _asked(self._route.link, "add", ifname=early, kind="bridge", br_mcast_snooping=0)
        found = self._get(early)
        # An address of its own: else it takes that of a port. None of IPv6: the host is no station of this network.
        own = names.mac(name, 0)
        self._set(found.index, ifname=name, address=own, ifalias=names.BRIDGE.text(), state="up")
        return self._get(name)

    def make_tap(self, name: str) -> Link:
        """A tap that stays when this process ends, not yet up."""
        request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI)
        try:
            with open("/dev/net/tun", "r+b", buffering=0) as device:
                fcntl.ioctl(device, _TUNSETIFF, request)
                fcntl.ioctl(device, _TUNSETPERSIST, 1)
        except OSError as error:
            raise _refused(error.errno or 0, f"cannot make tap {name}") from None
        return self._get(name)

    def set_tap(self, tap: Link, mark: names.Mark, bridge: Link | None) -> None:
        """Mark a tap and join it to a bridge. One that is joined to nothing stays down: a host answers what comes in
        at any device that is up.
        """
        more: dict[str, Any] = {"mtu": bridge.mtu} if bridge else {}
        self._set(
            tap.index, ifalias=mark.text(), address=names.own_mac(mark.mac), master=bridge.index if bridge else 0,
            state="up" if bridge else "down", **more,
        )  # fmt: skip

    def address(self, link: Link, address: ipaddress.IPv4Interface, verb: Literal["add", "del"]) -> None:
        """Give this host an address at a device, or take it away."""
        _asked(self._route.addr, verb, index=link.index, address=str(address.ip), prefixlen=address.network.prefixlen)

    def keep(self, link: Link) -> None:
        """A device that a killed process was about to remove is in use again."""
        if link.group == GOING:
            self._set(link.index, group=0)

    def remove(self, links: Iterable[Link]) -> None:
        """Delete devices, all at once: each by itself takes the kernel 6 to 18 ms, ten together 23. One that is gone
        already is no error.
        """
        found = list(links)
        for link in found:
            with contextlib.suppress(_Gone):
                _asked(self._route.link, "set", index=link.index, group=GOING)
        if found:
            with contextlib.suppress(_Gone):
                _asked(self._route.link, "del", group=GOING)

    def _get(self, name: str) -> Link:
        found = by_name(name)
        if found is None:
            raise errors.Refused(f"device {name} was removed while it was made")
        return found

    def _set(self, index: int, **attributes: Any) -> None:
        """All of it in one request: there is no half of it."""
        if self._ipv6:
            mode = {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_MODE_NONE]]}
            attributes["IFLA_AF_SPEC"] = {"attrs": [["AF_INET6", mode]]}
        _asked(self._route.link, "set", index=index, **attributes)


class _Gone(errors.Refused):
    """There is no such device."""


def _asked(request: Callable[..., Any], verb: str, **attributes: Any) -> None:
    from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]

    try:
        request(verb, **attributes)
    except NetlinkError as error:
        what = attributes.get("ifname") or attributes.get("index") or "of those that go"
        raise _refused(error.code, f"network device {what}: cannot {verb} it") from None


def _refused(code: int, doing: str) -> errors.Refused:
    if code == errno.ENODEV:
        return _Gone(f"{doing}: it is gone")
    if code in (errno.EPERM, errno.EACCES):
        return errors.Refused(f"{doing}: networks of machines take root")
    return errors.Refused(f"{doing}: {os.strerror(abs(code))}")


def changing(namespace: str | None, work: Callable[[Links], Result], *, make: bool = False) -> Result:
    """What `work` returns of the devices of a namespace, which nobody else of us changes meanwhile. With `make` that
    of a test is made where it is missing; it goes with its last device.

    Raises Refused, and Busy.
    """

    def opened() -> Result:
        try:
            with _opened() as links:
                return work(links)
        finally:
            if namespace is not None and is_of_test(namespace) and not _in_use():
                remove(namespace)

    return alone(namespace, opened, make=make)


def _in_use() -> bool:
    return any(link.mark is not None for link in everything())


@contextlib.contextmanager
def _opened() -> Iterator[Links]:
    try:
        from pyroute2 import IPRoute  # type: ignore[import-untyped]
    except ImportError as error:
        raise errors.Refused(f"networks need {error.name}: pip install 'secondsite[failover]'") from None
    with IPRoute() as route:
        yield Links(route)
