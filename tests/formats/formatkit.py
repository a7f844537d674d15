"""Disks that change, images of them by other programs, and what must hold of a replica."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

from secondsite import engine
from secondsite.engine.images import Image, open_image
from secondsite.engine.images.vhdx.create import create
from secondsite.engine.images.vhdx.writer import open_writer

KIB, MIB = 1 << 10, 1 << 20
QEMU = {"vhd": "vpc"}


def qemu_img(*arguments: str | Path) -> str:
    done = subprocess.run(["qemu-img", *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def same(one: Path, other: Path, one_format: str, other_format: str = "raw") -> None:
    """QEMU finds the same disk in both."""
    kinds = QEMU.get(one_format, one_format), QEMU.get(other_format, other_format)
    qemu_img("compare", "-f", kinds[0], "-F", kinds[1], one, other)


def by_qemu(raw: Path, path: Path, format: str, options: str = "") -> Path:
    """An image of a raw disk, made by QEMU."""
    if format == "vhd":
        options = ",".join(filter(None, [options, "force_size=on"]))
    more = ["-o", options] if options else []
    qemu_img("convert", "-f", "raw", "-O", QEMU.get(format, format), *more, raw, path)
    return path


def content(size: int, seed: int = 1) -> bytearray:
    """Data and zeros in pieces of any length; the first and the last byte are data."""
    dice, data = random.Random(seed), bytearray()
    while len(data) < size:
        length = dice.choice([512, 4096, 70_000, 300_000])
        data += bytes(length) if dice.random() < 0.5 else dice.randbytes(length)
    del data[size:]
    data[0], data[-1] = 1, 2
    return data


def change(data: bytearray, seed: int) -> None:
    """Writes and zeros at any place."""
    dice = random.Random(seed)
    for _ in range(6):
        at, length = dice.randrange(len(data)), dice.choice([1, 512, 5000, 100_000])
        length = min(length, len(data) - at)
        data[at : at + length] = bytes(length) if dice.random() < 0.4 else dice.randbytes(length)


def sparse(path: Path, data: bytes | bytearray) -> Path:
    """A raw file whose zeros are holes."""
    with path.open("wb") as file:
        file.truncate(len(data))
        for at in range(0, len(data), 4096):
            part = data[at : at + 4096]
            if part.strip(b"\0"):
                file.seek(at)
                file.write(part)
    return path


def read(path: Path, format: str | None = None) -> bytearray:
    """The disk in an image."""
    with open_image(path, format=format) as image:
        return image.read(0, image.size)


def write(path: Path, *pieces: tuple[int, bytes]) -> None:
    """Change an image as its guest would."""
    with open_image(path, "rw") as image:
        put(image, *pieces)


def put(image: Image, *pieces: tuple[int, bytes]) -> None:
    for offset, data in pieces:
        image.write(offset, data)
    image.flush()


def child(path: Path, parent: Path, *pieces: tuple[int, bytes]) -> Path:
    """A differencing VHDX in which something was written."""
    create(path, subformat="differencing", parent=parent, block_size=MIB)
    with open_writer(path) as image:
        put(image, *pieces)
    return path


def head(root: Path) -> Path:
    found = engine.info(root)
    assert isinstance(found, engine.ReplicaInfo) and found.head is not None
    return Path(found.head)


def replicate(source: Path, root: Path, **options: Any) -> engine.Replicated:
    options = {"workers": 2, "history": "undo"} | options
    return engine.replicate(source, root, **options)


def hold(root: Path, points: dict[str, bytes]) -> None:
    """The points that are listed are these, verify agrees, and each reads as it should."""
    listed = engine.points(root)
    assert [point.point for point in listed] == list(points)
    assert not any(point.damaged for point in listed)
    found = engine.verify(root)
    assert found.ok, found
    for name, data in points.items():
        with engine.open_point(root, name) as view:
            assert view.size == len(data) and view.read(0, view.size) == data, name
    assert read(head(root), head(root).suffix[1:]) == list(points.values())[-1]


def qemu_map(path: Path, format: str) -> list[tuple[int, int, bool]]:
    """Runs (start, length, zero) that QEMU finds, joined."""
    runs: list[tuple[int, int, bool]] = []
    for extent in json.loads(qemu_img("map", "--output=json", "-f", QEMU.get(format, format), path)):
        start, length, zero = extent["start"], extent["length"], bool(extent["zero"])
        if runs and runs[-1][2] == zero:
            runs[-1] = (runs[-1][0], runs[-1][1] + length, zero)
        else:
            runs.append((start, length, zero))
    return runs
