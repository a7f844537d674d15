"""Networks in a failover: what others have at the target is not given out, and a card comes back by R11.5."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "networks"))
sys.path.insert(0, str(Path(__file__).parents[1] / "remote"))

from namespaces import ip, row
from netkit import wait_for_port
from station import Station, answering

from bench import Bench
from secondsite.engine import errors
from secondsite.orchestration.failover import rehearsals
from secondsite.orchestration.failover.intent import Placed
from secondsite.orchestration.health.states import State
from secondsite.orchestration.hosts.spec import NicSpec
from secondsite.orchestration.networks import names, namespaces
from secondsite.orchestration.networks.attaching import attach, detach
from secondsite.orchestration.vault.database import Database

pytestmark = pytest.mark.needs("root", "namespaces")
POOL = '[{{ name = "s", range = "10.1.0.0/24", gateway = "10.1.0.1", pool = ["10.1.0.11", "10.1.0.12"] }}]'
HOME = NicSpec("52:54:00:00:00:11", "home0", "10.1.0.11/24", "10.1.0.1")


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """The namespaces of the two hosts' bridges."""
    with row("h1", "h2") as (one, two):
        yield one.namespace, two.namespace


@pytest.fixture
def bench(tmp_path: Path, vault: Database, hosts: tuple[str, str]) -> Iterator[Bench]:
    def networked(text: str) -> str:
        for host, namespace in zip(("h1", "h2"), hosts, strict=True):
            text = text.replace(f'name = "{host}"\n', f'name = "{host}"\nnamespace = "{namespace}"\n')
        text = text.replace('name = "n1"\n', f'name = "n1"\nbridge = "home0"\nsubnets = {POOL}\n')
        text = text.replace('name = "n2"\n', f'name = "n2"\nbridge = "away0"\nsubnets = {POOL}\n')
        nics = '[{{ network = "n1", subnet = "s", address = "10.1.0.11", mac = "52:54:00:00:00:11" }}]'
        text = text.replace('host = "h1"\n', f'host = "h1"\nnics = {nics}\n')
        return text + '[[network]]\nname = "n3"\nserver = "vmm-2"\n[mapping]\n' + (
            'network = [{{ source = "n1", target = "n2" }}]\n')  # fmt: skip

    made = Bench(tmp_path, vault, text=networked)
    yield made
    made.end()


@contextlib.contextmanager
def stranger(namespace: str, *addresses: str) -> Iterator[None]:
    """Machines on the target's network that the vault does not know."""
    with contextlib.ExitStack() as stack:
        for number, address in enumerate(addresses):
            (tap,) = attach(f"stranger{number}", [NicSpec(bridge="away0")], namespace)
            stack.callback(detach, f"stranger{number}", namespace)
            station = stack.enter_context(Station(tap.name, tap.mac, namespace, address))
            wait_for_port(namespace, tap.name)
            stack.enter_context(answering(station))
        yield


def cards(placed: Placed | None) -> tuple[NicSpec, ...]:
    assert placed is not None and placed.spec is not None
    return placed.spec.nics


def test_an_address_that_somebody_has_there_is_not_given_out(bench: Bench, hosts: tuple[str, str]) -> None:
    """R11.7: another one of the pool."""
    bench.cycle()
    with stranger(hosts[1], "10.1.0.11"):
        item = bench.failovers().fail_over("app1", "unplanned")
    assert item.failover is not None and item.failover.used == ("10.1.0.11",)
    assert item.failover.there is not None and item.failover.there.spec is not None
    assert cards(item.failover.there) == (NicSpec(HOME.mac, "away0", "10.1.0.12/24", "10.1.0.1"),)
    assert item.failover.there.spec.namespace == hosts[1]


