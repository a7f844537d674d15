"""Hosts in one machine: a network namespace each, in a row, neighbours joined by a pair of virtual Ethernet devices."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass
class Host:
    """`address` by the neighbour's name: what the neighbour calls this host. `within` goes before a command."""

    name: str
    namespace: str
    address: dict[str, str] = field(default_factory=dict)

    @property
    def within(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.namespace)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread, and every thread that is begun meanwhile, is on that host's network."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        there = os.open(f"/run/netns/{self.namespace}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(there)
            try:
                yield
            finally:
                _enter(home)
        finally:
            os.close(home)
            os.close(there)

    def remove(self) -> None:
        """With all that it has; may be called twice."""
        if Path(f"/run/netns/{self.namespace}").exists():
            ip("netns", "del", self.namespace)

    def link(self, neighbour: str, state: str) -> None:
        """The device towards a neighbour: `up` or `down`."""
        ip("-n", self.namespace, "link", "set", f"to-{neighbour}", state)


def _enter(namespace: int) -> None:
    if _LIBC.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def ip(*words: str) -> None:
    done = subprocess.run(("ip", *words), capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, (words, done.stderr)


@contextlib.contextmanager
def row(*names: str) -> Iterator[list[Host]]:
    """New hosts, each of which sees its neighbours alone, under names that no other process has; gone at the end."""
    hosts = [Host(name, f"secondsite-{os.getpid()}-{name}") for name in names]
    with contextlib.ExitStack() as stack:
        for host in hosts:
            ip("netns", "add", host.namespace)
            stack.callback(host.remove)
            ip("-n", host.namespace, "link", "set", "lo", "up")
        for number, (left, right) in enumerate(itertools.pairwise(hosts)):
            _join(left, right, f"198.18.{number}")
        yield hosts


def _join(left: Host, right: Host, net: str) -> None:
    ip("-n", left.namespace, "link", "add", "name", f"to-{right.name}", "type", "veth",
       "peer", "name", f"to-{left.name}", "netns", right.namespace)  # fmt: skip
    for host, other, last in ((left, right, 1), (right, left, 2)):
        host.address[other.name] = f"{net}.{last}"
        ip("-n", host.namespace, "address", "add", f"{net}.{last}/24", "dev", f"to-{other.name}")
        host.link(other.name, "up")


def leftovers() -> list[str]:
    """What this process made and did not remove."""
    folder = Path("/run/netns")
    mine = f"secondsite-{os.getpid()}-"
    return [path.name for path in folder.iterdir() if path.name.startswith(mine)] if folder.is_dir() else []
