"""The NBD server inside a QEMU: there is one at most, ours on a socket of our own, or somebody else's."""

from __future__ import annotations

import os
import socket

from secondsite.engine import errors
from secondsite.engine.nbd.url import NbdUrl, parse_url
from secondsite.engine.qemu.lines import parse_address
from secondsite.engine.qemu.qmp import CommandFailed, Monitor

# What sockaddr_un has room for.
_LONGEST_PATH = 107


class Server:
    """Where exports of this QEMU are reached. `running` is the URL of a server that somebody else began in it."""

    def __init__(self, monitor: Monitor, folder: str, running: str | None = None) -> None:
        self._monitor = monitor
        self._path = "" if running else _own_path(monitor.name, folder)
        self.url = parse_url(running) if running else NbdUrl(socket=self._path)

    def start(self) -> None:
        """Raises Refused where another server runs that was not named."""
        if not self._path:
            return
        address = {"type": "unix", "data": {"path": self._path}}
        try:
            self._monitor.run("nbd-server-start", {"addr": address})
        except CommandFailed as error:
            if "already running" not in error.description:
                raise
            # Ours of a cycle that was killed, or of another replica of this machine, is as good as a new one.
            if not _answers(self._path):
                text = "an NBD server of somebody else runs in this QEMU: say where, with --qmp-nbd URL"
                raise errors.Refused(text, path=self._monitor.name) from None

    def stop(self) -> None:
        """Ours, where nothing is exported any more."""
        if self._path and not any(e.get("type") == "nbd" for e in self._monitor.listed("query-block-exports")):
            self._monitor.try_run("nbd-server-stop")


def _own_path(monitor: str, folder: str) -> str:
    """Beside the monitor's socket, where QEMU made one already; in `folder` where that is on TCP."""
    kind, where = parse_address(monitor)
    path = os.path.abspath(where + ".secondsite" if kind == "unix" else os.path.join(folder, ".secondsite-nbd"))
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise errors.Usage(f"is too long a path for a socket beside it: more than {_LONGEST_PATH} bytes", path=path)
    return path


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        try:
            probe.connect(path)
            return True
        except OSError:
            return False
