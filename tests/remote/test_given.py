"""What a user may give between hosts: names that are no text or too long, files and hosts that are not there."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from commands import run
from hosting import Site

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.remote import hosts
from secondsite.engine.remote.home import Home
from secondsite.engine.remote.sending.outbound import Link
from secondsite.engine.remote.trust import agents

pytestmark = pytest.mark.timeout(60)
DATA = bytes(range(256)) * 1000


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(DATA)
    return path


def test_a_path_that_is_no_text_goes_over_as_it_is_recorded_here(there: Site, tmp_path: Path) -> None:
    """`info` tells the same source of both replicas, and the next cycle finds that it is theirs."""
    state, disk = there.host(), Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.raw"))
    disk.write_bytes(DATA)
    for data in (DATA, DATA[::-1]):
        disk.write_bytes(data)
        for replica in (there.url(), str(tmp_path / "here")):
            engine.replicate(disk, replica, state=state)
    one, other = engine.info(there.root / "disk"), engine.info(tmp_path / "here")
    assert one.source == other.source and str(one.source).endswith("/bad\\udcff.raw")
    assert one.generation == other.generation == 2


def test_a_recorded_path_that_is_no_text_is_still_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas of before hold such a name as it came from the system."""
    disk = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.raw"))
    disk.write_bytes(DATA)
    with monkeypatch.context() as patch:
        patch.setattr("secondsite.engine.units.printable", lambda name: name)
        engine.replicate(disk, tmp_path / "here")
    disk.write_bytes(DATA[::-1])
    assert engine.replicate(disk, tmp_path / "here").kind == "delta"


@pytest.mark.parametrize("far", [False, True], ids=["folder", "agent"])
def test_a_name_that_is_too_long_is_refused_at_once(there: Site, disk: Path, far: bool) -> None:
    state, link = there.host(), Link(retries=3, delays=(30.0,)) if far else None
    with pytest.raises(errors.Usage, match="at most 4000 letters, not 5000"):
        engine.replicate(disk, there.url() if far else there.root / "x", state=state, source_id="x" * 5000, link=link)


def test_a_list_of_changes_that_is_not_there_is_not_waited_for(there: Site, disk: Path, tmp_path: Path) -> None:
    state, began, missing = there.host(), time.monotonic(), str(tmp_path / "none.json")
    engine.replicate(disk, there.url(), state=state)
    with pytest.raises(errors.Unreachable, match="cannot read it: No such file") as caught:
        engine.replicate(disk, there.url(), state=state, changed=missing, link=Link(delays=(30.0,)))
    assert caught.value.path == missing and time.monotonic() - began < 20


def test_the_scheme_of_a_url_is_read_without_regard_to_case(there: Site, disk: Path) -> None:
    state, url = there.host(), there.url().replace("secondsite", "SecondSite")
    assert "initial" in run("replicate", disk, url, "--retries", "0", "--state", state)


@pytest.mark.parametrize("option", ["--listen", "--metrics"])
def test_a_name_that_does_not_resolve_is_said_to_be_one(tmp_path: Path, option: str) -> None:
    (tmp_path / "root").mkdir()
    run("identity", "init", "--state", tmp_path / "there")
    where = {"--listen": "127.0.0.1:0", option: "[::1%none]:8200"}
    told = [word for pair in where.items() for word in pair]
    said = run("agent", "--root", tmp_path / "root", "--state", tmp_path / "there", *told, status=5)
    assert "[::1%none]:8200: cannot listen: Name" in said and "Unknown error" not in said


def test_nothing_is_kept_of_a_pairing_that_was_refused(there: Site) -> None:
    """A host of that name is paired already."""
    there.host("one")
    two = there.folder / "two"
    hosts.init_identity(name="two", state=two)
    with pytest.raises(errors.Refused, match="paired as one"):
        hosts.pair(there.address, there.key(), name="one", state=two)
    assert agents.load(Home.of(two).agents).agents == {}


def test_a_pairing_that_was_refused_leaves_the_one_before(there: Site, disk: Path) -> None:
    state = there.host()
    with pytest.raises(errors.Refused, match="paired already"):
        hosts.pair(there.address, there.key(), name="source", state=state)
    assert engine.replicate(disk, there.url(), state=state).kind == "initial"
