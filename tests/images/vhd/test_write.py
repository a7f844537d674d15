"""Writing VHDs, against a plain bytearray and what other programs read back."""

from __future__ import annotations

import random
import subprocess
import threading
from uuid import UUID

import libvhdi
import pytest
from vhdkit import footer_of, qemu, vhdiinfo

from secondsite.engine import errors
from secondsite.engine.images.vhd import create_dynamic, create_fixed, fixed_footer, open_vhd
from secondsite.engine.images.vhd.structures import checksum

MIB = 1 << 20


def act(image, model, chance, steps):
    """Random writes, zeros, growth and flushes on both."""
    for _ in range(steps):
        kind = chance.choices(("write", "zero", "flush", "grow"), (8, 3, 2, 1))[0]
        at = chance.randrange(len(model))
        length = min(chance.choice((1, 511, 4096, 70_000, 300_000)), len(model) - at)
        if kind == "write":
            data = chance.randbytes(length) if chance.random() < 0.8 else bytes(length)
            image.write(at, data)
            model[at : at + length] = data
        elif kind == "zero":
            image.zero(at, length, punch=chance.random() < 0.5)
            model[at : at + length] = bytes(length)
        elif kind == "flush":
            image.flush()
        elif len(model) < 8 * MIB:
            size = len(model) + chance.choice((512, 65536, 700 * 512))
            image.resize(size)
            model.extend(bytes(size - len(model)))
        if chance.random() < 0.2:
            assert image.read(at, length) == model[at : at + length]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["fixed", "dynamic"])
def test_random_writes_over_several_openings(tmp_path, kind, seed):
    chance = random.Random(seed)
    path = tmp_path / "a.vhd"
    size = chance.randrange(1, 6000) * 512
    if kind == "fixed":
        image = create_fixed(path, size, rounding="exact")
    else:
        image = create_dynamic(path, size, block_size=chance.choice((4096, 65536, 2 * MIB)))
    model = bytearray(size)
    for _ in range(4):
        with image:
            act(image, model, chance, 25)
            assert image.size == len(model)
            assert image.read(0, image.size) == model
        raw = path.read_bytes()
        assert footer_of(raw).current_size == len(model)
        assert kind == "fixed" or raw[:512] == raw[-512:]
        with open_vhd(path) as again:
            assert again.read(0, again.size) == model
            assert not again.facts().notes
        image = open_vhd(path, "rw")
    image.close()


def small_tables(monkeypatch):
    from secondsite.engine.images.vhd import dynamic

    monkeypatch.setattr(dynamic, "_ROOM_BYTES", 1)


@pytest.mark.needs("qemu-img", "qemu-io", "libvhdi")
@pytest.mark.parametrize("room", [1, 32 * MIB])
@pytest.mark.parametrize("block_size", [65536, 2 * MIB])
def test_others_read_what_is_written(tmp_path, block_size, room, monkeypatch):
    from secondsite.engine.images.vhd import dynamic

    monkeypatch.setattr(dynamic, "_ROOM_BYTES", room)
    path, chance = tmp_path / "a.vhd", random.Random(block_size)
    model = bytearray(9 * MIB)
    with create_dynamic(path, len(model), block_size=block_size) as image:
        for at in (8 * MIB, 0, 3 * MIB + 100, 5 * MIB - 5000):
            data = chance.randbytes(10_000)
            image.write(at, data)
            model[at : at + len(data)] = data
    compare(path, bytes(model))
    change_with_qemu(path, model)


def compare(path, want):
    with open_vhd(path) as image:
        assert image.read(0, image.size) == want
    assert qemu(path) == want
    assert libvhdi.read(path) == want


def change_with_qemu(path, model):
    """QEMU writes into our file, and we read and write what it made of it."""
    command = ["qemu-io", "-f", "vpc", "-c", "write -P 0xa5 6M 64k", path]
    subprocess.run(command, check=True, capture_output=True)
    model[6 * MIB : 6 * MIB + 65536] = b"\xa5" * 65536
    with open_vhd(path, "rw") as image:
        assert image.read(0, image.size) == model
        image.write(7 * MIB, b"after")
        model[7 * MIB : 7 * MIB + 5] = b"after"
    compare(path, bytes(model))


