"""Encrypted replicas from the command line (R12.14): keys, what is refused, and what is left without a key."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

import pytest
from clikit import program
from store.storekit import s3_store

MIB = 1 << 20
WORDS = "correct horse battery staple"
numbers = itertools.count(1)


@pytest.fixture
def alone(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(("AZURE_", "AWS_", "SECONDSITE_")) and name != "SECONDSITE_KERNEL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    # 16 MiB and 0.05 s instead of 128 and 0.4: what is tested is not how long a guess takes.
    monkeypatch.setattr("secondsite.engine.store.keyring._SCRYPT", (1 << 14, 8, 1))


@pytest.fixture
def place(alone, s3, monkeypatch) -> str:
    for name, value in (("ENDPOINT_URL", s3), ("ACCESS_KEY_ID", "t"), ("SECRET_ACCESS_KEY", "t"), ("REGION", "eu")):
        monkeypatch.setenv(f"AWS_{name}", value)
    return f"s3://bucket/e{next(numbers)}"


@pytest.fixture
def below(place, s3):
    """The objects as the service has them."""
    return s3_store(s3, place.rpartition("/")[2])


@pytest.fixture
def disk(tmp_path) -> Path:
    made = tmp_path / "vm.raw"
    with made.open("wb") as file:
        file.truncate(20 * MIB)
        file.seek(4 * MIB)
        file.write(os.urandom(MIB) + b"what nobody is to read" * 1000)
    return made


@pytest.fixture
def key(shell, alone, tmp_path) -> Path:
    made = tmp_path / "vm.key"
    assert str(made) in shell.ok("key", "new", made)
    return made


@pytest.mark.needs("azurite")
def test_the_whole_story(shell, alone, azure, disk, key, tmp_path, monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azure.connection_string)
    place, with_key = f"azure://backup/e{next(numbers)}", ("--key-file", key)
    first = disk.read_bytes()
    assert shell.ok("replicate", disk, place, "--encrypt", *with_key).startswith("initial: point 1")
    with disk.open("r+b") as file:
        file.seek(10 * MIB)
        file.write(b"changed")
    assert shell.json("replicate", disk, place, *with_key)["kind"] == "delta"
    assert shell.json("replicate", disk, place, *with_key)["kind"] == "unchanged"
    assert len(shell.json("points", place, *with_key)["points"]) == 2
    assert f"replica of: {disk}" in shell.ok("info", place, *with_key)
    assert shell.ok("verify", place, *with_key).startswith("ok: point 2")
    shell.ok("restore", place, tmp_path / "old.raw", "--at", "1", *with_key)
    assert (tmp_path / "old.raw").read_bytes() == first
    shell.ok("materialize", place, f"azure://backup/{next(numbers)}.vhd", *with_key)
    found = shell.ok("verify", place)
    assert re.fullmatch(
        r"intact: \d+ objects, 1\.\d MiB, .* s; read without the key: what they say was not proved\n", found
    )
    done = shell("restore", place, tmp_path / "new.raw")
    assert done.status == 3 and not (tmp_path / "new.raw").exists()
    assert done.complaint == (
        f"secondsite: {place}: is encrypted, and no key was given: --key-file, --passphrase-file or "
        "SECONDSITE_PASSPHRASE"
    )


def test_a_passphrase_in_the_environment_or_a_file(shell, place, disk, tmp_path, monkeypatch):
    monkeypatch.setenv("SECONDSITE_PASSPHRASE", WORDS)
    shell.ok("replicate", disk, place, "--encrypt")
    monkeypatch.delenv("SECONDSITE_PASSPHRASE")
    words = tmp_path / "words"
    words.write_text(WORDS + "\n")
    done = shell("points", place, "--passphrase-file", words)
    assert done.status == 3 and "open to other users" in done.complaint
    words.chmod(0o600)
    shell.ok("points", place, "--passphrase-file", words)
    env = {**os.environ, "SECONDSITE_PASSPHRASE": WORDS}
    assert program("points", place, env=env).status == 0
    env = {**os.environ, "SECONDSITE_PASSPHRASE": "wrong", "SECONDSITE_DEBUG": "1"}
    done = program("points", place, env=env)
    assert done.status == 3 and WORDS not in done.out + done.err


def test_letters_are_the_same_however_they_are_composed(shell, place, disk, monkeypatch):
    monkeypatch.setenv("SECONDSITE_PASSPHRASE", "schl\u00fcssel")
    shell.ok("replicate", disk, place, "--encrypt")
    monkeypatch.setenv("SECONDSITE_PASSPHRASE", "schlu\u0308ssel")
    shell.ok("points", place)


def test_the_wrong_key_is_told_before_anything_is_read_or_written(shell, place, disk, key, below, tmp_path):
    shell.ok("replicate", disk, place, "--encrypt", "--key-file", key)
    shell.ok("key", "new", tmp_path / "other.key")
    before = [(entry.name, entry.etag) for entry in below.list()]
    wrong = ("--key-file", tmp_path / "other.key")
    for command in (
        ["replicate", disk, place], ["points", place], ["info", place], ["verify", place],
        ["restore", place, tmp_path / "x.raw"], ["replicate", disk, place, "--encrypt"], ["key", "add", place],
        ["key", "remove", place, "1"],
    ):  # fmt: skip
        done = shell(*command, *wrong)
        assert done.status == 3, done
        assert done.complaint == f"secondsite: {place}: wrong key: the key file does not open it"
    assert [(entry.name, entry.etag) for entry in below.list()] == before
    assert not (tmp_path / "x.raw").exists()


def test_a_key_of_the_other_kind_is_told(shell, place, disk, key, monkeypatch):
    shell.ok("replicate", disk, place, "--encrypt", "--key-file", key)
    monkeypatch.setenv("SECONDSITE_PASSPHRASE", WORDS)
    assert "is opened by a key file, and the passphrase was given" in shell("points", place).complaint
    shell.ok("points", place, "--key-file", key)  # what is named counts


def test_a_plain_replica_does_not_take_the_place_of_an_encrypted_one(shell, place, disk, key, below):
    """Whoever has the store's credentials can put a disk of his own there."""
    shell.ok("replicate", disk, place)
    for command in (["replicate", disk, place], ["points", place], ["restore", place, "x.raw"], ["verify", place]):
        done = shell(*command, "--key-file", key)
        assert done.status == 3 and "is not encrypted, and a key was given" in done.complaint
    done = shell("replicate", disk, place, "--encrypt", "--key-file", key)
    assert done.status == 3 and "is there and not encrypted; --encrypt makes a new replica" in done.complaint
    assert below.stat("key.json") is None
    shell.ok("points", place)


