"""The QEMU of a machine: a process that was started by us, asked over a monitor of our own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.hypervisors import stopping
from secondsite.orchestration.hypervisors.base import Cancel
from secondsite.orchestration.hypervisors.daemons import Daemon
from secondsite.orchestration.hypervisors.folder import Folder
from secondsite.orchestration.hypervisors.foreign import run_state
from secondsite.orchestration.hypervisors.qemu.console import Commands, Console

ANSWER_SECONDS = 10.0
# From the process to its monitor: 0.1 s, on a busy host more.
_START_SECONDS = 60.0
# One that waits for its disks does not end by itself.
_END_SECONDS = 5.0
_LOOK_SECONDS = 0.02
FILES = ("qmp", "control", "agent", "serial", "serial.new", "screen.png", "qmp.secondsite")


class Process:
    """As a target of stopping.stop, too."""

    def __init__(self, folder: Folder) -> None:
        self.name, self._folder = folder.name, folder
        self.daemon = Daemon(folder.path, "qemu")
        self.console = Console(folder.path)
        self.qmp, self.agent, self.monitor = folder.file("qmp"), folder.file("agent"), folder.file("control")

    def connect(self) -> engine.Monitor:
        """Our monitor, which nobody else holds for long. Raises Unreachable."""
        try:
            return engine.Monitor.connect(self.monitor, ANSWER_SECONDS)
        except errors.Busy:
            text = f"takes connections, and says nothing within {ANSWER_SECONDS:.0f} s"
            raise errors.Unreachable(text, path=self.monitor) from None

    def start(self, command: Sequence[str], namespace: str | None, cancel: Cancel) -> None:
        """Begin it. What it says is in the error of `wait`."""
        self.console.clear()
        self.daemon.start(command, namespace)
        self.wait(cancel)

    def wait(self, cancel: Cancel) -> None:
        """Until its monitor answers, whoever began it."""
        until = time.monotonic() + _START_SECONDS
        while True:
            if not self.daemon.running():
                words = self.daemon.last_words() or "it ended at once"
                raise errors.Refused(f"machine {self.name!r} cannot be started: {words}")
            try:
                self.connect().close()
                return
            except errors.Unreachable as error:
                if time.monotonic() > until:
                    text = f"machine {self.name!r} runs, and its monitor does not answer: {error}"
                    raise errors.Unreachable(text) from None
            if cancel():
                raise errors.Cancelled("the caller is gone")
            time.sleep(_LOOK_SECONDS)

    def state(self) -> str:
        """What its guest does, in QEMU's words; "" where it does not run."""
        if not self.daemon.running():
            return ""
        try:
            with self.connect() as monitor:
                return run_state(monitor)
        except errors.Unreachable:
            if self.daemon.running():
                raise
            return ""

    def over(self) -> bool:
        """Has it stopped? A guest that is down by itself has: its QEMU, which was told to stay until what it printed is
        kept (-no-shutdown), is ended then. To be asked with the machine's folder locked, as that is a change. One whose
        monitor does not answer has not, and can be killed.
        """
        try:
            found = self.state()
        except errors.Unreachable:
            return False
        if found != "shutdown":
            return not found
        with suppress(errors.Unreachable), self.connect() as monitor:
            self.console.take(monitor)
            monitor.run("quit")
        if not self.daemon.gone(_END_SECONDS):
            self._end()
        return True

    def ask(self) -> None:
        """Its guest agent."""
        stopping.ask(self.agent)

    def press(self) -> None:
        """Its power button."""
        stopping.press(self.monitor)

    def kill(self) -> None:
        """As by its power switch. What it printed is kept where it still answers."""
        with suppress(errors.Error), self.connect() as monitor:
            self.console.take(monitor)
        self._end()

    def _end(self) -> None:
        if not self.daemon.end(signal.SIGTERM, _END_SECONDS) and not self.daemon.end(signal.SIGKILL, _END_SECONDS):
            raise errors.Unreachable("its QEMU does not end, even killed", path=self._folder.path)

    def go_on(self) -> None:
        """A guest that was paused because its disks were away runs again."""
        with self.connect() as monitor:
            if run_state(monitor) == "io-error":
                monitor.run("cont")

    def screenshot(self) -> bytes:
        """A PNG. Raises Refused where this QEMU writes none (before 7.1)."""
        with self.connect() as monitor:
            return screen(monitor, self._folder.file("screen.png"))

    def said(self, most: int) -> str:
        """The last bytes of what it printed."""
        if self.daemon.running():
            with suppress(errors.Unreachable), self.connect() as monitor:
                self.console.take(monitor)
        return self.console.last(most).decode(errors="replace")


def screen(monitor: Commands, path: str) -> bytes:
    """A picture of the screen, by way of a file."""
    try:
        monitor.run("screendump", {"filename": path, "format": "png"})
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise errors.from_os(error, path, "read it") from None
    finally:
        with suppress(OSError):
            os.unlink(path)
