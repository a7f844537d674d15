"""secondsite run"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import closing, nullcontext
from typing import Any

import click

from secondsite.orchestration import output
from secondsite.orchestration.commands import vaults
from secondsite.orchestration.commands.options import address, json_option, state_option


@click.command(short_help="Run the cycles of all protected machines, for ever.")
@click.option("--parallel", type=click.IntRange(1, 64), default=4, show_default=True, help="Cycles at once.")
@click.option("--metrics", metavar="ADDR:PORT", help="Tell figures to Prometheus here, without TLS: 127.0.0.1:9185.")
@vaults.vault_option
@state_option
@json_option
def command(parallel: int, metrics: str | None, vault: str | None, state: str | None, as_json: bool) -> None:
    """Run the cycles of the vault's machines when their policies say, until SIGINT or SIGTERM.

    Cycles of a machine never overlap, and its disks are cut at one instant. Several of these may work on one vault of
    PostgreSQL: what one of them had when it died is taken by another within a minute. A line, or with --json an object,
    is printed for each cycle.

    \b
    secondsite run
    secondsite run --vault postgresql://recovery@db.example/recovery --json
    """
    with output.watching() as watch, vaults.opened(vault) as database:
        from secondsite.orchestration.protection.cycle import Cycles
        from secondsite.orchestration.protection.orchestrator import Orchestrator, new_holder
        from secondsite.orchestration.protection.worker import EngineWorker

        cycles = Cycles(database, new_holder(), EngineWorker(state))
        orchestrator = Orchestrator(
            database, cycles, parallel=parallel, told=lambda item, error: _tell(item, error, as_json=as_json)
        )
        told = address(metrics, option="--metrics")
        server = _metrics(told, database, orchestrator) if told is not None else nullcontext()
        failed: list[BaseException] = []
        thread = threading.Thread(target=_run, args=(orchestrator, failed), name="orchestrator")
        with server:
            thread.start()
            while thread.is_alive() and not watch.cancelled():
                time.sleep(0.1)
            orchestrator.stop()
            thread.join()
        if failed:
            raise failed[0]


def _metrics(where: tuple[str, int], database: Any, orchestrator: Any) -> Any:
    """A server of figures, closed behind the block."""
    from secondsite import engine
    from secondsite.orchestration.protection import metrics, report

    def families() -> Any:
        return metrics.families(report.rows(database, time.time()), orchestrator.lags)

    return closing(engine.serve_figures(where, families))


def _run(orchestrator: Any, failed: list[BaseException]) -> None:
    try:
        orchestrator.run()
    except BaseException as error:
        failed.append(error)


def _tell(item: Any, error: Any, *, as_json: bool) -> None:
    if as_json:
        output.print_json({"machine": item.machine, "time": time.time(), "error": str(error) if error else None})
    else:
        print(f"{item.machine}: {output.one_line(str(error)) if error else 'a point was made'}")
    sys.stdout.flush()
