"""QEMU's monitor: commands and their answers, one at a time, and events as they come in between.

QEMU's docs/interop/qmp-spec.rst. A monitor serves one client at a time; the next one waits for its greeting.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

from secondsite.engine import errors
from secondsite.engine.qemu.lines import TIMEOUT, Lines

Json = dict[str, Any]


class CommandFailed(errors.Refused):
    """QEMU refused a command. `kind` is its class of error, `description` its own words."""

    def __init__(self, command: str, kind: str, description: str, path: str) -> None:
        super().__init__(f"QEMU refuses {command}: {description}", path=path)
        self.command, self.kind, self.description = command, kind, description


class Monitor:
    """A QMP connection in command mode. Threads may share it; each command waits for its answer.

    `listen` is called with the name and data of every event, in the thread that waits for an answer just then, and
    before that answer is returned: events are not queued. Raises CommandFailed for what QEMU refuses; Unreachable for
    everything else, after which the connection is dead.
    """

    def __init__(self, lines: Lines, timeout: float = TIMEOUT) -> None:
        self.listen: Callable[[str, Json], None] = lambda name, data: None
        self.version = (0, 0)
        self._lines, self._timeout = lines, timeout
        self._lock = threading.Lock()
        self._number = 0

    @classmethod
    def connect(cls, address: str, timeout: float = TIMEOUT) -> Self:
        """`timeout` seconds: for connecting and the greeting, and for each answer later. Raises Busy where another
        client has the monitor all that time.
        """
        lines = Lines.connect(address, timeout)
        made = cls(lines, timeout)
        try:
            made._greet()
        except BaseException:
            lines.close()
            raise
        return made

    def _greet(self) -> None:
        try:
            greeting = self._lines.receive(time.monotonic() + self._timeout).get("QMP")
        except errors.Unreachable:
            if self._lines.ended != "it did not answer in time":
                raise
            text = f"no greeting within {self._timeout:g} s: another client has this monitor"
            raise errors.Busy(text, path=self.name) from None
        if not isinstance(greeting, dict):
            raise self._lines.end("it does not greet like a QEMU monitor")
        version = greeting.get("version")
        qemu = version.get("qemu") if isinstance(version, dict) else None
        if isinstance(qemu, dict) and type(qemu.get("major")) is int and type(qemu.get("minor")) is int:
            self.version = qemu["major"], qemu["minor"]
        self.run("qmp_capabilities")

    @property
    def name(self) -> str:
        return self._lines.name

    @property
    def ended(self) -> str:
        """Why nothing more can be asked; empty while it can."""
        return self._lines.ended

    def run(self, command: str, arguments: Json | None = None) -> Any:
        """The command's answer. The deadline is the answer's, however many events come first."""
        with self._lock:
            self._number += 1
            deadline = time.monotonic() + self._timeout
            message: Json = {"execute": command, "id": self._number}
            if arguments:
                message["arguments"] = arguments
            self._lines.send(message, deadline)
            while True:
                answer = self._lines.receive(deadline)
                if "event" in answer:
                    self._event(answer)
                elif "return" in answer or "error" in answer:
                    return self._answer(command, answer)
                elif "QMP" not in answer or command != "qmp_capabilities":  # one that was just started may greet twice
                    raise self._lines.end(f"it sent neither an answer nor an event: {str(answer)[:60]}")

    def _event(self, answer: Json) -> None:
        data = answer.get("data", {})
        if not isinstance(answer["event"], str) or not isinstance(data, dict):
            raise self._lines.end("it sent an event that makes no sense")
        self.listen(answer["event"], data)

    def _answer(self, command: str, answer: Json) -> Any:
        if answer.get("id") != self._number:
            raise self._lines.end(f"it answered another command than {command}")
        if "return" in answer:
            return answer["return"]
        error = answer["error"]
        if not isinstance(error, dict):
            raise self._lines.end("it sent an error that makes no sense")
        kind, description = str(error.get("class", "")), str(error.get("desc", ""))
        raise CommandFailed(command, kind, " ".join(description.split())[:500], self.name)

    def try_run(self, command: str, arguments: Json | None = None) -> bool:
        """Whether QEMU did it."""
        try:
            self.run(command, arguments)
        except CommandFailed:
            return False
        return True

    def listed(self, command: str, arguments: Json | None = None) -> list[Json]:
        """The answer of a query whose answer is a list of objects."""
        answer = self.run(command, arguments)
        if not isinstance(answer, list) or not all(isinstance(entry, dict) for entry in answer):
            raise self._lines.end(f"its answer to {command} is no list of objects")
        return answer

    def transaction(self, actions: Sequence[tuple[str, Json]]) -> None:
        """All of the actions in one instant, or none."""
        if actions:
            self.run("transaction", {"actions": [{"type": kind, "data": data} for kind, data in actions]})

    def wait_until(self, done: Callable[[], bool], what: str) -> None:
        """Ask until it is so. Raises Unreachable after the timeout."""
        deadline, pause = time.monotonic() + self._timeout, 0.002
        while not done():
            if time.monotonic() > deadline:
                raise errors.Unreachable(f"QEMU did not {what} within {self._timeout:g} s", path=self.name)
            time.sleep(pause)
            pause = min(2 * pause, 0.1)

    def close(self) -> None:
        self._lines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
