"""The tripwire against months of made-up cycles: what trips it, what does not, and what it says of itself (M15)."""

from __future__ import annotations

import random
from collections.abc import Iterable

import msgspec
import pytest

from secondsite.orchestration.health.tripwire import KEPT, RECENT, WARM_UP, Seen, Tripwire

MIB = 1 << 20
DISK = 40 << 30


def run(cycles: Iterable[Seen], start: Tripwire | None = None, disk: int = DISK) -> tuple[Tripwire, int | None]:
    """What it is afterwards, and in which cycle it tripped."""
    state, tripped = start or Tripwire(), None
    for number, one in enumerate(cycles):
        state = state.after(one, disk, float(number))
        if tripped is None and state.tripped is not None:
            tripped = number
    return state, tripped


def steady(count: int, chance: random.Random, data: float = 50, share: float = 0.05) -> list[Seen]:
    """Log-normal churn, as servers have it: most cycles small, some many times that."""
    found = []
    for _ in range(count):
        size = int(data * MIB * chance.lognormvariate(0, 0.8))
        found.append(Seen(size, int(size * min(max(chance.gauss(share, share / 2), 0), 1))))
    return found


def attack(rate: int, total: int, share: float = 0.8) -> list[Seen]:
    return [Seen(rate * MIB, int(rate * MIB * share))] * (total // rate)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.4])
@pytest.mark.parametrize("data", [1, 50, 2000])
def test_a_month_of_steady_load_does_not_trip_it(share: float, data: float, sweep: bool) -> None:
    for seed in range(3 if sweep else 1):
        assert run(steady(8640, random.Random(seed), data, share))[1] is None, seed


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2])
def test_who_encrypts_the_disk_trips_it_before_a_twentieth_is_gone(share: float) -> None:
    for seed in range(10):
        chance = random.Random(seed)
        before, rate = steady(300, chance, share=share), 500
        state, tripped = run([*before, *attack(rate, 20_000)])
        assert tripped is not None and (tripped - 300 + 1) * rate * MIB < DISK / 20, seed
        assert state.state == "tripped" and "does not pack" in str(state.words)


def test_a_first_boot_and_a_first_day_do_not_trip_it() -> None:
    """Gigabytes of programs, which pack, and then less and less; before it has learned it says nothing at all."""
    boot = [Seen(4000 * MIB, 200 * MIB), *(Seen(1000 * MIB // n, 40 * MIB // n) for n in range(1, 40))]
    assert run(boot)[1] is None
    state, tripped = run(attack(500, 500 * (WARM_UP + RECENT - 1)))
    assert tripped is None and state.state == "learning"


def test_a_big_copy_of_what_packs_or_into_new_room_does_not_trip_it() -> None:
    before = steady(300, random.Random(1))
    assert run([*before, *[Seen(4000 * MIB, 300 * MIB)] * 10])[1] is None, "programs and documents"
    assert run([*before, *[Seen(4000 * MIB, 0)] * 10])[1] is None, "films, where nothing was before"
    assert run([*before, *[Seen(60 * MIB, 55 * MIB)] * 3])[1] is None, "logs, packed once a day"
    assert run([*before, *[Seen(4000 * MIB, 3900 * MIB)] * 10])[1] is not None, "films over other files: a person looks"


def test_a_big_restore_before_a_small_sealed_cycle_is_no_jump() -> None:
    before = steady(300, random.Random(2))
    assert run([*before, Seen(20_000 * MIB, 500 * MIB), Seen(MIB, MIB), Seen(MIB, MIB)])[1] is None


def test_what_never_packs_cannot_be_judged_and_says_so() -> None:
    state, tripped = run([*steady(300, random.Random(3), share=0.95), *attack(2000, 20_000, 1.0)])
    assert tripped is None and state.state == "blind"


def test_what_was_acknowledged_does_not_trip_it_again_and_twice_as_much_does() -> None:
    before = steady(300, random.Random(4))
    state, _ = run([*before, *[Seen(600 * MIB, 580 * MIB)] * 2])
    assert state.tripped is not None
    state = state.acknowledged()
    calm = steady(60, random.Random(5))
    state, tripped = run([*calm, *[Seen(600 * MIB, 580 * MIB)] * 2, *calm], state)
    assert tripped is None and state.state == "watching"
    assert run(attack(1000, 8000), state)[1] is not None


def test_it_stays_tripped_and_small_and_names_the_first_cycle_that_it_saw() -> None:
    before = steady(300, random.Random(6), data=5)
    state, tripped = run([*before, *attack(300, 900)])
    assert tripped is not None
    assert state.tainted == 300 + 3 - 300
    state, _ = run(steady(500, random.Random(7)), state)
    assert state.state == "tripped" and len(state.seen) == KEPT
    packed = msgspec.json.encode(msgspec.to_builtins(state))
    assert len(packed) < 4096 and msgspec.convert(msgspec.json.decode(packed), Tripwire) == state


def test_a_history_of_before_it_was_a_text_is_read() -> None:
    cycles = steady(40, random.Random(3))
    now, _ = run(cycles)
    old = {"seen": [list(one) for one in cycles], "tripped": 5.0, "words": "much", "bytes": 7, "accepted": 1}
    read = Tripwire.read(old)
    assert (read.history, read.condition) == (now.history, "watching") and read.seen == tuple(cycles)
    assert (read.state, read.bytes, read.accepted) == ("tripped", 7, 1)
    assert Tripwire.read(msgspec.to_builtins(read)) == read
