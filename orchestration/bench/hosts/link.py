"""Two network namespaces with a slow cable between them: nothing of it is seen outside, and all of it is removed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from secondsite.engine import errors
from secondsite.orchestration.bench import process
from secondsite.orchestration.bench.hosts.sites import Place

_NEAR, _FAR = "10.77.0.1", "10.77.0.2"
# A burst of 64 KiB is 5 ms; a queue of 100 ms is what routers before such links have.
_SHAPE = ("burst", "64kb", "latency", "100ms")


@contextmanager
def cable(bits_per_second: int) -> Iterator[Place]:
    """Both directions are as fast as told. Raises Unreachable where namespaces or `tbf` are not to be had."""
    if os.getuid() != 0:
        raise errors.Unreachable("network namespaces take root")
    near, far = (f"secondsite-bench-{os.getpid()}-{end}" for end in ("near", "far"))
    with ExitStack() as stack:
        for name in (near, far):
            process.run(["ip", "netns", "add", name])
            stack.callback(process.run, ["ip", "netns", "del", name])
        process.run(["ip", "link", "add", "eth0", "netns", near, "type", "veth", "peer", "name", "eth0", "netns", far])
        for name, address in ((near, _NEAR), (far, _FAR)):
            process.run(["ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0"])
            for device in ("lo", "eth0"):
                process.run(["ip", "-n", name, "link", "set", device, "up"])
            rate = ["rate", f"{bits_per_second}bit", *_SHAPE]
            process.run(["tc", "-n", name, "qdisc", "add", "dev", "eth0", "root", "tbf", *rate])
        yield Place(("ip", "netns", "exec", near), ("ip", "netns", "exec", far), _FAR)
