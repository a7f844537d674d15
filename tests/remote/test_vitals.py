"""Figures of repeated cycles, as Prometheus asks the source's side for them."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from exposition import labels, parsed
from hosting import site, soon
from tcpproxy import TcpProxy, Trouble

from secondsite import engine
from secondsite.engine import errors, vitals
from secondsite.engine.remote.trust import agents
from secondsite.engine.watching import Status
from secondsite.orchestration import cli

pytestmark = pytest.mark.timeout(60)
MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(2 * MIB))
    return path


class Told:
    """What the cycles of a watch that runs tell now."""

    def __init__(self, replica: str) -> None:
        self.replica, self.seen, self.before = replica, list[Status](), dict[str, float]()

    def text(self) -> str:
        assert soon(lambda: bool(self.seen), 20)
        return urllib.request.urlopen(f"http://{self.seen[0].metrics}/metrics", timeout=10).read().decode()

    def now(self) -> dict[str, float]:
        """By names without the prefix and the replica; a counter that goes back is an error."""
        found = {}
        for series, value in parsed(self.text()).items():
            name = series.removeprefix("secondsite_").replace(f'replica="{self.replica}"', "")
            name = name.replace("{,", "{").replace(",}", "}").replace(",,", ",")
            found[name.removesuffix("{}")] = value
        for name, value in self.before.items():
            assert "_total" not in name or found[name] >= value, name
        self.before = found
        return found

    def comes(self, true: Callable[[dict[str, float]], bool], seconds: float = 20) -> bool:
        return soon(lambda: true(self.now()), seconds)


@contextlib.contextmanager
def watching(source: Path, replica: str | Path, **options: Any) -> Iterator[Told]:
    told, stop = Told(str(replica)), threading.Event()

    def run() -> None:
        with pytest.raises(errors.Cancelled):
            where = ("127.0.0.1", 0)
            engine.watch(
                source, replica, every=1, observe=told.seen.append, cancel=stop.is_set, metrics=where, **options
            )

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield told
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


def test_a_link_that_breaks_and_an_agent_that_goes_are_seen_in_the_figures(tmp_path: Path, disk: Path) -> None:
    with site(tmp_path) as there:
        state = there.host()
        proxy = TcpProxy(there.port, [Trouble("cut", MIB)])
        (certificate,) = agents.find(state / "agents.json", "127.0.0.1", there.port).values()
        agents.keep(state / "agents.json", "127.0.0.1", proxy.port, certificate)
        with watching(disk, f"secondsite://127.0.0.1:{proxy.port}/disk", state=state, codec="none") as told:
            assert told.comes(lambda now: now["cycles_total"] >= 1 and now['state{state="waiting"}'] == 1)
            now = told.now()
            assert 0 <= now["last_good_age_seconds"] < 5 and 0 < now["cycle_seconds"] < 5
            assert 'errors_total{kind="Unreachable"}' in now
            # What was sent is the disk, and what was lost when the link broke.
            assert 2 * MIB <= now["sent_bytes_total"] - now["sent_twice_bytes_total"] < 2.1 * MIB
            assert 3649 < now['certificate_days{peer=""}'] <= 3650
            assert 3649 < now[f'certificate_days{{peer="127.0.0.1:{proxy.port}"}}'] <= 3650
            failed = now['errors_total{kind="Unreachable"}']
            there.agent.close()
            assert told.comes(lambda now: now['errors_total{kind="Unreachable"}'] > failed)
            assert told.comes(lambda now: now['state{state="retrying"}'] == 1 and now['state{state="waiting"}'] == 0)
            assert told.comes(lambda now: now["last_good_age_seconds"] > 2)
        proxy.close()


def test_a_folder_of_any_name_tells_the_same(tmp_path: Path, disk: Path) -> None:
    root = tmp_path / 'a "replica"\\n\n{}, of\udc80'
    with watching(disk, root) as told:
        assert soon(lambda: any(now.last for now in told.seen), 20)
        text = told.text()
    assert {one["replica"] for one in labels(text, "secondsite_state")} == {str(root).replace("\udc80", "\\udc80")}
    found = {series.partition("{")[0]: value for series, value in parsed(text).items()}
    assert found["secondsite_sent_bytes_total"] == 2 * MIB and found["secondsite_sent_twice_bytes_total"] == 0
    assert "secondsite_certificate_days" not in found


def test_missed_cycles_and_every_state(tmp_path: Path) -> None:
    made = vitals.Vitals("r", monotonic=lambda: 100.0)
    for state in vitals.STATES:
        made.observe(Status(state, "", 1.0, missed=7, age=2.5))
        now = parsed(made.text())
        assert [name for name, value in now.items() if "state=" in name and value] == [
            f'secondsite_state{{replica="r",state="{state}"}}'
        ]
        assert now['secondsite_missed_cycles_total{replica="r"}'] == 7
        assert now['secondsite_last_good_age_seconds{replica="r"}'] == 2.5


def test_the_command_says_where_and_what_makes_no_sense(
    tmp_path: Path, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ["replicate", str(disk), str(tmp_path / "r")]
    assert cli.run([*ask, "--metrics", "127.0.0.1:0"]) == errors.USAGE
    assert "goes with --watch" in capsys.readouterr().err
    assert cli.run([*ask, "--watch", "1", "--metrics", "nowhere"]) == errors.USAGE
    assert "--metrics takes ADDR:PORT" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        assert cli.run([*ask, "--watch", "1", "--metrics", where]) == errors.UNREACHABLE
        assert "already in use" in capsys.readouterr().err
    disk.unlink()
    disk.mkdir()  # no source: the first cycle ends it, after the line
    assert cli.run([*ask, "--watch", "1", "--metrics", "127.0.0.1:0"]) == errors.USAGE
    shown = capsys.readouterr()
    assert "is a directory" in shown.err and re.fullmatch(r"metrics at http://127\.0\.0\.1:\d+/metrics\n", shown.out)
