"""secondsite run"""

from __future__ import annotations

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
    PostgreSQL: what one of them had when it died is taken by another within a minute, failovers and runs of recovery
    plans too. A line, or with --json an object, is printed for each cycle, for each machine that is not protected any
    more, and for each run that was left behind. `secondsite protection sync` asks for a cycle at once.

    \b
    secondsite run
    secondsite run --vault postgresql://recovery@db.example/recovery --json
    """
    with output.watching() as watch, vaults.opened(vault, state) as database:
        from secondsite.orchestration.plans.taking_over import Runs
        from secondsite.orchestration.protection.cycle import Cycles
        from secondsite.orchestration.protection.orchestrator import Orchestrator
        from secondsite.orchestration.protection.worker import EngineWorker
        from secondsite.orchestration.vault import holders

        cycles = Cycles(database, holders.new(), EngineWorker(state))
        plans = Runs(database, vaults.where(vault, state), lambda ran, error: _ran(ran, error, as_json=as_json), state)
        orchestrator = Orchestrator(
            database, cycles, parallel=parallel, plans=plans,
            told=lambda item, error: _tell(database, item, error, as_json=as_json),
            away=lambda error: output.warn([f"{error}; it is waited for"]),
        )
        told = address(metrics, option="--metrics")
        server = _metrics(told, database, orchestrator) if told is not None else nullcontext()
        failed: list[BaseException] = []
        thread = threading.Thread(target=_run, args=(orchestrator, failed), name="orchestrator")
        with server:
            if not as_json:
                _begin(database)
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
    from secondsite.orchestration.protection import leases, metrics, report

    def families() -> Any:
        return metrics.families(report.rows(database, leases.now(database)), orchestrator.lags)

    return closing(engine.serve_figures(where, families))


def _run(orchestrator: Any, failed: list[BaseException]) -> None:
    try:
        orchestrator.run()
    except BaseException as error:
        failed.append(error)


def _begin(database: Any) -> None:
    """Say that it runs: where every machine has a while until its next cycle, nothing else would."""
    from secondsite.orchestration.protection import lookup

    count = len(lookup.load(database))
    print(f"running the cycles of {database.label}; machines: {count}", flush=True)


def _tell(database: Any, item: Any, error: Any, *, as_json: bool) -> None:
    from secondsite.orchestration.protection import lookup

    if item.failover is not None:
        _moved(database, item, error, as_json=as_json)
        return
    ended = item.ending is not None
    made = lookup.newest(database, item.id) if error is None and not ended else None
    if as_json:
        output.print_json({
            "machine": item.machine, "time": time.time(), "what": "disable" if ended else "cycle",
            "point": made.number if made else None, "changed_bytes": made.changed_bytes if made else None,
            "error": str(error) if error else None,
        })  # fmt: skip
    else:
        print(f"{item.machine}: {output.one_line(str(error)) if error else _done(made)}", flush=True)


def _moved(database: Any, item: Any, error: Any, *, as_json: bool) -> None:
    """Of a failover that somebody left behind: how it stands now."""
    from secondsite.orchestration.protection import lookup

    now = next(iter(lookup.load(database, item.machine)), item)
    kind, phase = item.failover.kind or "reverse", now.failover.phase if now.failover is not None else None
    if as_json:
        output.print_json({
            "machine": item.machine, "time": time.time(), "what": "failover", "kind": kind, "phase": phase,
            "state": now.state.words, "error": str(error) if error else None,
        })  # fmt: skip
        return
    said = output.one_line(str(error)) if error else f"it is {now.state.words}{f', {phase}' if phase else ''}"
    print(f"{item.machine}: its {kind} failover was left behind, and is gone on with: {said}", flush=True)


def _ran(ran: Any, error: str | None, *, as_json: bool) -> None:
    """Of a recovery plan that somebody left behind."""
    if as_json:
        output.print_json({"run": ran.id, "plan": ran.plan, "time": time.time(), "what": "recovery",
                           "state": ran.state, "error": error})  # fmt: skip
    else:
        said = error or ("was left behind; it is gone on with" if ran.ended is None else f"is {ran.state}")
        print(f"run {ran.id} of plan {output.one_line(ran.plan)}: {output.one_line(said)}", flush=True)


def _done(made: Any) -> str:
    return "is not protected any more" if made is None else f"point {made.number}; {vaults.changed(made)}"
