"""How repeated cycles are doing, as figures for Prometheus, from the side of the source."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from secondsite.engine import errors
from secondsite.engine.figures import Family
from secondsite.engine.remote import url
from secondsite.engine.store.place import is_url

if TYPE_CHECKING:
    from secondsite.engine.remote.sending.tally import Sent
    from secondsite.engine.remote.trust.expiry import End
    from secondsite.engine.watching import Status

STATES = ("initial", "replicating", "degraded", "resync required", "retrying", "waiting")
Address = tuple[str, int]


class Vitals:
    """Of the cycles of one replica, named by its path or URL. `sent` counts what goes to another host or store, `ends`
    says whose certificates that needs.
    """

    def __init__(
        self, replica: str, sent: Sent | None = None, ends: Callable[[], list[End]] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.replica, self._sent, self._ends, self._monotonic = replica, sent, ends, monotonic
        self._now: Status | None = None
        self._good: float | None = None  # the moment that the newest point is of
        self._seconds: float | None = None
        self._written = self._failed = 0
        self._errors: Counter[str] = Counter()

    def observe(self, now: Status) -> None:
        """Each Status of the cycles, in their order."""
        self._now = now
        if now.age is not None:
            self._good = self._monotonic() - now.age
        if now.last is not None:
            self._seconds = now.last.seconds
            self._written += now.last.sent_bytes
        if now.failed != self._failed:
            self._failed = now.failed
            self._errors[now.error_kind or "Error"] += 1

    def text(self) -> str:
        """All figures of now."""
        from secondsite.engine import exporter

        return exporter.text(self._families())

    def _families(self) -> Iterator[Family]:
        now = self._now
        if now is None:
            return
        age = None if self._good is None else max(self._monotonic() - self._good, 0.0)
        sent, twice = (self._sent.all_bytes, self._sent.all_again) if self._sent else (self._written, 0)
        yield self._one("last_good_age_seconds", "Seconds since the moment that the newest point is of.", age)
        yield self._one("pending_bytes", "Not looked at yet by the running cycle, or marked since.", now.pending)
        yield self._one("cycle_seconds", "How long the last cycle took that ended well.", self._seconds)
        yield self._one("cycles_total", "Cycles that ended well.", now.cycles)
        yield self._one("missed_cycles_total", "Cycles that were due while another ran or failed.", now.missed)
        yield self._one("sent_bytes_total", "Bytes of frames given to the link, or of blocks for a folder.", sent)
        yield self._one("sent_twice_bytes_total", "Of them those that were lost on the way and sent again.", twice)
        yield self._many("errors_total", "Cycles that ended with an error, by its kind.", "kind", self._errors)
        states = {state: int(state == now.state) for state in STATES}
        yield self._many("state", "1 for the state that it is in.", "state", states)
        if self._ends is not None:
            from secondsite.engine.remote.trust.expiry import family

            yield family(self._ends())

    def _one(self, name: str, about: str, value: float | None) -> Family:
        return self._family(name, about, [({}, value)] if value is not None else [])

    def _many(self, name: str, about: str, label: str, values: Mapping[str, int]) -> Family:
        return self._family(name, about, [({label: one}, value) for one, value in sorted(values.items())])

    def _family(self, name: str, about: str, samples: list[tuple[dict[str, str], float]]) -> Family:
        whole = [({"replica": self.replica, **labels}, value) for labels, value in samples]
        return Family(f"secondsite_{name}", "counter" if name.endswith("_total") else "gauge", about, whole)


@contextmanager
def told(
    where: Address | None, replica: str | os.PathLike[str], options: Mapping[str, Any],
    observe: Callable[[Status], None],
) -> Iterator[tuple[Callable[[Status], None], str | None]]:  # fmt: skip
    """While it is open, what `observe` is to be instead tells the figures at `where`, and at which address that is.
    `options` are those of the cycles. Raises Unreachable.
    """
    if where is None:
        yield observe, None
        return
    from secondsite.engine import exporter

    name = os.fspath(replica)
    vitals = _of(name, options)
    server = exporter.Server(*where, vitals.text)

    def both(now: Status) -> None:
        vitals.observe(now)
        observe(now)

    try:
        yield both, server.address
    finally:
        server.close()


def _of(name: str, options: Mapping[str, Any]) -> Vitals:
    if url.is_remote(name):
        return _far(name, options)
    link = options.get("link")
    return Vitals(name if is_url(name) else os.path.abspath(name), link.sent if link is not None else None)


def _far(name: str, options: Mapping[str, Any]) -> Vitals:
    from secondsite.engine.remote.home import Home
    from secondsite.engine.remote.trust import expiry

    remote, home = url.parse(name), Home.of(options.get("state"))

    def ends() -> list[End]:
        try:
            return expiry.at_source(home, remote)
        except errors.Error:
            return []

    return Vitals(name, options["link"].sent, ends)
