"""A store in a folder: loss of power and full disks at every operation, killed writers, bytes that are wrong, links."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import textwrap
from itertools import count

import pytest
from store.logkit import Lab, changing
from store.prunekit import PruneLab, small

from secondsite.engine import errors
from secondsite.engine.files.failing import FailingFiles
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.images.failing import Crash, Faults
from secondsite.engine.store.base import Exists, Fenced, Held, Store
from secondsite.engine.store.folder import FolderStore
from secondsite.engine.store.place import OWN
from secondsite.engine.store.trailer import TRAILER_BYTES

ROOT = "/backup/store"


class Story:
    """A few calls, each noted when it returned. `now` says what may be there: of a call that was cut, both."""

    def __init__(self) -> None:
        self.now: dict[str, set[bytes | None]] = {}

    def run(self, store: Store) -> None:
        etag = self._do("head", b"1", lambda: store.put_if_absent("head", b"1"))
        self._do("a/b/one", b"x" * 9000, lambda: store.put_if_absent("a/b/one", b"x" * 9000, {"id": "7"}))
        self._do("a/two", b"", lambda: store.put_if_absent("a/two", b""))
        with pytest.raises(Exists):
            store.put_if_absent("a/two", b"again")
        fence = store.fence("head", 15)
        etag = self._do("head", b"22", lambda: store.replace("head", b"22", etag, fence=fence))
        self._do("a/b/one", None, lambda: store.delete("a/b/one"))
        self._do("a/two", None, lambda: store.delete("a/two"))
        self._do("a/two", b"again", lambda: store.put_if_absent("a/two", b"again"))
        self._do("head", b"333", lambda: store.replace("head", b"333", etag, fence=fence))
        fence.release()

    def _do(self, name, becomes, call):
        self.now.setdefault(name, {None}).add(becomes)
        made = call()
        self.now[name] = {becomes}
        return made

    def check(self, store: Store, label: str) -> None:
        there = {entry.name: entry for entry in store.list() if not entry.name.endswith(".lease")}
        for name in self.now.keys() | there.keys():
            held = store.get(name) if name in there else None
            assert (held.data if held else None) in self.now.get(name, ()), f"{label}: {name} is {held}"
            if held is not None:
                assert (held.size, held.etag) == (there[name].size, there[name].etag)


@pytest.mark.parametrize("crash", [True, False])
def test_a_fault_at_every_operation_loses_nothing_that_a_call_returned_from(crash, sweep):
    """The process ends there and power is lost, or the disk is full from there on; then another goes on."""
    for number in count(1):
        for seed in range(20 if sweep else 3):
            label = f"operation {number}, seed {seed}"
            files, story = MemoryFiles(), Story()
            faults = Faults(number, crash=crash, sticky=True, error=errno.ENOSPC)
            try:
                with FolderStore(ROOT, FailingFiles(files, faults)) as before:
                    story.run(before)
            except Crash:
                files.power_loss(random.Random(seed))
            except errors.Full:
                pass
            else:
                assert faults.count < number, f"{label} was swallowed"
            after = FolderStore(ROOT, files)
            story.check(after, label)
            _goes_on(after, files, label)
        if faults.count < number:
            break
    assert number > 60


def _goes_on(store, files, label):
    """And what was left lying is gone, but a fence that somebody may hold and his file."""
    store.put_if_absent("z/after", b"1")
    held = store.fence("z/after", 15)
    store.replace("z/after", b"2", store.get("z/after").etag, fence=held)
    assert store.get("z/after").data == b"2", label
    assert files.listdir(f"{ROOT}/{OWN}/new") == [], label


def test_cycles_into_a_folder_lose_power_at_any_operation(sweep):
    """A log of a disk; each point that is listed afterwards restores, and the next cycle goes on."""
    chance, lost = random.Random(20), 0
    for number in range(1, 400, 1 if sweep else 23):
        files, step = MemoryFiles(), changing(number)
        lab = Lab(FolderStore(ROOT, files))
        lab.cycle(step())
        data = step()
        try:
            lab.cycle(data, FolderStore(ROOT, FailingFiles(files, Faults(number, crash=True, sticky=True))))
        except Crash:
            lost += 1
        else:
            break
        files.power_loss(chance)
        lab.store = FolderStore(ROOT, files)
        lab.forget()
        lab.contents.setdefault(2, data)
        assert lab.generations() in ([1], [1, 2]), number
        lab.check()
        done = lab.cycle(step())
        assert lab.generations()[-1] == done.generation
        lab.check()
    assert lost > (40 if sweep else 2) and number < 399


def test_pruning_in_a_folder_loses_power_at_any_operation(sweep, monkeypatch):
    """Every point that is listed afterwards restores, and the next one who prunes comes to an end."""
    small(monkeypatch)
    lost = 0
    for number in range(1, 600, 1 if sweep else 7):
        files, lab, step = MemoryFiles(), PruneLab(), changing(number)
        lab.store = FolderStore(ROOT, files, clock=lambda lab=lab: lab.time)
        for _ in range(5):
            lab.cycle(step())
        made = lab.generations()  # a step may change nothing
        failing = FailingFiles(files, Faults(number, crash=True, sticky=True))
        try:
            lab.prune(keep=2, grace=0, store=FolderStore(ROOT, failing, clock=lambda lab=lab: lab.time))
        except Crash:
            lost += 1
        else:
            break
        files.power_loss(random.Random(number))
        lab.store = FolderStore(ROOT, files, clock=lambda lab=lab: lab.time)
        lab.forget()
        assert lab.generations() in (made, made[-2:]), number
        lab.settle()
        lab.check()
        lab.prune(keep=2, grace=0)
        assert lab.generations() == made[-2:]
        lab.cycle(step())
        lab.check()
    assert lost > (60 if sweep else 8) and number < 590


WRITER = """
    import os, sys
    from secondsite.engine.store.folder import FolderStore
    store = FolderStore(sys.argv[1])
    store.put_if_absent("head", b"0") if store.stat("head") is None else None
    fence = store.fence("head", 60)
    etag = store.get("head").etag
    for number in range(100000):
        name = f"s/{number % 7}/{os.getpid()}-{number}"
        store.put_if_absent(name, os.urandom(20000))
        etag = store.replace("head", name.encode(), etag, fence=fence)
        print(name, flush=True)
