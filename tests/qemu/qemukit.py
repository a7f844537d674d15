"""A QEMU storage daemon with disks to write on, a guest agent that misbehaves as told, a peer that says anything."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from secondsite.engine.images import Image
from secondsite.engine.images.nbd import NbdImage
from secondsite.engine.nbd.url import NbdUrl
from secondsite.engine.qemu.machine import Qemu
from secondsite.engine.qemu.qmp import Monitor
from secondsite.engine.trackers.base import Have
from secondsite.engine.trackers.qemu import QemuCut, QemuTracker

REPLICA = "0123456789abcdef0123456789abcdef"
MIB = 1 << 20
GRAIN = 65536


def have(generation: int, seal: str = "5e") -> Have:
    return Have(REPLICA, generation, seal * 32)


class Daemon:
    """Disks `disk0.raw` and so on, each a node `disk0` that is exported for writing, as a machine's would be.

    It has a second monitor, so that a test can look while a cycle has the first. `server` False: no NBD server yet.
    """

    SIZE = 8 * MIB + 512

    def __init__(self, folder: Path, sizes: tuple[int, ...], server: bool = True, foreign: bool = False) -> None:
        self.folder, self.sizes = folder, sizes
        self.socket = folder / "qmp.sock"
        self.front = folder / ("front.sock" if foreign else "qmp.sock.secondsite")
        self._server = server or foreign
        self.paths = [folder / f"disk{number}.raw" for number in range(len(sizes))]
        for path, size in zip(self.paths, sizes, strict=True):
            with path.open("ab") as file:
                file.truncate(size)
        self.start()

    def start(self) -> None:
        command = ["qemu-storage-daemon"]
        for number, name in enumerate(("qmp.sock", "other.sock")):
            path = self.folder / name
            path.unlink(missing_ok=True)
            command += ["--chardev", f"socket,id=c{number},path={path},server=on,wait=off"]
            command += ["--monitor", f"chardev=c{number}"]
        for number, path in enumerate(self.paths):
            command += ["--blockdev", f"driver=file,node-name=file{number},filename={path},discard=unmap"]
            command += ["--blockdev", f"driver=raw,node-name=disk{number},file=file{number},discard=unmap"]
        if self._server:
            command += ["--nbd-server", f"addr.type=unix,addr.path={self.front},max-connections=0"]
            for number in range(len(self.paths)):
                command += ["--export", f"nbd,id=front{number},node-name=disk{number},name=disk{number},writable=on"]
        self.log = (self.folder / "daemon.log").open("ab")
        self.process = subprocess.Popen(command, stderr=self.log)
        self.other = Monitor.connect(str(wait_for(self.folder / "other.sock")), 20)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.other.close()
        self.kill()
        self.log.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def writer(self, number: int = 0) -> NbdImage:
        """The disk as its machine sees it."""
        return NbdImage(NbdUrl(f"disk{number}", socket=str(self.front)), "rw", connections=1)

    def tracker(self, number: int = 0, replica_id: str | None = None, **options: Any) -> QemuTracker:
        name = replica_id or f"{number}{REPLICA[1:]}"
        return QemuTracker(str(self.paths[number]), name, Qemu(str(self.socket), **options))

    def added(self) -> list[str]:
        """What of ours is in it, bitmaps aside."""
        nodes = [str(node["node-name"]) for node in self.other.listed("query-named-block-nodes", {"flat": True})]
        jobs = [str(job["device"]) for job in self.other.listed("query-block-jobs")]
        exports = [str(export["id"]) for export in self.other.listed("query-block-exports")]
        return [name for name in (*nodes, *jobs, *exports) if name.startswith("secondsite-")]

    def bitmaps(self, number: int = 0) -> list[str]:
        """Names of the bitmaps of a disk."""
        for node in self.other.listed("query-named-block-nodes", {"flat": True}):
            if node["node-name"] == f"disk{number}":
                return sorted(str(bitmap["name"]) for bitmap in node.get("dirty-bitmaps", ()))
        raise AssertionError("no such disk")


def listens(path: Path) -> bool:
    """Does somebody accept connections there? Asked without making one, which a monitor has only one of."""
    for line in Path("/proc/net/unix").read_text().splitlines():
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7] == str(path) and fields[3] == "00010000":
            return True
    return False


def wait_for(path: Path) -> Path:
    deadline = time.monotonic() + 20
    while not listens(path):
        assert time.monotonic() < deadline, path
        time.sleep(0.005)
    return path


def listen(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(path))
    server.listen(8)
    server.settimeout(20)
    return server


class Peer:
    """A server whose one connection is given to `talk`."""

    def __init__(self, path: Path, talk: Callable[[socket.socket], None]) -> None:
        self.path, self._talk = path, talk
        self._server = listen(path)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._server.accept()[0] as sock:
                sock.settimeout(20)
                self._talk(sock)
        except OSError:
            pass  # the client went first

    def close(self) -> None:
        self._server.close()


class ScriptedAgent:
    """A guest agent. `answers` maps a command to what is answered: a value; an Exception, as an error of the agent; a
    function that gets the socket. `log` is what was asked, in order; `is_frozen` the state of the guest.
    """

    def __init__(self, path: Path, answers: dict[str, Any] | None = None, left_over: bytes = b"") -> None:
        self.path, self.log, self.is_frozen = path, list[str](), False
        self._answers, self._left_over = answers or {}, left_over
        self._server = listen(path)
        self._closed = False
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        """One client at a time, as a serial line has."""
        while not self._closed:
            try:
                sock = self._server.accept()[0]
                sock.settimeout(20)
                with sock, sock.makefile("rb") as lines:
                    sock.sendall(self._left_over)
                    for line in lines:
                        self._answer(sock, json.loads(line.lstrip(b"\xff")))
            except (OSError, ValueError):
                continue

    def _answer(self, sock: socket.socket, asked: dict[str, Any]) -> None:
        name = asked["execute"]
        self.log.append(name.removeprefix("guest-").removeprefix("fsfreeze-"))
        if name == "guest-fsfreeze-freeze":
            self.is_frozen = not isinstance(self._answers.get(name), Exception)
        if name == "guest-fsfreeze-thaw":
            self.is_frozen = False
        value = {
            "guest-sync-delimited": asked.get("arguments", {}).get("id"),
            "guest-fsfreeze-freeze": 2, "guest-fsfreeze-thaw": 2,
            "guest-fsfreeze-status": "frozen" if self.is_frozen else "thawed",
            **self._answers,
        }[name]  # fmt: skip
        if callable(value):
            value(sock)
        elif isinstance(value, Exception):
            error = {"class": "GenericError", "desc": str(value)}
            sock.sendall(json.dumps({"error": error}).encode() + b"\n")
        else:
            mark = b"\xff" if name == "guest-sync-delimited" else b""
            sock.sendall(mark + json.dumps({"return": value}).encode() + b"\n")

    def close(self) -> None:
        self._closed = True
        self._server.close()


def whole(image: Image) -> bytes:
    return bytes(image.read(0, image.size))


def named(cut: QemuCut) -> list[tuple[int, int]]:
    changed = cut.changed()
    assert changed is not None
    return list(changed)


def first_point(tracker: QemuTracker, number: int = 1) -> Have:
    cut = tracker.begin(None)
    assert cut.changed() is None
    cut.acknowledge(have(number))
    assert not cut.warnings
    return have(number)
