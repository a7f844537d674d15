"""A recovery point as an image file: a new file, a clone with the undo over it, or an existing one made equal.

All three are one pass: the point's map says what each block must be, another map says what the output already holds,
and where they differ the block is read, checked against the point's map and written.
"""

from __future__ import annotations

import os
import posixpath
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from secondsite.engine import conversion, errors, scan
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.files import Files, LocalFiles
from secondsite.engine.filling import Filling
from secondsite.engine.images import Image, RawImage
from secondsite.engine.progress import Monitor, Progress
from secondsite.engine.remote import reach
from secondsite.engine.replica import chain as chains
from secondsite.engine.replica.container import check_size, create_container, open_existing
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.point import Point
from secondsite.engine.replica.view import PointView, base_map, point_map
from secondsite.engine.results.outputs import Restored
from secondsite.engine.store.place import finding_logs, is_place
from secondsite.engine.units import larger_disk
from secondsite.engine.workers import default_workers


@finding_logs
def restore(
    replica: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    at: str = "latest",
    in_place: bool = False,
    format: str | None = None,
    subformat: str | None = None,
    allow_parent_path: Sequence[str] = (),
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    files: Files | None = None,
    state: str | os.PathLike[str] | None = None,
) -> Restored:
    """Write the point `at` (a generation, `latest` or a time) to `output`.

    `format` is raw, vhdx or vhd, by default raw. A VHDX or VHD is dynamic unless `subformat` is `fixed`, and a fixed
    VHD has whole MiB. An existing image stays what it is: for `in_place` a `format` only says it again, or decides
    where its name and its bytes do not agree, and the parents of a differencing VHDX may lie in `allow_parent_path`.

    A new output appears under its name only when it is whole and durable; an existing one is Refused, unless
    `in_place`: then just what differs from the point is written, to a file or a block device, and a call that was cut
    short is made good by the next. Every block is checked against the point's sealed map before it is written; Damaged
    names the first that does not match.
    """
    began = time.monotonic()
    if in_place and subformat is not None:
        raise errors.Usage("with --in-place the output stays what it is; --subformat is for a new file")
    if allow_parent_path and not in_place:
        raise errors.Usage("a new file has no parent; --allow-parent-path goes with --in-place")
    target = os.fspath(output)
    if is_place(os.fspath(replica)):
        from secondsite.engine.store.log import calls

        if in_place:
            return calls.restore_in_place(
                os.fspath(replica), target, format, [os.fspath(folder) for folder in allow_parent_path], at=at,
                workers=workers or default_workers(), monitor=Monitor(progress, cancel), state=state,
            )  # fmt: skip
        return calls.restore(
            os.fspath(replica), target, at=at, format=format or "raw", subformat=subformat,
            workers=workers or default_workers(), monitor=Monitor(progress, cancel),
            state=state,
        )  # fmt: skip
    with ExitStack() as stack:
        opened = Replica.open(*stack.enter_context(reach.files_of(replica, files, state, cancel)))
        if isinstance(opened.files, LocalFiles):
            conversion.refuse_inside(opened.layout.root, target)
        stack.enter_context(opened.reading(proving=True))
        point = opened.choose(at)
        job = _Job(opened, point, workers or default_workers(), Monitor(progress, cancel))
        if in_place:
            done = job.in_place(target, format, [os.fspath(folder) for folder in allow_parent_path])
        else:
            done = job.new(target, format or "raw", subformat)
    return Restored(
        point.name, point.virtual_bytes, done.written, time.monotonic() - began, done.method, target, done.size,
        [*opened.warnings, *job.warnings],
    )  # fmt: skip


class _Done(NamedTuple):
    """What was written how, and the size of the output's disk."""

    method: str
    written: int
    size: int


class _Job:
    def __init__(self, replica: Replica, point: Point, workers: int, monitor: Monitor) -> None:
        self.replica, self.point, self.workers, self.monitor = replica, point, workers, monitor
        self.files = replica.files
        self.warnings: list[str] = []

    def new(self, target: str, format: str, subformat: str | None) -> _Done:
        """A file that was not there."""
        if self.files.exists(target):
            raise errors.Refused("exists; --in-place rewrites what differs in it, or name another file", path=target)
        check_size(format, self.point.virtual_bytes, target, subformat)
        folder, name = posixpath.split(target)
        partial = posixpath.join(folder, f".{name}.secondsite-partial")
        try:
            done = self._build(partial, format, subformat)
            if self.files.exists(target):
                raise errors.Refused("appeared meanwhile; it is left alone", path=target)
            self.files.replace(partial, target)
            self.files.flush_dir(folder or ".")
        except BaseException:
            try:
                self.files.unlink(partial)
            except errors.Error:
                pass  # the first error is the one to tell
            raise
        self._note_larger(target, done)
        return done

    def _build(self, partial: str, format: str, subformat: str | None) -> _Done:
        chain = chains.find(self.replica, self.point.generation)
        cloned = format == self.replica.layout.kind == "raw" and self.files.clone(chain.base_path, partial)
        with point_map(self.replica, self.point) as want, self._open_new(partial, cloned, format, subformat) as image:
            if cloned:
                image.resize(want.image_size)
                with base_map(self.replica, chain.base, chain.base_path, chain.base_map) as have:
                    written = self._copy(want, have, image)
                # A clone shares the head's bytes: they are proved here, since nothing else read them.
                self._prove(want, image)
            else:
                written = self._copy(want, None, image)
            image.flush()
            return _Done("clone" if cloned else "copy", written, image.size)

    def _note_larger(self, target: str, done: _Done) -> None:
        if done.size > self.point.virtual_bytes:
            self.warnings.append(larger_disk(target, self.point.virtual_bytes, done.size))

    def _open_new(self, partial: str, cloned: bool, format: str, subformat: str | None) -> Image:
        if cloned:
            return self.files.open(partial, "rw")
        return create_container(self.files, partial, self.point.virtual_bytes, format, subformat)

    def in_place(self, target: str, format: str | None, allow: Sequence[str]) -> _Done:
        """An existing image: hash it, and write what differs."""
        if isinstance(self.files, LocalFiles):
            from secondsite.engine.tracked.mapfile import void  # which a new file needs not

            void(target)
        with (
            point_map(self.replica, self.point) as want,
            open_existing(self.files, target, format, allow) as image,
        ):
            with self._filling(want) as filling:
                written = filling.rewrite(image, lambda: self.files.temporary(target))
            done = _Done("in-place", written, image.size)
        # A device has the size that it has.
        if not (isinstance(image, RawImage) and image.device):
            self._note_larger(target, done)
        return done

    def _prove(self, want: BlockMap, image: Image) -> None:
        self.monitor.begin("verify", want.image_size)
        seed = self.replica.identity.seed
        bad = scan.differing(image, want, seed, workers=self.workers, monitor=self.monitor)
        if bad:
            raise errors.Damaged(
                f"point {self.point.name} is not what it was; nothing was restored",
                path=self.replica.layout.root,
                offset=bad[0].offset,
            )

    def _copy(self, want: BlockMap, have: BlockMap | None, image: Image) -> int:
        with self._filling(want) as filling:
            return filling.copy(have, image)

    @contextmanager
    def _filling(self, want: BlockMap) -> Iterator[Filling]:
        with PointView(self.replica, self.point) as view:
            yield Filling(view, want, self.replica.identity.seed, workers=self.workers, monitor=self.monitor)
