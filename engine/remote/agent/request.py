"""A request that is allowed, as who does it sees it."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import dataclass, field

from secondsite.engine.files.confined import ConfinedFiles
from secondsite.engine.remote.agent.meter import Counts
from secondsite.engine.remote.agent.stream import Streams
from secondsite.engine.remote.trust.access import Action


@dataclass(frozen=True)
class Request:
    """The folder of its replica, who to ask whether to stop, and where to count. `require` raises Refused where the
    peer may not do something more. `keep`: how many points a cycle leaves, by the agent's operator. `peer` is the
    pin of who asks, `streams` are all that come in at this agent.
    """

    name: str
    folder: str
    stopping: Callable[[], bool] = field(default=lambda: False)
    counts: Counts = field(default_factory=Counts)
    require: Callable[[Action], None] = field(default=lambda action: None)
    keep: int | None = None
    peer: str = ""
    streams: Streams = field(default_factory=Streams)

    def veiled(self, text: str) -> str:
        """As it is told to others: where the agent keeps its replicas is not for them."""
        return text.replace(f"{posixpath.dirname(self.folder)}/", "")

    @property
    def files(self) -> ConfinedFiles:
        return ConfinedFiles(self.folder)
