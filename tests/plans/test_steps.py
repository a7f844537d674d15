"""Scripts and calls: what they are given, and what counts as failed."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from secondsite.engine import errors
from secondsite.orchestration.commands import recovery
from secondsite.orchestration.estate.model import Step
from secondsite.orchestration.plans import steps
from secondsite.orchestration.plans.steps import Outcome, Told

TOLD = Told("r1", "all", "planned", 2, ("a", "b"), "r1-3")


def script(*words: str, seconds: int = 10) -> Outcome:
    return steps.script(Step(name="s", script=words, seconds=seconds), (), TOLD, lambda: False)


def test_a_script_is_told_of_its_run() -> None:
    text = (
        "echo $SECONDSITE_PLAN $SECONDSITE_RUN $SECONDSITE_KIND $SECONDSITE_GROUP $SECONDSITE_MACHINES $SECONDSITE_KEY"
    )
    assert script("sh", "-c", text) == Outcome(True, "all r1 planned 2 a b r1-3")


def test_what_reaches_another_host_runs_it_there() -> None:
    step = Step(name="s", script=("sh", "-c", "echo $WHERE $SECONDSITE_GROUP"))
    assert steps.script(step, ("env", "WHERE=there"), TOLD, lambda: False) == Outcome(True, "there 2")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("exit 3", "ended with 3"),
        ("echo a; echo b >&2; exit 3", "ended with 3: b"),
        ("echo fine; echo oh >&2", "wrote on standard error (R12.7): oh"),
        ("kill -9 $$", "ended with -9"),
    ],
)
def test_a_script_that_fails(text: str, said: str) -> None:
    assert script("sh", "-c", text) == Outcome(False, said)


def test_a_script_that_hangs_floods_or_is_not_there() -> None:
    began = time.monotonic()
    assert script("sh", "-c", "echo working; sleep 60", seconds=1) == Outcome(
        False, "was ended after 1 s (R12.7): working"
    )
    assert time.monotonic() - began < 10
    flood = script("sh", "-c", "yes | head -c 10000000")
    assert flood.ok and len(flood.detail) <= steps.MOST_CHARACTERS
    missing = script("/no/such/script")
    assert not missing.ok and missing.detail.startswith("ended with 127: env: ")


class Server(http.server.BaseHTTPRequestHandler):
    heard: ClassVar[list[tuple[str, str, dict[str, str], bytes]]] = []

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.heard.append((self.command, self.path, dict(self.headers), body))
        if self.path == "/slow":
            time.sleep(3)
        if self.path in ("/dribble", "/flood"):
            self._pours()
            return
        code = {"/no": 503, "/moved": 302}.get(self.path, 200)
        self.send_response(code)
        self.send_header("Location", "/other")
        self.end_headers()
        self.wfile.write(b"it is done")

    def _pours(self) -> None:
        """A header that never ends, a byte now and then; or a body that does not."""
        flood = self.path == "/flood"
        self.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if flood else b"X-So: "))
        until = time.monotonic() + 20
        with suppress(OSError):
            while time.monotonic() < until:
                self.wfile.write(bytes(65536) if flood else b"x")
                time.sleep(0 if flood else 0.1)

    do_GET = do_POST = do_PUT = _answer

    def log_message(self, *_: object) -> None:
        """Quietly."""


def test_what_floods_does_not_fill_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    """The reason, and the last that it said; --json tells all that is kept."""
    outcome = script("sh", "-c", "echo $(seq 3000) >&2; seq 9000 >&2")
    assert len(outcome.detail) > 3000
    task: Any = SimpleNamespace(number=3, name="dns", step=None)
    recovery._tell(cast(Any, SimpleNamespace(id="r1")), task, outcome, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9 and max(map(len, lines)) < 220
    assert "wrote on standard error" in lines[0] and "recovery status r1 --json" in lines[1]
    assert lines[-1] == "     FAILED: 9000"
    recovery._tell(cast(Any, SimpleNamespace(id="r1")), task, outcome, as_json=True)
    assert json.loads(capsys.readouterr().out)["detail"] == outcome.detail


@pytest.fixture
def url() -> Iterator[str]:
    Server.heard.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_call_tells_what_it_is_of(url: str) -> None:
    assert steps.call(Step(name="s", http=f"{url}/hook"), TOLD) == Outcome(True, "answered 200: it is done")
    method, path, headers, body = Server.heard[0]
    assert (method, path, headers["Idempotency-Key"]) == ("POST", "/hook", "r1-3")
    assert json.loads(body) == {
        "run": "r1", "plan": "all", "kind": "planned", "group": "2", "machines": "a b", "key": "r1-3",
    }  # fmt: skip
    assert steps.call(Step(name="s", http=f"{url}/", method="GET"), TOLD).ok and Server.heard[1][3] == b""


def test_calls_that_fail(url: str) -> None:
    assert steps.call(Step(name="s", http=f"{url}/no"), TOLD) == Outcome(False, "answered 503 Service Unavailable")
    assert steps.call(Step(name="s", http=f"{url}/moved"), TOLD) == Outcome(False, "answered 302 Found")
    assert [one[1] for one in Server.heard] == ["/no", "/moved"]
    assert "refused" in steps.call(Step(name="s", http="http://127.0.0.1:1/"), TOLD).detail


def test_a_call_that_hangs_dribbles_or_floods_is_given_up(url: str) -> None:
    """As a script: it has its seconds, and no more of its words is kept."""
    for path in ("slow", "dribble"):
        began = time.monotonic()
        outcome = steps.call(Step(name="s", http=f"{url}/{path}", seconds=1), TOLD)
        assert outcome.ok is False and outcome.detail.startswith("no answer: ") and time.monotonic() - began < 2.5
    flood = steps.call(Step(name="s", http=f"{url}/flood", seconds=10), TOLD)
    assert flood.ok and len(flood.detail) <= steps.MOST_CHARACTERS + len("answered 200: ")
    stopped = threading.Event()
    threading.Timer(0.3, stopped.set).start()
    with pytest.raises(errors.Cancelled):
        steps.call(Step(name="s", http=f"{url}/slow", seconds=60), TOLD, stopped.is_set)
