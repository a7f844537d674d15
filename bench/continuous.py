"""Continuous protection under load: `track` and `replicate --watch 1` while a guest writes at random, for so long.

    python bench/continuous.py --seconds 600 --size 4096 --folder /mnt/test > result.json

Prints one JSON object: how old the newest point became (just before the next one was there), missed cycles, the largest
resident memory of both processes, what was written, and whether the replica verifies in the end.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from secondsite import engine
from secondsite.orchestration.bench.process import listening

PROGRAM = str(Path(sysconfig.get_path("scripts"), "secondsite"))
WRITE_BYTES = 16384
MIB = 1 << 20


def main() -> None:
    asked = arguments()
    folder = Path(tempfile.mkdtemp(prefix="continuous-", dir=asked.folder))
    try:
        result = measure(asked, folder)
    finally:
        shutil.rmtree(folder)
    print(json.dumps(result, indent=1))
    sys.exit(0 if result["verified"] and result["age_p99"] < asked.most else 1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--size", type=int, default=512, help="of the disk, MiB")
    parser.add_argument("--rate", type=float, default=50, help="MiB a second")
    parser.add_argument("--most", type=float, default=3, help="seconds that the 99th percentile of the ages may be")
    parser.add_argument("--keep", type=int, default=3600)
    parser.add_argument("--folder", help="where disk and replica lie")
    return parser.parse_args()


def measure(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    disk, socket, replica, out = folder / "disk.raw", folder / "nbd", folder / "replica", folder / "out"
    with disk.open("wb") as file:
        for _ in range(asked.size):
            file.write(os.urandom(MIB))
    engine.replicate(disk, replica, block_size=WRITE_BYTES, history="undo", tracker="scan")
    server = subprocess.Popen([PROGRAM, "track", disk, "--socket", socket], stdout=subprocess.DEVNULL)
    try:
        listening(server, socket)
        watch = [PROGRAM, "replicate", disk, replica, "--watch", "1", "--keep", str(asked.keep), "--json"]
        with out.open("w") as output:
            watcher = subprocess.Popen([*watch, "--history", "undo"], stdout=output)
        try:
            load = Load(f"nbd+unix:///{disk.name}?socket={socket}", asked, [server.pid, watcher.pid])
            load.run()
            if watcher.poll() is not None:
                told = f"the watcher ended by itself with status {watcher.returncode}"
                raise SystemExit(f"{told}: is there room for its points?")
        finally:
            watcher.terminate()
            watcher.wait(60)
    finally:
        server.terminate()
        server.wait(60)
    return load.facts() | ages([json.loads(line) for line in out.read_text().splitlines()]) | {
        "verified": engine.verify(replica).ok, "points": len(engine.points(replica)), "size_mib": asked.size,
        "host": f"{platform.release()}, {os.cpu_count()} cores", "load_average": os.getloadavg()[0],
    }  # fmt: skip


class Load:
    """Writes of 16 KiB at random places, at a steady rate; the memory of two processes meanwhile."""

    def __init__(self, url: str, asked: argparse.Namespace, watched: list[int]) -> None:
        self.url, self.asked, self.watched = url, asked, watched
        self.written, self.largest = 0, [0, 0]

    def run(self) -> None:
        chance, data = random.Random(7), [os.urandom(WRITE_BYTES) for _ in range(64)]
        places, rate = self.asked.size * MIB // WRITE_BYTES, self.asked.rate * MIB / WRITE_BYTES
        looker = threading.Thread(target=self._look, daemon=True)
        looker.start()
        with engine.open_image(self.url, "rw") as image:
            began = time.monotonic()
            while (passed := time.monotonic() - began) < self.asked.seconds:
                if self.written >= passed * rate:
                    time.sleep(0.0005)
                    continue
                image.write(chance.randrange(places) * WRITE_BYTES, data[self.written % len(data)])
                self.written += 1

    def _look(self) -> None:
        while True:
            for at, pid in enumerate(self.watched):
                try:
                    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                except OSError:
                    return
                self.largest[at] = max(self.largest[at], pages * os.sysconf("SC_PAGE_SIZE"))
            time.sleep(0.5)

    def facts(self) -> dict[str, Any]:
        return {
            "seconds": self.asked.seconds,
            "written_mib_per_second": round(self.written * WRITE_BYTES / MIB / self.asked.seconds, 2),
            "server_rss_mib": self.largest[0] // MIB, "watcher_rss_mib": self.largest[1] // MIB,
        }  # fmt: skip


def ages(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """How old the newest point was when the next one appeared: the largest age in each stretch between two points."""
    ended = [line for line in lines if line.get("last")]
    moments = [datetime.datetime.fromisoformat(line["time"]).timestamp() for line in ended]
    peaks = sorted(
        moments[at + 1] - (moments[at] - ended[at]["age"]) for at in range(len(ended) - 1)
    )  # fmt: skip
    if not peaks:
        raise SystemExit("too few cycles to say anything")
    return {
        "cycles": len(ended), "missed": ended[-1]["missed"], "failed": ended[-1]["failed"],
        "age_p50": round(peaks[len(peaks) // 2], 2), "age_p99": round(peaks[int(len(peaks) * 0.99)], 2),
        "age_max": round(peaks[-1], 2), "tracker": ended[-1]["tracker"],
        "degraded": sum(line["state"] == "degraded" for line in ended),
    }  # fmt: skip


if __name__ == "__main__":
    main()