@pytest.mark.needs("vhdiinfo")
@pytest.mark.parametrize(("kind", "size", "made"), [("Dynamic", 5 * MIB + 512, 0), ("Fixed", 5 * MIB + 512, 6 * MIB)])
def test_what_libvhdi_tells_of_ours(tmp_path, kind, size, made):
    path, name = tmp_path / "a.vhd", UUID(int=0x1234)
    with (create_fixed if made else create_dynamic)(path, size, unique_id=name) as image:
        image.write(3 * MIB - 7, b"data" * 1000)
        for grown in (made or size, 9 * MIB):
            image.resize(grown)
            image.flush()
            told = vhdiinfo(path)
            assert (told["Format"], told["Disk type"]) == ("VHD (version 1)", kind)
            assert told["Media size"].endswith(f"({grown} bytes)")
            assert (told["Bytes per sector"], told["Identifier"]) == ("512 bytes", str(name))


def test_fixed_as_azure_wants_it(tmp_path):
    path = tmp_path / "a.vhd"
    with create_fixed(path, 5 * MIB + 1) as image:
        assert image.size == 6 * MIB
        image.write(6 * MIB - 3, b"end")
    raw = path.read_bytes()
    footer = footer_of(raw)
    assert len(raw) == 6 * MIB + 512 and raw[-515:-512] == b"end"
    assert (footer.data_offset, footer.kind) == (0xFFFFFFFFFFFFFFFF, 2)
    assert footer.original_size == footer.current_size == 6 * MIB
    assert int.from_bytes(raw[-448:-444], "big") == checksum(raw[-512:], 64)
    compare(path, raw[:-512])
    same = UUID(int=7)
    assert fixed_footer(MIB, unique_id=same, now=1e9) == fixed_footer(MIB, unique_id=same, now=1e9)
    for call in (lambda: fixed_footer(MIB + 512), lambda: create_fixed(path, MIB + 512, rounding="refuse")):
        with pytest.raises(errors.Usage, match="whole number of MiB"):
            call()


def test_sizes_and_names_that_are_refused(tmp_path):
    path = tmp_path / "a.vhd"
    for size in (0, -512, 2041 << 30):
        with pytest.raises(errors.Usage):
            create_fixed(path, size)
    with pytest.raises(errors.Usage):
        create_dynamic(path, 513)
    for block_size in (0, 512, 3 << 20, 1 << 30):
        with pytest.raises(errors.Usage):
            create_dynamic(path, MIB, block_size=block_size)
    assert not list(tmp_path.iterdir())
    create_dynamic(path, MIB).close()
    with pytest.raises(errors.Refused, match="exists"):
        create_fixed(path, MIB)
    create_fixed(path, MIB, overwrite=True).close()
    for kind in (create_fixed, create_dynamic):
        with kind(path, MIB, overwrite=True) as image:
            with pytest.raises(errors.Full):
                image.write(MIB - 1, b"xx")
            with pytest.raises(ValueError):
                image.zero(MIB - 1, 2)
            with pytest.raises(errors.Usage):
                image.resize(MIB + 1)
    with open_vhd(path, "rw") as image, pytest.raises(errors.Refused, match="shrink"):
        image.resize(512)


def test_a_disk_of_2040_gib_grown_from_a_small_one(tmp_path):
    """The table moves behind the data, and the file stays small."""
    path = tmp_path / "a.vhd"
    with create_dynamic(path, 4 * MIB) as image:
        image.write(0, b"first")
        image.resize(2040 << 30)
        image.write((2040 << 30) - 4, b"last")
        image.flush()
        assert image.read((2040 << 30) - 8, 8) == b"\0\0\0\0last"
    assert path.stat().st_size < 16 * MIB
    with open_vhd(path) as image:
        assert image.read(0, 6) == b"first\0" and image.read((2040 << 30) - 8, 8) == b"\0\0\0\0last"
        assert [extent.zero for extent in image.extents(0, image.size)] == [False, True, False]


def test_zeros_take_no_space(tmp_path):
    with create_dynamic(tmp_path / "a.vhd", 64 * MIB) as image:
        image.write(0, bytes(8 * MIB))
        image.zero(0, 64 * MIB)
        assert image.facts().allocated_bytes == 0
    assert (tmp_path / "a.vhd").stat().st_size < 4096


def test_threads_write_at_once(tmp_path):
    path = tmp_path / "a.vhd"
    image = create_dynamic(path, 16 * MIB, block_size=65536)

    def work(number):
        for at in range(number * 4096, 16 * MIB, 4 * 4096):
            image.write(at, bytes([number + 1]) * 4096)
            if at % (1 << 20) < 4 * 4096:
                image.flush()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    image.close()
    with open_vhd(path) as again:
        assert again.read(0, 16 * MIB) == b"".join(bytes([n + 1]) * 4096 for n in range(4)) * 1024
