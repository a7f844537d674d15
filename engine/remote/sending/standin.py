"""What stands for a far replica where trackers ask for one: its name and block size, and a folder for notes on it.

The notes are advice, as a replica's own are: losing them costs a scan.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secondsite.engine import errors
from secondsite.engine.files import LocalFiles
from secondsite.engine.remote import talk
from secondsite.engine.replica import record
from secondsite.engine.replica.layout import Layout


@dataclass(frozen=True)
class _Named:
    replica_id: bytes
    block_size: int


@dataclass(frozen=True)
class _Size:
    virtual_bytes: int


class Far:
    """Of the replica that an agent described as `state`; `folder` is where this host keeps what it knows of it.

    What it knows of a point is filed under the point's seal: an agent's folder may be put back to an older state, and
    then another point gets the same number.
    """

    def __init__(self, state: talk.State, folder: Path) -> None:
        self.state, self.files, self.warnings = state, LocalFiles(), list[str]()
        self.identity = _Named(state.replica_id, state.block_size)
        self.layout = Layout(str(folder / state.replica_id.hex()))
        self.files.mkdir(self.layout.root)
        self._file_under(state.seal)

    def _file_under(self, seal: str) -> None:
        self.layout.checked = f"{self.layout.root}/checked-{seal[:16] or 'none'}.json"

    def becomes(self, seal: str) -> None:
        """The replica has a new newest point; what was known of the one before is forgotten."""
        for path in self._checked():
            self.files.unlink(path)
        self._file_under(seal)

    def known_generation(self) -> int:
        """The newest point that was made from here, as far as that is known."""
        return max(map(self._generation_in, self._checked()), default=0)

    def _generation_in(self, path: str) -> int:
        try:
            return int(record.field(record.read(self.files, path)[0], "generation", int, path))
        except errors.Error:
            return 0

    def _checked(self) -> list[str]:
        names = self.files.listdir(self.layout.root)
        return [f"{self.layout.root}/{name}" for name in names if name.startswith("checked")]

    def known_epoch(self, source: str) -> int | None:
        """The epoch at which a source of this host last found the replica, if that is known."""
        path = self._epoch_of(source)
        try:
            return int(record.field(record.read(self.files, path)[0], "epoch", int, path))
        except errors.Error:
            return None

    def note_epoch(self, source: str) -> None:
        """The source has found the replica at the epoch of `state`."""
        try:
            self.files.write_bytes(self._epoch_of(source), record.pack({"epoch": self.state.epoch}))
        except errors.Error as error:
            self.warn(f"{error}; a failover that is done before the next cycle would not be noticed here")

    def _epoch_of(self, source: str) -> str:
        return f"{self.layout.root}/epoch-{hashlib.sha256(source.encode()).hexdigest()[:16]}.json"

    def point(self, generation: int) -> Any:
        """The newest point, of which only the size is known."""
        if generation != self.state.generation:
            raise errors.Refused(f"point {generation} is not the newest", path=self.layout.root)
        return _Size(self.state.virtual_bytes)

    def warn(self, text: str) -> None:
        """Told with the cycle's result."""
        self.warnings.append(text)
