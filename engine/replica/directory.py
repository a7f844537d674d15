"""A replica in a directory, opened: its identity, its points, its locks. What it does to itself is in the siblings:
`cycle` makes a generation, `recovery` undoes one that a crash cut short, `prune` drops points, `view` reads them.
"""

from __future__ import annotations

import json
import posixpath
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from secondsite.engine import errors
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.delta.reader import DeltaReader
from secondsite.engine.files import Files, LocalFiles, Lock
from secondsite.engine.images import Image
from secondsite.engine.replica import point as point_module
from secondsite.engine.replica import record
from secondsite.engine.replica.container import open_container
from secondsite.engine.replica.identity import Identity
from secondsite.engine.replica.layout import MAX_GENERATION, Layout, generations, newest, next_generation
from secondsite.engine.replica.point import Point

# How long a reader waits for a gap between cycles, and how often it looks for one.
READER_SECONDS, _LOOK_SECONDS = 5.0, 0.003

# What a creation that a crash cut short may leave behind before the replica says what it is.
_UNBORN = {"lock", "points", "replica.json.tmp", "head.tmp", "head.map.tmp"}


class Replica:
    """Open with `Replica.open` or `Replica.create`. `warnings` collects what was found wrong and did no harm."""

    def __init__(self, root: str, files: Files, identity: Identity) -> None:
        self.layout, self.files, self.identity = Layout(root, identity.head_format), files, identity
        self.warnings: list[str] = []
        self.unreadable: dict[int, str] = {}
        # Maps that were made anew in memory in the place of damaged ones, by path.
        self.rebuilt: dict[str, BlockMap] = {}

    # -- open ------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, root: str, files: Files | None = None) -> Replica:
        """An existing replica. Raises Unreachable, Damaged or NewerFormat, and Refused where it is none."""
        files = files or LocalFiles()
        layout = Layout(root)
        if files.size(layout.identity) < 0:
            if not files.exists(layout.root):
                raise errors.NoReplica("there is no such replica", path=layout.root)
            if files.listdir(layout.points):
                raise errors.Damaged("it is gone; a replica lies around it", path=layout.identity)
            raise errors.Refused("is not a replica (it has no replica.json)", path=layout.root)
        fields, complaint = record.read(files, layout.identity)
        made = cls(root, files, Identity.parse(fields, layout.identity))
        if complaint:
            made.warnings.append(f"{complaint}; the second copy in the file is good, the next cycle mends it")
        return made

    @classmethod
    def create(cls, root: str, files: Files, identity: Identity, *, probe: bool = True) -> Replica:
        """A new replica without points in an empty or missing folder; a folder with other content is Refused.

        `probe` finds out whether the folder's file system can clone, and so keep points as clones.
        """
        layout = Layout(root)
        files.mkdir(layout.root)
        made = cls(root, files, identity)
        made._refuse_strangers()
        with made.locked(exclusive=True):
            if files.size(layout.identity) >= 0:
                return cls.open(root, files)  # another process was faster
            made._refuse_strangers()
            files.mkdir(layout.points)
            if probe and made.can_clone():
                identity = replace(identity, history="clone")
            made.write_identity(identity)
            files.flush_dir(posixpath.dirname(layout.root) or ".")
        return made

    def _refuse_strangers(self) -> None:
        strangers = set(self.files.listdir(self.layout.root)) - _UNBORN
        if (strangers - {posixpath.basename(self.layout.identity)}) or self.files.listdir(self.layout.points):
            raise errors.Refused("is a folder with other content and not a replica", path=self.layout.root)

    def can_clone(self) -> bool:
        """Does the folder's file system clone files? Found out; the caller holds the replica as its writer."""
        old, new = posixpath.join(self.layout.root, "head.tmp"), self.layout.head_map + ".tmp"
        with self.files.open(old, "create") as file:
            file.write(0, bytes(4096))
        try:
            return self.files.clone(old, new)
        finally:
            self.files.unlink(old)
            self.files.unlink(new)

    def write_identity(self, identity: Identity) -> None:
        """Replace `replica.json`, durably."""
        record.write(self.files, self.layout.identity, identity.fields())
        self.files.flush_dir(self.layout.root)
        self.identity = identity

    def become(self, identity: Identity) -> None:
        """Another replica altogether, in a folder that holds no point."""
        self.layout = Layout(self.layout.root, identity.head_format)
        self.write_identity(identity)

    # -- locks -----------------------------------------------------------------------------------------------

    @contextmanager
    def locked(self, *, exclusive: bool) -> Iterator[None]:
        """Hold the replica: one writer, or any number of readers. Raises Busy where that cannot be: a writer at once,
        a reader after some seconds, since cycles that follow each other leave only milliseconds in between.
        """
        lock = self._take(exclusive=exclusive)
        try:
            yield
        finally:
            lock.release()

    def _take(self, *, exclusive: bool) -> Lock:
        lock = self.files.lock(self.layout.lock, exclusive=exclusive)
        end = time.monotonic() + READER_SECONDS
        while lock is None and not exclusive and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)
            lock = self.files.lock(self.layout.lock, exclusive=False)
        if lock is None:
            who = "another process reads or writes it" if exclusive else "a cycle is being applied to it"
            raise errors.Busy(f"is busy: {who}; try again later", path=self.layout.root)
        return lock

    @contextmanager
    def reading(self, *, proving: bool = False) -> Iterator[None]:
        """Hold it as a reader, at rest: a cycle that was cut short is taken back first.

        Where damage forbids that, who is `proving` whatever it reads goes on: points that are whole can be had, also
        when there is no source left to resync from.
        """
        lock = self._take(exclusive=False)
        try:
            # Again after each time: between the two locks another writer may have come, and died too.
            while self.interrupted():
                lock.release()
                at_rest = self._come_to_rest(proving=proving)
                lock = self._take(exclusive=False)
                if not at_rest:
                    break
            yield
        finally:
            lock.release()

    def _come_to_rest(self, *, proving: bool) -> bool:
        """Finish or take back what a crash left; False where damage forbids it and the caller goes on all the same."""
        try:
            with self.writing():
                return True
        except errors.Damaged as error:
            if not proving:
                raise
            self.warn(str(error))
            return False

    @contextmanager
    def writing(self, *, force: bool = False) -> Iterator[None]:
        """Hold it as the writer, at rest. `force` goes on where a damaged undo delta forbids to go back."""
        from secondsite.engine.replica import recovery

        with self.locked(exclusive=True):
            recovery.recover(self, force=force)
            yield

    @contextmanager
    def fencing(self) -> Iterator[None]:
        """Hold it so that its epoch may be raised, one at a time: no cycle is applied meanwhile, but readers and what
        comes in over a network go on, since who fences must not wait for who is to be fenced off.
        """
        lock = self.files.lock(posixpath.join(self.layout.root, "epoch.lock"), exclusive=True)
        if lock is None:
            raise errors.Busy("is busy: another process raises its epoch; try again later", path=self.layout.root)
        try:
            with self.reading():
                self.look_again()
                yield
        finally:
            lock.release()

    def look_again(self) -> Identity:
        """Its identity as it is now: since it was opened another process may have raised the epoch."""
        self.identity = Identity.parse(record.read(self.files, self.layout.identity)[0], self.layout.identity)
        return self.identity

    def interrupted(self) -> bool:
        """Did a crash leave something that recovery must finish or take back?"""
        if any(next_generation(name) is not None for name in self.files.listdir(self.layout.root)):
            return True
        return self.unfinished_undo() is not None

    def unfinished_undo(self) -> int | None:
        """The generation whose undo delta belongs to a cycle that was not committed, or None."""
        names = self.files.listdir(self.layout.points)
        recorded, undone = newest(names, "json"), newest(names, "undo")
        return undone if undone and undone == recorded else None

    # -- points ----------------------------------------------------------------------------------------------

    def points(self) -> list[Point]:
        """Every readable point, oldest first. `unreadable` names the others afterwards, with what is wrong."""
        found = []
        self.unreadable = {}
        for generation in generations(self.files.listdir(self.layout.points), "json"):
            try:
                found.append(self.point(generation))
            except errors.Damaged as error:
                self.unreadable[generation] = str(error)
        return found

    def choose(self, at: str) -> Point:
        """The point that `at` names: a generation, `latest` or a time. Raises Usage and Refused, and Damaged where a
        record that cannot be read may be the one that is meant: another point is never given in its place.
        """
        found = self.points()
        if not found and self.files.size(self.layout.waiting) >= 0:
            raise errors.Refused("waits for its seed: there is no recovery point yet", path=self.layout.root)
        try:
            chosen = point_module.choose(found, at, self.layout.root)
        except errors.Refused:
            named = int(at) if at.isascii() and at.isdigit() else 0
            if named in self.unreadable or (self.unreadable and not named):
                raise errors.Damaged(self.unreadable.get(named) or next(iter(self.unreadable.values()))) from None
            raise
        later = min((p.generation for p in found if p.generation > chosen.generation), default=MAX_GENERATION)
        for generation, problem in self.unreadable.items():
            if chosen.generation < generation < later and chosen.name != at:
                raise errors.Damaged(f"{problem}; name a point by its number to restore another")
        return chosen

    def point(self, generation: int) -> Point:
        """The record of one point. Raises Damaged."""
        path = self.layout.record(generation)
        fields, complaint = record.read(self.files, path)
        if complaint:
            self.warn(f"{complaint}; the second copy in the file is good (replicate --resync mends it)")
        return Point.parse(fields, path, self.identity.replica_id.hex(), generation)

    def mend_records(self) -> None:
        """Write anew the records of which only one copy is good. The caller holds the replica as the writer."""
        for generation in generations(self.files.listdir(self.layout.points), "json"):
            path = self.layout.record(generation)
            try:
                fields, complaint = record.read(self.files, path)
            except errors.Damaged:
                continue
            if complaint:
                record.write(self.files, path, {name: fields[name] for name in fields if name != "format"})
        self.files.flush_dir(self.layout.points)

    def warn(self, text: str) -> None:
        """Say it once."""
        if text not in self.warnings:
            self.warnings.append(text)

    def head_generation(self) -> int:
        """The newest generation; 0 before the first."""
        return newest(self.files.listdir(self.layout.points), "json")

    def newest(self) -> Point | None:
        """The newest point, or None before the first. Raises Damaged where its record cannot be read."""
        generation = self.head_generation()
        return self.point(generation) if generation else None

    # -- its files -------------------------------------------------------------------------------------------

    def open_head(self, mode: str = "r") -> Image:
        """The head. Raises Damaged where it is missing."""
        if self.files.size(self.layout.head) < 0:
            raise errors.Damaged("the head is missing", path=self.layout.head)
        return self.open_disk(self.layout.head, mode)

    def open_disk(self, path: str, mode: str = "r") -> Image:
        """A whole disk of this replica: the head, or a point that is a clone."""
        return open_container(self.files, path, mode, self.layout.kind)

    def open_map(self, path: str, mode: str = "r", *, unchecked: bool = False) -> BlockMap:
        """A block map of this replica. Raises Damaged."""
        if self.files.size(path) < 0:
            raise errors.Damaged("the block map is missing", path=path)
        file = self.files.open(path, mode)
        try:
            found = BlockMap.load(file, path, self.identity.replica_id, unchecked=unchecked)
            if found.block_size != self.identity.block_size:
                raise errors.Damaged(
                    f"its blocks have {found.block_size} bytes, {self.identity.block_size} were expected",
                    path=path,
                    offset=12,
                )
            return found
        except BaseException:
            file.close()
            raise

    def open_undo(self, generation: int) -> DeltaReader:
        """The undo delta that leads to a generation. Raises Damaged."""
        path = self.layout.undo(generation)
        file = self.files.open(path, "r")
        try:
            reader = DeltaReader(file, path)
            header = reader.header
            if header.replica_id != self.identity.replica_id or header.block_size != self.identity.block_size:
                raise errors.Damaged("it is the undo delta of another replica", path=path, offset=16)
            if header.target_generation != generation or header.base_generation <= generation:
                raise errors.Damaged(
                    f"it leads to generation {header.target_generation}, {generation} was expected",
                    path=path,
                    offset=48,
                )
            return reader
        except BaseException:
            file.close()
            raise

    # -- what verification found -----------------------------------------------------------------------------

    def known_damage(self) -> dict[int, str]:
        """Points that the last verification could not prove, with what it found. Advice, never needed."""
        try:
            data = json.loads(self.files.read_bytes(self.layout.damage, record.MAX_BYTES))
            return {int(key): str(value) for key, value in data.items()}
        except (errors.Error, ValueError, AttributeError, RecursionError):
            return {}

    def note_damage(self, found: dict[int, str]) -> None:
        """Remember it for `points`; a medium that nobody can write keeps no note."""
        if found == self.known_damage():
            return
        try:
            if found:
                text = json.dumps({str(key): value for key, value in found.items()}, indent=1)
                self.files.write_bytes(self.layout.damage, text.encode(), durable=False)
            else:
                self.files.unlink(self.layout.damage)
        except errors.Error:
            self.warn(f"{self.layout.damage}: the finding could not be noted")
