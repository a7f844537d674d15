"""What every command says of a store that is not as it should be: one clear line, the right exit status, no secret."""

from __future__ import annotations

import json
import random

import pytest
from azurite.emulator import ACCOUNT, KEY
from store.storekit import azure_store, numbers
from store.test_credentials import sas

from secondsite.engine import errors
from secondsite.engine.replica import record
from secondsite.engine.store import azure, azurefail
from secondsite.orchestration import cli

pytestmark = [pytest.mark.needs("azurite"), pytest.mark.usefixtures("opens")]
WRONG = "B" * 86 + "=="
COMMANDS = ("replicate", "points", "info", "verify", "restore", "materialize")
# A point that is damaged: what reads it says so, and verify has found a difference.
DAMAGED = {"verify": errors.DIFFERENT, "restore": errors.DAMAGED, "materialize": errors.DAMAGED}


class Operator:
    """With a disk, a replica of it at `prefix`, and the commands to type."""

    def __init__(self, emulator, folder, capsys) -> None:
        self.prefix, self.container, self.disk = f"e{next(numbers)}", "tests", folder / "disk.raw"
        self.store, self.folder, self.capsys = azure_store(emulator, self.prefix + "/"), folder, capsys
        self.disk.write_bytes(random.Random(3).randbytes(300_000))

    def run(self, command: str) -> tuple[int, str, str]:
        url = f"azure://{self.container}/{self.prefix}"
        given = {
            "replicate": [self.disk, url], "restore": [url, self.folder / f"out{next(numbers)}.raw"],
            "materialize": [url, f"azure://{self.container}/{self.prefix}-{next(numbers)}.vhd"],
        }.get(command, [url])  # fmt: skip
        self.capsys.readouterr()
        status = cli.run([command, *map(str, given)])
        return status, *self.capsys.readouterr()

    def each(self, expected: dict[str, int]) -> list[str]:
        """Every command ends with the status expected of it, 0 if none; what they said on standard error."""
        said = []
        for command in COMMANDS:
            status, out, err = self.run(command)
            print(command, status, err.strip())
            assert status == expected.get(command, 0), (command, out, err)
            lines = [line for line in err.splitlines() if not line.startswith("secondsite: warning: ")]
            assert len(lines) == (status > errors.DIFFERENT) and "Traceback" not in out + err, (command, out, err)
            assert not any(secret in out + err for secret in (KEY, WRONG, "sig=", "AccountKey")), command
            said.append(err)
        return said

    def names(self, folder: str) -> list[str]:
        return [entry.name for entry in self.store.list(folder)]

    def change(self, name: str, how) -> None:
        """Other bytes under the same name."""
        found = self.store.get(name)
        self.store.delete(name)
        self.store.put_if_absent(name, how(found.data), found.metadata)


@pytest.fixture
def operator(azurite, tmp_path, capsys):
    return Operator(azurite, tmp_path, capsys)


def all_of(status: int) -> dict[str, int]:
    return dict.fromkeys(COMMANDS, status)