def test_a_pool_that_others_have_is_refused_before_anything_stops(bench: Bench, hosts: tuple[str, str]) -> None:
    """R11.7; the source runs on, and everything is as it was."""
    bench.cycle()
    bench.start_home()
    with stranger(hosts[1], "10.1.0.11", "10.1.0.12"), pytest.raises(errors.Refused, match=r"R11\.7: no address of"):
        bench.failovers().fail_over("app1", "planned")
    assert bench.runs("source") and not bench.runs("target")
    assert (bench.item.state, bench.item.failover) == (State.REPLICATING, None)
    # Once they are gone, it goes.
    item = bench.failovers().fail_over("app1", "planned")
    assert bench.runs("target") and cards(item.failover.there if item.failover else None)[0].address == "10.1.0.11/24"


def moved(namespace: str, tap: str) -> None:
    attach("other", [NicSpec(bridge=names.bridge("n3"))], namespace)
    ip("-n", namespace, "link", "set", tap, "master", names.bridge("n3"))


@pytest.mark.sweep(sample=1)
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda namespace, tap: None, HOME),
        (lambda namespace, tap: ip("-n", namespace, "link", "set", tap, "nomaster"), NicSpec(HOME.mac)),
        (moved, NicSpec(HOME.mac)),
    ],
    ids=["unchanged", "disconnected", "moved to an unmapped network"],
)
def test_a_card_comes_home_by_where_it_is(
    bench: Bench, hosts: tuple[str, str], change: Callable[[str, str], object], expected: NicSpec
) -> None:
    """R11.5."""
    bench.cycle()
    bench.start_home()
    bench.failovers().fail_over("app1", "planned")
    bench.failovers().act("app1", "commit")
    bench.cycle(write=False)
    item = bench.item
    # As its hypervisor does it, where that is not the user's own commands.
    (tap,) = attach("app1", cards(item.away), hosts[1])
    try:
        change(hosts[1], tap.name)
        item = bench.failovers().fail_over("app1", "failback")
    finally:
        detach("app1", hosts[1])
        detach("other", hosts[1])
    assert item.failover is not None and cards(item.failover.there) == (expected,)
    assert bench.runs("source") and not bench.runs("target")


def test_copies_for_a_test(bench: Bench, hosts: tuple[str, str]) -> None:
    """R9.2, R9.4: in a namespace of the test's own, or of its plan's run, that belongs to the target's host; and on a
    network of the estate. Of other tests there the addresses are not given out.
    """
    point = bench.cycle()
    known, item = bench.known(), bench.item

    def made(network: str, group: str | None = None, taken: tuple[str, ...] = ()) -> Placed:
        return known.test(item, point, "a", network=network, group=group, taken=taken)

    isolated = NicSpec(HOME.mac, "away0", "10.1.0.11/24", "10.1.0.1", isolated=True)
    for group in (None, "a plan's run"):
        placed = made("isolated", group)
        assert placed.spec is not None
        assert placed.spec.namespace == namespaces.of_test(group or "a", hosts[1]) and cards(placed) == (isolated,)
    assert cards(made("isolated", "run", ("10.1.0.11",)))[0].address == "10.1.0.12/24"
    existing = made("n2")
    assert existing.spec is not None and existing.spec.namespace == hosts[1]
    assert cards(existing) == (NicSpec(HOME.mac, "away0", "10.1.0.11/24", "10.1.0.1"),)
    with pytest.raises(errors.Refused, match=r"R9\.2: there is no network 'n9'"):
        made("n9")
    with pytest.raises(errors.Refused, match=r"R11\.7: no address of the pool"):
        made("n2", None, ("10.1.0.11", "10.1.0.12"))
    started = bench.tests().test("app1", network="isolated", together="run").test
    assert started is not None and cards(started.there) == (isolated,)
    # Another machine's test of the same run, and of another.
    assert rehearsals.taken(bench.database, "another", "isolated", "run") == ["10.1.0.11"]
    assert rehearsals.taken(bench.database, "another", "isolated", "run 2") == []
    assert rehearsals.taken(bench.database, "another", "n2", None) == []
    bench.tests().cleanup("app1")
    assert rehearsals.taken(bench.database, "another", "isolated", "run") == []
