"""What does not pack, and what packs 2:1, uploaded to the emulator: ours, the SDK's `upload_blob`, and rclone.

All blobs of a round go to one emulator, which is another one in the next round. It takes a whole processor itself; it
checks a digest in native code where a request has one, and else goes over each body by a table in JavaScript.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from secondsite import engine
from secondsite.engine.units import GIB, MIB
from secondsite.orchestration.bench import process, rows, servers
from secondsite.orchestration.bench.context import Bench, remove
from secondsite.orchestration.bench.hosts.loopback import fill_half
from secondsite.orchestration.bench.store.azurite import CONTAINER, Server, azurite

UPLOAD = str(Path(__file__).with_name("upload.py"))
BYTES, SMALL_BYTES = 256 * MIB, 8 * MIB
# As many requests at once as ours has; the SDK has one unless it is told, rclone 16.
_CONNECTIONS = 4
MD5_FIGURE, PLAIN_FIGURE, HALF_FIGURE = 0.95, 2.0, 1.7
_numbers = itertools.count(1)
Taken = dict[str, list[process.Ran]]


def run(bench: Bench, server: Server, *arguments: str | Path, **more: str) -> process.Ran:
    """upload.py with these arguments and `more` in its environment; seconds are its own, `cpu` is its own and the
    server's meanwhile.
    """
    before = server.cpu()
    command = [sys.executable, UPLOAD, *map(str, arguments)]
    env = {**process.compiled(bench.folder / "bytecode"), **server.env, **more}
    done = process.run(command, env=env, keep_output=True)
    said = done.json
    return process.Ran(
        said.get("seconds", done.seconds), said.get("cpu", 0.0) + server.cpu() - before, done.peak, done.output
    )


def ours(bench: Bench, server: Server, source: Path, codec: str = "auto") -> process.Ran:
    """A first copy, by a host that knows nothing of it."""
    number, state = next(_numbers), bench.folder / "upload-state"
    try:
        return run(bench, server, "ours", source, f"azure://{CONTAINER}/ours{number}", state, codec)
    finally:
        remove(state)


def encrypted(bench: Bench, server: Server, source: Path) -> process.Ran:
    """The same with a key file: objects are sealed before they go out."""
    number, state, key = next(_numbers), bench.folder / "upload-state", bench.folder / "upload.key"
    try:
        engine.new_key_file(key)
        url = f"azure://{CONTAINER}/ours{number}"
        return run(bench, server, "ours", source, url, state, "auto", "encrypt", SECONDSITE_KEY_FILE=str(key))
    finally:
        remove(state)
        remove(key)


def _sdk(bench: Bench, server: Server, source: Path, connections: int, *md5: str) -> process.Ran:
    return run(bench, server, "sdk", source, CONTAINER, f"sdk{next(_numbers)}", str(connections), *md5)


def _rclone(bench: Bench, server: Server, source: Path, url: str) -> process.Ran:
    """A whole command: it starts in 0.05 s."""
    before, target = server.cpu(), f":azureblob:{CONTAINER}/rclone{next(_numbers)}"
    command = ["rclone", "--config=", "--ignore-times", "copyto", str(source), target]
    done = process.run(command, env={"RCLONE_AZUREBLOB_SAS_URL": url})
    return process.Ran(done.seconds, done.cpu + server.cpu() - before, done.peak)


def against_others(bench: Bench) -> None:
    """Every side once a round."""
    noise, half, size = bench.folder / "noise.raw", bench.folder / "half.raw", BYTES if bench.judged else SMALL_BYTES
    taken: Taken = {}
    try:
        servers.fill(noise, size, seed=15)
        fill_half(half, size, seed=16)
        for number in range(bench.rounds):
            with azurite(bench.folder) as server:
                url = run(bench, server, "container", CONTAINER).json["url"]
                sides = _sides(bench, server, noise, half, url)
                if bench.judged:
                    sides["noise"]()  # its JavaScript is compiled as it runs
                names = list(sides)
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    taken.setdefault(name, []).append(sides[name]())
    finally:
        remove(noise)
        remove(half)
    _report(bench, taken, size)


def _sides(
    bench: Bench, server: Server, noise: Path, half: Path, url: str
) -> dict[str, Callable[[], process.Ran]]:  # fmt: skip
    sides: dict[str, Callable[[], process.Ran]] = {
        "noise": partial(ours, bench, server, noise),
        "half": partial(ours, bench, server, half),
        "encrypted": partial(encrypted, bench, server, noise),
        "upload_blob, MD5, 4 at once": partial(_sdk, bench, server, noise, _CONNECTIONS, "md5"),
        "upload_blob": partial(_sdk, bench, server, noise, 1),
    }
    if process.which("rclone") is not None:
        sides["rclone"] = partial(_rclone, bench, server, noise, url)
    else:
        bench.skipped["store, rclone"] = "rclone is not installed"
    return sides


def _report(bench: Bench, taken: Taken, size: int) -> None:
    seconds = {name: [run.seconds for run in runs] for name, runs in taken.items()}
    cpu = {name: [run.cpu * GIB / size for run in runs] for name, runs in taken.items()}
    for peer in (name for name in taken if name not in ("noise", "half", "encrypted")):
        figure = MD5_FIGURE if "MD5" in peer else PLAIN_FIGURE
        for name, values, judged in (
            ("upload, noise", seconds, bench.figure(figure)),
            ("processor time a GiB with the emulator's, noise", cpu, None),
        ):
            kind, work = ("engine", size) if values is seconds else ("command", 0)
            bench.add(rows.compare("store", name, values["noise"], peer, values[peer], kind=kind, figure=judged,
                                   size=work))  # fmt: skip
    bench.add(rows.compare("store", "upload, packs 2:1", seconds["half"], "ours, noise", seconds["noise"],
                           kind="engine", figure=bench.figure(HALF_FIGURE), size=size))  # fmt: skip
    for name, values in (("upload", seconds), ("processor time a GiB with the emulator's", cpu)):
        bench.add(rows.compare("store", f"{name}, noise, encrypted", values["encrypted"], "ours, not encrypted",
                               values["noise"], kind="engine"))  # fmt: skip
