"""Against a server that throws bodies away: what is left of the codec's own throughput, and what the rest costs.

Codec and MD5 are measured in this process over the same bytes in the same run: frames of the same size, two threads.
"""

from __future__ import annotations

import hashlib
import re
import sys
import time
from pathlib import Path

from secondsite.engine import kernel
from secondsite.engine.units import GIB, MIB
from secondsite.orchestration.bench import kernels, process, rows, stages
from secondsite.orchestration.bench.context import Bench
from secondsite.orchestration.bench.store import uploads
from secondsite.orchestration.bench.store.azurite import Server, started

SINK = str(Path(__file__).with_name("sink.py"))
FIGURE, BEYOND_SECONDS = 0.75, 1.2
_LISTENS = re.compile(rb"the sink listens on (\d+)")


def against_a_sink(bench: Bench) -> None:
    """With lz4 and with zstd, over real files without holes."""
    sample = stages.sample(bench)
    with started([sys.executable, "-I", SINK], bench.folder / "sink.log", _LISTENS) as server:
        for name, codec in (("lz4", kernel.codec.LZ4), ("zstd", kernel.codec.ZSTD)):
            Ceiling(bench, server, sample, name, codec).measure()


class Ceiling:
    """One codec."""

    def __init__(self, bench: Bench, server: Server, sample: Path, name: str, codec: int) -> None:
        self.bench, self.server, self.sample, self.name, self.codec = bench, server, sample, name, codec
        self.ours: list[process.Ran] = []
        self.sink_cpu: list[float] = []
        self.codec_cpu: list[float] = []
        self.stored = 0

    def measure(self) -> None:
        """Both sides in turn, once before they count; then what they cost."""
        sides = {"ours": self._upload, "codec": self._encode}
        for side in sides.values() if self.bench.judged else ():
            side()
        for values in (self.ours, self.sink_cpu, self.codec_cpu):
            values.clear()
        taken = rows.alternate(self.bench.rounds, sides)
        size, bench = self.sample.stat().st_size, self.bench
        bench.add(
            rows.compare("store", f"upload to a sink, {self.name}", taken["ours"], "the codec, two threads",
                         taken["codec"], kind="engine", figure=bench.figure(FIGURE), size=size)
        )  # fmt: skip
        self._cost(_md5_cpu(self.stored))

    def _upload(self) -> float:
        before = self.server.cpu()
        done = uploads.ours(self.bench, self.server, self.sample, f"{self.name}:1" if self.codec else self.name)
        self.sink_cpu.append(self.server.cpu() - before)
        self.ours.append(done)
        return done.seconds

    def _encode(self) -> float:
        used = time.process_time()
        seconds, self.stored = kernels.encoding(self.sample, stages.CODEC_THREADS, self.codec, 1)
        self.codec_cpu.append(time.process_time() - used)
        return seconds

    def _cost(self, md5: float) -> None:
        """Of the processor a GiB that goes out, less the sink's, reading and packing, and MD5."""
        beyond = [
            max(run.cpu - sink - packing - md5, 0.01) * GIB / self.stored  # a clock ticks
            for run, sink, packing in zip(self.ours, self.sink_cpu, self.codec_cpu, strict=True)
        ]
        note = f"{self.stored / MIB:.0f} MiB go out; codec {min(self.codec_cpu):.2f} s, MD5 {md5:.2f} s"
        self.bench.add(
            rows.at_most("store", f"processor time beyond codec and MD5 a GiB sent, {self.name}", max(beyond),
                         BEYOND_SECONDS, "s", judged=self.bench.judged, note=note)
        )  # fmt: skip


def _md5_cpu(size: int) -> float:
    """Processor seconds of MD5 over so many bytes."""
    block = bytes(4 * MIB)
    used = time.process_time()
    for at in range(0, size, len(block)):
        hashlib.md5(memoryview(block)[: size - at], usedforsecurity=False).digest()
    return time.process_time() - used
