"""What the group `hosts` measures with: the slow link, the bare peers, and data that packs as told."""

from __future__ import annotations

import lzma
import zlib
from pathlib import Path

import pytest

from secondsite.orchestration.bench import context, process, rows, servers, table, workload
from secondsite.orchestration.bench.hosts import link, loopback, sites, slow

MIB = 1 << 20


def bench(folder: Path) -> context.Bench:
    image = folder / "image"
    servers.fill(image, 2 * MIB, seed=1)
    return context.Bench(folder, workload.Workload(image, "noise", 2 * MIB, 2 * MIB, 0), 1, 2, lambda line: None)


@pytest.mark.needs("root", "ip", "tc")
def test_a_cable_is_as_slow_as_told_and_leaves_nothing(tmp_path: Path) -> None:
    servers.fill(tmp_path / "noise", 4 * MIB, seed=2)
    with link.cable(80_000_000) as place, sites.mover(place) as mover:
        taken = mover.move(tmp_path / "noise", 4 * MIB)
        assert taken.cipher == "none"
        assert 0.4 <= taken.seconds < 1.5  # 0.42 s of 10 MB/s, less one burst
    there = process.run(["ip", "netns", "list"], keep_output=True).output
    assert place.near[-1] not in there and place.far[-1] not in there


def test_a_pair_of_processes_sends_and_forgets(tmp_path: Path) -> None:
    made = bench(tmp_path)
    with sites.site(made) as site:
        done = site.replicate(made.source, site.names[0])
        assert done.json["kind"] == "initial" and done.cpu > 0
        made.prove("it", site.head(site.names[0]), made.source)
        assert site.memory("VmHWM") >= site.memory("VmRSS") > 8 * MIB
        site.forget(site.names[0])
        assert site.replicate(made.source, site.names[0]).json["kind"] == "initial"
        with sites.mover(sites.LOOPBACK, site.there / "identity") as mover:
            moved = mover.move(made.source, 5 * MIB)
            assert moved.cipher.startswith("TLS_") and moved.cpu > 0 and 0 < moved.seconds < 30
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("image", "bytecode")] == []


def test_half_packs_to_half_with_every_codec(tmp_path: Path) -> None:
    loopback.fill_half(tmp_path / "half", 2 * MIB, seed=3)
    data = (tmp_path / "half").read_bytes()
    assert len(data) == 2 * MIB
    block = data[MIB : MIB + 65536]
    for packed in (zlib.compress(block, 1), lzma.compress(block)):
        assert 1.8 < len(block) / len(packed) < 2.1


def test_an_excerpt_has_no_holes(tmp_path: Path) -> None:
    with (tmp_path / "image").open("wb") as file:
        file.truncate(8 * MIB)
        for at in range(8):
            file.seek(at * MIB)
            file.write(bytes([at + 1]) * (MIB // 2))
    slow._excerpt(tmp_path / "image", tmp_path / "out", MIB)
    assert (tmp_path / "out").read_bytes() == b"\5" * (MIB // 2) + b"\6" * (MIB // 2)


def test_a_share_has_no_unit() -> None:
    row = rows.at_most("hosts", "sent", 1.004, 1.02, "")
    assert row.met and table.value(row.unit, row.ours) == "1.0040"
