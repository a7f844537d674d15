"""Replicas on another host: an agent and senders as processes, paired, over TLS, on two cores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from secondsite.orchestration.bench.context import Bench, remove
from secondsite.orchestration.bench.hosts import far, fleet, loopback, slow
from secondsite.orchestration.bench.hosts.sites import site


def hosts(bench: Bench) -> None:
    """Every figure that was set for a transfer. What earlier groups left is removed: this one needs the room."""
    bench.drop_updates()
    remove(bench.replica)
    with _two_cores():
        with site(bench) as made:
            loopback.against_ssl(bench, made)
            loopback.against_rsync(bench, made)
            loopback.sent_bytes(bench, made)
        slow.slow_link(bench)
        far.long_link(bench)
        fleet.memory(bench)


@contextmanager
def _two_cores() -> Iterator[None]:
    """Both ends share two cores, also on a larger machine; who is started in the block inherits that."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:2])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
