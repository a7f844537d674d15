"""A source and a replica on two ends of a connection: cycles, resume, refusals, and whatever a link does to them."""

from __future__ import annotations

import random
import threading

import pytest
from transfer import BLOCK, Fault, Pair, Proxy, scribble

from secondsite.engine import errors
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.remote.agent import receiver
from secondsite.engine.remote.sending.tally import Sent
from secondsite.engine.replica.directory import Replica

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=["undo", "clone"])
def pair(request: pytest.FixtureRequest) -> Pair:
    made = Pair(MemoryImage(random.Random(1).randbytes(300 * BLOCK) + bytes(200 * BLOCK + 100)))
    made.files, made.history = MemoryFiles(clones=request.param == "clone"), "auto"
    return made


def test_cycles_and_every_point_of_them(pair: Pair) -> None:
    chance = random.Random(2)
    assert pair.cycle().done.kind == "initial"
    pair.note()
    for _ in range(4):
        scribble(pair.image, chance, 30)
        assert pair.cycle().done.kind == "delta"
        pair.note()
    assert pair.cycle().done.kind == "unchanged"
    assert len(pair.points()) == 5
    pair.check()
    assert not [name for name in pair.files.listdir(pair.root) if name.startswith("incoming")]


def test_a_source_that_grows_and_shrinks(pair: Pair) -> None:
    for size in (500, 700, 123, 1, 400):
        pair.image.resize(size * BLOCK - 77)
        pair.image.write(0, random.Random(size).randbytes(300))
        pair.cycle()
        pair.note()
    pair.check()


def test_a_delta_sends_what_changed_and_the_map_is_not_fetched(pair: Pair) -> None:
    pair.cycle()
    pair.image.write(7 * BLOCK, b"x" * BLOCK)
    proxy = Proxy()
    pair.cycle(proxy)
    assert proxy.passed[0] < 3000 and proxy.passed[1] < 3000


@pytest.mark.parametrize("harm", ["lost", "damaged", "older"])
def test_a_cached_map_that_does_not_fit_is_fetched(pair: Pair, harm: str) -> None:
    pair.cycle()
    (path,) = [f"/state/{name}" for name in pair.state.listdir("/state")]
    old = pair.state.read_bytes(path, 1 << 24)
    pair.image.write(7 * BLOCK, b"x" * BLOCK)
    pair.cycle()
    pair.note()
    if harm == "lost":
        pair.state.unlink(path)
    elif harm == "damaged":
        with pair.state.open(path, "rw") as file:
            file.write(file.size - 60000, b"bad")
    else:
        pair.state.write_bytes(path, old)
    pair.image.write(9 * BLOCK, b"y" * BLOCK)
    sending = pair.cycle()
    assert sending.tally.changed_bytes == BLOCK
    pair.note()
    pair.check()


@pytest.mark.parametrize("kind", ["cut", "flip"])
@pytest.mark.parametrize("direction", [0, 1])
def test_a_fault_at_any_byte(pair: Pair, kind: str, direction: int) -> None:
    """Seeded. The replica holds each point that it held, and the next attempts bring the source's content over."""
    chance = random.Random(f"{kind}{direction}")
    pair.cycle()
    pair.note()
    for _ in range(12):
        scribble(pair.image, chance, 60)
        reach = 250_000 if direction == 0 else 1500
        for _ in range(3):
            fault = Fault(kind, chance.randrange(reach))
            proxy = Proxy(fault, None) if direction == 0 else Proxy(None, fault)
            before = len(pair.points())
            try:
                pair.cycle(proxy)
            except errors.Error as error:
                assert error.retryable, error
            if len(pair.points()) > before:
                pair.note()
        pair.cycle()
        pair.note()
    pair.kept = {key: pair.kept[key] for key in sorted(pair.kept)[-6:]} | {1: pair.kept[1]}
    pair.check()


