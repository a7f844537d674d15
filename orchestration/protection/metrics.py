"""Figures for Prometheus: of all machines of the vault, whoever runs their cycles, and of this orchestrator's lag."""

from __future__ import annotations

from collections.abc import Sequence

from secondsite.engine import Family
from secondsite.orchestration.protection.orchestrator import Lags
from secondsite.orchestration.protection.report import Row

_QUANTILES = (0.5, 0.99, 1.0)


def families(rows: Sequence[Row], lags: Lags) -> list[Family]:
    """All figures of now. A machine without a point yet has no age, which an alert can be on (P43)."""

    def each(name: str) -> list[tuple[dict[str, str], float]]:
        return [({"machine": row.machine}, float(getattr(row, name))) for row in rows]

    ages = [({"machine": row.machine}, row.rpo) for row in rows if row.rpo is not None]
    marked = [({"machine": row.machine}, row.application_age) for row in rows if row.application_age is not None]
    states = [({"machine": row.machine, "state": row.state}, 1.0) for row in rows]
    late = [({"quantile": f"{share:g}"}, lags.quantile(share)) for share in _QUANTILES]
    return [
        Family("secondsite_last_good_age_seconds", "gauge",
               "Seconds since the source was as the machine's newest point is.", ages),
        Family("secondsite_health", "gauge", "0 normal, 1 warning, 2 critical.", each("level")),
        Family("secondsite_state", "gauge", "1 for the state that the machine is in.", states),
        Family("secondsite_machine_cycles_total", "counter", "Cycles that made a point.", each("cycles")),
        Family("secondsite_machine_missed_total", "counter", "Cycles that were missed.", each("missed")),
        Family("secondsite_machine_errors_total", "counter", "Cycles that ended with an error.", each("errors")),
        Family("secondsite_application_age_seconds", "gauge",
               "Seconds since the machine's newest application-consistent point.", marked),
        Family("secondsite_machine_application_failed_total", "counter",
               "Application-consistent points that could not be made.", each("application_failed")),
        Family("secondsite_tripwire", "gauge", "1 where the data that is written suddenly does not pack any more.",
               [({"machine": row.machine}, float(row.tripwire == "tripped")) for row in rows]),
        Family("secondsite_lag_seconds", "gauge",
               "How late the newest cycles of this orchestrator began; the quantile 1 is the latest.", late),
    ]  # fmt: skip
