"""A Linux whose point became a page blob boots from it, once QEMU has it as a file; what it writes then comes home."""

from __future__ import annotations

import subprocess
from pathlib import Path

import guestkit
import pytest
from cloudkit import SIZE, Cloud
from guestkit import Guest

from secondsite.engine.images import open_image
from secondsite.orchestration.failover.intent import Options, Placed

pytestmark = pytest.mark.needs("guest", "azurite", "qemu-img")
# What one request takes.
PAGES = 4 << 20


def boot(folder: Path, disk: Path, format: str, records: int) -> tuple[int, int]:
    """A machine of this disk that writes so many records more, and loses its power: the number of the last record that
    it found, and of the last one that it wrote.
    """
    folder.mkdir()
    nodes = ["-blockdev", f"driver=file,node-name=file,filename={disk}"]
    nodes += ["-blockdev", f"driver={format},node-name=disk,file=file", "-device", "virtio-blk-pci,drive=disk"]
    with Guest(folder, nodes) as guest:
        guest.wait(lambda: guest.synced() > 0)
        found = int(guest.serial().partition("GUEST READY ")[2].split()[0])
        return found, guest.write_on(records)


def download(cloud: Cloud, placed: Placed) -> Path:
    """The disk that its definition says it boots from, as anybody gets it from Azure."""
    assert placed.definition is not None
    [blob] = [one["blob"] for one in placed.definition["disks"] if one["os"]]  # type: ignore[attr-defined]
    name = blob.removeprefix(f"azure://{cloud.container.container_name}/")
    path = cloud.folder / "downloaded.vhd"
    path.write_bytes(cloud.container.download_blob(name).readall())
    return path


def upload(cloud: Cloud, path: Path) -> None:
    """What a machine there has written."""
    name = next(one for one in cloud.machines() if one.endswith("system.vhd"))
    blob = cloud.container.get_blob_client(name)
    data = path.read_bytes()
    for at in range(0, len(data), PAGES):
        part = data[at : at + PAGES]
        blob.upload_page(part, at, len(part))


def records(cloud: Cloud, disk: Path) -> list[int]:
    raw = cloud.folder / "checked.raw"
    with open_image(disk) as image:
        raw.write_bytes(bytes(image.read(0, SIZE)))
    return guestkit.check_disk(raw, cloud.folder / "copy.raw")


def test_a_linux_boots_from_the_page_blob(cloud: Cloud, sweep: bool) -> None:
    """The way home in the sweep."""
    system = guestkit.make_disk(cloud.folder / "system.raw", SIZE)
    _, written = boot(cloud.folder / "home", system, "raw", 3)
    cloud.cycle()
    cloud.failovers().fail_over("app1", "unplanned")
    placed = cloud.placed("target")
    assert placed is not None
    disk = download(cloud, placed)
    compared = ["qemu-img", "compare", "-f", "raw", "-F", "vpc", system, disk]
    assert subprocess.run(compared, capture_output=True, check=False).returncode == 0
    found, last = boot(cloud.folder / "there", disk, "vpc", 3)
    assert written <= found < last
    assert records(cloud, disk)[-1] >= last
    if not sweep:
        return
    cloud.failovers().act("app1", "commit")
    upload(cloud, disk)
    has = records(cloud, disk)
    cloud.failovers().fail_over("app1", "failback", options=Options(wait=True))  # no start, which writes a block
    assert records(cloud, system) == has
    cloud.failovers().act("app1", "cancel")
    assert records(cloud, system)[-1] < has[-1] and len(cloud.machines()) == 2