"""


def test_a_killed_writer_leaves_what_it_told_and_holds_nothing_up(tmp_path):
    root, told = str(tmp_path / "store"), []
    for turn in range(4):
        command = [sys.executable, "-c", textwrap.dedent(WRITER), root]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            mine = [writer.stdout.readline().strip() for _ in range(3 + 5 * turn)]
            with FolderStore(root) as store, pytest.raises(Held):
                store.fence("head", 15)
            writer.send_signal(signal.SIGKILL)
            told += mine + writer.stdout.read().split("\n")[:-1]
    with FolderStore(root) as store:
        store.fence("head", 15).release()  # at once, although its minute is not over
        listed = {entry.name: entry.size for entry in store.list("s/")}
        assert set(told) <= set(listed) and len(listed) <= len(told) + 4 and set(listed.values()) == {20000}
        assert store.get("head").data.decode() in listed
        store.put_if_absent("after", b"")
    assert not list((tmp_path / "store" / OWN / "new").iterdir())


def test_what_another_is_writing_now_is_not_swept_away(tmp_path):
    one, two = FolderStore(str(tmp_path)), FolderStore(str(tmp_path))
    with one._beside(1, [b"1"], None) as (path, _):
        two.put_if_absent("b", b"2")
        assert os.path.exists(path)
        os.unlink(path)


def test_only_the_owner_reads_it(tmp_path):
    old = os.umask(0)
    try:
        with FolderStore(str(tmp_path / "store")) as store:
            store.put_if_absent("a/b/c", b"secret")
    finally:
        os.umask(old)
    for folder, _, names in os.walk(tmp_path / "store"):
        assert os.stat(folder).st_mode & 0o777 == 0o700
        for name in names:
            assert os.stat(os.path.join(folder, name)).st_mode & 0o077 == 0 or OWN in folder


def test_a_folder_that_was_emptied_goes(tmp_path):
    with FolderStore(str(tmp_path)) as store:
        for name in ("a/b/1", "a/b/2", "a/c"):
            store.put_if_absent(name, b"")
        store.delete("a/b/1")
        assert (tmp_path / "a/b").is_dir()
        store.delete("a/b/2")
        assert not (tmp_path / "a/b").exists() and (tmp_path / "a").is_dir()
        store.delete("a/c")
        assert not (tmp_path / "a").exists()
        store.put_if_absent("a/b/1", b"again")
        assert [entry.name for entry in store.list()] == ["a/b/1"]


@pytest.mark.parametrize("half", [0, 1, 2])
def test_one_copy_of_an_ending_may_be_damaged(tmp_path, half):
    """Without both an object is listed, is not read, and can be removed."""
    with FolderStore(str(tmp_path)) as store:
        store.put_if_absent("a", b"0123456789", {"id": "7"})
        raw = bytearray((tmp_path / "a").read_bytes())
        for copy in (0, 1) if half == 2 else (half,):
            raw[10 + copy * TRAILER_BYTES // 2 + 30] ^= 1
        (tmp_path / "a").write_bytes(raw)
        if half < 2:
            assert store.get("a").data == b"0123456789" and store.get("a").metadata == {"id": "7"}
            return
        with pytest.raises(errors.Damaged, match="does not end as an object"):
            store.get("a")
        assert [(entry.name, entry.size, entry.etag) for entry in store.list()] == [("a", 10, "")]
        store.delete("a")
        assert list(store.list()) == []


@pytest.mark.parametrize("cut", [1, 10, TRAILER_BYTES, TRAILER_BYTES + 5])
def test_a_file_that_was_cut_or_grew_is_damaged(tmp_path, cut):
    with FolderStore(str(tmp_path)) as store:
        for name in ("cut", "grown"):
            store.put_if_absent(name, b"0123456789")
        os.truncate(tmp_path / "cut", 10 + TRAILER_BYTES - cut)
        with (tmp_path / "grown").open("ab") as file:
            file.write(bytes(cut))
        for name in ("cut", "grown"):
            with pytest.raises(errors.Damaged):
                store.get(name)


def test_no_link_is_followed_and_what_is_not_ours_is_left_out(tmp_path):
    (tmp_path / "outside").mkdir()
    root = tmp_path / "store"
    with FolderStore(str(root)) as store:
        store.put_if_absent("a/1", b"1")
        store.put_if_absent("b/1", b"1")
        (root / "lost+found").mkdir()
        (root / "linked").symlink_to(tmp_path / "outside")
        (root / "a/2").symlink_to(tmp_path / "outside")
        for name in ("linked/x", "a/2"):
            with pytest.raises(errors.Refused, match="is a link"):
                store.put_if_absent(name, b"")
            with pytest.raises(errors.Refused, match="is a link"):
                store.get(name)
        assert not list((tmp_path / "outside").iterdir())
        assert [entry.name for entry in store.list("b/")] == ["b/1"]
    (tmp_path / "way").symlink_to(root)  # the way to the store may be one
    with FolderStore(str(tmp_path / "way")) as store:
        assert store.get("a/1").data == b"1"


def test_metadata_are_a_few_words(tmp_path):
    with FolderStore(str(tmp_path / "store")) as store:
        with pytest.raises(errors.Usage, match="of metadata"):
            store.put_if_absent("a", b"", {"much": "x" * 600})
        assert list(store.list()) == []


def test_a_log_in_a_folder_of_this_machine(tmp_path):
    lab, step = Lab(FolderStore(str(tmp_path / "store"))), changing(3)
    for _ in range(5):
        lab.cycle(step())
    lab.check()
    assert lab.generations() == [1, 2, 3, 4, 5]


def test_who_is_told_that_it_is_there_may_rely_on_it():
    """Another has renamed it into place, and not flushed the folder yet; then power is lost."""
    for seed in range(8):
        files = MemoryFiles()
        FolderStore(ROOT, files).put_if_absent("a/0", b"")
        one = FolderStore(ROOT, FailingFiles(files, Faults(1, crash=True, kinds=frozenset({"flush_dir"}))))
        one._durable.update([ROOT, f"{ROOT}/{OWN}", f"{ROOT}/{OWN}/new", f"{ROOT}/{OWN}/holders", f"{ROOT}/a"])
        with pytest.raises(Crash):
            one.put_if_absent("a/1", b"1")
        two = FolderStore(ROOT, files)
        with pytest.raises(Exists):
            two.put_if_absent("a/1", b"2")
        files.power_loss(random.Random(seed))
        assert FolderStore(ROOT, files).get("a/1").data == b"1"


def test_a_fence_that_is_taken_while_a_replace_writes_lets_it_not_pass(tmp_path, monkeypatch):
    one, two = FolderStore(str(tmp_path)), FolderStore(str(tmp_path))
    etag = one.put_if_absent("head", b"1")
    fence = one.fence("head", 15)
    monkeypatch.setattr(one, "_begin", lambda: two.fence("head", 15, take=True))
    with pytest.raises(Fenced):
        one.replace("head", b"2", etag, fence=fence)
    assert two.get("head").data == b"1"
