"""Sealed objects of every version of the format open for ever (engine/store/FORMAT.md, section 7)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from secondsite.engine.store import keyring, sealing
from secondsite.engine.store.key import FILE, PASSPHRASE, Secret
from secondsite.engine.store.memory import MemoryStore
from secondsite.engine.store.sealed import SealedStore, salt_beside

HERE = Path(__file__).resolve().parent / "sealed1"
SAID = json.loads((HERE / "contents.json").read_text())
SECRETS = [Secret(FILE, bytes.fromhex(SAID["key_file"])), Secret(PASSPHRASE, SAID["passphrase"].encode())]


@pytest.fixture
def below():
    made = MemoryStore()
    made.put_if_absent("key.json", (HERE / "key.json").read_bytes())
    for name, said in SAID["objects"].items():
        made.put_if_absent(name, (HERE / name).read_bytes(), said["below"])
    return made


@pytest.mark.parametrize("secret", SECRETS, ids=str)
def test_they_open(below, secret):
    store = SealedStore(below, keyring.load(below).open(secret, "golden"))
    for name, said in SAID["objects"].items():
        found = store.get(name)
        assert (found.size, found.metadata) == (said["size"], said["metadata"])
        assert hashlib.sha256(found.data).hexdigest() == said["sha256"]
        assert store.get(name, 5, 66000).data == found.data[5:66005]


def test_the_same_salt_gives_the_same_bytes(below):
    data_key = bytes.fromhex(SAID["data_key"])
    store = SealedStore(below, data_key)
    for name in SAID["objects"]:
        data, salt = store.get(name).data, salt_beside(below.get(name))
        cipher = sealing.Cipher(data_key, salt, name, len(data), name)
        assert sealing.seal(cipher, name, data) == (HERE / name).read_bytes()
