"""A host does what it is told and dies before it says so, at each of its operations in turn: the failover fails with
one line, no machine ever runs twice, and once the host is back it goes on, or is taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest

from bench import Bench, plainly
from secondsite.engine import errors
from secondsite.orchestration import hosts
from secondsite.orchestration.estate.model import Host
from secondsite.orchestration.hosts.operations import Json

# By host and failover, one more than there are: the last case loses no answer.
OPERATIONS = {
    ("h2", "planned"): 10, ("h2", "unplanned"): 8, ("h1", "planned"): 5, ("h1", "failback"): 16,
    ("h2", "failback"): 11,
}  # fmt: skip
CASES = [(*which, at) for which, most in OPERATIONS.items() for at in range(1, most + 1)]


class Dying:
    """The operations of a host; of the one that is counted down to the answer is lost, and those after it are."""

    def __init__(self, name: str, calls: hosts.Calls, left: list[int]) -> None:
        self._name, self._calls, self._left = name, calls, left

    def call(
        self, operation: str, arguments: Mapping[str, Any], *, seconds: float | None = None,
        cancel: Callable[[], bool] = lambda: False,
    ) -> Json:  # fmt: skip
        if self._left[0] > 0:
            found = self._calls.call(operation, arguments, seconds=seconds, cancel=cancel)
            self._left[0] -= 1
            if self._left[0]:
                return found
        raise errors.Unreachable(f"{operation} gave no answer", path=self._name)


@contextmanager
def dying(name: str, at: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many operations are left until a host does not answer any more."""
    reach, left = hosts.reach, [at]

    def reached(host: Host) -> hosts.Calls:
        return Dying(name, reach(host), left) if host.name == name else reach(host)

    with monkeypatch.context() as patch:
        patch.setattr(hosts, "reach", reached)
        yield left


@pytest.mark.sweep(sample=2)
@pytest.mark.parametrize("way", ["goes on", "taken back"])
@pytest.mark.parametrize(("host", "kind", "at"), CASES)
def test_its_answer_is_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, host: str, kind: str, way: str, at: int
) -> None:
    """R9.6, R9.7, R9.10: where its machine may run the other is not started; what is there goes once it answers."""
    has = begun(bench, kind)
    again = partial(fail_over, bench, kind) if way == "goes on" else partial(cancel, bench)
    with dying(host, at, monkeypatch) as left:
        try:
            fail_over(bench, kind)
        except (errors.Unreachable, errors.Refused) as error:
            assert f"{host}: " in str(error) and "\n" not in str(error) and not left[0]
        else:
            assert left[0] == 1 and at == OPERATIONS[host, kind], "every operation is a case"
            return
        if bench.item.failover is not None:
            with suppress(errors.Unreachable, errors.Refused):
                again()
    if bench.item.failover is not None or way == "goes on":
        with suppress(errors.Refused):
            again()
    there, here = ("source", "target") if kind == "failback" else ("target", "source")
    if way == "goes on":
        assert bench.item.active == there and bench.runs(there) and not bench.runs(here)
        assert plainly(disks(bench)) == has
        return
    assert bench.item.failover is None and bench.item.active == here
    assert bench.runs(here) == (kind != "unplanned") and not bench.runs(there)
    assert plainly(disks(bench)) == has


def begun(bench: Bench, kind: str) -> dict[str, bytes]:
    """Where it is before, and what it has there."""
    bench.cycle()
    if kind == "planned":
        bench.start_home()
        bench.write()
    if kind == "failback":
        bench.failovers().fail_over("app1", "unplanned")
        bench.failovers().act("app1", "commit")
    return plainly(disks(bench))


def disks(bench: Bench) -> dict[str, bytes]:
    return bench.source() if bench.item.active == "source" else bench.away()


def fail_over(bench: Bench, kind: str) -> None:
    bench.failovers().fail_over("app1", kind)


def cancel(bench: Bench) -> None:
    bench.failovers().act("app1", "cancel")
