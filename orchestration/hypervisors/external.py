"""A hypervisor that the user's own commands drive, with limits on their time and on what they say."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from secondsite.engine import errors
from secondsite.orchestration.estate.model import Commands
from secondsite.orchestration.hosts.spec import MachineSpec, packed
from secondsite.orchestration.hypervisors.base import Running
from secondsite.orchestration.hypervisors.driven import Driven
from secondsite.orchestration.processes import limited

RUNS, STOPPED = 0, 3
_MOST_BYTES = 16 << 20


class External(Driven):
    """Commands.status is believed where it ends with 0 or 3, and nothing else is."""

    def __init__(self, spec: MachineSpec) -> None:
        super().__init__(spec)
        if spec.commands is None:
            raise errors.Usage(f"machine {spec.name!r} has an external hypervisor without commands")
        self._commands: Commands = spec.commands

    def look(self) -> tuple[Running, str]:
        try:
            ended = self._run(self._commands.status)
        except errors.Unreachable as error:
            return "unknown", str(error)
        if ended.late:
            return "unknown", f"its status command did not end within {self._commands.seconds} s"
        if ended.status in (RUNS, STOPPED):
            return ("running" if ended.status == RUNS else "stopped"), ended.last_line
        return "unknown", f"its status command ended with {ended.status}: {ended.last_line or 'it said nothing'}"

    def begin(self) -> None:
        self._do("start", self._commands.start)

    def press(self) -> None:
        self._do("stop", self._commands.stop, {"SECONDSITE_HOW": "acpi"})

    def kill(self) -> None:
        self._do("stop", self._commands.stop, {"SECONDSITE_HOW": "kill"})

    def forget(self) -> None:
        """It knows of none but those that it runs."""

    def screenshot(self) -> bytes:
        if not self._commands.screenshot:
            raise errors.Refused(f"machine {self.name!r} has an external hypervisor without a screenshot command")
        if not self.folder.exists():
            raise errors.Refused(f"machine {self.name!r} was not started here")
        path = self.folder.file("screen.png")
        try:
            self._do("screenshot", self._commands.screenshot, {"SECONDSITE_OUTPUT": path})
            with open(path, "rb") as file:
                return file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise errors.from_os(error, path, "read what the screenshot command wrote") from None
        finally:
            with suppress(OSError):
                os.unlink(path)

    def _do(self, what: str, command: tuple[str, ...], environment: dict[str, str] | None = None) -> None:
        """Nobody else changes the machine as long as it runs, whatever becomes of this process. Raises Refused with the
        last line that it said, Unreachable where it did not end in time.
        """
        ended = self._run(command, environment, keeping=self.folder.lock)
        if ended.late:
            seconds = self._commands.seconds
            raise errors.Unreachable(f"the {what} command of machine {self.name!r} did not end within {seconds} s")
        if ended.status != 0:
            said = ended.last_line or "it said nothing"
            raise errors.Refused(f"the {what} command of machine {self.name!r} ended with {ended.status}: {said}")

    def _run(
        self, command: tuple[str, ...], environment: dict[str, str] | None = None, keeping: int | None = None
    ) -> limited.Ended:
        given = json.dumps(self.description()).encode() + b"\n"
        seconds = float(self._commands.seconds)
        return limited.run(command, seconds, given=given, environment=environment, keeping=keeping)

    def description(self) -> dict[str, Any]:
        """What a command is told: the machine as this host was told of it, the addresses of its cards, and of each
        disk a path, or the URL of an export that it is to be connected to.
        """
        made = packed(self.spec)
        made["disks"] = [self._disk(one) for one in self.disks.told()]
        made["nics"] = [{**nic, "mac": mac} for nic, mac in zip(made["nics"], self.macs(), strict=True)]
        return made

    @staticmethod
    def _disk(told: dict[str, Any]) -> dict[str, Any]:
        if not told["overlay"]:
            return told
        return {**told, "url": f"nbd+unix:///{quote(told['name'], safe='')}?socket={quote(told['socket'])}"}
