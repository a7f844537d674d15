"""One upload to a store of Azure, as a process that has loaded everything before its clock starts; prints what it took.

    python upload.py container NAME                         makes it; prints the URL that opens it, for rclone
    python upload.py ours FILE URL STATE [CODEC [encrypt]]  a first copy by the engine
    python upload.py sdk FILE CONTAINER BLOB CONNECTIONS [md5]
    python upload.py points FILE URL STATE COUNT            so many cycles, each with 4 KiB changed
"""

from __future__ import annotations

import datetime
import json
import os
import random
import sys
import time
from collections.abc import Callable

from azure.storage.blob import AccountSasPermissions, ContainerClient, ResourceTypes, generate_account_sas

from secondsite import engine

API_VERSION = "2026-06-06"
_HOURS = 12


def _container(name: str) -> ContainerClient:
    text = os.environ["AZURE_STORAGE_CONNECTION_STRING"]
    return ContainerClient.from_connection_string(text, name, api_version=API_VERSION)


def _timed(work: Callable[[], object]) -> None:
    began, used = time.perf_counter(), time.process_time()
    work()
    print(json.dumps({"seconds": time.perf_counter() - began, "cpu": time.process_time() - used}))


def container(name: str) -> None:
    client = _container(name)
    client.create_container()
    key = client.credential
    signed = generate_account_sas(
        key.account_name, key.account_key, ResourceTypes(service=True, container=True, object=True),
        AccountSasPermissions(read=True, write=True, list=True, create=True, delete=True, add=True),
        datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=_HOURS),
    )  # fmt: skip
    print(json.dumps({"url": f"{client.url}?{signed}"}))


def ours(file: str, url: str, state: str, codec: str = "auto", encrypt: str = "") -> None:
    """A disk of a few bytes goes before it, which loads everything. The key is in the environment."""
    small = f"{file}.small"
    with open(small, "wb") as disk:
        disk.write(b"small")
    engine.replicate(small, f"{url}-small", state=state, encrypt=bool(encrypt))
    os.unlink(small)
    _timed(lambda: engine.replicate(file, url, state=state, codec=codec, encrypt=bool(encrypt)))


def sdk(file: str, name: str, blob: str, connections: str, md5: str = "") -> None:
    inside = _container(name)
    inside.upload_blob(f"{blob}-small", b"small")
    client = inside.get_blob_client(blob)
    with open(file, "rb") as data:
        _timed(lambda: client.upload_blob(data, max_concurrency=int(connections), validate_content=bool(md5)))


def points(file: str, url: str, state: str, count: str) -> None:
    chance = random.Random(15)

    def cycles() -> None:
        with open(file, "r+b", buffering=0) as disk:
            size = os.fstat(disk.fileno()).st_size
            for _ in range(int(count)):
                os.pwrite(disk.fileno(), chance.randbytes(4096), chance.randrange(size // 4096) * 4096)
                engine.replicate(file, url, state=state, tracker="scan")

    _timed(cycles)


def main(what: str, *arguments: str) -> None:
    """One of the above."""
    commands: dict[str, Callable[..., None]] = {"container": container, "ours": ours, "sdk": sdk, "points": points}
    commands[what](*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
