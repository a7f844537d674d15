"""Whether the vault is as new as its replicas: one that was put back from a backup knows less than they do.

Its cycles would take the points that it never heard of for those of cycles that were killed, and drop them. The note in
the replicas says how far its item had come (D8), so they stand still, and an operator has the vault rebuilt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from secondsite.engine import errors
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import lookup, note
from secondsite.orchestration.protection.item import Held
from secondsite.orchestration.protection.worker import Worker
from secondsite.orchestration.vault.database import Database


@dataclass
class Behind:
    """Asks the replicas of each item once: a vault is put back while nobody works on it."""

    database: Database
    worker: Worker
    _asked: set[str] = field(default_factory=set)

    def look(self, item: Held) -> None:
        """Raises Refused where the vault is behind, and what may pass of reading a note. While an item resyncs, and
        after a failover, notes of before that may name points that are gone.
        """
        if item.id in self._asked or item.state is not State.REPLICATING:
            return
        # A process that was killed has told the replicas of one point that the vault does not know.
        known = lookup.next_number(self.database, item.id)
        told = max((one.newest for one in self._notes(item)), default=0)
        if told > known:
            raise errors.Refused(
                f"D8: the vault is older than the replicas, which have point {told} where it would make point {known}: "
                "was it put back from a backup? `secondsite vault rebuild` into a new one loses no point"
            )
        self._asked.add(item.id)

    def _notes(self, item: Held) -> Iterator[note.Note]:
        for replica in item.disks.values():
            try:
                said = self.worker.noted(replica)
                found = None if said is None else note.parse(said, replica)
            except errors.Error as error:
                if error.retryable:
                    raise
                continue  # none yet, an agent that knows no notes, or one that the next cycle writes anew
            if found is not None and (found.item, found.epoch) == (item.id, item.epoch):
                yield found
