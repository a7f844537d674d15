"""Another file system behind a plan of faults."""

from __future__ import annotations

from secondsite.engine.files.base import Files, Lock
from secondsite.engine.images.base import Image
from secondsite.engine.images.failing import FailingImage, Faults


class FailingFiles(Files):
    """Every call with an effect asks `faults` first; see `Faults` for what it may do then."""

    def __init__(self, inner: Files, faults: Faults) -> None:
        self.inner, self.faults = inner, faults

    def open(self, path: str, mode: str) -> Image:
        if mode == "create":
            self.faults.hit("write", path)
        return FailingImage(self.inner.open(path, mode), self.faults)

    def exists(self, path: str) -> bool:
        return self.inner.exists(path)

    def size(self, path: str) -> int:
        return self.inner.size(path)

    def listdir(self, path: str) -> list[str]:
        return self.inner.listdir(path)

    def folders(self, path: str) -> list[str]:
        return self.inner.folders(path)

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        self.faults.hit("mkdir", path)
        self.inner.mkdir(path, mode)

    def rmdir(self, path: str) -> bool:
        self.faults.hit("rmdir", path)
        return self.inner.rmdir(path)

    def replace(self, source: str, target: str) -> None:
        self.faults.hit("replace", target)
        self.inner.replace(source, target)

    def link(self, source: str, target: str) -> None:
        self.faults.hit("link", target)
        self.inner.link(source, target)

    def same(self, one: str, two: str) -> bool:
        return self.inner.same(one, two)

    def unlink(self, path: str) -> None:
        self.faults.hit("unlink", path)
        self.inner.unlink(path)

    def flush_dir(self, path: str) -> None:
        self.faults.hit("flush_dir", path)
        self.inner.flush_dir(path)

    def clone(self, source: str, target: str) -> bool:
        self.faults.hit("clone", target)
        return self.inner.clone(source, target)

    def temporary(self, near: str) -> Image:
        return self.inner.temporary(near)

    def lock(self, path: str, *, exclusive: bool) -> Lock | None:
        return self.inner.lock(path, exclusive=exclusive)
