"""What a cycle asks a store for, and what a long history costs: requests are lines in the emulator's log."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.units import KIB, MIB, TIB
from secondsite.orchestration.bench import process, rows, servers
from secondsite.orchestration.bench.context import Bench, remove
from secondsite.orchestration.bench.store import uploads
from secondsite.orchestration.bench.store.azurite import CONTAINER, Server

SPARSE_BYTES, SPARSE_DATA = 1 * TIB, 64 * MIB
CYCLE_REQUESTS, CYCLE_SECONDS = 12, 2.0
POINTS, FEW_POINTS = 1000, 10
FIRST_BYTE_SECONDS = 1.0
_BLOCK = 64 * KIB


class Site:
    """Our commands against a server."""

    def __init__(self, bench: Bench, server: Server) -> None:
        self.bench, self.server, self.state = bench, server, bench.folder / "store-state"
        self.env = {**process.compiled(bench.folder / "bytecode"), **server.env}

    def command(self, *arguments: str | Path) -> tuple[process.Ran, int]:
        """One, and how many requests it made."""
        before = self.server.requests()
        command = [*process.secondsite(), *map(str, arguments), "--json"]
        done = process.run(command, env=self.env, keep_output=True)
        return done, self.server.requests() - before

    def limits(self, name: str, work: Callable[[], tuple[process.Ran, int]], seconds: float, requests: int) -> None:
        """The slowest of all rounds, and the most requests; 0 is no limit."""
        found = [work() for _ in range(self.bench.rounds)]
        for unit, values, limit in (("s", [run.seconds for run, _ in found], seconds),
                                    ("", [float(count) for _, count in found], requests)):  # fmt: skip
            told = name if unit else f"{name}, requests"
            if limit:
                judged = self.bench.judged
                self.bench.add(rows.at_most("store", told, max(values), limit, unit, judged=judged))
            else:
                self.bench.add(rows.compare("store", told, values, unit=unit))


def sparse_cycle(site: Site) -> None:
    """1 MiB changed in a disk of 1 TiB."""
    source, url, chance = site.bench.folder / "sparse.raw", f"azure://{CONTAINER}/sparse", random.Random(17)
    places = sorted(chance.sample(range(SPARSE_BYTES // _BLOCK), SPARSE_DATA // _BLOCK))

    def change(number: int) -> None:
        with source.open("r+b", buffering=0) as file:
            for place in places[:number]:
                os.pwrite(file.fileno(), chance.randbytes(_BLOCK), place * _BLOCK)

    def cycle() -> tuple[process.Ran, int]:
        chance.shuffle(places)
        change(MIB // _BLOCK)
        done = site.command("replicate", source, url, "--state", site.state)
        if done[0].json["changed_bytes"] != MIB:
            raise errors.Damaged(f"a cycle told of {done[0].json['changed_bytes']} changed bytes", path=str(source))
        return done

    try:
        source.touch()
        os.truncate(source, SPARSE_BYTES)
        change(len(places))
        site.command("replicate", source, url, "--state", site.state)
        site.limits("1 MiB changed of 1 TiB", cycle, CYCLE_SECONDS, CYCLE_REQUESTS)
    finally:
        remove(source)


def many_points(site: Site) -> None:
    """Listing, a cycle, and the first byte of an old point, where there are a thousand."""
    bench, url = site.bench, f"azure://{CONTAINER}/points"
    source, count = bench.folder / "points.raw", POINTS if bench.judged else FEW_POINTS
    try:
        servers.fill(source, 4 * MIB, seed=18)
        made = uploads.run(bench, site.server, "points", source, url, site.state, str(count))
        bench.add(rows.compare("store", f"a cycle of {count}, mean", [made.seconds / count], kind="engine"))
        site.limits(f"list {count} points", lambda: site.command("points", url), 0, 0)
        kept = itertools.count(count - 1, -1)
        site.limits(
            f"prune one of {count} points", lambda: site.command("prune", url, "--keep", str(next(kept))), 0, 0
        )
        _serve(site, url, str(count // 2), f"serve one of {count} points, first byte")
    finally:
        remove(source)


def _serve(site: Site, url: str, at: str, name: str) -> None:
    """From the start of the command, with nothing in any cache of ours."""

    def serve() -> tuple[process.Ran, int]:
        before, began = site.server.requests(), time.monotonic()
        with (
            servers.serving(lambda socket: [*process.secondsite(), "serve", url, "--at", at, "--socket", socket],
                            env=site.env) as where,
            engine.open_image(where) as served,
        ):  # fmt: skip
            served.read_into(0, bytearray(4 * KIB))
            return process.Ran(time.monotonic() - began, 0, 0), site.server.requests() - before

    try:
        site.limits(name, serve, FIRST_BYTE_SECONDS, 0)
    except errors.Unreachable as error:
        site.bench.skipped["store, serve"] = str(error)


