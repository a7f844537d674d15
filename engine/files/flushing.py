"""Names made durable by several threads at once: who comes while a flush runs shares the next with all who wait."""

from __future__ import annotations

import posixpath
import threading
from dataclasses import dataclass, field

from secondsite.engine import errors
from secondsite.engine.files.base import Files


@dataclass
class _Folder:
    """Who has come, up to whom it is done, and whether a flush runs."""

    came: int = 0
    done: int = 0
    running: bool = False
    waiting: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)


class Flushing:
    """Of the folders below `root`. A folder that went meanwhile is one that its parent's flush tells of."""

    def __init__(self, files: Files, root: str) -> None:
        self.files, self.root = files, root
        self._folders: dict[str, _Folder] = {}
        self._lock = threading.Lock()

    def flush(self, path: str) -> None:
        """Return once what was done in the folder before is durable."""
        with self._lock:
            folder = self._folders.setdefault(path, _Folder())
            folder.waiting += 1
        try:
            self._wait(folder, path)
        finally:
            with self._lock:
                folder.waiting -= 1
                if not folder.waiting:
                    self._folders.pop(path, None)

    def _wait(self, folder: _Folder, path: str) -> None:
        with folder.changed:
            folder.came += 1
            ours = folder.came
            while folder.running and folder.done < ours:
                folder.changed.wait()
            if folder.done >= ours:
                return
            folder.running, upto = True, folder.came
        done = folder.done
        try:
            self._flush(path)
            done = upto
        finally:
            with folder.changed:
                folder.running, folder.done = False, done
                folder.changed.notify_all()

    def _flush(self, path: str) -> None:
        while True:
            try:
                return self.files.flush_dir(path)
            except errors.Error:
                if path == self.root or self.files.exists(path):
                    raise
                path = posixpath.dirname(path)
