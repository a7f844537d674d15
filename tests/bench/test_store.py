"""The group `store` runs, at a size that takes seconds; and the server without a memory answers as Azure does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from azurite import emulator

from secondsite import engine
from secondsite.orchestration.bench import process, servers
from secondsite.orchestration.bench.store import azurite, ceiling, sink

MIB = 1 << 20


@pytest.mark.needs("azurite")
def test_all_of_it_is_measured(tmp_path: Path) -> None:
    path = os.pathsep.join([str(emulator.install() / "node_modules" / ".bin"), os.environ["PATH"]])
    command = [*process.secondsite(), "bench", "--only", "store", "--size", "32M", "--rounds", "1", "--dir", tmp_path]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    found = {row["name"]: row for row in report["rows"]}
    assert found["1 MiB changed of 1 TiB, requests"]["ours"] <= 12
    assert found["list 10 points, requests"]["ours"] == 2
    assert 2 < found["prune one of 10 points, requests"]["ours"] < 50
    assert found["serve one of 10 points, first byte"]["ours"] > 0
    for name in ("upload to a sink, lz4", "upload, noise", "upload, packs 2:1", "a cycle of 10, mean"):
        assert found[name]["ours"] > 0
    assert not list(tmp_path.iterdir())


def test_a_first_copy_goes_through_a_server_that_keeps_none_of_it(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("azure.storage.blob")
    servers.fill(tmp_path / "disk", 24 * MIB, seed=1)
    with azurite.started([sys.executable, "-I", ceiling.SINK], tmp_path / "log", ceiling._LISTENS) as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        done = engine.replicate(tmp_path / "disk", "azure://bench/disk", state=tmp_path / "state")
        assert done.changed_bytes == 24 * MIB
        status = Path(f"/proc/{server.pid}/status").read_text()
        kept = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert kept is not None and int(kept[1]) < 40 * 1024
        assert len(engine.points("azure://bench/disk")) == 1


def test_the_sink_holds_to_conditions(monkeypatch) -> None:
    monkeypatch.setattr(sink, "blobs", {})

    def put(**headers: str) -> sink.Answer:
        said = {key.replace("_", "-"): value for key, value in headers.items()}
        return sink.answered("PUT", "/account/c/head", said, b"held", 4)

    made = put(if_none_match="*")
    assert made.status == 201 and put(if_none_match="*").status == 409
    assert put(if_match='"0x0"').status == 412
    again = put(if_match=made.headers["ETag"], **{"x_ms_meta_put": "one"})
    assert again.status == 201 and again.headers["ETag"] != made.headers["ETag"]
    read = sink.answered("GET", "/account/c/head", {"x-ms-range": "bytes=1-2"}, b"", 0)
    assert (read.status, read.body, read.headers["x-ms-meta-put"]) == (206, b"el", "one")
    assert read.headers["Content-Range"] == "bytes 1-2/4"
    assert sink.answered("HEAD", "/account/c/none", {}, b"", 0).status == 404
