"""Trackers whose replica is another host's: machines write, links break, and each point is the disk of one instant."""

from __future__ import annotations

import hashlib
import random
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hosting import Site, site
from tcpproxy import TcpProxy, Trouble

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.remote.sending import target
from secondsite.engine.remote.sending.outbound import Link
from secondsite.engine.remote.trust import agents
from secondsite.engine.replica.directory import Replica
from secondsite.engine.trackers import choose
from secondsite.engine.trackers.base import Cut, Have, Tracker

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))

from trackerkit import SIZE, Rig, find_rigs

pytestmark = pytest.mark.timeout(120)
KIB, MIB = 1 << 10, 1 << 20
WANTED = {"xfs": "clone", "nbd": "nbd", "qemu": "qemu"}


@dataclass
class Watched:
    """A disk that is written, cycles of it to an agent, and what its tracker was told. At each cut the writers stand
    still while its content is taken: that is what the point has to be.
    """

    rig: Rig
    there: Site
    state: Path
    proxy: TcpProxy
    tracker: str
    gate: threading.Lock = field(default_factory=threading.Lock)
    cuts: int = 0
    acknowledged: list[Have] = field(default_factory=list)

    def follow(self, tracker: Tracker) -> Tracker:
        """The tracker, with an eye on it."""
        begin = tracker.begin

        def beginning(have: Have | None, sample: Any = ()) -> Cut:
            with self.gate:
                cut = begin(have, sample)
                self.cuts += 1
                content = hashlib.sha256(self.rig.content()).hexdigest()
            self._look(cut, content)
            return cut

        tracker.begin = beginning  # type: ignore[method-assign]
        return tracker

    def _look(self, cut: Cut, content: str) -> None:
        acknowledge = cut.acknowledge

        def acknowledging(have: Have) -> None:
            newest = Replica.open(str(self.there.root / "disk")).newest()
            assert newest is not None and (newest.generation, newest.seal) == (have.generation, have.seal)
            assert self.head() == content, "the point is not the disk of its cut"
            self.acknowledged.append(have)
            acknowledge(have)

        cut.acknowledge = acknowledging  # type: ignore[method-assign]

    def head(self) -> str:
        return hashlib.sha256((self.there.root / "disk" / "head.raw").read_bytes()).hexdigest()

    def write(self, chance: random.Random, length: int) -> None:
        with self.gate:
            self.rig.write(chance.randrange(0, SIZE - length, 512), chance.randbytes(length))

    def scatter(self, seed: int) -> None:
        """Two of the four MiB are another."""
        chance = random.Random(seed)
        for _ in range(32):
            self.write(chance, 64 * KIB)

    def cycle(self, retries: int = 20, **options: Any) -> engine.Replicated:
        """The agent may be busy with a cut link for a moment yet."""
        if self.tracker == "qemu":
            daemon: Any = self.rig
            options["qemu"] = engine.Qemu(str(daemon.daemon.socket))
        url = f"secondsite://127.0.0.1:{self.proxy.port}/disk"
        link = Link(retries, (0.05,))
        done = engine.replicate(self.rig.source, url, state=self.state, codec="none", link=link, **options)
        assert done.tracker == self.tracker and not done.warnings
        return done

    @property
    def left_over(self) -> list[str]:
        """What of ours is in a QEMU between two cycles."""
        daemon: Any = self.rig
        return daemon.daemon.added() if self.tracker == "qemu" else []


@pytest.fixture(params=[one for one in find_rigs() if one.id in WANTED])
def watched(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    made = request.param
    folder = request.getfixturevalue(made.wants) / tmp_path.name if made.wants else tmp_path / "rig"
    folder.mkdir()
    rig = made(folder)
    (tmp_path / "hosts").mkdir()
    try:
        with site(tmp_path / "hosts") as there:
            state, proxy = there.host(), TcpProxy(there.port)
            (certificate,) = agents.find(state / "agents.json", "127.0.0.1", there.port).values()
            agents.keep(state / "agents.json", "127.0.0.1", proxy.port, certificate)
            one = Watched(rig, there, state, proxy, WANTED[request.node.callspec.id])
            chosen = choose.choose

            def choosing(asked: choose.Asked) -> choose.Chosen:
                found = chosen(asked)
                one.follow(found.tracker)
                return found

            monkeypatch.setattr(choose, "choose", choosing)
            try:
                yield one
            finally:
                proxy.close()
    finally:
        rig.close()


def test_points_are_exact_under_writes_while_links_are_cut(watched: Watched) -> None:
    """A link that is cut in the middle gives the cut back; the next cycle names it all again, and reads no more."""
    watched.scatter(0)
    first = watched.cycle()
    assert first.kind == "initial" and len(watched.acknowledged) == 1
    stop = threading.Event()
    wrong: list[BaseException] = []

    def writing() -> None:
        chance = random.Random(99)
        try:
            while not stop.wait(0.002):
                watched.write(chance, chance.choice((512, 4096, 16 * KIB)))
        except BaseException as error:
            wrong.append(error)

    writer = threading.Thread(target=writing)
    writer.start()
    try:
        for turn in range(2):
            watched.scatter(10 * turn + 1)
            held, cuts = list(watched.acknowledged), watched.cuts
            watched.proxy.troubles.append(Trouble(("cut", "reset")[turn], MIB))
            with pytest.raises(errors.Unreachable):
                watched.cycle(retries=0)
            assert watched.acknowledged == held and watched.cuts == cuts + 1 and not watched.left_over
            done = watched.cycle()
            assert done.kind == "delta" and not done.scanned and done.changed_bytes >= MIB
            assert len(watched.acknowledged) == len(held) + 1
        watched.scatter(30)
        watched.proxy.troubles.append(Trouble("cut", MIB))
        tried = watched.cycle()
        assert tried.attempts == 2 and not tried.scanned and len(watched.acknowledged) == 4
    finally:
        stop.set()
        writer.join(20)
    assert not wrong and not writer.is_alive() and not watched.left_over
    watched.cycle()
    assert watched.head() == hashlib.sha256(watched.rig.content()).hexdigest()
    assert engine.verify(watched.there.root / "disk").ok


def test_a_commit_that_is_not_heard_of_is_not_acknowledged(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent has the point, its answer is lost: the tracker does not know that point, and all is read again."""
    watched.scatter(0)
    watched.cycle()
    watched.scatter(1)
    finish = target.Called.finish

    def lost(*arguments: Any) -> Any:
        finish(*arguments)
        raise errors.Unreachable("the link was cut")

    with monkeypatch.context() as patch:
        patch.setattr(target.Called, "finish", lost)
        with pytest.raises(errors.Unreachable):
            watched.cycle(retries=0)
    assert len(watched.acknowledged) == 1 and not watched.left_over
    assert [point.generation for point in Replica.open(str(watched.there.root / "disk")).points()] == [1, 2]
    watched.scatter(2)
    again = watched.cycle()
    assert again.scanned and again.generation == 3 and len(watched.acknowledged) == 2
    watched.scatter(3)
    last = watched.cycle()
    assert not last.scanned and last.generation == 4
