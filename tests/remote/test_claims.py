"""Overlays over points of another host's replica: the agent keeps the point for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hosting import Site, replica_of

from secondsite import engine
from secondsite.engine import errors

pytestmark = pytest.mark.timeout(60)


def test_an_overlay_over_an_agents_replica(there: Site, tmp_path: Path) -> None:
    source = replica_of(there, "disk", tmp_path)
    before = source.read_bytes()
    with source.open("r+b") as file:
        file.write(b"after")
    engine.replicate(source, there.root / "disk", source_id="disk")
    reader, overlay = there.host("reader", allow="read"), tmp_path / "vm.overlay"
    made = engine.create_overlay(overlay, there.url(), "1", state=reader)
    assert [claim.generation for claim in engine.overlays_of(there.url(), state=reader)] == [1]
    with engine.open_image(overlay, "rw") as image:
        image.write(70_000, b"written")
    with engine.open_image(overlay) as image:
        found = bytes(image.read(0, image.size))
    assert found == before[:70_000] + b"written" + before[70_007:]
    with pytest.raises(errors.Refused, match=r"vm\.overlay"):
        engine.prune(there.root / "disk", drop=["1"])
    admin = there.host("admin", allow="administer,read")
    with pytest.raises(errors.Refused, match="stays"):
        engine.prune(there.url(), drop=["1"], state=admin)
    assert engine.remove_overlay(overlay)
    assert not engine.release_overlay(there.url(), made.claim, state=reader)
    assert engine.prune(there.url(), drop=["1"], state=admin) == 1


def test_over_an_agents_log(there: Site, tmp_path: Path) -> None:
    source = tmp_path / "disk.raw"
    source.write_bytes(b"one" * 100_000)
    sender = there.host("sender", "log", allow="send,read,administer")
    for text in (b"one", b"two"):
        source.write_bytes(text * 100_000)
        engine.replicate(source, there.url("log"), history="log", state=sender)
    reader, overlay = there.host("reader", "log", allow="read"), tmp_path / "vm.overlay"
    engine.create_overlay(overlay, there.url("log"), "1", state=reader)
    with engine.open_image(overlay) as image:
        assert bytes(image.read(0, 3)) == b"one"
    with pytest.raises(errors.Refused, match="stays"):
        engine.prune(there.url("log"), drop=["1"], state=sender)
    assert engine.remove_overlay(overlay)
    assert engine.prune(there.url("log"), drop=["1"], state=sender) == 1


def test_who_may_only_send_claims_nothing(there: Site, tmp_path: Path) -> None:
    replica_of(there, "disk", tmp_path)
    sender = there.host("sender")
    with pytest.raises(errors.Refused):
        engine.create_overlay(tmp_path / "vm.overlay", there.url(), state=sender)
    with pytest.raises(errors.Refused):
        engine.release_overlay(there.url(), "0" * 16, state=sender)
    assert not engine.overlays_of(there.root / "disk") and not list(tmp_path.glob("*.overlay"))
