"""Two and three hosts, each in a network namespace of its own: cuts, kills, and a restore when the first is gone."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import namespaces
import pytest
from commands import SECONDSITE, Service, paired, run, service
from namespaces import Host
from tcpproxy import TcpProxy, Trouble

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.remote.link.connection import WINDOW
from secondsite.engine.remote.sending.tally import Sent
from secondsite.engine.units import KIB, MIB

pytestmark = [pytest.mark.needs("root", "namespaces"), pytest.mark.timeout(180)]
PORT = 8084
BLOCK = 64 * KIB
SIZE = 24 * MIB
NAMES = tuple(f"vm{number}" for number in range(1, 10))
# Sent twice, and not counted as frames: headers of messages and of TLS, heartbeats, handshakes.
OVERHEAD = 1.02


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def scribble(path: Path, chance: random.Random, blocks: int) -> None:
    """Change so many random blocks."""
    with path.open("r+b") as file:
        for block in chance.sample(range(path.stat().st_size // BLOCK), blocks):
            file.seek(block * BLOCK)
            file.write(chance.randbytes(BLOCK))


@dataclass
class Counted(Sent):
    """`lost`: bytes of frames that each cut cost."""

    lost: list[int] = field(default_factory=list)

    def resumed(self, spooled: int, generation: int = 0) -> None:
        before, first = self.again, not self.attempts
        super().resumed(spooled, generation)
        if not first:
            self.lost.append(self.again - before)


@dataclass
class Two:
    """A host with a disk, one with an agent, and between them one over which all goes: through `proxy`."""

    folder: Path
    source: Host
    middle: Host
    target: Host
    agent: Service
    proxy: TcpProxy
    state: Path = Path()
    number: int = -1

    @property
    def name(self) -> str:
        return NAMES[self.number]

    @property
    def disk(self) -> Path:
        return self.folder / f"{self.name}.raw"

    @property
    def url(self) -> str:
        return f"secondsite://{self.middle.address['source']}:{PORT}/{self.name}"

    @property
    def replica(self) -> Path:
        return self.folder / "root" / self.name

    def begin(self) -> None:
        """The agent, as it is begun anew after a crash."""
        self.agent = Service(self.folder, listen=f"0.0.0.0:{PORT}", within=self.target.within)

    def send(self, *options: str) -> subprocess.Popen[str]:
        words = ("replicate", str(self.disk), self.url, "--state", str(self.state), "--codec", "none", "--json")
        retries = ("--retries", "60", "--retry-delays", "0.1")
        return subprocess.Popen(
            (*self.source.within, *SECONDSITE, *words, *retries, *options),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def check(self) -> None:
        """Both ends are one content, by the product's own proof and by another one."""
        with self.source.inside():
            assert engine.verify(self.url, source=self.disk, state=self.state).ok
        assert engine.verify(self.replica).ok
        assert digest(self.replica / "head.raw") == digest(self.disk)


def report(sender: subprocess.Popen[str]) -> dict[str, int]:
    said, why = sender.communicate(timeout=120)
    assert sender.returncode == 0, why
    found: dict[str, int] = json.loads(said)
    return found


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    folder, any_address = tmp_path_factory.mktemp("hosts"), f"0.0.0.0:{PORT}"
    with contextlib.ExitStack() as stack:
        source, middle, target = stack.enter_context(namespaces.row("source", "middle", "target"))
        agent = stack.enter_context(service(folder, listen=any_address, within=target.within))
        with middle.inside():
            proxy = TcpProxy(PORT, host=target.address["middle"], at=(middle.address["source"], PORT))
        stack.callback(proxy.close)
        made = Two(folder, source, middle, target, agent, proxy)
        stack.callback(lambda: made.agent.stop(signal.SIGKILL))
        where = f"{middle.address['source']}:{PORT}"
        made.state = paired(folder, agent, *NAMES, within=source.within, at=where)
        yield made
    assert not namespaces.leftovers()


@pytest.fixture
def two(hosts: Two) -> Two:
    """With a disk and a replica of its own for each test."""
    hosts.number += 1
    hosts.disk.write_bytes(random.Random(hosts.number).randbytes(SIZE))
    hosts.proxy.troubles.clear()
    return hosts


def test_the_commands_over_a_link_that_is_cut(two: Two) -> None:
    chance = random.Random(3)
    first = Trouble("cut", 5 * MIB), Trouble("reset", 9 * MIB), Trouble("cut", 100), Trouble("reset", 3 * MIB)
    two.proxy.troubles += first
    began = len(two.proxy.sent)
    done = report(two.send())
    assert (done["kind"], done["generation"], done["attempts"]) == ("initial", 1, 4)  # one cut was in the handshake
    went = sum(two.proxy.sent[began:])
    assert done["over_bytes"] - done["again_bytes"] <= SIZE * OVERHEAD and done["again_bytes"] <= 3 * WINDOW
    assert went <= SIZE * OVERHEAD + done["again_bytes"] * OVERHEAD  # and no more went than was told
    two.check()
    scribble(two.disk, chance, 100)
    two.proxy.troubles += [Trouble("cut", 4 * MIB)]
    assert report(two.send())["generation"] == 2
    two.check()
    here = ("--state", two.state)
    assert "ok: point 2" in run("verify", two.url, *here, within=two.source.within)
    ok = run("verify", two.url, "--source", two.disk, *here, within=two.source.within)
    assert "against point 2" in ok


