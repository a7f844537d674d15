"""What each effect is, by its name in effects.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from secondsite.orchestration.failover import data, placing, running
from secondsite.orchestration.failover.job import Job

EFFECTS: Mapping[str, Callable[[Job], None]] = {
    "check there": placing.check_there,
    "stop here": running.stop_here,
    "shut down here": placing.shut_down_here,
    "not running here": running.not_running_here,
    "last delta": data.last_delta,
    "copy": data.copy,
    "prove": data.prove,
    "fence": data.fence,
    "make disks": placing.make_disks,
    "start there": running.start_there,
    "stop there": running.stop_there,
    "remove there": placing.remove_there,
    "start here": running.start_here,
    "adopt": data.adopt,
    "prune": data.prune,
    "forget here": data.forget_here,
}
