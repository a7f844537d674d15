"""What a machine prints on its serial line, in a file that does not grow for ever.

QEMU keeps it in memory, and forgets what was read: each reader adds it to the file, one after the other, as the monitor
has one client at a time.
"""

from __future__ import annotations

import base64
import os
from typing import Any, Protocol

from secondsite.engine import errors
from secondsite.orchestration.hypervisors.qemu.arguments import CONSOLE_BYTES

FILE = "serial"
_PIECE = 65536


class Commands(Protocol):
    """A monitor, or who passes commands on to one."""

    def run(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """A command's answer."""


class Console:
    """Of the machine in `folder`."""

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, FILE)

    def take(self, monitor: Commands) -> None:
        """What QEMU has, into the file. A reader that is killed in between loses a piece."""
        for _ in range(CONSOLE_BYTES // _PIECE + 1):
            text = monitor.run("ringbuf-read", {"device": "serial", "size": _PIECE, "format": "base64"})
            got = base64.b64decode(text) if isinstance(text, str) else b""
            if got:
                self._add(got)
            if len(got) < _PIECE:
                return

    def _add(self, got: bytes) -> None:
        try:
            with open(self._path, "ab") as file:
                file.write(got)
                size = file.tell()
            if size > 2 * CONSOLE_BYTES:
                with open(f"{self._path}.new", "wb") as file:
                    file.write(self.last(CONSOLE_BYTES))
                os.replace(f"{self._path}.new", self._path)
        except OSError as error:
            raise errors.from_os(error, self._path, "write it") from None

    def clear(self) -> None:
        """A new start has said nothing yet."""
        open(self._path, "wb").close()

    def last(self, most: int) -> bytes:
        """The last bytes of the file."""
        try:
            with open(self._path, "rb") as file:
                file.seek(max(os.fstat(file.fileno()).st_size - most, 0))
                return file.read(most)
        except FileNotFoundError:
            return b""
