"""Commands on one vault as its operator gives them, in this process: that costs less than a process each."""

from __future__ import annotations

import json
from os import PathLike, fspath
from typing import Any

import pytest

from secondsite.orchestration import cli


class Shell:
    """Asserts the exit status and returns what was printed, standard output first."""

    def __init__(self, capsys: pytest.CaptureFixture[str], vault: str | PathLike[str]) -> None:
        self.capsys, self.vault = capsys, fspath(vault)

    def __call__(self, *arguments: str, status: int = 0) -> str:
        self.capsys.readouterr()
        found = cli.run([*arguments, "--vault", self.vault])
        out, err = self.capsys.readouterr()
        assert found == status, (arguments, out, err)
        return out + err

    def json(self, *arguments: str, status: int = 0) -> dict[str, Any]:
        """The value of `--json`; of a command that fails, the one before its line on standard error."""
        found = json.loads(self(*arguments, "--json", status=status).splitlines()[-1 if status == 0 else 0])
        assert isinstance(found, dict)
        return found
