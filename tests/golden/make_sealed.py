"""Make the frozen sealed objects in `sealed1`. Run once for each version of the format; what is committed stays.

    .venv/bin/python tests/golden/make_sealed.py

contents.json has what opens them, and the SHA-256, size and metadata of what is found inside.
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

from secondsite.engine.store import keyring
from secondsite.engine.store.key import FILE, PASSPHRASE, Secret
from secondsite.engine.store.keyring import KEYS
from secondsite.engine.store.memory import MemoryStore
from secondsite.engine.store.sealed import SealedStore

HERE = Path(__file__).resolve().parent / "sealed1"
PASSWORDS = "Schlüssel zum Tor"
KEY_FILE = bytes(range(32))
OBJECTS = {
    "replica.json": (b'{"format": 1}\n' * 2, None),
    "head.json": (b"points\n" * 40, {"epoch": "7"}),
    "maps/000000000001/0a1b2c": (b"", None),
    "segments/000000000001/0a1b2c": (random.Random(2026).randbytes(65536 + 1234), None),
}


def main() -> None:
    below = MemoryStore()
    data_key = keyring.create(below, Secret(FILE, KEY_FILE))
    ring = keyring.load(below)
    assert ring is not None
    keyring.save(below, ring.with_secret(Secret(PASSPHRASE, PASSWORDS.encode()), data_key, "golden"))
    store = SealedStore(below, data_key)
    for name, (data, metadata) in OBJECTS.items():
        store.put_if_absent(name, data, metadata)
    for name, held in below.objects.items():
        path = HERE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(held.data)
    objects = {
        name: {
            "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "metadata": metadata or {},
            "below": dict(below.objects[name].metadata),
        }
        for name, (data, metadata) in OBJECTS.items()
    }  # fmt: skip
    said = {"key_file": KEY_FILE.hex(), "passphrase": PASSWORDS, "data_key": data_key.hex(), "objects": objects}
    (HERE / "contents.json").write_text(json.dumps(said, indent=1) + "\n")
    assert (HERE / KEYS).exists()


if __name__ == "__main__":
    main()
