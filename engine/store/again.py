"""What is said of a store's calls that were made again."""

from __future__ import annotations

import logging

from secondsite.engine.store.retry import Retry

_log = logging.getLogger("secondsite.store")


class Again:
    """Each is logged at once, and `warnings` sum them up."""

    def __init__(self) -> None:
        self.again, self.last = 0, ""
        self._said: list[str] = []

    def told(self, retry: Retry) -> None:
        """One more."""
        _log.warning("%s", retry)
        self.again, self.last = self.again + 1, str(retry.error)

    def fresh(self) -> list[str]:
        """The warnings, for who asks again and again: each call is counted once."""
        told = self.warnings
        self.again, self._said = 0, []
        return told

    def say(self, warning: str) -> None:
        """Something else that is to be known of the store."""
        _log.warning("%s", warning)
        self._said.append(warning)

    @property
    def warnings(self) -> list[str]:
        """What was said, and at most one of all calls that were made again."""
        again = [f"{self.again} calls of the store were made again, the last after {self.last}"] if self.again else []
        return [*self._said, *again]
