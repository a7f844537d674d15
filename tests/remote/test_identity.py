"""Keys and certificates on disk."""

from __future__ import annotations

import datetime
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from secondsite.engine import errors
from secondsite.engine.remote.trust import certificate, identity


def test_an_identity_is_made_and_read_back(tmp_path: Path) -> None:
    made = identity.create(tmp_path / "id", name="west")
    assert identity.load(tmp_path / "id") == made
    assert stat.S_IMODE(made.key_path.stat().st_mode) == 0o600
    assert made.pin == certificate.pin(made.certificate, "it") and len(made.pin) == 64
    assert sorted(p.name for p in made.folder.iterdir()) == ["certificate.pem", "key.pem"]


def test_it_holds_already_where_the_clock_is_a_day_behind(tmp_path: Path) -> None:
    made = identity.create(tmp_path)
    now = datetime.datetime.now(datetime.UTC)
    assert certificate.parse(made.certificate, "it").not_valid_before_utc < now - datetime.timedelta(days=1)
    assert made.ends > now + datetime.timedelta(days=3000)


def test_a_second_identity_is_refused_and_the_first_stays(tmp_path: Path) -> None:
    made = identity.create(tmp_path)
    with pytest.raises(errors.Refused, match="already"):
        identity.create(tmp_path)
    assert identity.load(tmp_path) == made


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    identity.create(tmp_path).key_path.chmod(0o640)
    with pytest.raises(errors.Refused, match="mode 600"):
        identity.load(tmp_path)


def test_no_identity_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(errors.Refused, match="identity init"):
        identity.load(tmp_path / "none")


@pytest.mark.parametrize(
    "text", ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "é" * 70000]
)
def test_a_damaged_certificate_is_said_to_be(tmp_path: Path, text: str) -> None:
    identity.create(tmp_path).certificate_path.write_text(text)
    with pytest.raises(errors.Damaged, match="certificate"):
        identity.load(tmp_path)


def test_cryptography_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys; from secondsite.engine.remote import url; from secondsite.engine.remote.link import tls; "
        "print('cryptography' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout == "False\n"


@pytest.mark.parametrize("name", ["é" * 40, "x" * 300, "a\nb", "\udcff" * 30])
def test_a_name_of_any_kind_fits_into_a_certificate(tmp_path: Path, name: str) -> None:
    made = identity.create(tmp_path, name=name)
    told = certificate.called(made.certificate, "a certificate")
    assert told and len(told.encode()) <= 40 and identity.renew(tmp_path).pin == made.pin
