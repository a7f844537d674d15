"""Where a user's programs keep what they know of other hosts: identity, who may come, whom to go to, and maps."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from secondsite.engine.remote.sending import mapcache


@dataclass(frozen=True)
class Home:
    """`identity` is a folder (trust/identity.py); `peers` and `agents` are the files of the modules of that name there.
    What lies in `maps` may be lost (sending/mapcache.py).
    """

    folder: Path

    @classmethod
    def of(cls, state: str | os.PathLike[str] | None) -> Home:
        """In the folder `state`, by default where XDG has it."""
        return cls(Path(state) if state is not None else Path(mapcache.default_folder()).parent)

    @property
    def identity(self) -> Path:
        return self.folder / "identity"

    @property
    def peers(self) -> Path:
        return self.folder / "peers.json"

    @property
    def agents(self) -> Path:
        return self.folder / "agents.json"

    @property
    def maps(self) -> Path:
        return self.folder / "maps"
