"""Replicas in an object store: against the SDK and rclone on the emulator, against a sink, and over a long history."""

from __future__ import annotations

import importlib.util

from secondsite.orchestration.bench import process
from secondsite.orchestration.bench.context import Bench, remove
from secondsite.orchestration.bench.store import azurite, ceiling, history, uploads


def store(bench: Bench) -> None:
    """Every figure that was set for stores. What earlier groups left is removed: this one needs the room."""
    if importlib.util.find_spec("azure") is None:
        bench.skipped["store"] = "the SDK is not installed: pip install 'secondsite[azure]'"
        return
    bench.drop_updates()
    remove(bench.replica)
    ceiling.against_a_sink(bench)
    if process.which(azurite.COMMAND) is None:
        bench.skipped["store, the emulator"] = f"{azurite.COMMAND} is not installed (npm install azurite)"
        return
    uploads.against_others(bench)
    with azurite.azurite(bench.folder) as server:
        uploads.run(bench, server, "container", azurite.CONTAINER)
        site = history.Site(bench, server)
        history.sparse_cycle(site)
        history.many_points(site)
