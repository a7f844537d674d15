"""A served point of another host's replica, while links break, the agent is restarted, and points are dropped."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from commands import SECONDSITE, paired, run, service
from hosting import Site, replica_of, site, soon

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.images import RawImage
from secondsite.engine.images.base import Buffer
from secondsite.engine.remote import hosts, url
from secondsite.engine.remote.agent.service import Agent
from secondsite.engine.remote.far import point as farpoint
from secondsite.engine.remote.home import Home
from secondsite.engine.replica import lease

pytestmark = pytest.mark.timeout(60)
MIB = 1 << 20


def test_an_idle_point_is_held_over_a_cut_link_and_by_its_own_doing(there: Site, tmp_path: Path) -> None:
    state, source = there.host("idle", "idle", allow="read"), replica_of(there, "idle", tmp_path)
    before, told = source.read_bytes(), list[str]()
    with farpoint.FarPoint(url.parse(there.url("idle")), Home.of(state), told=told.append) as point:
        first = point._connection
        assert first is not None
        first.close()
        source.write_bytes(random.Random(4).randbytes(2 * MIB))
        engine.replicate(source, there.root / "idle", source_id="disk", keep=1)
        assert soon(lambda: len(told) == 2) and "link is lost" in told[0] and "link is back" in told[1]
        engine.replicate(source, there.root / "idle", source_id="disk", keep=1)
        assert point.read_bytes(0, 2 * MIB) == before
        assert len(list((there.root / "idle").glob("lease-far-*"))) == 1
    assert soon(lambda: not list((there.root / "idle").glob("lease-*")))  # it said goodbye
    source.write_bytes(random.Random(5).randbytes(2 * MIB))
    engine.replicate(source, there.root / "idle", source_id="disk", keep=1)
    assert len(engine.points(there.root / "idle")) == 1


def test_a_read_outlives_a_restart_of_the_agent_that_drops_points(tmp_path: Path) -> None:
    told = list[str]()
    with site(tmp_path) as there:
        state, source = there.host("reader", allow="read"), replica_of(there, "disk", tmp_path)
        before, port = source.read_bytes(), there.port
        point = farpoint.FarPoint(url.parse(there.url()), Home.of(state), told=told.append)
    with point:
        source.write_bytes(random.Random(4).randbytes(2 * MIB))
        engine.replicate(source, there.root / "disk", source_id="disk", keep=1)
        read = list[bytes]()
        reader = threading.Thread(target=lambda: read.append(point.read_bytes(0, 2 * MIB)))
        reader.start()
        with Agent(str(there.root), Home.of(there.there)) as agent:
            agent.listen("127.0.0.1", port)
            reader.join(20)
            assert read == [before] and len(told) == 2


def test_a_link_that_breaks_again_and_again_costs_no_read(
    there: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pauses grow while there is no link, and not from one link to the next."""
    monkeypatch.setattr(farpoint, "PAUSES", (0.05, 50.0))
    monkeypatch.setattr(farpoint, "PATIENCE_SECONDS", 5.0)
    state, source = there.host("weak", "weak", allow="read"), replica_of(there, "weak", tmp_path)
    with farpoint.FarPoint(url.parse(there.url("weak")), Home.of(state)) as point:
        for _ in range(4):
            assert point._connection is not None
            point._connection.close()
            assert point.read_bytes(0, 2 * MIB) == source.read_bytes()


