"""The end of an item that no failover leads on from: the side that its machine ran on is lost, and so is the one that
it would go back to. The vault forgets it, so that it may be protected anew of what is left, which stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from secondsite.engine import errors
from secondsite.orchestration.failover import clouds, holding, lost, record
from secondsite.orchestration.failover.failovers import Failovers
from secondsite.orchestration.failover.intent import Placed
from secondsite.orchestration.failover.machines import Known
from secondsite.orchestration.failover.seeing import SECONDS
from secondsite.orchestration.protection import ledger
from secondsite.orchestration.protection.item import Held


def give_up(failovers: Failovers, machine: str, *, gone: bool) -> str:
    """What stays behind, in words, which the audit log has too. `gone`: an operator says that what the machine wrote is
    lost, and runs nowhere. One that is being disabled ends at once, whatever does not answer. Raises Refused with the
    rule's number: where it is not away, where it is seen running (R9.9), or where nobody says that it is lost; Busy.
    """
    database, of = failovers.database, failovers
    with holding.held(database, of.holder, machine, of.now, of.stops, ending=True) as (item, lease):
        places: list[Placed] = []
        if item.ending is None:
            known = of.known(machine)
            with database.reading() as connection:
                record.asked(connection, machine, "give-up", known.abilities)
            places = list(_places(known, item))
            _look(known, places, gone, lease.cancelled)
        told = _stays(item, places)
        if not gone:
            raise errors.Refused(
                f"R1.10: {machine!r} is given up with --lost alone: an operator says that what it wrote is lost; {told}"
            )
        lease.check()
        ledger.remove(database, of.holder, item, of.now(), f"given up; {told}", who=of.who)
    return told


def _places(known: Known, item: Held) -> Iterator[Placed]:
    """Wherever it may run, each once."""
    way = item.failover
    under_way = (way.here, way.there, *way.old) if way is not None else ()
    elsewhere = known.home(way.options.host) if way is not None and way.options.host is not None else None
    seen: list[object] = []
    for placed in (known.home(), elsewhere, item.away, *under_way):
        if placed is not None and (what := _what(placed)) not in seen:
            seen.append(what)
            yield placed


def _what(placed: Placed) -> object:
    """A machine on a host: of one folder there is one."""
    return placed.disks if placed.spec is None else (placed.host, placed.spec.folder)


def _look(known: Known, places: Iterable[Placed], gone: bool, cancel: Callable[[], bool]) -> None:
    """R9.9: what may be writing is not given up. Raises Refused, Cancelled."""
    name = known.machine.name
    for placed in places:
        state, why = _seen(known, placed, cancel)
        where, told = placed.host or "Azure", f" ({why})" if why else ""
        if state == "running":
            raise errors.Refused(f"R9.9: {name!r} runs at {where}{told}; stop it there first")
        if state == "unknown" and not gone:
            raise errors.Refused(
                f"R9.9: whether {name!r} runs at {where} is not known{told}; see that it never does again, and give it "
                "up with --lost"
            )


def _seen(known: Known, placed: Placed, cancel: Callable[[], bool]) -> tuple[str, str]:
    """(running, stopped or unknown; why). What a machine in Azure has, that one may write to."""
    try:
        if placed.spec is None:
            state, why = clouds.state(placed)
            return ("running" if state == "unknown" else state), why
        told = known.ask(placed, "status", cancel=cancel, within=SECONDS)
    except errors.Cancelled:
        raise
    except errors.Error as error:
        return "unknown", str(error)
    return str(told["state"]), str(told.get("why", ""))


def _stays(item: Held, places: Iterable[Placed]) -> str:
    """In words, for whoever clears it away or takes from it what there is."""
    replicas = [*item.homes.values(), *(back for back in item.backs.values() if back)]
    found = [f"its replicas stay as they are: {', '.join(replicas)}"]
    for placed in places:
        if placed.spec is None:
            found.append(f"disks in Azure: {', '.join(placed.disks.values())}")
        elif any(disk.replica is not None for disk in placed.spec.disks):
            found.append(lost.left(placed))
    if item.failover is not None and item.failover.to == "source":
        found.append("an old disk at home that something was put in the place of stays as NAME.before-POINT beside it")
    return "; ".join(found)