def test_a_cut_goes_on_at_the_last_durable_frame(pair: Pair) -> None:
    pair.image = MemoryImage(random.Random(3).randbytes(12 << 20))
    sent, proxies = Sent(), []
    for at in (2_500_000, 4_000_000, 3_000_000):
        proxies.append(Proxy(Fault("cut", at)))
        with pytest.raises(errors.Unreachable):
            pair.cycle(proxies[-1], sent)
    proxies.append(Proxy())
    pair.cycle(proxies[-1], sent)
    pair.note()
    pair.check()
    raw = pair.image.size
    assert sent.attempts == 4 and sent.bytes - sent.again <= raw * 1.02
    total = sum(proxy.passed[0] for proxy in proxies)
    assert total - raw < 4 * (1 << 20) + raw // 50  # a batch a cut at most: what was on the way
    assert total <= (raw + sent.again) * 1.02  # and all of it is told, the message that was cut too


def test_a_source_that_was_written_between_attempts(pair: Pair) -> None:
    """Blocks of the spool change again, and change back."""
    chance = random.Random(4)
    pair.cycle()
    pair.note()
    first = bytes(pair.image.read(0, pair.image.size))
    for _ in range(5):
        scribble(pair.image, chance, 200)
        with pytest.raises(errors.Unreachable):
            pair.cycle(Proxy(Fault("cut", 150_000)), workers=1)
        assert pair.files.size(f"{pair.root}/incoming.spool") > 0
        scribble(pair.image, chance, 200)
        for block in range(0, 300, 3):
            pair.image.write(block * BLOCK, first[block * BLOCK : (block + 1) * BLOCK])
    pair.cycle()
    pair.note()
    pair.check()


def test_a_spool_that_does_not_fit_is_dropped(pair: Pair) -> None:
    pair.image = MemoryImage(random.Random(3).randbytes(4 << 20))
    with pytest.raises(errors.Unreachable):
        pair.cycle(Proxy(Fault("cut", 3_000_000)))
    pair.image.resize((4 << 20) - BLOCK)
    pair.cycle()
    pair.note()
    pair.check()


def test_a_damaged_spool_is_used_as_far_as_it_is_whole(pair: Pair) -> None:
    pair.image = MemoryImage(random.Random(3).randbytes(4 << 20))
    with pytest.raises(errors.Unreachable):
        pair.cycle(Proxy(Fault("cut", 3_500_000)))
    with pair.files.open(f"{pair.root}/incoming.spool", "rw") as file:
        file.write(file.size // 2, b"bad")
    pair.cycle()
    pair.note()
    pair.check()


@pytest.mark.parametrize("seed", range(8))
def test_power_is_lost_at_the_replica(seed: int) -> None:
    """After a cut the machine loses power too: what was not durable is gone, and the points are there."""
    chance = random.Random(seed)
    pair = Pair(MemoryImage(chance.randbytes(300 * BLOCK)), MemoryFiles(clones=seed % 2 == 1))
    files = pair.files
    assert isinstance(files, MemoryFiles)
    pair.cycle()
    pair.note()
    for _ in range(3):
        scribble(pair.image, chance, 100)
        before = len(pair.points())
        with pytest.raises(errors.Error):
            pair.cycle(Proxy(Fault("cut", chance.randrange(400, 200_000))))
        assert len(pair.points()) == before
        files.power_loss(chance)
        pair.check()
        pair.cycle()
        pair.note()
    pair.check()


def test_a_lower_epoch_and_another_source_are_refused(pair: Pair) -> None:
    pair.cycle(epoch=3)
    pair.note()
    with pytest.raises(errors.Refused, match="is at epoch 3, this source at 2"):
        pair.cycle(epoch=2)
    with pytest.raises(errors.Refused, match="follows another image"):
        pair.cycle(source="name:other")
    pair.cycle(source="name:other", accept=True)
    pair.check()


def test_a_second_sender_is_told_that_it_is_busy(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "_READERS_SECONDS", 0.2)
    pair.cycle()
    with Replica.open(pair.root, pair.files).locked(exclusive=True), pytest.raises(errors.Busy):
        pair.cycle()


def test_two_senders_at_once_make_points_in_turn(pair: Pair) -> None:
    pair.cycle()
    pair.image.write(0, b"z" * BLOCK)
    outcomes: list[str] = []

    def one() -> None:
        try:
            outcomes.append(pair.cycle().done.kind)
        except errors.Busy:
            outcomes.append("busy")

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert outcomes.count("delta") == 1 and len(outcomes) == 2
    pair.note()
    pair.check()
