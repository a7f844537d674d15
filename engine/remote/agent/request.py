"""A request that is allowed, as who does it sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from secondsite.engine.remote.agent.confined import ConfinedFiles
from secondsite.engine.remote.agent.meter import Counts


@dataclass(frozen=True)
class Request:
    """The folder of its replica, who to ask whether to stop, and where to count."""

    name: str
    folder: str
    stopping: Callable[[], bool] = field(default=lambda: False)
    counts: Counts = field(default_factory=Counts)

    @property
    def files(self) -> ConfinedFiles:
        return ConfinedFiles(self.folder)
