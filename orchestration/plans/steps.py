"""Scripts and calls of a plan: what they are given, and what counts as failed (R12.6, R12.7)."""

from __future__ import annotations

import http.client
import json
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from secondsite.engine import errors
from secondsite.orchestration.estate.model import Step
from secondsite.orchestration.processes import limited

# What of a script's or server's words is kept.
MOST_CHARACTERS = 4000
_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Outcome:
    """`detail` says what happened, in one line or a few."""

    ok: bool
    detail: str


@dataclass(frozen=True)
class Told:
    """What a step is told of the run that it is a step of."""

    run: str
    plan: str
    kind: str
    group: int
    machines: Sequence[str]
    key: str
    """The same each time that this step of this run is begun: what must not happen twice is known by it."""

    @property
    def environment(self) -> dict[str, str]:
        return {
            "SECONDSITE_RUN": self.run, "SECONDSITE_PLAN": self.plan, "SECONDSITE_KIND": self.kind,
            "SECONDSITE_GROUP": str(self.group), "SECONDSITE_MACHINES": " ".join(self.machines),
            "SECONDSITE_KEY": self.key,
        }  # fmt: skip


def script(step: Step, reach: Sequence[str], told: Told, cancel: Callable[[], bool]) -> Outcome:
    """R12.7: a limit on its time; anything on standard error means that it failed. `reach` is the command that runs it
    where it belongs. Raises Cancelled.
    """
    # By `env`, since what reaches another host does not carry ours there.
    words = [f"{name}={value}" for name, value in told.environment.items()]
    try:
        ended = limited.run([*reach, "env", *words, *step.script], step.seconds, cancel=cancel)
    except errors.Unreachable as error:
        return Outcome(False, str(error))
    if ended.late:
        return Outcome(False, _said(f"was ended after {step.seconds} s (R12.7)", ended.last_line))
    if ended.status:
        return Outcome(False, _said(f"ended with {ended.status}", ended.last_line))
    if ended.errors.strip():
        return Outcome(False, _said("wrote on standard error (R12.7)", ended.errors.strip()))
    return Outcome(True, _said("", ended.output.strip()))


def call(step: Step, told: Told, cancel: Callable[[], bool] = lambda: False) -> Outcome:
    """An HTTP call with what the step is told as JSON; below 400 is success. Redirects are not followed. Raises
    Cancelled.

    It has its limit as a whole: a server that sends a byte now and then would never be too slow for a socket. What it
    waits for is left to a thread that nobody waits for.
    """
    found: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    threading.Thread(target=lambda: found.put(_call(step, told)), name="call", daemon=True).start()
    until = time.monotonic() + step.seconds
    while (left := until - time.monotonic()) > 0:
        if cancel():
            raise errors.Cancelled("the run was stopped")
        with suppress(queue.Empty):
            return found.get(timeout=min(left, _LOOK_SECONDS))
    return Outcome(False, f"no answer: was given up after {step.seconds} s")


def _call(step: Step, told: Told) -> Outcome:
    assert step.http is not None
    said = {**{name.removeprefix("SECONDSITE_").lower(): value for name, value in told.environment.items()}}
    body = None if step.method == "GET" else json.dumps(said).encode()
    headers: Mapping[str, str] = {
        "Content-Type": "application/json", "Idempotency-Key": told.key, "User-Agent": "secondsite",
    }  # fmt: skip
    try:
        request = urllib.request.Request(step.http, body, dict(headers), method=step.method)
        with _OPENER.open(request, timeout=step.seconds) as answer:
            text = answer.read(MOST_CHARACTERS).decode(errors="replace")
            return Outcome(answer.status < 400, _said(f"answered {answer.status}", text))
    except urllib.error.HTTPError as error:
        with error:
            return Outcome(False, f"answered {error.code} {error.reason}")
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = error.reason if isinstance(error, urllib.error.URLError) else error
        return Outcome(False, f"no answer: {str(why) or type(why).__name__}")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Where a step leads is what its plan says."""

    def redirect_request(self, *_: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))


def _said(what: str, words: str) -> str:
    kept = words.strip()[-MOST_CHARACTERS:]
    return f"{what}: {kept}" if what and kept else what or kept
