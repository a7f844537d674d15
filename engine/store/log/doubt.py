"""What a verification on this host found wrong with a replica's newest point: no cycle of it goes on over that.

Blocks that do not change are in every later point what they are in this one. A resync, or a verification that finds
nothing, ends the doubt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from secondsite.engine import errors
from secondsite.engine.files import LocalFiles
from secondsite.engine.replica import record


@dataclass(frozen=True)
class Doubt:
    """Of one replica; `folder` is where this host keeps what it knows of all."""

    folder: Path
    replica_id: bytes

    @property
    def _path(self) -> str:
        return str(self.folder / self.replica_id.hex() / "doubt.json")

    def found(self, point: str, why: str | None, warn: Callable[[str], object]) -> None:
        """What a verification says of the newest point; `why` it is damaged, if it is."""
        if why is None:
            return self.end()
        files = LocalFiles()
        try:
            files.mkdir(str(Path(self._path).parent))
            files.write_bytes(self._path, record.pack({"point": point, "why": why}))
        except errors.Error as error:
            warn(f"{error}; so replicate goes on over the damage")

    def end(self) -> None:
        """The newest point was found whole, or was made anew."""
        Path(self._path).unlink(missing_ok=True)

    def check(self, label: str) -> None:
        """Raises Damaged. A note that does not read is none."""
        try:
            fields = record.read(LocalFiles(), self._path)[0]
            why = record.field(fields, "why", str, self._path)
        except errors.Error:
            return
        told = f"the last verify found the newest point damaged ({why}); replicate --resync mends it, or verify again"
        raise errors.Damaged(told, path=label)