def test_a_new_replica_is_encrypted_only_where_it_is_said(shell, place, disk, key, below):
    done = shell("replicate", disk, place, "--key-file", key)
    assert done.status == 3 and "with a key --encrypt makes one" in done.complaint
    done = shell("replicate", disk, place, "--encrypt")
    assert done.status == 3 and "a new replica needs a key" in done.complaint
    assert list(below.list()) == []
    below.put_if_absent("something", b"")
    assert "is not empty" in shell("replicate", disk, place, "--encrypt", "--key-file", key).complaint


def test_a_first_cycle_that_was_cut_short_goes_on(shell, place, disk, key, below):
    """Between the keys and the first object: no later cycle makes it a plain one."""
    shell.ok("replicate", disk, place, "--encrypt", "--key-file", key)
    for entry in list(below.list()):
        if entry.name != "key.json":
            below.delete(entry.name)
    done = shell("replicate", disk, place)
    assert done.status == 3 and "is encrypted, and no key was given" in done.complaint
    assert shell.json("replicate", disk, place, "--key-file", key)["kind"] == "initial"
    below.delete("key.json")
    done = shell("points", place, "--key-file", key)
    assert done.status == 4 and "key.json: is missing; without it nothing opens the replica" in done.complaint


def test_keys_are_added_and_removed(shell, place, disk, key, tmp_path, monkeypatch, below):
    shell.ok("replicate", disk, place, "--encrypt", "--key-file", key)
    before = {entry.name: entry.etag for entry in below.list()}
    listed = shell.json("key", "list", place)["keys"]
    assert [(one["slot"], one["kind"]) for one in listed] == [(1, "key file")]
    done = shell("key", "remove", place, "1", "--key-file", key)
    assert done.status == 3 and "this is its only key" in done.complaint
    monkeypatch.setenv("SECONDSITE_NEW_PASSPHRASE", WORDS)
    assert "2    passphrase  " in shell.ok("key", "add", place, "--key-file", key)
    done = shell("key", "add", place, "--key-file", key)
    assert done.status == 3 and "the passphrase opens it already" in done.complaint
    monkeypatch.delenv("SECONDSITE_NEW_PASSPHRASE")
    assert shell("key", "add", place, "--key-file", key).status == 2
    monkeypatch.setenv("SECONDSITE_PASSPHRASE", WORDS)
    shell.ok("key", "remove", place, "1")
    assert shell("points", place, "--key-file", key).status == 3
    assert shell.json("replicate", disk, place)["kind"] == "unchanged"
    shell.ok("key", "new", tmp_path / "second.key")
    assert len(shell.json("key", "add", place, "--new-key-file", tmp_path / "second.key")["keys"]) == 2
    shell.ok("points", place, "--key-file", tmp_path / "second.key")
    assert "has no key 9" in shell("key", "remove", place, "9").complaint
    sealed = {name for name in before if name not in ("key.json", "head.json.lease")}
    assert {entry.name: entry.etag for entry in below.list() if entry.name in sealed} == {
        name: before[name] for name in sealed
    }


