"""A replica in a store from the command line: what works, what is said, and that no output holds a key."""

from __future__ import annotations

import itertools
import os

import pytest
from azurite.emulator import KEY
from clikit import program
from store.httpproxy import Trouble, listed, proxied

pytestmark = pytest.mark.needs("azurite")
MIB = 1 << 20
numbers = itertools.count(1)


@pytest.fixture
def place(azure, monkeypatch, tmp_path) -> str:
    for name in list(os.environ):
        if name.startswith(("AZURE_", "AWS_", "SECONDSITE_STORES")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azure.connection_string)
    return f"azure://backup/t{next(numbers)}"


@pytest.fixture
def disk(tmp_path):
    made = tmp_path / "vm.raw"
    with made.open("wb") as file:
        file.truncate(20 * MIB)
        file.seek(4 * MIB)
        file.write(os.urandom(2 * MIB))
    return made


def test_the_whole_story(shell, place, disk, tmp_path):
    first = disk.read_bytes()
    assert shell.ok("replicate", disk, place).startswith("initial: point 1, 20.0 MiB; 2.0 MiB changed")
    with disk.open("r+b") as file:
        file.seek(10 * MIB)
        file.write(b"changed")
    done = shell.json("replicate", disk, place, "--json")
    assert (done["kind"], done["point"], done["changed_bytes"]) == ("delta", "2", 65536)
    listed = shell.json("points", place, "--json")["points"]
    assert [(point["point"], point["history"], point["damaged"]) for point in listed] == [
        ("1", "log", False), ("2", "log", False),
    ]  # fmt: skip
    assert "2.0 MiB" in shell.ok("points", place)
    told = shell.ok("info", place)
    assert f"replica of: {disk}" in told and "none: a replica in a store is a log" in told and "2, of 20" in told
    assert shell.ok("verify", place).startswith("ok: point 2, 320 blocks")
    shell.ok("verify", place, "--at", "1")
    assert shell.ok("restore", place, tmp_path / "old.raw", "--at", "1").startswith(f"{tmp_path}/old.raw: point 1")
    assert (tmp_path / "old.raw").read_bytes() == first
    shell.ok("restore", place, tmp_path / "new.vhdx", "--format", "vhdx")
    shell.ok("restore", place, tmp_path / "new.raw")
    assert (tmp_path / "new.raw").read_bytes() == disk.read_bytes()


@pytest.mark.parametrize(
    "options",
    [["--history", "undo"], ["--head", "vhdx"]],
)
def test_options_that_are_not_for_it_yet_are_refused(shell, place, disk, options):
    done = shell("replicate", disk, place, *options)
    assert done.status == 2 and "replica in a store" in done.complaint
    assert shell("points", place).status == 3  # nothing was begun


@pytest.mark.parametrize(
    "command",
    [
        ["export-hrl", "PLACE", "out.hrl"],
    ],
)  # fmt: skip
def test_commands_that_are_not_for_it_yet_say_so(shell, place, disk, command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shell.ok("replicate", disk, place)
    before = disk.read_bytes()
    done = shell(*[{"PLACE": place, "DISK": str(disk)}.get(word, word) for word in command])
    assert done.status == 2 and "replica in a store" in done.complaint
    assert not (tmp_path / "azure:").exists() and disk.read_bytes() == before


@pytest.mark.parametrize("trouble", ["key", "container", "none", "url"])
def test_what_does_not_open_is_one_line_without_a_secret(shell, place, disk, trouble, monkeypatch, azure):
    expected, wrong = 3, "B" * 86 + "=="
    if trouble == "key":
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azure.connection_string.replace(KEY, wrong))
    elif trouble == "none":
        monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    elif trouble == "container":
        place = place.replace("backup", "nowhere")
    else:
        place, expected = f"{place}?sig={wrong}", 2
    done = shell("replicate", disk, place)
    assert done.status == expected and KEY not in done.err and wrong not in done.err, done
    said = {"key": "refuses the credentials", "container": "no such container", "none": "nothing says how to open it",
            "url": "holds more than a place"}[trouble]  # fmt: skip
    assert said in done.complaint


def test_the_program_shows_no_secret_where_it_is_to_show_more(place, azure):
    """With SECONDSITE_DEBUG=1."""
    text = azure.connection_string.replace(KEY, "B" * 86 + "==")
    env = {**os.environ, "AZURE_STORAGE_CONNECTION_STRING": text, "SECONDSITE_DEBUG": "1"}
    for url, status in ((place, 3), (place + "?sig=SECRET", 2)):
        done = program("points", url, env=env)
        out = done.out + done.err
        assert done.status == status and "SECRET" not in out and "BBBB" not in out and KEY not in out, done


def test_a_call_that_is_made_again_is_told_at_once(place, disk, azure, shell, monkeypatch):
    shell.ok("replicate", disk, place)
    troubles = [None, Trouble("busy", methods=("GET",)), Trouble("half", methods=("GET",))]
    with proxied(azure.port, listed(*troubles)) as proxy:
        text = azure.connection_string.replace(f":{azure.port}/", f":{proxy.port}/")
        done = program("verify", place, env={**os.environ, "AZURE_STORAGE_CONNECTION_STRING": text})
    lines = done.err.splitlines()
    assert done.status == 0 and done.out.startswith("ok: point 1"), done
    assert lines[0].startswith(f"{place}/head.json: 503 ServerBusy; attempt 2 in 0.") and len(lines) == 3, lines
    assert "2 calls of the store were made again, the last after" in lines[-1]


@pytest.mark.parametrize("how", ["environment", "file"])
def test_a_store_that_speaks_s3(shell, place, disk, tmp_path, s3, monkeypatch, how):
    if how == "environment":
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
    else:
        file = tmp_path / "config" / "secondsite" / "stores.toml"
        file.parent.mkdir(parents=True)
        keys = 'access_key_id = "test"\nsecret_access_key = "test"\nregion = "us-east-1"\n'
        file.write_text(f'[s3.bucket]\nendpoint = "{s3}"\n{keys}')
        file.chmod(0o600)
    url = f"s3://bucket/{how}"
    shell.ok("replicate", disk, url)
    shell.ok("verify", url)
    shell.ok("restore", url, tmp_path / "out.raw")
    assert (tmp_path / "out.raw").read_bytes() == disk.read_bytes()
    assert shell("points", url.replace("bucket", "nowhere")).status == 3


def test_who_comes_while_somebody_writes_is_told_so(shell, place, disk, azure):
    from azure.storage.blob import BlobLeaseClient, ContainerClient

    shell.ok("replicate", disk, place)
    client = ContainerClient.from_connection_string(azure.connection_string, "backup", api_version="2026-06-06")
    held = BlobLeaseClient(client.get_blob_client(f"{place.rpartition('/')[2]}/head.json"))
    held.acquire(lease_duration=15)
    done = shell("replicate", disk, place)
    assert done.status == 3 and "head.json: somebody else holds it, or was cut off within the last minute" in done.err
    shell.ok("points", place)  # readers need no lease
    held.release()
    shell.ok("replicate", disk, place)
