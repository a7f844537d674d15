"""key.json comes from whoever holds the store: what it asks for is bounded, and nothing but our keys opens it."""

from __future__ import annotations

import os

import pytest

from secondsite.engine import errors
from secondsite.engine.replica import record
from secondsite.engine.store import keyring, unlocking
from secondsite.engine.store.base import Changed
from secondsite.engine.store.key import FILE, PASSPHRASE, Key, Secret, using_key
from secondsite.engine.store.keyring import KEYS
from secondsite.engine.store.memory import MemoryStore
from secondsite.engine.store.retry import Retrying
from secondsite.engine.store.sealed import SealedStore

FROM_FILE = Secret(FILE, os.urandom(32))
WORDS = Secret(PASSPHRASE, b"correct horse")


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr(keyring, "_SCRYPT", (1 << 14, 8, 1))
    return MemoryStore()


def fields(store):
    return record.unpack(store.get(KEYS).data, KEYS)[0]


def put(store, said):
    store.delete(KEYS)
    store.put_if_absent(KEYS, record.pack({name: value for name, value in said.items() if name != "format"}))


@pytest.mark.parametrize("secret", [FROM_FILE, WORDS])
def test_the_data_key_comes_back_with_its_secret_alone(store, secret):
    data_key = keyring.create(store, secret)
    assert keyring.load(store).open(secret, "x") == data_key and len(data_key) == 32
    turned = PASSPHRASE if secret.kind == FILE else FILE
    for other in (Secret(secret.kind, os.urandom(32)), Secret(turned, secret.value)):
        with pytest.raises(errors.Refused) as raised:
            keyring.load(store).open(other, "x")
        assert raised.value.exit_code == 3
    said = store.get(KEYS).data
    assert data_key not in said and data_key.hex().encode() not in said and secret.value not in said


def test_a_guess_takes_a_third_of_a_second_in_earnest():
    assert keyring._SCRYPT == (1 << 17, 8, 1)


def test_of_two_who_make_the_keys_one_does(store):
    data_key = keyring.create(store, WORDS)
    assert keyring.create(store, WORDS) == data_key
    with pytest.raises(errors.Refused):
        keyring.create(store, FROM_FILE)


def test_a_key_that_comes_and_goes_leaves_no_object_that_was_there_before(store):
    """An etag may be a digest: who comes late must not take one for another."""
    data_key = keyring.create(store, WORDS)
    ring = keyring.load(store)
    keyring.save(store, ring.with_secret(FROM_FILE, data_key, "x"))
    keyring.save(store, keyring.load(store).without(2, "x"))
    with pytest.raises(Changed):
        keyring.save(store, ring)


HOSTILE = {
    "n": [1 << 23, 3, 0, -1, 1 << 62, "x", None, True], "r": [0, 33, 1 << 40], "p": [0, 5, 1 << 40],
    "salt": ["", "zz" * 32, "00" * 31, 5], "wrapped": ["", "00" * 47, None], "kind": ["password", 1],
    "slot": [-1, "1"], "made": ["yesterday", 5],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in HOSTILE.items() for value in values])
def test_what_no_slot_of_ours_says_is_damage(store, name, value):
    keyring.create(store, WORDS)
    said = fields(store)
    said["slots"][0][name] = value
    put(store, said)
    with pytest.raises(errors.Damaged) as raised:
        keyring.load(store)
    assert "memory://store/key.json" in str(raised.value)


def test_slots_have_numbers_of_their_own_and_there_are_few(store):
    keyring.create(store, WORDS)
    said = fields(store)
    for slots in ([], [5], [said["slots"][0]] * 2, [{**said["slots"][0], "slot": n} for n in range(17)], "x"):
        put(store, said | {"slots": slots})
        with pytest.raises(errors.Damaged):
            keyring.load(store)
    put(store, said | {"cipher": "ROT-13"})
    with pytest.raises(errors.NewerFormat):
        keyring.load(store)
    store.delete(KEYS)
    store.put_if_absent(KEYS, b"x" * (3 << 20))
    with pytest.raises(errors.Damaged):
        keyring.load(store)


def test_a_slot_that_was_changed_opens_nothing(store):
    keyring.create(store, FROM_FILE)
    said = fields(store)
    for name in ("salt", "wrapped"):
        slot = said["slots"][0]
        bad = ("1" if slot[name][0] != "1" else "2") + slot[name][1:]
        put(store, said | {"slots": [{**slot, name: bad}]})
        with pytest.raises(errors.Refused):
            keyring.load(store).open(FROM_FILE, "x")


def test_one_bad_byte_of_the_keys_loses_nothing(store):
    data_key = keyring.create(store, FROM_FILE)
    held = store.get(KEYS).data
    for at in range(0, len(held), 7):
        store.delete(KEYS)
        store.put_if_absent(KEYS, held[:at] + bytes([held[at] ^ 4]) + held[at + 1 :])
        assert keyring.load(store).open(FROM_FILE, "x") == data_key


class Counting(MemoryStore):
    def __init__(self):
        super().__init__()
        self.asked = []

    def get(self, name, start=0, length=None):
        self.asked.append(name)
        return super().get(name, start, length)


def test_looking_for_the_keys_costs_a_plain_replica_no_request():
    below = Counting()
    below.put_if_absent("replica.json", b"plain and read twice")
    with unlocking.unlocked(Retrying(below)) as store:
        assert store.get("replica.json", 6, 3).data == b"and" and below.asked == ["replica.json"]
        store.get("replica.json")
        assert below.asked == ["replica.json"] * 2


def test_an_encrypted_one_takes_the_keys_besides(tmp_path):
    (tmp_path / "key").write_bytes(os.urandom(32))
    (tmp_path / "key").chmod(0o600)
    below = Counting()
    with using_key(Key(tmp_path / "key")):
        unlocking.unlocked(Retrying(below), encrypt=True).put_if_absent("replica.json", b"sealed")
        below.asked.clear()
        store = unlocking.unlocked(Retrying(below))
        assert isinstance(store, SealedStore)
        assert store.get("replica.json").data == b"sealed" and below.asked == ["replica.json", "key.json"]


def test_a_newer_version_is_said(tmp_path):
    below = MemoryStore()
    store = SealedStore(below, os.urandom(32))
    store.put_if_absent("replica.json", b"sealed")
    held = below.get("replica.json").data
    below.delete("replica.json")
    below.put_if_absent("replica.json", held[:8] + b"\2\0\0\0" + held[12:])
    with pytest.raises(errors.NewerFormat) as raised:
        unlocking.unlocked(Retrying(below))
    assert str(raised.value) == "memory://store/replica.json: sealed in version 2; this program knows 1"