@pytest.mark.timeout(1800)
def test_random_cuts_cost_at_most_a_window_each(two: Two, sweep: bool) -> None:
    """200 of them with --sweep, while the disk changes between the cycles; seeded."""
    chance, cuts, lost = random.Random(11), 200 if sweep else 12, list[int]()
    while len(lost) < cuts:
        changed = chance.randrange(100, 250) if two.replica.exists() else SIZE // BLOCK
        scribble(two.disk, chance, changed)
        raw = changed * BLOCK
        kinds = [chance.choice(("cut", "reset")) for _ in range(chance.randint(2, 4))]
        two.proxy.troubles[:] = [Trouble(kind, chance.randrange(3000, raw // 2)) for kind in kinds]
        began, tally = len(two.proxy.sent), Counted()
        link = engine.Link(60, (0.05,), sent=tally)
        with two.source.inside():
            done = engine.replicate(two.disk, two.url, state=two.state, link=link, codec="none")
        assert max(tally.lost, default=0) <= WINDOW, tally.lost
        went = sum(two.proxy.sent[began:])
        # 20 KiB for what the handshakes and questions of an attempt take.
        assert went <= (raw + done.again_bytes) * OVERHEAD + done.attempts * 20 * KIB
        lost += tally.lost
        two.check()
    print(f"{len(lost)} cuts cost {sum(lost)} bytes, {max(lost)} at most")


def test_a_link_that_is_down_for_a_moment_is_no_cut(two: Two) -> None:
    report(two.send())
    scribble(two.disk, random.Random(5), 200)
    sender = two.send("--limit", "8M")
    time.sleep(0.7)
    two.middle.link("target", "down")
    time.sleep(0.6)
    two.middle.link("target", "up")
    done = report(sender)
    assert done["generation"] == 2 and done["again_bytes"] == 0 and done["attempts"] == 1
    two.check()


@pytest.mark.timeout(1800)
def test_either_side_is_killed_at_any_moment(two: Two, sweep: bool) -> None:
    """Seeded; 200 times with --sweep. Whoever was killed comes again, and nothing is lost but what was on the way."""
    chance, changed, killed = random.Random(7), SIZE // BLOCK, {"sender": 0, "agent": 0}
    for _ in range(200 if sweep else 4):
        goes = len(two.proxy.sent)
        sender = two.send("--limit", "60M")
        _wait_for_bytes(two, sender, goes, chance.randrange(int(changed * BLOCK * 1.2)))
        who = chance.choice(sorted(killed))
        killed[who] += sender.poll() is None
        if who == "sender":
            sender.send_signal(signal.SIGKILL)
            sender.communicate(timeout=20)
            report(two.send())
        else:
            two.agent.stop(signal.SIGKILL)
            two.begin()
            assert report(sender)["again_bytes"] <= WINDOW
        two.check()
        changed = chance.randrange(1, 200)
        scribble(two.disk, chance, changed)
    print(f"killed in the midst of it: {killed}")
    assert sum(killed.values()) > 2


def _wait_for_bytes(two: Two, sender: subprocess.Popen[str], connection: int, count: int) -> None:
    """Until so many went over a connection, or a little longer than it takes for all of them."""
    deadline = time.monotonic() + 20
    while len(two.proxy.sent) <= connection or two.proxy.sent[connection] < count:
        if sender.poll() is not None or time.monotonic() > deadline:
            return
        sending = len(two.proxy.sent) > connection and two.proxy.sent[connection] > 0
        before = two.proxy.sent[connection] if sending else 0
        time.sleep(0.02)
        if sending and before > 10 * KIB and two.proxy.sent[connection] == before:
            return  # all of it is there, and is being applied


def test_a_third_site_restores_when_the_first_is_gone(tmp_path: Path) -> None:
    """A to B to C. A with its network is removed; C brings back an older and the newest point, and B may ask it too."""
    disk, chance, states = tmp_path / "disk.raw", random.Random(9), list[str]()
    disk.write_bytes(chance.randbytes(4 * MIB))
    at_b, at_c = tmp_path / "b", tmp_path / "c"
    for place in (at_b, at_c):
        place.mkdir()
    with contextlib.ExitStack() as stack:
        a, b, c = stack.enter_context(namespaces.row("a", "b", "c"))
        near = stack.enter_context(service(at_b, listen=f"{b.address['a']}:{PORT}", within=b.within))
        far = stack.enter_context(service(at_c, listen=f"{c.address['b']}:{PORT}", within=c.within))
        sends = paired(at_b, near, "vm", state=tmp_path / "a", within=a.within)
        passes_on = paired(at_c, far, "copy", state=at_b / "here", within=b.within)
        for _ in range(2):
            scribble(disk, chance, 20)
            states.append(digest(disk))
            run("replicate", disk, near.url("vm"), "--state", sends, within=a.within)
            run("replicate", at_b / "root" / "vm", far.url("copy"), "--state", passes_on, within=b.within)
        # The hosts really are apart: from A there is no way to C.
        paired_already = ("points", far.url("copy"), "--state", passes_on)
        assert "cannot connect" in run(*paired_already, within=a.within, status=errors.UNREACHABLE)
        a.remove()
        disk.unlink()
        for point in ("1", "2"):
            out = at_c / f"{point}.raw"
            run("restore", at_c / "root" / "copy", out, "--at", point, within=c.within)
            assert digest(out) == states[int(point) - 1]
        asked = at_b / "asked.raw"
        run("restore", far.url("copy"), asked, "--at", "1", "--state", passes_on, within=b.within)
        assert digest(asked) == states[0]