def test_keys_of_what_is_not_encrypted(shell, place, disk):
    shell.ok("replicate", disk, place)
    for command in (["key", "list", place], ["verify", place, "--sealed"]):
        assert shell(*command).status == 3
    assert shell("verify", disk, "--sealed").status == 2


def test_keys_that_are_gone_are_told(shell, place, disk, key, tmp_path, below):
    """It would be a lie that it is not encrypted."""
    shell.ok("replicate", disk, place, "--encrypt", "--key-file", key)
    below.delete("key.json")
    for command in (
        ["points", place], ["key", "list", place], ["key", "add", place, "--new-key-file", key],
        ["key", "remove", place, "1"],
    ):  # fmt: skip
        done = shell(*command, "--key-file", key)
        assert done.status == 4 and "key.json: is missing; without it nothing opens the replica" in done.err, done


@pytest.mark.parametrize(
    "arguments",
    [["new"], ["remove", "PLACE"], ["list", "PLACE", "3"], ["list", "PLACE", "--new-key-file", "x"], ["burn", "PLACE"]],
)
def test_usage_of_key(shell, alone, arguments):
    assert shell("key", *arguments).status == 2


def test_a_key_file_is_made_once_and_is_ours_alone(shell, key, place, disk, tmp_path):
    assert key.stat().st_size == 32 and key.stat().st_mode & 0o777 == 0o600
    held = key.read_bytes()
    assert shell("key", "new", key).status == 3 and key.read_bytes() == held
    key.chmod(0o640)
    assert "open to other users" in shell("replicate", disk, place, "--encrypt", "--key-file", key).complaint
    key.chmod(0o600)
    key.write_bytes(held + b"\n")
    assert shell("replicate", disk, place, "--encrypt", "--key-file", key).status == 2
    assert shell("replicate", disk, place, "--encrypt", "--key-file", tmp_path / "none").status == 5
    words = ("--passphrase-file", key, "--key-file", key)
    assert shell("replicate", disk, place, "--encrypt", *words).status == 2


def test_verify_without_a_key_names_what_is_damaged_or_missing(shell, place, disk, key, below):
    shell.ok("replicate", disk, place, "--encrypt", "--key-file", key)
    shell.ok("verify", place, "--sealed")
    name = next(entry.name for entry in below.list("segments/"))
    held = below.get(name)
    for bad in (held.data[:-1], held.data[:1000] + bytes([held.data[1000] ^ 1]) + held.data[1001:], b""):
        below.delete(name)
        below.put_if_absent(name, bad, held.metadata)
        done = shell("verify", place)
        assert done.status == 1 and done.out.startswith(f"damaged: {place}/{name}: "), done
        assert "\nNOT OK: " in done.out and "not proved" in done.out
        assert shell("verify", place, "--key-file", key).status == 1
    below.delete(name)
    below.put_if_absent(name, held.data, {"seal": "00" * 32})
    assert list(shell.json("verify", place, status=1)["damaged"]) == [name]
    below.delete(name)
    below.put_if_absent(name, held.data, held.metadata)
    shell.ok("verify", place)
    head = below.get("head.json")
    below.delete("head.json")
    assert list(shell.json("verify", place, status=1)["damaged"]) == ["head.json"]
    below.put_if_absent("head.json", head.data, head.metadata)
    below.delete(name)
    done = shell("verify", place)
    assert done.status == 1 and done.out.startswith(f"damaged: {place}/{name}: is missing\nNOT OK: ")
    assert shell("verify", place, "--at", "1").status == 3
    assert shell("verify", place, "--sealed", "--at", "1").status == 2