def test_a_block_that_cannot_be_read_there_fails_its_own_reads_at_once_and_no_others(
    there: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, source = there.host("sector", "sector", allow="read"), replica_of(there, "sector", tmp_path)
    told, read_into = list[str](), RawImage.read_into

    def failing(image: RawImage, offset: int, buffer: Buffer) -> None:
        if image.path.endswith("head.raw") and offset <= MIB < offset + memoryview(buffer).nbytes:
            raise errors.Unreachable("cannot read it: Input/output error", path=image.path)
        read_into(image, offset, buffer)

    monkeypatch.setattr(RawImage, "read_into", failing)
    with farpoint.FarPoint(url.parse(there.url("sector")), Home.of(state), told=told.append) as point:
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(errors.Unreachable, match="Input/output error"):
                point.read_bytes(MIB, 4096)
            assert time.monotonic() - began < 5
            assert point.read_bytes(0, MIB) == source.read_bytes()[:MIB]
        assert told == []


def test_a_point_that_is_gone_is_told_once_and_fails_reads(
    there: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "GRACE_SECONDS", -1.0)
    monkeypatch.setattr(farpoint, "_LOOK_SECONDS", 2.0)  # the points go before it is noticed
    state, source = there.host("late", "late", allow="read"), replica_of(there, "late", tmp_path)
    told = list[str]()
    with farpoint.FarPoint(url.parse(there.url("late")), Home.of(state), told=told.append) as point:
        assert point._connection is not None
        point._connection.close()
        for seed in (4, 5, 6):
            source.write_bytes(random.Random(seed).randbytes(2 * MIB))
            engine.replicate(source, there.root / "late", source_id="disk", keep=1)
        for _ in range(2):
            with pytest.raises(errors.Error):
                point.read_bytes(0, 4096)
        assert len(told) == 2 and "it is gone" in told[1]


def test_serve_outlives_an_agent_that_was_killed(tmp_path: Path) -> None:
    """As an operator has it: nobody reads, the agent is killed and started again, and points are dropped at once."""
    source, sock = tmp_path / "disk.raw", tmp_path / "s.sock"
    source.write_bytes(random.Random(3).randbytes(2 * MIB))
    before = source.read_bytes()
    with service(tmp_path) as first:
        state, where, port = paired(tmp_path, first, "vm"), first.url("vm"), first.port
        run("replicate", source, where, "--state", state)
        serving = subprocess.Popen(
            (*SECONDSITE, "serve", where, "--socket", str(sock), "--state", str(state), "--json"),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert serving.stdout is not None
        export = json.loads(serving.stdout.readline())["urls"][0]
        assert first.stop(signal.SIGKILL) == -signal.SIGKILL
    try:
        with service(tmp_path, listen=f"127.0.0.1:{port}"):
            for seed in (4, 5):
                source.write_bytes(random.Random(seed).randbytes(2 * MIB))
                run("replicate", source, where, "--keep", "1", "--state", state)
            with engine.open_image(export, format="raw") as image:
                assert image.read_bytes(0, image.size) == before
            serving.send_signal(signal.SIGTERM)
            said = serving.communicate(timeout=20)[1].splitlines()
            assert serving.returncode == 0 and len(said) == 2
            assert "link is lost" in said[0] and "link is back" in said[1]
            source.write_bytes(random.Random(6).randbytes(2 * MIB))
            run("replicate", source, where, "--keep", "1", "--state", state)
            assert len(engine.points(tmp_path / "root" / "vm")) == 1
    finally:
        serving.kill()
        serving.communicate()


def test_who_reads_no_more_since_he_was_revoked_holds_no_point(there: Site, tmp_path: Path) -> None:
    """Not for the grace that a broken link gives."""
    state, source = there.host("out", "out", allow="read"), replica_of(there, "out", tmp_path)
    with farpoint.FarPoint(url.parse(there.url("out")), Home.of(state)):
        assert list((there.root / "out").glob("lease-far-*"))
        hosts.revoke("out", state=there.there)
        assert soon(lambda: not list((there.root / "out").glob("lease-*")))
        source.write_bytes(random.Random(4).randbytes(2 * MIB))
        assert engine.replicate(source, there.root / "out", source_id="disk", keep=1).pruned == 1


def test_pruning_says_which_points_are_being_served(there: Site, tmp_path: Path) -> None:
    owner, source = there.host("own", "own", allow="read,administer"), replica_of(there, "own", tmp_path)
    with farpoint.FarPoint(url.parse(there.url("own")), Home.of(owner)):
        source.write_bytes(random.Random(4).randbytes(2 * MIB))
        engine.replicate(source, there.root / "own", source_id="disk")
        for where in (there.url("own"), there.root / "own"):
            done = engine.prune_report(where, keep=1, state=owner)
            assert done.points == 0 and "points from 1 on are being served" in done.warnings[0]
    assert engine.prune_report(there.url("own"), keep=1, state=owner).warnings == []
