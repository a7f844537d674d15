"""Progress, cancellation and the rate limit, by a clock that is told the time."""

from __future__ import annotations

import threading
import time

import pytest

from secondsite.engine import errors
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.progress import Limiter, Monitor, Progress


class FakeTime:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.slept = 100.0, 0.0
        monkeypatch.setattr(time, "sleep", self.sleep)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    return FakeTime(monkeypatch)


@pytest.mark.parametrize("piece", [1_000, 100_000, 700_000, 5_000_000])
def test_the_measured_rate_is_the_limit(fake: FakeTime, piece: int) -> None:
    """Within 10 %, whatever is taken at a time: over ten seconds the burst at the start is 2.5 %."""
    limiter = Limiter(1_000_000, fake)
    began, taken = fake.now, 0
    while fake.now - began < 10:
        limiter.take(piece, lambda: None)
        taken += piece
    assert taken / (fake.now - began) == pytest.approx(1_000_000, rel=0.1)


def test_a_pause_earns_no_burst(fake: FakeTime) -> None:
    """P17: after an hour of nothing the line is not flooded."""
    limiter = Limiter(1_000_000, fake)
    fake.now += 3600
    began, taken = fake.now, 0
    while fake.now - began < 1:
        limiter.take(10_000, lambda: None)
        taken += 10_000
    assert taken <= 1_260_000


def test_a_slow_limit(fake: FakeTime) -> None:
    limiter = Limiter(1, fake)
    limiter.take(5, lambda: None)
    assert fake.slept == pytest.approx(4)
    assert limiter.piece == 1


def test_a_wait_can_be_cancelled(fake: FakeTime) -> None:
    asked: list[float] = []

    def check() -> None:
        asked.append(fake.now)
        if len(asked) == 3:
            raise errors.Cancelled("enough")

    with pytest.raises(errors.Cancelled):
        Limiter(1000, fake).take(1_000_000, check)
    assert asked[-1] - asked[0] == pytest.approx(0.2)


def test_several_threads_share_one_limit() -> None:
    limiter = Limiter(20_000_000)
    began = time.monotonic()

    def work() -> None:
        for _ in range(15):
            limiter.take(500_000, lambda: None)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # 15 MB less the burst of 5 MB at 20 MB/s is half a second.
    assert 0.4 < time.monotonic() - began < 2


def test_progress_is_told_at_the_start_and_the_end_and_not_all_the_time() -> None:
    told: list[Progress] = []
    monitor = Monitor(told.append)
    monitor.begin("copy", 100_000)
    for _ in range(1000):
        monitor.advance(100)
    monitor.found(7)
    assert told[0] == Progress("copy", 0, 100_000, 0)
    assert told[-1].done == 100_000
    assert len(told) < 20


def test_progress_never_goes_past_the_total() -> None:
    told: list[Progress] = []
    monitor = Monitor(told.append)
    monitor.begin("copy", 10)
    monitor.advance(4096)
    assert told[-1].done == 10


def test_cancel_and_limit_of_a_cycle(lab: object) -> None:
    """A cancelled cycle leaves nothing behind, and a limited one takes its time."""
    data = bytes(range(256)) * 16 * 300
    with pytest.raises(errors.Cancelled):
        lab.cycle(data, cancel=lambda: True)  # type: ignore[attr-defined]
    assert lab.files.listdir("/r/points") == []  # type: ignore[attr-defined]
    assert MemoryImage(data).size == 1_228_800
    began = time.monotonic()
    lab.cycle(data, limit=2_000_000)  # type: ignore[attr-defined]
    assert 0.3 < time.monotonic() - began < 2
