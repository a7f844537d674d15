"""What to expect of an item, from what its cycles took (M8): how old its point may be, and what an outage costs.

A cycle takes a while of its own and then a while for each byte; a line through the cycles of the monitoring interval
(least squares) tells the two apart. Where all were of about one size it cannot: then all of it counts as bytes, which
errs to the slow side. What changes meanwhile is what was sent, by the time in which it was.
"""

from __future__ import annotations

import msgspec

from secondsite.orchestration.health.statistics import Statistics

# So many cycles make a line.
LEAST_CYCLES = 5
# R7.1b: a log of half the disk means that the item is to be resynchronized.
LOG_SHARE = 0.5


class Outlook(msgspec.Struct, frozen=True):
    """Bytes a second that change (`churn`) and that can be sent (`rate`). `worst_rpo`: how old the newest point is at
    most as the policy has it, `achievable_rpo` if cycles ran one behind the other; None: never, more changes than can
    be sent. `catch_up`: how long it takes from now to be where it should be. `log_half_full`: in how many seconds
    without a cycle half of the disks will have changed. All in seconds.
    """

    churn: float
    rate: float
    worst_rpo: float
    achievable_rpo: float | None
    catch_up: float | None
    log_half_full: float | None


def outlook(counts: Statistics, every: float, now: float, last: float | None) -> Outlook | None:
    """None where there were too few cycles, or nothing changed in them."""
    passed = (last or 0) - counts.first
    if counts.measured < LEAST_CYCLES or last is None or passed <= 0 or not counts.moved:
        return None
    churn = counts.moved / passed
    fixed, rate = _line(counts)
    behind = max(now - last, 0.0)
    spare = 1 - churn / rate
    half = max(LOG_SHARE * counts.virtual_bytes - churn * behind, 0.0) / churn if counts.virtual_bytes else None
    length = fixed + churn * every / rate
    return Outlook(
        churn, rate, every + length, 2 * fixed / spare if spare > 0 else None,
        (fixed + churn * behind / rate) / spare if spare > 0 else None, half,
    )  # fmt: skip


def _line(counts: Statistics) -> tuple[float, float]:
    """Seconds that a cycle takes without bytes, and bytes a second."""
    n = counts.measured
    spread = n * counts.squares - float(counts.moved) ** 2
    slope = (n * counts.products - counts.moved * counts.taken) / spread if spread > 0 else 0.0
    fixed = (counts.taken - slope * counts.moved) / n
    if slope <= 0 or fixed < 0:
        return 0.0, counts.moved / max(counts.taken, 1e-9)
    return fixed, 1 / slope
