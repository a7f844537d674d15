"""A crash, a full disk or a power loss at each call of an import and of what is held for it: nothing is lost."""

from __future__ import annotations

import datetime
import errno
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from rig import BLOCK, SMALL_BATCH

from secondsite import engine
from secondsite.engine import errors, scan
from secondsite.engine.batch import Batch
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.delta import format as fmt
from secondsite.engine.files import Files
from secondsite.engine.files.failing import FailingFiles
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.images.failing import Crash, Faults
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.progress import Monitor
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.identity import Identity
from secondsite.engine.replica.point import Point, format_time
from secondsite.engine.seeding.medium import Medium, Seed
from secondsite.engine.seeding.parts import Parts
from secondsite.engine.seeding.waiting import Waiting

pytestmark = pytest.mark.usefixtures("small_pieces")
ROOT, USB = "/backup/vm", "/usb"
PACKING = fmt.parse_codec("lz4")
MOMENT = datetime.datetime(2026, 11, 26, tzinfo=datetime.UTC)


def contents() -> list[bytes]:
    """The seed's and those of three cycles after it, of which one cuts the disk and one lets it grow."""
    chance = random.Random(5)
    data = bytearray(chance.randbytes(60 * BLOCK) + bytes(20 * BLOCK))
    found = [bytes(data)]
    for size in (80, 50, 90):
        data = data[: size * BLOCK] + bytes(max(size * BLOCK - len(data), 0))
        for _ in range(12):
            block = chance.randrange(size)
            new = bytes(BLOCK) if chance.random() < 0.3 else chance.randbytes(BLOCK)
            data[block * BLOCK : (block + 1) * BLOCK] = new
        found.append(bytes(data[: -BLOCK // 2]))
    return found


CONTENTS = contents()


@dataclass
class Kept:
    """A scan's sink that keeps what it gets, and notes it in the map."""

    held: BlockMap
    batches: list[Batch] = field(default_factory=list)

    def put(self, batch: Batch, worker: int) -> None:
        copy = Batch(BLOCK, SMALL_BATCH)
        copy.name(batch.blocks, batch.hashes, batch.count, 1 << 40)
        copy.lengths[:] = batch.lengths[: len(copy.lengths)]
        copy.payload[: batch.used] = batch.payload[: batch.used]
        copy.used = batch.used
        self.batches.append(copy)
        self.held.store(batch.blocks, batch.hashes, batch.count)


def differences(data: bytes, held: BlockMap, seed: int) -> list[Batch]:
    """What turns the content that the map is of into `data`, whose map it is afterwards."""
    if len(data) > held.image_size:
        held.resize(len(data))
    sink = Kept(held)
    scan.Scan(
        MemoryImage(data), held, sink, size=len(data), block_size=BLOCK, seed=seed, workers=1,
        batch_bytes=SMALL_BATCH // 4, monitor=Monitor(),
    ).run()  # fmt: skip
    held.resize(len(data))
    return sink.batches


@dataclass
class World:
    """A medium with a seed, and a replica that waits for it and holds some of the cycles that follow."""

    clones: bool
    files: Files = field(init=False)
    identity: Identity = field(default_factory=lambda: Identity.new(BLOCK, format_time(MOMENT), "name:vm"))
    steps: list[tuple[Point, list[Batch]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.files = MemoryFiles(clones=self.clones)
        self.map = BlockMap.create(MemoryImage(), "map", self.identity.replica_id, BLOCK, len(CONTENTS[0]))
        self.point = self._export()

    def _point(self, generation: int, size: int) -> Point:
        return Point(
            generation, format_time(MOMENT), size, self.map.seal().hex(), "initial" if generation == 1 else "delta",
            "scan", 0, 0, 0, 1, self.identity.replica_id.hex(),
        )  # fmt: skip

    def _export(self) -> Point:
        """In several parts, of which a later one has blocks of an earlier one."""
        files, medium = self.files, Medium(USB, self.files)
        files.mkdir(USB)
        seed = Seed(self.identity, len(CONTENTS[0]))
        parts = Parts(medium, seed, self.map, PACKING, part_bytes=20 * BLOCK)
        for data in (CONTENTS[0][::-1], CONTENTS[0]):
            scan.Scan(
                MemoryImage(data), self.map, parts, size=seed.size, block_size=BLOCK, seed=self.identity.seed,
                workers=1, batch_bytes=SMALL_BATCH // 8, monitor=Monitor(),
            ).run()  # fmt: skip
            parts.finish()
        point = self._point(1, seed.size)
        medium.write(Seed(self.identity, seed.size, medium.found(), point))
        assert len(medium.found()) > 4
        return point

    def wait(self, held: int) -> None:
        """Have the replica wait, and hold so many cycles; the steps of all of them are kept."""
        replica = Replica.create(ROOT, self.files, self.identity)
        with replica.writing():
            Waiting.begin(replica, self.identity, self.point, self.map)
        for generation, data in enumerate(CONTENTS[1:], 2):
            batches = differences(data, self.map, self.identity.seed)
            self.steps.append((self._point(generation, len(data)), batches))
        for generation in range(2, held + 2):
            self.hold(generation, self.files)
        for path in self.names():
            self.files.flush_dir(path.rpartition("/")[0])

    def hold(self, generation: int, files: Files, most: int = 1000) -> None:
        replica = Replica.open(ROOT, files)
        point, batches = self.steps[generation - 2]
        with replica.writing():
            waits = Waiting(replica, max_held=most)
            waits.hold(lambda: batches, waits.newest(), point, PACKING)

    def names(self) -> list[str]:
        assert isinstance(self.files, MemoryFiles)
        return sorted(self.files.names)

    def copy(self) -> MemoryFiles:
        """The same files, all of them durable."""
        made = MemoryFiles(clones=self.clones)
        for folder in (USB, ROOT, f"{ROOT}/points"):
            made.mkdir(folder)
        for path in self.names():
            with made.open(path, "create") as file:
                file.write(0, self.files.read_bytes(path, 1 << 30))
                file.flush()
        for folder in (USB, ROOT, f"{ROOT}/points"):
            made.flush_dir(folder)
        return made


def check(files: Files, least: int, label: str) -> int:
    """Import, again where that was cut short: points from 1 to at least `least` are what they were; how many."""
    before = Replica.open(ROOT, files) if files.size(f"{ROOT}/replica.json") >= 0 else None
    if before is not None and before.head_generation():
        restored(files, label)
    try:
        engine.import_seed(USB, ROOT, files=files)
    except errors.Refused as error:
        assert "imported before" in str(error), label
    found = restored(files, label)
    assert found[0] == 1 and found[-1] >= least, label
    assert not [name for name in files.listdir(ROOT) if name.startswith(("held-", "waiting", "seed", "next-"))], label
    return found[-1]


def restored(files: Files, label: str) -> list[int]:
    """The points that there are, each of them compared."""
    found = [point.generation for point in engine.points(ROOT, files=files)]
    for generation in found:
        files.mkdir("/out")
        engine.restore(ROOT, "/out/disk", at=str(generation), files=files)
        assert files.read_bytes("/out/disk", 1 << 30) == CONTENTS[generation - 1], f"{label}: point {generation}"
        files.unlink("/out/disk")
    assert not found or engine.verify(ROOT, files=files).ok, label
    return found


Act = Callable[[World, Files], object]


def bring(world: World, files: Files) -> object:
    return engine.import_seed(USB, ROOT, files=files, workers=1)


def hold(world: World, files: Files) -> object:
    return world.hold(4, files)


def hold_and_merge(world: World, files: Files) -> object:
    return world.hold(4, files, most=2)


ACTS: dict[str, tuple[Act, int]] = {"import": (bring, 3), "hold": (hold, 2), "merge": (hold_and_merge, 2)}
each_act = pytest.mark.parametrize("act", ACTS)
each_history = pytest.mark.parametrize("clones", [False, True], ids=["undo", "clones"])


def attempts(name: str, clones: bool, *, every: int, **plan: object) -> Iterator[tuple[MemoryFiles, str]]:
    """The act with a fault at each `every`-th call; yields the files that it left, and what happened."""
    act, held = ACTS[name]
    world = World(clones)
    world.wait(held)
    n = 1
    while True:
        files, faults = world.copy(), Faults(n, **plan)  # type: ignore[arg-type]
        ended: BaseException | None = None
        try:
            act(world, FailingFiles(files, faults))
        except (Crash, errors.Error) as error:
            ended = error
        if faults.count < n:
            assert ended is None and n > 20, ended
            return
        label = f"{name}, call {n} {faults.log[n - 1]}, ended by {ended!r}"
        if not plan.get("crash") and ended is not None:
            assert isinstance(ended, errors.Full), label
        files._held.clear()
        yield files, label
        n += every


@each_history
@each_act
def test_a_crash_at_each_call(act: str, clones: bool, sweep: bool) -> None:
    for files, label in attempts(act, clones, every=1 if sweep else 9, crash=True):
        check(files, 1 + ACTS[act][1], label)


@each_act
def test_a_disk_that_is_full_at_each_call(act: str, sweep: bool) -> None:
    for files, label in attempts(act, False, every=1 if sweep else 11, error=errno.ENOSPC, sticky=True):
        check(files, 1 + ACTS[act][1], label)


@each_history
@each_act
def test_power_is_lost_at_each_call(act: str, clones: bool, sweep: bool) -> None:
    for seed in range(4 if sweep else 1):
        chance = random.Random(f"{act} {clones} {seed}")
        for files, label in attempts(act, clones, every=1 if sweep else 13, crash=True):
            files.power_loss(chance)
            check(files, 1 + ACTS[act][1], f"{label}, seed {seed}")


def test_what_is_held_is_merged_when_it_is_too_much() -> None:
    """Three deltas in the place of two at most: one is left, and leads to the newest point."""
    world = World(False)
    world.wait(2)
    world.hold(4, world.files, most=2)
    replica = Replica.open(ROOT, world.files)
    waits = Waiting.of(replica)
    assert waits is not None and waits.generations() == [4] and waits.newest().seal == world.steps[-1][0].seal
    engine.import_seed(USB, ROOT, files=world.files)
    assert restored(world.files, "merged") == [1, 4]


@pytest.mark.parametrize("damage", ["map", "seed.map", "record"])
def test_a_map_that_is_damaged_is_made_anew(damage: str) -> None:
    """Of what is held, from the seed's; a record has two copies. Where both maps are bad the next cycle is refused."""
    world = World(False)
    world.wait(2)
    path = {"map": f"{ROOT}/waiting.map", "seed.map": f"{ROOT}/seed.map", "record": f"{ROOT}/held-000000000003.json"}
    with world.files.open(path[damage], "rw") as file:
        file.write(file.size - 9, b"damaged!")
    world.hold(4, world.files)
    check(world.files, 4, damage)


def test_a_held_delta_that_is_damaged_costs_what_is_behind_it() -> None:
    world = World(False)
    world.wait(3)
    path = f"{ROOT}/held-000000000003.delta"
    with world.files.open(path, "rw") as file:
        file.write(300, b"damaged!")
    done = engine.import_seed(USB, ROOT, files=world.files)
    assert (done.generation, done.held) == (2, 1) and len(done.warnings) == 2
    assert "held-000000000003.delta" in done.warnings[0] and "sends it again" in done.warnings[1]
    assert restored(world.files, "damaged") == [1, 2]


def test_no_byte_of_a_medium_may_change(sweep: bool) -> None:
    """One clear error for each, nothing is made of it, and what it was is imported afterwards."""
    world = World(False)
    world.wait(1)
    chance = random.Random(8)
    paths = [path for path in world.names() if path.startswith(USB) and path.endswith(".delta")]
    for number in range(400 if sweep else 40):
        files = world.copy()
        path = chance.choice(paths)
        data = bytearray(files.read_bytes(path, 1 << 30))
        if number % 4 == 0:
            del data[chance.randrange(len(data)) :]
        else:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        files.write_bytes(path, bytes(data))
        with pytest.raises(errors.Damaged) as caught:
            engine.import_seed(USB, ROOT, files=files)
        assert str(caught.value).startswith(f"{path}: at byte "), caught.value
        assert not Replica.open(ROOT, files).head_generation()
        files.write_bytes(path, world.files.read_bytes(path, 1 << 30))
        if number % 10 == 0:
            check(files, 2, path)
