"""A process that ends at one step of what it does, as a test counts them: before or after a call that matters; and
processes that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from secondsite.orchestration.bench import process
from secondsite.orchestration.vault.database import Database


class Killed(BaseException):
    """The process ends here."""


class Steps:
    """Counts the calls that go through `around`, each before and after it, and kills at the step `at`; 0 is never."""

    def __init__(self, at: int = 0) -> None:
        self.left, self.taken = at, 0

    def step(self) -> None:
        self.taken += 1
        self.left -= 1
        if self.left == 0:
            raise Killed

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **more: Any) -> Any:
            self.step()
            found = call(*arguments, **more)
            self.step()
            return found

        return called


def stepping(step: Callable[[], None]) -> Callable[[Any], Any]:
    """What stands for Database.begin, with a step before each transaction and behind it."""
    begin = Database.begin

    @contextmanager
    def stepping(database: Database) -> Iterator[Any]:
        step()
        with begin(database) as connection:
            yield connection
        step()

    return stepping


# Processes that serve overlays below a folder; none of them is left behind a test.
servers, end_servers = process.below, process.end_below
