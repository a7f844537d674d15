"""A machine that writes on its disks all the time, and knows what they held after each write.

Its writes are numbered over all disks, and each block that it writes begins with the number. So the bytes of a point
tell by themselves after which write each disk was cut, and with that what every byte of it must be, and whether all
disks were cut at one instant.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import threading
from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path

from secondsite.engine.images.nbd import NbdImage

PROGRAM = (sys.executable, "-c", "from secondsite.orchestration.cli import main; main()")
BLOCK = 4096
# It writes on one block of so many, all over the disk: less than half of what a cycle may find changed (R7.1b).
_SHARE = 128
# Between two writes: some 200 a second on a machine with nothing else to do.
_PAUSE = 0.005


def block(number: int) -> bytes:
    """What write `number` writes."""
    return number.to_bytes(8, "little") + random.Random(number).randbytes(BLOCK - 8)


def first(count: int) -> bytes:
    """What is on a disk of so many blocks before: some data, then zeros, no number."""
    return b"".join([block(0) for _ in range(count // 8)]).ljust(count * BLOCK, b"\0")


class Guest:
    """Writes from its beginning to `stop` on images that hold what `first` says, of so many blocks each."""

    def __init__(self, disks: Mapping[Path, int], socket: Path, seed: int = 1) -> None:
        self.disks = dict(disks)
        # Of each disk, in their order: the numbers of its writes, and the blocks that they went to.
        self.writes: dict[Path, tuple[list[int], list[int]]] = {path: ([], []) for path in disks}
        command = [*PROGRAM, "track", *map(str, disks), "--socket", str(socket), "--json"]
        self.server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.server.stdout is not None
        self.urls = dict(zip(disks, json.loads(self.server.stdout.readline())["urls"], strict=True))
        self._chance, self._over = random.Random(seed), threading.Event()
        # Who holds it has no write begin.
        self.at_rest = threading.Lock()
        self._failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, name="guest")
        self._thread.start()

    def _run(self) -> None:
        try:
            images = {path: NbdImage(url, "rw", connections=1) for path, url in self.urls.items()}
            number = 0
            while not self._over.wait(_PAUSE):
                number += 1
                path = self._chance.choice(list(images))
                place = self._chance.randrange(self.disks[path] // _SHARE) * _SHARE
                numbers, places = self.writes[path]
                with self.at_rest:
                    numbers.append(number)
                    places.append(place)
                    images[path].write(place * BLOCK, block(number))
            for image in images.values():
                image.close()
        except BaseException as error:
            self._failed.append(error)

    def stop(self) -> None:
        """No write is on its way any more; raises what ended it before."""
        self._over.set()
        self._thread.join(30)
        self.server.terminate()
        self.server.communicate(timeout=30)
        if self._failed:
            raise self._failed[0]

    def changed(self, since: int, until: int, size: int = 65536) -> int:
        """Bytes of the blocks of a replica that the writes behind `since` and up to `until` went to."""
        found = {
            (path, place * BLOCK // size)
            for path, (numbers, places) in self.writes.items()
            for number, place in zip(numbers, places, strict=False)
            if since < number <= until
        }
        return len(found) * size

    def check(self, images: Mapping[Path, Path]) -> int:
        """That raw `images` of its disks are whole, and of one instant; the number of the last write before it."""
        last = {path: self._last(image) for path, image in images.items()}
        for path, image in images.items():
            with image.open("rb") as file:
                assert hashlib.file_digest(file, "sha256").hexdigest() == self._hash(path, last[path]), (image, last)
        newest = max(last.values())
        for path, numbers in ((path, numbers) for path, (numbers, _) in self.writes.items()):
            # Of no disk is a write missing that came before another one's newest.
            assert numbers[: bisect_right(numbers, newest)][-1:] in ([], [last[path]]), (path, last)
        return newest

    def _last(self, image: Path) -> int:
        with image.open("rb") as file:
            return max(int.from_bytes(data[:8], "little") for data in iter(lambda: file.read(BLOCK), b""))

    def _hash(self, path: Path, last: int) -> str:
        """Of a disk after its write `last`."""
        blocks = bytearray(first(self.disks[path]))
        numbers, places = self.writes[path]
        for number, place in zip(numbers, places, strict=False):
            if number > last:
                break
            blocks[place * BLOCK : (place + 1) * BLOCK] = block(number)
        return hashlib.sha256(blocks).hexdigest()
