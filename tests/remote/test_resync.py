"""Resync over a link: the head is compared as it is, what differs is sent, and all points are there until it commits
(semantics R7.4 to R7.6).
"""

from __future__ import annotations

import posixpath
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from transfer import BLOCK, Fault, Pair, Proxy, scribble

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.blockmap import PAGE_BLOCKS
from secondsite.engine.files.failing import FailingFiles
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.images.failing import Crash, Faults
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.progress import Monitor
from secondsite.engine.remote.agent import spool
from secondsite.engine.replica import comparison
from secondsite.engine.replica.directory import Replica
from secondsite.engine.restoration import restore

pytestmark = pytest.mark.timeout(60)
BLOCKS = 300


@pytest.fixture(params=["undo", "clone"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return three_points(MemoryFiles(clones=request.param == "clone"))


def three_points(files: MemoryFiles) -> Pair:
    """Point 2 has blocks 5 to 39 for itself, so that they may rot in the head without harm to it."""
    made = Pair(MemoryImage(random.Random(1).randbytes(BLOCKS * BLOCK) + bytes(100 * BLOCK + 100)), files)
    chance = random.Random(2)
    for _ in range(3):
        made.cycle()
        made.note()
        scribble(made.image, chance, 30)
        made.image.write(5 * BLOCK, chance.randbytes(35 * BLOCK))
    made.image.write(0, made.kept[3])
    return made


def spoil(pair: Pair, *blocks: int) -> None:
    """Other bytes in these blocks of the head."""
    with pair.files.open(f"{pair.root}/head.raw", "rw") as head:
        for block in blocks:
            head.write(block * BLOCK + 17, b"rotten")


def opened(pair: Pair) -> Replica:
    return Replica.open(pair.root, pair.files)


def healthy(pair: Pair) -> None:
    assert engine.verify(pair.root, files=pair.files).ok
    assert not [name for name in pair.files.listdir(pair.root) if name.startswith(("resync", "incoming.s"))]
    pair.check()


def test_a_head_that_rotted_is_mended_and_only_those_blocks_go_over(pair: Pair) -> None:
    spoil(pair, 7, 8, 200)
    proxy = Proxy()
    found = pair.cycle(proxy, resync=True, codec=(0, 0))
    assert (found.done.kind, found.done.generation, found.tally.sent_bytes) == ("resync", 3, 3 * BLOCK)
    assert 3 * BLOCK < proxy.passed[0] < 5 * BLOCK
    healthy(pair)
    assert pair.cycle().done.kind == "unchanged"


def test_a_head_that_is_well_costs_no_data(pair: Pair) -> None:
    proxy = Proxy()
    assert pair.cycle(proxy, resync=True).done.kind == "resync"
    assert proxy.passed[0] < 2000 and proxy.passed[1] < 3000 and len(pair.points()) == 3
    healthy(pair)


def test_what_changed_meanwhile_becomes_a_point_and_what_it_hides_is_told(pair: Pair) -> None:
    """A block that rotted and was then changed by the source: what it held in the newest point is lost, and said."""
    scribble(pair.image, random.Random(5), 40, zeros=False)
    pair.image.write(7 * BLOCK, b"n" * BLOCK)
    spoil(pair, 7, 9)
    found = pair.cycle(resync=True)
    assert (found.done.kind, found.done.generation) == ("resync", 4)
    assert found.warnings and "point 3 is damaged" in found.warnings[-1]
    pair.note()
    problems = {point.generation for point in engine.points(pair.root, files=pair.files) if point.damaged}
    assert 3 in problems and 4 not in problems
    pair.kept = {key: data for key, data in pair.kept.items() if key not in problems}
    pair.check()


@pytest.mark.parametrize("harm", ["map", "map page", "record", "short", "long", "gone", "identity"])
def test_whatever_is_damaged(pair: Pair, harm: str) -> None:
    head, block_map = f"{pair.root}/head.raw", f"{pair.root}/head.map"
    if harm == "gone":
        pair.files.unlink(head)
    elif harm in ("short", "long"):
        with pair.files.open(head, "rw") as file:
            file.resize(file.size + (BLOCK if harm == "long" else -150 * BLOCK - 33))
    elif harm == "record":
        with pair.files.open(f"{pair.root}/points/000000000003.json", "rw") as file:
            file.write(0, b"x")
    elif harm == "identity":
        with pair.files.open(f"{pair.root}/replica.json", "rw") as file:
            file.write(0, b"x")
    else:
        with pair.files.open(block_map, "rw") as file:
            file.write(0 if harm == "map" else file.size - 70_000, b"bad" * 10)
    found = pair.cycle(resync=True)
    assert found.done.kind == "resync"
    assert pair.points()[-1].seal == found.done.seal
    newest = pair.points()[-1].generation
    if harm == "gone":  # older points had most of their blocks in the head, and those are as the source has them
        pair.kept = {newest: pair.kept[3]}
    pair.check()
    assert pair.cycle().done.kind == "unchanged"


def test_a_cut_goes_on_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """R7.6: nothing is compared again, what arrived is not sent again, and older points restore meanwhile."""
    chance = random.Random(4)
    pair = Pair(MemoryImage(chance.randbytes(3000 * BLOCK)))
    for _ in range(2):
        pair.cycle()
        pair.note()
        pair.image.write(0, chance.randbytes(2500 * BLOCK))
    pair.image.write(0, pair.kept[2])
    spoil(pair, *range(100, 2100))
    hashed = count_reads(monkeypatch)
    with pytest.raises(errors.Unreachable):
        pair.cycle(Proxy(Fault("cut", 5_000_000)), resync=True, codec=(0, 0))
    assert hashed() == pair.image.size
    spooled = pair.files.size(f"{pair.root}/incoming.spool")
    assert spooled > 2_000_000
    told = engine.info(pair.root, files=pair.files)
    assert isinstance(told, engine.ReplicaInfo) and (told.resync, told.compared) == ("pending", 1.0)
    assert rotten(pair) == {2}
    newest = pair.kept.pop(2)
    pair.check()
    proxy = Proxy()
    assert pair.cycle(proxy, resync=True, codec=(0, 0)).done.kind == "resync"
    assert hashed() == 0 and proxy.passed[0] < 2000 * BLOCK + 100_000 - spooled
    pair.kept[2] = newest
    healthy(pair)


def files_of(pair: Pair) -> dict[str, bytes]:
    """What the replica is, without what says how it is."""
    assert isinstance(pair.files, MemoryFiles)
    return {
        path: bytes(file.read(0, file.size)) for path, file in pair.files.names.items()
        if path.startswith(pair.root) and not path.endswith(("damage.json", "lock"))
    }  # fmt: skip


def test_cancelling_leaves_the_replica_as_it_was(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """R7.5: resync required is what it says then, and the next one begins from zero."""
    spoil(pair, 7, 8, 9)
    before, hashed = files_of(pair), count_reads(monkeypatch)
    cut(pair, 900)
    assert set(files_of(pair)) - set(before) >= {f"{pair.root}/resync.map", f"{pair.root}/resync.json"}
    with pytest.raises(errors.Refused, match=r"a resync is pending, 100 % compared: replicate --resync goes on"):
        pair.cycle()
    warnings: list[str] = []
    engine.points(pair.root, files=pair.files, warnings=warnings)
    assert any("a resync is pending" in warning for warning in warnings)
    with spool.alone(opened(pair)), pytest.raises(errors.Busy):
        engine.cancel_resync(pair.root, files=pair.files)
    assert engine.cancel_resync(pair.root, files=pair.files)
    assert files_of(pair) == before and not engine.cancel_resync(pair.root, files=pair.files)
    told = engine.info(pair.root, files=pair.files)
    assert isinstance(told, engine.ReplicaInfo) and (told.resync, told.compared) == ("required", None)
    with pytest.raises(errors.Damaged, match=r"3 blocks of the head .* replicate --resync mends it"):
        pair.cycle()
    hashed()
    assert pair.cycle(resync=True).done.kind == "resync" and hashed() == pair.image.size
    healthy(pair)


def test_a_resync_of_a_replica_that_is_well_may_be_cancelled_too(pair: Pair) -> None:
    scribble(pair.image, random.Random(8), 60)
    cut(pair, 1500)
    assert engine.cancel_resync(pair.root, files=pair.files)
    assert pair.cycle().done.kind == "delta"
    pair.note()
    healthy(pair)


def test_what_was_compared_of_another_point_is_not_believed(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent's host itself made a cycle meanwhile."""
    spoil(pair, 7)
    cut(pair, 900)
    pair.image.write(7 * BLOCK, b"7" * BLOCK)
    opened(pair).note_damage({})
    engine.replicate(pair.image, pair.root, files=pair.files, source_id="disk", resync=True, workers=1)
    hashed = count_reads(monkeypatch)
    assert pair.cycle(resync=True).done.kind == "resync" and hashed() == pair.image.size


def test_a_size_that_changed_is_taken_over(pair: Pair) -> None:
    spoil(pair, 7, 8)
    for blocks in (450, 120):
        pair.image.resize(blocks * BLOCK - 5)
        assert pair.cycle(resync=True).done.kind == "resync"
        pair.note()
    healthy(pair)


def test_what_does_not_fit_is_refused_before_anything_is_hashed(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """R7.4: first the geometry."""
    hashed = count_reads(monkeypatch)
    with pytest.raises(errors.Refused, match="block size"):
        pair.cycle(resync=True, block=2 * BLOCK)
    with pytest.raises(errors.Refused, match="follows another image"):
        pair.cycle(resync=True, source="name:other")
    assert not hashed() and comparison.pending(opened(pair)) is None


@pytest.mark.parametrize("clones", [False, True])
def test_power_is_lost_at_any_call(clones: bool, sweep: bool) -> None:
    """At each effect on the replica's files: points that were whole are, and the next resync makes the newest so."""
    pair = three_points(MemoryFiles(clones=clones))
    spoil(pair, 7, 8, 20, 21)  # 20 to 29 are lost for point 3, which is where they rotted
    pair.image.write(20 * BLOCK, random.Random(3).randbytes(10 * BLOCK))
    before = files_of(pair)
    counting = Faults()
    assert attempt(pair, before, counting) is None
    chosen = range(1, counting.count + 1)
    chance = random.Random(f"power {clones}")
    for n in chosen if sweep else sorted(chance.sample(chosen, 20)):
        faults = Faults(n, crash=True)
        attempt(pair, before, faults)  # after the commit the source may not hear of it
        assert faults.dead
        label = f"power lost at call {n} {faults.log[n - 1]}"
        files = pair.files
        assert isinstance(files, MemoryFiles)
        files.power_loss(chance)
        older(pair, label)
        assert pair.cycle(resync=True).done.kind == "resync", label
        older(pair, label)
        out = bytes(files.names[f"{pair.root}/head.raw"].read(0, pair.image.size))
        assert out == bytes(pair.image.read(0, pair.image.size)), label
        assert set(engine.verify(pair.root, files=files).damaged) <= {"3"}, label


def attempt(pair: Pair, before: dict[str, bytes], faults: Faults) -> BaseException | None:
    """A resync of these files, under a plan of faults; how it ended."""
    assert isinstance(pair.files, MemoryFiles)
    files = MemoryFiles(clones=pair.files.clones)
    files.mkdir(pair.root)
    files.mkdir(f"{pair.root}/points")
    for path, data in before.items():
        files.write_bytes(path, data)
        files.flush_dir(posixpath.dirname(path))
    try:
        pair.files = FailingFiles(files, faults)
        pair.cycle(resync=True, workers=1)
    except (Crash, errors.Error) as error:
        return error
    finally:
        pair.files = files
    return None


def older(pair: Pair, label: str) -> None:
    """Points 1 and 2 restore, whatever state the head is in."""
    for generation in (1, 2):
        pair.files.mkdir("/out")
        pair.files.unlink("/out/disk")
        restore(pair.root, "/out/disk", at=str(generation), files=pair.files)
        with pair.files.open("/out/disk", "r") as file:
            assert bytes(file.read(0, file.size)) == pair.kept[generation], f"{label}: point {generation}"


def cut(pair: Pair, at: int) -> None:
    with pytest.raises(errors.Error) as caught:
        pair.cycle(Proxy(Fault("cut", at)), resync=True, workers=1, codec=(0, 0))
    assert caught.value.retryable


def rotten(pair: Pair) -> set[int]:
    return {int(point) for point in engine.verify(pair.root, files=pair.files).damaged}


def count_reads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Bytes of heads that comparisons hashed since the last time that it was asked."""
    was, done = comparison.Comparison._step, [0]

    def step(self: comparison.Comparison, head: object, monitor: object) -> None:
        before = self.done
        was(self, head, monitor)  # type: ignore[arg-type]
        done[0] += min(self.done * self.block, self.old.virtual_bytes) - before * self.block

    monkeypatch.setattr(comparison.Comparison, "_step", step)

    def since() -> int:
        found, done[0] = done[0], 0
        return found

    return since


@pytest.mark.parametrize("what", ["written", "failover"])
def test_a_head_that_was_written_since_is_compared_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A machine ran from it, in a failover (R7.7) or a drill: what was compared before says nothing of it."""
    disk = tmp_path / "disk.raw"
    disk.write_bytes(random.Random(1).randbytes(40 * BLOCK))
    engine.replicate(disk, tmp_path / "vm", block_size=BLOCK, history="undo")
    replica = Replica.open(str(tmp_path / "vm"))
    old = replica.newest()
    assert old is not None
    with comparison.Comparison(replica, old) as first:
        first.run(Monitor())
        assert first.stands()
    if what == "failover":
        engine.raise_epoch(tmp_path / "vm", 5)
        replica = Replica.open(str(tmp_path / "vm"))
        assert comparison.pending(replica) is None
    else:
        with (tmp_path / "vm/head.raw").open("r+b") as head:
            head.seek(3 * BLOCK)
            head.write(b"a machine wrote this")
    with comparison.Comparison(replica, old) as second:
        assert not second.done
        second.run(Monitor())
        base, doubted = second.doubted()
        base.close()
        assert doubted == (what == "written")


def test_steps_that_were_noted_are_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the midst, torn behind the note, damaged before it: it goes on from the last page that is whole."""
    monkeypatch.setattr(comparison, "_STEP_BYTES", 1)
    files, page = MemoryFiles(), PAGE_BLOCKS * BLOCK
    image = MemoryImage(random.Random(2).randbytes(BLOCK) * (3 * PAGE_BLOCKS + 5))
    engine.replicate(image, "/r/vm", files=files, block_size=BLOCK, history="undo", source_id="disk")
    replica = Replica.open("/r/vm", files)
    old = replica.newest()
    assert old is not None
    looked = [0]

    def stop() -> bool:
        looked[0] += 1
        return looked[0] == 5

    with comparison.Comparison(replica, old) as first, pytest.raises(errors.Cancelled):
        first.run(Monitor(cancel=stop))
    whole = first.done
    assert 0 < whole < 3 * PAGE_BLOCKS and whole % PAGE_BLOCKS == 0
    noted = comparison.pending(replica)
    assert noted is not None and noted.compared == whole * BLOCK and 0 < noted.fraction < 1
    with files.open("/r/vm/resync.map", "rw") as file:
        file.write(file.size - 1000, b"torn")
    with comparison.Comparison(replica, old) as second:
        assert second.done == whole
        second.run(Monitor())
        assert second.held.seal().hex() == old.seal
    with files.open("/r/vm/resync.map", "rw") as file:
        file.write(file.size - 3 * page // BLOCK * 16 - 1000, b"damage")
    with comparison.Comparison(replica, old) as third:
        assert third.done < 3 * PAGE_BLOCKS and third.done % PAGE_BLOCKS == 0
        third.run(Monitor())
        assert third.held.seal().hex() == old.seal
