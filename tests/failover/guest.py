"""A machine that costs nothing: a process that has its disks open and writes to them, run by a host's own commands.

    guest.py FOLDER start|stop|status        the machine's description on standard input

It notes in FOLDER whenever two of one name run at once, which is what no failover may ever come to. It is asked a
hundred times in a test, and so imports little: `python -I -S` starts it in half the time, and in half of that without
`json` and `signal`, which bring `re` and `enum`.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]
import fcntl
import os
import sys
import time
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BLOCK = 4096
# Where starts are noted: from the second block to the one before this.
BOOTS = 16
MAGIC = b"started "


def key(said: dict[str, Any]) -> str:
    where = [said["name"], said.get("folder"), [disk.get("path") for disk in said["disks"]]]
    return f"{zlib.crc32(repr(where).encode()):08x}"


def pid(folder: str, said: dict[str, Any]) -> int | None:
    """Of the process that runs; its file is locked as long as it lives."""
    try:
        with open(f"{folder}/{key(said)}.pid", "r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read())
    except FileNotFoundError:
        pass
    return None


def start(folder: str, said: dict[str, Any]) -> int:
    if pid(folder, said) is not None:
        return 0
    read, write = os.pipe()
    if os.fork():
        os.close(write)
        told = os.read(read, 4000)
        print(told.decode(), file=sys.stderr)
        return 0 if told == b"." else 1
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    try:
        run(folder, said, write)
    except BaseException as error:
        os.write(write, repr(error).encode())
    os._exit(1)


def run(folder: str, said: dict[str, Any], ready: int) -> None:
    flags = os.O_RDWR | os.O_CREAT
    file = os.open(f"{folder}/{key(said)}.pid", flags | os.O_TRUNC)
    fcntl.flock(file, fcntl.LOCK_EX)
    os.write(file, str(os.getpid()).encode())
    alone = os.open(f"{folder}/{said['name']}.alone", flags)
    try:
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with open(f"{folder}/violation", "w") as note:
            note.write(repr(said))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    for disk in said["disks"]:
        put(disk)
    os.write(ready, b".")
    while True:
        time.sleep(3600)


def put(disk: dict[str, Any]) -> None:
    """What each start writes, durable, behind what those before it wrote: a disk in its place, or an overlay behind a
    server.
    """
    if "url" not in disk:
        fd = os.open(disk["path"], os.O_RDWR)
        os.pwrite(fd, boot(), BLOCK * free(os.pread(fd, BLOCK * BOOTS, 0)))
        os.fsync(fd)
        return
    import site

    site.main()
    from secondsite import engine

    with engine.open_image(disk["url"], mode="rw") as image:
        image.write(BLOCK * free(image.read(0, BLOCK * BOOTS)), boot())
        image.flush()


def boot() -> bytes:
    return MAGIC + os.urandom(BLOCK - len(MAGIC))


def free(data: bytes | memoryview) -> int:
    """The first block behind those of starts."""
    found = 1
    while data[found * BLOCK : found * BLOCK + len(MAGIC)] == MAGIC:
        found += 1
    if found == BOOTS:
        raise ValueError("it was started too often")
    return found


def stop(folder: str, said: dict[str, Any]) -> int:
    number = pid(folder, said)
    if number is not None:
        os.kill(number, signal.SIGTERM)
        while pid(folder, said) is not None:
            time.sleep(0.005)
    return 0


def main() -> int:
    folder, said = sys.argv[1], eval(sys.stdin.read(), {"null": None, "true": True, "false": False})
    if sys.argv[2] == "start":
        return start(folder, said)
    if sys.argv[2] == "stop":
        return stop(folder, said)
    return 0 if pid(folder, said) is not None else 3


if __name__ == "__main__":
    sys.exit(main())
