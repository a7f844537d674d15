"""The run of a plan as a durable workflow: killed at any task, it goes on there.

The library remembers which tasks ended; what they came to is in the vault as well (journal.py), where others see it. A
run has an executor of its own name, so that a process which takes it recovers this run and no other.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dbos import DBOS, DBOSClient, DBOSConfig, SetWorkflowID

from secondsite.engine import errors
from secondsite.orchestration.plans import journal
from secondsite.orchestration.plans.doing import Doing, stops
from secondsite.orchestration.protection import leases
from secondsite.orchestration.vault.database import Database

# The library ties a run to the sources of its workflow unless told otherwise, and an upgrade would strand it. This
# number changes only where a run that was begun by older code could not be gone on with by newer code.
VERSION = "1"
# How soon a confirmation is seen, in seconds; and how often a run looks whether one was missed.
_POLL_SECONDS = 0.1
_LOOK_SECONDS = 600
_RENEW_SECONDS = journal.LEASE_SECONDS / 4

_doing: Doing | None = None


def system(database: Database) -> str:
    """Where the library keeps its tables: beside a vault that is a file, else in a schema of the same database."""
    if database.shared:
        return database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    return f"sqlite:///{database.label}.workflows"


@dataclass
class Execution:
    """A run that this process is at."""

    doing: Doing
    ended: threading.Event = field(default_factory=threading.Event)
    state: str = ""
    """What the run ended as; empty while it has not."""
    error: BaseException | None = None

    def stop(self) -> None:
        """Have it end after what is done just now; scripts are ended. It may be resumed."""
        self.doing.stopping.set()

    @property
    def left(self) -> bool:
        """Whether it was stopped, and nothing of it is done any more."""
        return self.doing.stopping.is_set() and not self.doing.working


@contextmanager
def executing(doing: Doing) -> Iterator[Execution]:
    """Go on with a run that was claimed, in threads, until it ends or is left. Raises Unreachable where the library's
    database does not answer.
    """
    global _doing
    _doing = doing
    execution = Execution(doing)
    config: DBOSConfig = {
        "name": "secondsite", "system_database_url": system(doing.database), "application_version": VERSION,
        "executor_id": doing.run.id, "log_level": "CRITICAL", "console_log_level": "CRITICAL",
        "notification_listener_polling_interval_sec": _POLL_SECONDS, "use_listen_notify": False,
    }  # fmt: skip
    left = threading.Event()
    threads = [
        threading.Thread(target=target, args=(execution, left), daemon=True) for target in (_run, _renew)
    ]
    try:
        DBOS(config=config)
        DBOS.launch()
    except Exception as error:
        raise errors.Unreachable(f"the workflows' database: {' '.join(str(error).split())[:200]}") from None
    try:
        for thread in threads:
            thread.start()
        yield execution
    finally:
        left.set()
        if execution.ended.is_set():
            DBOS.destroy()
        _doing = None


def _name(run: journal.Run) -> str:
    return f"{run.id}-{run.attempt}"


def _run(execution: Execution, left: threading.Event) -> None:
    run = execution.doing.run
    try:
        with SetWorkflowID(_name(run)):
            handle = DBOS.start_workflow(recovery, run.id, len(run.tasks), stops(run.kind))
        execution.state = handle.get_result(polling_interval_sec=_POLL_SECONDS)
    except BaseException as error:
        execution.error = error
    execution.ended.set()


def _renew(execution: Execution, left: threading.Event) -> None:
    """Hold the run; where it was lost another process goes on with it, and this one stops."""
    doing = execution.doing
    while not left.wait(_RENEW_SECONDS) and not execution.ended.is_set():
        try:
            now = leases.now(doing.database, doing.clock())
            held = journal.renew(doing.database, doing.run.id, doing.holder, now)
        except errors.Error:
            continue  # the lease ends by itself
        if not held:
            execution.stop()


@DBOS.workflow(name="recovery-plan")
def recovery(run: str, count: int, stop_at_errors: bool) -> str:
    """How the run ended. It has the same steps each time: a manual one waits as often as it has to."""
    failed = 0
    for number in range(1, count + 1):
        state = _do(run, number)
        while state == "waiting":
            DBOS.recv(f"confirmed-{number}", timeout_seconds=_LOOK_SECONDS)
            state = _do(run, number)
        failed += state == "failed"
        if failed and stop_at_errors:
            return _end(run, "stopped")
    return _end(run, "failed" if failed else "done")


def _do(run: str, number: int) -> str:
    return DBOS.run_step({"name": f"task {number}"}, _task, run, number)


def _task(run: str, number: int) -> str:
    """One task. Where this process is to stop it is left as it is: an error would be remembered as its end."""
    doing = _mine(run)
    try:
        return doing.do(number)
    except errors.Cancelled:
        _park()
        raise
    except errors.Error:
        # The vault did not answer, or another process is at it: the run is not said to have ended.
        doing.stopping.set()
        _park()
        raise


def _park() -> None:
    """This thread goes no further; the process ends without it."""
    threading.Event().wait()


def _end(run: str, state: str) -> str:
    return DBOS.run_step({"name": "end"}, _finish, run, state)


def _finish(run: str, state: str) -> str:
    doing = _mine(run)
    if DBOS.workflow_id != _name(doing.run):
        return state  # an earlier attempt, which was killed when it had ended
    try:
        if doing.look_back(len(doing.run.tasks) + 1) and state == "done":
            state = "stopped" if stops(doing.run.kind) else "failed"
        journal.finish(doing.database, run, doing.holder, state, doing.clock())
    except errors.Error:
        doing.stopping.set()
        _park()
        raise
    return state


def _mine(run: str) -> Doing:
    if _doing is None or _doing.run.id != run:
        _park()  # of an executor that this process is not any more
    assert _doing is not None
    return _doing


def confirmed(database: Database, run: str, attempt: int, number: int) -> None:
    """Wake a run that waits for a confirmation, which is in the vault already; where that fails it looks by itself."""
    client = DBOSClient(system_database_url=system(database))
    try:
        client.send(f"{run}-{attempt}", "yes", f"confirmed-{number}")
    finally:
        client.destroy()