@pytest.mark.parametrize("https", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("trouble", ["wrong key", "expired", "no such container"])
def test_what_does_not_open_it(request, operator, monkeypatch, tmp_path, trouble, https):
    emulator = request.getfixturevalue("azurite_https" if https else "azurite")
    with azure_store(emulator):
        monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    opening = f'sas = "{sas(-60)}"' if trouble == "expired" else f'key = "{WRONG if trouble == "wrong key" else KEY}"'
    ca = f'ca = "{emulator.ca}"\n' if https else ""
    configure(tmp_path, f'account = "{ACCOUNT}"\nendpoint = "{emulator.url}"\n{opening}\n{ca}')
    if trouble == "no such container":
        operator.container = "nowhere"
    for said in operator.each(all_of(errors.REFUSED)):
        expected = {"expired": "(the SAS ran out at 20", "no such container": "there is no such container"}
        assert expected.get(trouble, "the store refuses the credentials: ") in said


def configure(folder, text):
    place = folder / "secondsite" / "stores.toml"
    place.parent.mkdir(exist_ok=True)
    place.write_text(f"[azure]\n{text}")
    place.chmod(0o600)


@pytest.mark.parametrize("ca", ["missing", "nonsense", "none"])
def test_a_certificate_that_is_not_to_be_trusted(azurite_https, operator, monkeypatch, tmp_path, ca):
    """At once: it is no reason to try again."""
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    (tmp_path / "nonsense").write_text("no certificate")
    line = f'ca = "{tmp_path / ca}"\n' if ca != "none" else ""
    configure(tmp_path, f'account = "{ACCOUNT}"\nendpoint = "{azurite_https.url}"\nkey = "{KEY}"\n{line}')
    expected = {"missing": "cannot be read: No such file", "nonsense": "holds no certificates to trust"}
    for said in operator.each(all_of(errors.REFUSED)):
        assert expected.get(ca, "the store's certificate does not hold") in said


def test_rights_to_read_alone(azurite, operator, monkeypatch):
    operator.run("replicate")
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_SERVICE_ENDPOINT", azurite.url)
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", sas(permission="rl"))
    said = operator.each({"replicate": errors.REFUSED, "materialize": errors.REFUSED})
    assert "AuthorizationPermissionMismatch" in said[0] and "ran out" not in said[0]


@pytest.mark.parametrize("name", ["replica.json", "head.json"])
def test_a_store_of_a_newer_format(operator, monkeypatch, name):
    operator.run("replicate")

    def newer(data):
        fields = json.loads(data.splitlines()[0])
        with monkeypatch.context() as patch:
            patch.setattr(record, "FORMAT", 2)
            return record.pack({key: value for key, value in fields.items() if key not in ("format", "checksum")})

    operator.change(name, newer)
    for said in operator.each(all_of(errors.REFUSED)):
        assert "this program knows 1" in said


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("segments", DAMAGED), ("maps", DAMAGED | {"replicate": 4}), ("points", DAMAGED | {"replicate": 4}),
        ("head.json", all_of(errors.DAMAGED)), ("replica.json", all_of(errors.DAMAGED)),
    ],
)  # fmt: skip
def test_what_is_gone(operator, folder, expected):
    operator.run("replicate")
    operator.disk.write_bytes(b"changed" + operator.disk.read_bytes()[7:])
    for name in operator.names(folder):
        operator.store.delete(name)
    for said in operator.each(expected):
        assert not said or f"azure://tests/{operator.prefix}" in said


@pytest.mark.parametrize("how", ["cut", "flipped", "empty"])
@pytest.mark.parametrize("folder", ["segments", "head.json"])
def test_what_is_damaged(operator, folder, how):
    operator.run("replicate")
    change = {
        "cut": lambda data: data[: len(data) // 3], "empty": lambda data: b"",
        "flipped": lambda data: b"".join(bytes([byte ^ 1]) for byte in data[:900]) + data[900:],
    }[how]  # fmt: skip
    for name in operator.names(folder):
        operator.change(name, change)
    operator.each(DAMAGED if folder == "segments" else all_of(errors.DAMAGED))


def test_a_lease_that_is_broken_under_a_cycle(operator, monkeypatch):
    from azure.storage.blob import BlobLeaseClient

    operator.run("replicate")
    operator.disk.write_bytes(b"changed" + operator.disk.read_bytes()[7:])
    real = azure.AzureStore.replace

    def replace(self, name, *given, **more):
        BlobLeaseClient(self.blob(name)).break_lease(lease_break_period=0)
        return real(self, name, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(azure.AzureStore, "replace", replace)
        status, out, err = operator.run("replicate")
    assert status == errors.REFUSED and out == "" and err.count("\n") == 1 and "lease" in err
    assert operator.run("replicate")[0] == 0


def test_a_clock_that_is_off_is_said_with_the_refusal(operator, monkeypatch, azurite):
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.connection_string.replace(KEY, WRONG))
    real = azurefail.time.time
    monkeypatch.setattr(azurefail.time, "time", lambda: real() + 7200)
    status, _, err = operator.run("points")
    assert status == errors.REFUSED and "this host's clock is 7" in err and "s off the store's" in err
