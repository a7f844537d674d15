"""A request that is allowed, as who does it sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from secondsite.engine.remote.confined import ConfinedFiles


@dataclass(frozen=True)
class Request:
    """The folder of its replica, and who to ask whether to stop."""

    name: str
    folder: str
    stopping: Callable[[], bool] = field(default=lambda: False)

    @property
    def files(self) -> ConfinedFiles:
        return ConfinedFiles(self.folder)
