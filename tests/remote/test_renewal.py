"""Certificates that end: told of a month before, refused afterwards, and made anew without pairing again."""

from __future__ import annotations

import datetime
import json
import logging
import random
from pathlib import Path

import pytest
from hosting import Site, site, soon

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.remote.link import tls
from secondsite.engine.remote.trust import identity
from secondsite.orchestration import cli

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(1 << 20))
    return path


def shorten(state: Path, days: int, ago: int = 0) -> None:
    """The host's certificate is one that was made `ago` days ago for so many days."""
    began = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=ago)
    identity.renew(state / "identity", days=days, now=began)


def cycle(there: Site, disk: Path, state: Path) -> engine.Replicated:
    with disk.open("r+b") as file:
        file.write(random.randbytes(4096))
    done = engine.replicate(disk, there.url(), state=state)
    assert (there.root / "disk" / "head.raw").read_bytes() == disk.read_bytes()
    return done


def test_both_sides_renew_while_cycles_go_on_and_see_it_of_each_other(tmp_path: Path, disk: Path) -> None:
    with site(tmp_path) as there:
        state = there.host()
        assert not cycle(there, disk, state).warnings
        before = engine.peers(state=there.there)[0]
        shorten(state, 5000)
        shorten(there.there, 6000)
        assert not cycle(there, disk, state).warnings
        after = engine.peers(state=there.there)[0]
        assert after.pin == before.pin and after.ends > before.ends
        (known,) = json.loads((state / "agents.json").read_text())["agents"].values()
        assert known == identity.load(there.there / "identity").certificate
        # One that ends sooner than what is known is no news.
        shorten(state, 4000)
        cycle(there, disk, state)
        assert engine.peers(state=there.there)[0] == after


def test_what_ends_within_a_month_is_told_on_both_sides(
    tmp_path: Path, disk: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.init_identity(name="agent", state=tmp_path / "there")
    shorten(tmp_path / "there", 20)
    engine.init_identity(name="source", state=tmp_path / "source")
    shorten(tmp_path / "source", 12)
    with site(tmp_path) as there:
        engine.pair(there.address, there.key("disk"), name="source", state=tmp_path / "source")
        told = cycle(there, disk, tmp_path / "source").warnings
        assert [line.partition(";")[0] for line in told] == [
            "this host's certificate ends in 11 days", f"the certificate of {there.address} ends in 19 days",
        ]  # fmt: skip
        assert told[1].endswith("`secondsite identity renew` makes another for the same key there")
    with caplog.at_level(logging.WARNING, "secondsite.agent"), site(tmp_path):
        assert soon(lambda: len(caplog.messages) > 1)
    assert [line.partition(" ends")[0] for line in caplog.messages] == [
        "this host's certificate", "the certificate of source",
    ]  # fmt: skip
    for command in ("identity", "peers"):
        assert cli.run([command, "--state", str(tmp_path / "there")]) == 0
        shown = capsys.readouterr()
        assert shown.err.startswith("secondsite: warning: th") and "identity renew" in shown.err


def test_an_expired_certificate_is_refused_by_its_name_until_it_is_renewed(
    tmp_path: Path, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with site(tmp_path) as there:
        state = there.host()
        cycle(there, disk, state)
        shorten(state, 1, ago=3)
        with pytest.raises(tls.Untrusted, match="this host's certificate has expired: `secondsite identity renew`"):
            cycle(there, disk, state)
        assert cli.run(["identity", "renew", "--state", str(state)]) == 0
        assert not capsys.readouterr().err
        cycle(there, disk, state)
        shorten(there.there, 1, ago=3)
        with pytest.raises(tls.Untrusted, match="its certificate has expired: `secondsite identity renew` there"):
            cycle(there, disk, state)
        assert cli.run(["identity", "renew", "--state", str(there.there)]) == 0
        cycle(there, disk, state)  # the agent was not started anew


def test_renewing_keeps_key_and_name_and_mends_a_damaged_certificate(tmp_path: Path) -> None:
    with pytest.raises(errors.Refused, match="identity init"):
        identity.renew(tmp_path)
    made = identity.create(tmp_path, name="west wing")
    secret = made.key_path.read_bytes()
    again = identity.renew(tmp_path)
    assert again.pin == made.pin and again.key_path.read_bytes() == secret
    from secondsite.engine.remote.trust import certificate

    assert certificate.called(again.certificate, "it") == "west wing"
    again.certificate_path.write_text("nothing")
    assert identity.renew(tmp_path).pin == made.pin
    again.key_path.write_text("nothing")
    with pytest.raises(errors.Damaged, match="no private key"):
        identity.renew(tmp_path)