def test_nothing_of_the_disk_is_in_the_store(shell, place, disk, key, below):
    shell.ok("replicate", disk, place, "--encrypt", "--codec", "none", "--key-file", key)
    for entry in below.list():
        found = below.get(entry.name)
        said = found.data + repr(found.metadata).encode()
        for text in (b"what nobody is to read", str(disk).encode(), b"epoch"):
            assert text not in said, entry.name


def test_a_replica_in_a_folder(shell, alone, disk, key, tmp_path):
    """It is a log then, with the same commands."""
    place, with_key, first = tmp_path / "log", ("--key-file", key), disk.read_bytes()
    assert shell.ok("replicate", disk, place, "--encrypt", *with_key).startswith("initial: point 1")
    with disk.open("r+b") as file:
        file.write(b"changed")
    assert shell.json("replicate", disk, place, *with_key)["point"] == "2"
    assert shell.ok("verify", place, *with_key).startswith("ok: point 2")
    shell.ok("restore", place, tmp_path / "old.raw", "--at", "1", *with_key)
    assert (tmp_path / "old.raw").read_bytes() == first
    assert sum(one["length"] for one in shell.json("map", place, *with_key)["extents"]) == 20 * MIB
    assert shell.ok("verify", place).startswith("intact: ")
    assert shell("replicate", disk, place).status == shell("points", place).status == 3
    texts = (b"what nobody is to read", str(disk).encode(), b"epoch")
    for file in place.rglob("*"):
        assert not file.is_file() or not any(text in file.read_bytes() for text in texts), file
    segment = next((place / "segments").rglob("??????"))
    data = bytearray(segment.read_bytes())
    data[len(data) // 3] ^= 1
    segment.write_bytes(data)
    assert list(shell.json("verify", place, status=1)["damaged"]) == [segment.relative_to(place).as_posix()]
    assert shell("verify", place, *with_key).status == 1


def test_an_encrypted_one_goes_on_to_a_third_site(shell, alone, disk, key, tmp_path):
    one, two, plain = tmp_path / "one", tmp_path / "two", tmp_path / "plain"
    shell.ok("replicate", disk, one, "--encrypt", "--key-file", key)
    shell.ok("replicate", one, two, "--encrypt", "--key-file", key)
    shell.ok("restore", two, tmp_path / "out.raw", "--key-file", key)
    assert (tmp_path / "out.raw").read_bytes() == disk.read_bytes()
    shell.ok("replicate", disk, plain, "--history", "log")
    shell.ok("replicate", plain, tmp_path / "three", "--encrypt", "--key-file", key)


def test_a_plain_folder_does_not_take_the_place_of_an_encrypted_one(shell, alone, disk, key, tmp_path):
    shell.ok("replicate", disk, tmp_path / "plain")
    for command in (
        ["replicate", disk, tmp_path / "plain"], ["points", tmp_path / "plain"], ["info", tmp_path / "plain"],
        ["verify", tmp_path / "plain"], ["restore", tmp_path / "plain", tmp_path / "x.raw"],
        ["serve", tmp_path / "plain", "--socket", tmp_path / "s"], ["replicate", disk, tmp_path / "new"],
        ["prune", tmp_path / "plain", "--keep", "1"],
    ):  # fmt: skip
        done = shell(*command, "--key-file", key)
        assert done.status == 3 and "not encrypted, and a key was given" in done.complaint, done
    assert not (tmp_path / "x.raw").exists() and not (tmp_path / "new").exists()
    assert "holds something else" in shell("replicate", disk, tmp_path / "plain", "--encrypt", "--key-file", key).err
    shell.ok("info", disk, "--key-file", key)
