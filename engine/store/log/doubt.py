"""What a verification on this host found wrong with a replica's points: no cycle goes on over damage of the newest one.

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
class _Held:
    """`why` the newest point is damaged, and all that are."""

    why: str = ""
    damaged: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Doubt:
    """Of one replica; `folder` is where this host keeps what it knows of all."""

    folder: Path
    replica_id: bytes

    @property
    def _path(self) -> str:
        return str(self.folder / self.replica_id.hex() / "doubt.json")

    def found(
        self, looked_at: list[str], damaged: dict[str, str], newest: str, warn: Callable[[str], object]
    ) -> None:  # fmt: skip
        """What a verification says of the points that it looked at: which are damaged, and why."""
        held = self._held()
        why = damaged.get(newest, "") if newest in looked_at else held.why
        try:
            self._hold(_Held(why, (held.damaged - set(looked_at)) | set(damaged)))
        except errors.Error as error:
            warn(f"{error}; so replicate goes on over the damage")

    def end(self) -> None:
        """The newest point was made anew."""
        self._hold(_Held("", self._held().damaged))

    @property
    def damaged(self) -> frozenset[str]:
        """Points that were found damaged, by name."""
        return self._held().damaged

    def check(self, label: str) -> None:
        """Raises Damaged."""
        if why := self._held().why:
            told = f"the last verify found the newest point damaged ({why}); "
            raise errors.Damaged(f"{told}replicate --resync mends it, or verify again", path=label)

    def _held(self) -> _Held:
        """A note that does not read is none."""
        try:
            fields = record.read(LocalFiles(), self._path)[0]
            names = record.field(fields, "damaged", list, self._path)
            return _Held(record.field(fields, "why", str, self._path), frozenset(map(str, names)))
        except errors.Error:
            return _Held()

    def _hold(self, held: _Held) -> None:
        files, path = LocalFiles(), Path(self._path)
        if held == _Held():
            if path.exists():
                files.unlink(self._path)
            return
        files.mkdir(str(path.parent))
        files.write_bytes(self._path, record.pack({"why": held.why, "damaged": sorted(held.damaged)}))
