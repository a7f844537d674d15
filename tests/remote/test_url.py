"""URLs and names of replicas elsewhere: what is one, and everything hostile that is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.remote import url


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("secondsite://host/vm", ("host", 8084, "vm")),
        ("SECONDSITE://10.0.0.1:99/vm-1.raw", ("10.0.0.1", 99, "vm-1.raw")),
        ("secondsite://[::1]/a", ("::1", 8084, "a")),
        ("secondsite://[fe80::1%eth0]:1/a@b+c", ("fe80::1%eth0", 1, "a@b+c")),
    ],
)
def test_a_url_is_read_and_written_back(text: str, parts: tuple[str, int, str]) -> None:
    found = url.parse(text)
    assert (found.host, found.port, found.name) == parts
    assert url.parse(str(found)) == found


@pytest.mark.parametrize(
    "where",
    ["", ":8084", "host:", "host:0", "host:65536", "host:-1", "host:٣", "user@host", "::1", "[::1", "[::1]8", "[host]",
     "-host", "a" * 254, "ho st", "host\0", "host\n", "a..b", "a.-b",
     "a-.b", ".a", "a" * 64, f"x.{'a' * 64}.y"],
)  # fmt: skip
def test_what_is_no_host_is_a_usage_error(where: str) -> None:
    with pytest.raises(errors.Usage):
        url.parse(f"secondsite://{where}/vm")


@pytest.mark.parametrize(
    "text",
    ["secondsite://host", "secondsite://host/", "http://host/vm", "secondsite:/host/vm",
     "secondsite://h/" + "a" * 3000],
)  # fmt: skip
def test_what_names_no_replica_is_a_usage_error(text: str) -> None:
    with pytest.raises(errors.Usage):
        url.parse(text)


def test_a_url_with_one_slash_makes_no_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "disk").write_bytes(b"x" * 4096)
    with pytest.raises(errors.Usage, match="is not a URL of the form"):
        engine.replicate("disk", "secondsite:/host/vm", state=tmp_path / "state")
    assert [path.name for path in tmp_path.iterdir()] == ["disk"]


HOSTILE = [
    "..",
    ".",
    ".hidden",
    "../vm",
    "a/b",
    "/etc",
    "a/../b",
    "a\0b",
    "a\nb",
    "a\\b",
    "-rf",
    "",
    "a" * 201,
    "é",
    "a\n",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(errors.Refused):
        url.check_name(name)


@pytest.mark.parametrize("name", ["%2e%2e", "..%2fvm", "a%2Fb", "%00", "a%0a", "%ff", "%2Fetc%2Fpasswd"])
def test_hostile_names_are_refused_when_they_are_escaped(name: str) -> None:
    with pytest.raises((errors.Refused, errors.Usage)):
        url.parse(f"secondsite://host/{name}")
