"""The end of an item that left the estate (R1.10): what followed its disks goes, its replicas where the policy said so,
and then its rows. Each step may be repeated, so a killed one is gone on with by whoever takes the item next.
"""

from __future__ import annotations

from dataclasses import dataclass

from secondsite.engine import errors
from secondsite.orchestration import hosts
from secondsite.orchestration.protection import grid, ledger
from secondsite.orchestration.protection.item import Held
from secondsite.orchestration.protection.worker import Worker
from secondsite.orchestration.vault.database import Database
from secondsite.orchestration.vault.ending import Ending

# How the first pauses grow (R6.4), whatever the policy's frequency was.
_EVERY = 60.0


@dataclass
class Disabling:
    """Ends items that `holder` has the lease of."""

    database: Database
    holder: str
    worker: Worker

    def run(self, item: Held, ending: Ending, now: float) -> errors.Error | None:
        """An error that may pass is returned, and tried again later; what else stayed is told in the audit log."""
        notes: list[errors.Error] = []
        passing: list[errors.Error] = []
        if ending.delete:
            ledger.drop_all(self.database, self.holder, item.id)
        gone: list[str] = []
        for path in item.disks:
            for error in self._disk(item, path, ending, gone):
                (passing if error.retryable else notes).append(error)
        if passing:
            due = grid.after_failure(item.failures + 1, _EVERY, now)
            ledger.postpone(self.database, self.holder, item.id, due, item.failures + 1, str(passing[0]))
            return passing[0]
        ledger.remove(self.database, self.holder, item, now, _detail(item, gone, notes))
        return None

    def _disk(self, item: Held, path: str, ending: Ending, gone: list[str]) -> list[errors.Error]:
        """What went wrong; a replica that was deleted is added to `gone`. Without an id it was never known to be ours,
        and stays.
        """
        replica, known = item.disks[path], item.ids[path]
        if known is None:
            return [errors.Refused("stays: no cycle of it was noted", path=replica)] if ending.delete else []
        found: list[errors.Error] = []
        try:
            self.worker.release(path, known, ending.qmp)
        except errors.Error as error:
            # A QEMU that is gone has no bitmaps; those in its files the next one that follows the disk takes away.
            found += [errors.Refused(str(error))]
        try:
            if ending.delete:
                self._delete(replica, known, item.epoch, ending)
                gone.append(replica)
        except errors.Error as error:
            found.append(error)
        return found

    def _delete(self, replica: str, known: str, epoch: int, ending: Ending) -> None:
        """A replica of an agent is deleted on its host, where the estate says how that is reached."""
        if (there := ending.at(replica)) is None:
            self.worker.delete(replica, known, epoch)
            return
        host, path = there
        hosts.reach(host).call("replica.delete", {"replica": path, "replica_id": known, "epoch": epoch})


def _detail(item: Held, gone: list[str], notes: list[errors.Error]) -> str:
    """What became of each replica, then what went wrong."""
    stay = [one for one in item.disks.values() if one not in gone]
    said = {"deleted": gone, "left as they are": stay}
    told = [f"replicas {what}: {', '.join(ones)}" for what, ones in said.items() if ones]
    return "; ".join([*told, *(str(note) for note in notes)])
