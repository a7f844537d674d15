"""Calls in processes of their own that end at one of their steps, by the signal that nobody can catch: nothing of them
is tidied up, no lock given back, and a host's own command that runs just then goes on by itself.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import killing

from bench import Bench
from secondsite.orchestration.hosts import reaching
from secondsite.orchestration.processes import limited
from secondsite.orchestration.protection.worker import EngineWorker
from secondsite.orchestration.vault import database
from secondsite.orchestration.vault.database import Database

# What an operation of a host does to files and processes, as Python tells of it before it is done.
_EVENTS = {
    "os.rename", "os.remove", "os.link", "os.truncate", "os.mkdir", "os.rmdir", "subprocess.Popen", "fcntl.ioctl",
    "signal.pthread_kill", "os.kill", "socket.connect",
}  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Steps:
    """Counts steps, and kills this process at one; 0 is never."""

    def __init__(self, at: int) -> None:
        self.at, self.taken, self._one = at, 0, threading.RLock()  # what is collected there may open a file

    def step(self) -> None:
        with self._one:
            self.taken += 1
            last = self.taken == self.at
        if last:  # outside of the lock: the kill is an event too
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: Any, name: str) -> None:
        """Before and after it."""
        call = getattr(owner, name)

        def called(*arguments: Any, **more: Any) -> Any:
            self.step()
            found = call(*arguments, **more)
            self.step()
            return found

        setattr(owner, name, called)

    def outer(self) -> None:
        """Of transactions, calls of hosts and cycles."""
        Database.begin = killing.stepping(self.step)  # type: ignore[method-assign]
        self.around(reaching.Here, "call")
        self.around(EngineWorker, "replicate")

    def inner(self) -> None:
        """Of what is done to files and processes within those, by the hosts too, which are this process."""
        for name in ("fsync", "fdatasync"):
            self.around(os, name)
        self.around(limited, "_Streams")  # a command was started just now
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _EVENTS or (event == "open" and arguments[2] is not None and arguments[2] & _WRITES):
            self.step()


def call(bench: Bench, what: Callable[[], object], at: int = 0, *, inner: bool = False) -> int:
    """The steps that it took; 0 where it was killed at `at`. Raises AssertionError with what it raised."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that threads are not there in the child is meant
        child = os.fork()
    if child == 0:
        os.close(read)
        _child(bench, what, Steps(at), write, inner=inner)
    os.close(write)
    with os.fdopen(read) as file:
        told = file.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL and at, (status, told)
        return 0
    assert os.waitstatus_to_exitcode(status) == 0, told
    return int(told)


def _child(bench: Bench, what: Callable[[], object], steps: Steps, write: int, *, inner: bool) -> None:
    """It never returns."""
    code = 1
    try:
        place = bench.database.label
        bench.database.engine.dispose(close=False)  # those connections are the parent's
        bench.database = database.opened(place)
        steps.inner() if inner else steps.outer()
        what()
        os.write(write, str(steps.taken).encode())
        code = 0
    except BaseException:
        os.write(write, traceback.format_exc()[-30_000:].encode())
    finally:
        os._exit(code)
