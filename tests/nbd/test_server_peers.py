"""The NBD server and other people's clients."""

from __future__ import annotations

import filecmp
import json
import subprocess

import pytest

MIB = 1 << 20


def run(*command, status=0, cwd=None):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, cwd=cwd)
    assert done.returncode == status, (command, done.stdout, done.stderr)
    return done.stdout


@pytest.mark.needs("nbdinfo")
@pytest.mark.parametrize("way", ["url", "tcp"])
def test_nbdinfo_sees_the_export(served, way):
    found = json.loads(run("nbdinfo", "--json", getattr(served, way)))
    (export,) = found["exports"]
    assert found["protocol"] == "newstyle-fixed" and export["export-size"] == served.disk.size
    assert export["contexts"] == ["base:allocation"] and export["can_multi_conn"] and not export["is_read_only"]
    assert "disk" in run("nbdinfo", "--list", getattr(served, way))


@pytest.mark.needs("nbdinfo")
def test_nbdinfo_maps_holes(served):
    found = json.loads(run("nbdinfo", "--map", "--json", served.url))
    assert [(entry["offset"], entry["length"], entry["type"]) for entry in found] == [
        (0, 3 * MIB, 3), (3 * MIB, 5 * MIB, 0), (8 * MIB, 8 * MIB, 3),
    ]  # fmt: skip


@pytest.mark.needs("nbdcopy")
@pytest.mark.parametrize("options", [(), ("--connections=4", "--threads=4"), ("--requests=1", "--synchronous")])
def test_nbdcopy_both_ways(served, tmp_path, options):
    copy, original = tmp_path / "copy.raw", served.file.read_bytes()
    run("nbdcopy", *options, served.url, copy)
    assert copy.read_bytes() == original
    changed = bytearray(original)
    changed[MIB : 4 * MIB] = bytes(2 * MIB) + b"\xa5" * MIB
    changed[6 * MIB : 7 * MIB] = bytes(MIB)
    copy.write_bytes(changed)
    run("nbdcopy", "--flush", *options, copy, served.tcp)
    assert served.file.read_bytes() == bytes(changed)


@pytest.mark.needs("qemu-img")
def test_qemu_img(served, tmp_path):
    assert json.loads(run("qemu-img", "info", "--output=json", served.url))["virtual-size"] == served.disk.size
    assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", served.url, served.file)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", served.url, tmp_path / "copy.qcow2")
    assert "identical" in run("qemu-img", "compare", tmp_path / "copy.qcow2", served.file)
    found = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", served.url))
    assert sum(entry["length"] for entry in found if entry["data"]) == 5 * MIB


@pytest.mark.needs("qemu-io")
def test_qemu_io(served):
    commands = ["write -P 7 1000 5000", "write -f -P 9 1M 64k", "write -z 4M 1M", "write -zu 5M 1M", "discard 6M 1M",
                "flush", "read -P 7 1000 5000", "read -P 9 1M 64k", "read -P 0 4M 2M", "aio_write -P 3 9M 3M",
                "aio_read -P 0 12M 1M", "aio_flush", "read -P 3 9M 3M"]  # fmt: skip
    printed = run("qemu-io", "-f", "raw", *(word for command in commands for word in ("-c", command)), served.url)
    assert "Pattern verification failed" not in printed
    data = served.file.read_bytes()
    assert data[1000:6000] == b"\7" * 5000 and data[MIB : MIB + 65536] == b"\x09" * 65536
    assert data[4 * MIB : 6 * MIB] == bytes(2 * MIB) and data[9 * MIB : 12 * MIB] == b"\3" * 3 * MIB


@pytest.mark.needs("fio")
def test_fio_verifies_what_it_wrote(served, tmp_path):
    run(
        "fio", "--name=verify", "--ioengine=nbd", f"--uri={served.url}", "--rw=randrw", "--bs=512-64k", "--iodepth=16",
        "--verify=crc32c", "--verify_fatal=1", "--size=8M", "--verify_state_save=0", "--output=/dev/null",
        cwd=tmp_path,
    )  # fmt: skip


@pytest.mark.needs("nbdinfo", "nbdcopy", "openssl")
def test_libnbd_over_tls(served, certificates, short_dir, tmp_path):
    from secondsite.engine.nbd.server import Server
    from secondsite.engine.nbd.tls import server_context

    server = Server(tls=server_context(str(certificates)))
    server.add(served.server.find("disk"))
    _, port = server.listen_tcp("127.0.0.1", 0)
    with server:
        url = f"nbds://localhost:{port}/disk?tls-certificates={certificates}"
        assert "with TLS" in run("nbdinfo", url).splitlines()[0] or "TLS" in run("nbdinfo", url)
        run("nbdcopy", url, tmp_path / "copy.raw")
        assert filecmp.cmp(tmp_path / "copy.raw", served.file, shallow=False)
        run("nbdinfo", f"nbd://localhost:{port}/disk", status=1)
        run("nbdinfo", url.replace(f"{certificates}", f"{certificates}/other"), status=1)
