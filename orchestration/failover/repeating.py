"""A call that is made once more while what it began is under way. What it says otherwise is done where that can be done
yet, and refused where it cannot (R9.12): nothing that an operator says is passed over. What it does not say stays as it
was said.
"""

from __future__ import annotations

import msgspec

from secondsite.engine import errors
from secondsite.orchestration.failover.intent import Intent, Options, Test
from secondsite.orchestration.failover.situation import onward
from secondsite.orchestration.protection.item import Held, Made


def check(item: Held, point: Made | None, said: Options, home: str) -> None:
    """Of a failover that is being started: `point` is the one that is said, `home` the host that it belongs on. Raises
    Refused.
    """
    way = item.failover
    assert way is not None
    late = _differs(way, point, said, home)
    if not late:
        return
    where = f" on {way.there.host}" if way.there is not None and way.there.host is not None else ""
    kind = "failback" if way.kind == "failback" else "failover"
    told = f"R9.12: {item.machine!r}: its {kind} to point {way.point} is being started{where}, too late for "
    told += f"{' '.join(late)}; {onward(item.machine, way.kind, way.phase)}"
    if way.kind == "unplanned":
        told += f", and once it runs `secondsite failover change-point {item.machine}` takes another point"
    raise errors.Refused(told)


def _differs(way: Intent, point: Made | None, said: Options, home: str) -> list[str]:
    """What is said otherwise, as options of the command."""
    found, had = [], way.options
    if _moves(way, point, said) and point is not None:
        found.append(f"--at {point.number}")
    if said.synchronize and not had.synchronize:
        found.append("--synchronize")
    if said.verify and not had.verify:
        found.append("--verify")
    if said.wait and not had.wait:
        found.append("--prepare")
    if said.copy not in (None, had.copy):
        found.append(f"--copy {said.copy}")
    if said.host not in (None, had.host or home):
        found.append(f"--host {said.host}")
    return found


def _moves(way: Intent, point: Made | None, said: Options) -> bool:
    """Is another point said? What is synchronized goes to the point of that, whatever was said beside it."""
    both = said.synchronize and way.options.synchronize
    return point is not None and way.kind == "unplanned" and point.number != way.point and not both


def again(item: Held, point: Made | None, said: Options, home: str) -> Intent:
    """What is meant with one that is not prepared yet, as the call now says. Raises Refused where its old disks became
    the first point of what comes home, and all is to be sent.
    """
    way = item.failover
    assert way is not None
    had = way.options
    if said.copy not in (None, had.copy) and way.touched and any(item.back_ids.values()):
        raise errors.Refused(
            f"R9.12: {item.machine!r}: its old disks were compared already, too late for --copy {said.copy}; "
            f"{onward(item.machine, way.kind, way.phase)}"
        )
    options = msgspec.structs.replace(said, copy=said.copy or had.copy, host=said.host or had.host)
    if _moves(way, point, said) and point is not None:
        way = way.anew(point=point.number)
    elif (options.host or home) != (had.host or home):
        way = way.anew()
    return msgspec.structs.replace(way, options=options)


def check_test(machine: str, test: Test, point: Made | None, network: str | None) -> None:
    """Of a test failover that is begun. Raises Refused."""
    late = [f"--at {point.number}"] if point is not None and point.number != test.point else []
    if network not in (None, test.network):
        late.append(f"--network {network}")
    if late:
        raise errors.Refused(
            f"R9.1: {machine!r}: its test failover of point {test.point} on network {test.network} was begun, too late "
            f"for {' '.join(late)}; `secondsite failover test {machine}` goes on, `secondsite failover test-cleanup "
            f"{machine}` takes it away"
        )
