"""What a sender says that it gave to the link, what an agent says that came, and what a proxy between them counted."""

from __future__ import annotations

import random
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from exposition import parsed
from hosting import Site
from tcpproxy import TcpProxy, Trouble

from secondsite import engine
from secondsite.engine import exporter
from secondsite.engine.remote.agent import spool
from secondsite.engine.remote.agent.receiver import Receiver
from secondsite.engine.remote.link.wire import Closed
from secondsite.engine.remote.sending.outbound import Link
from secondsite.engine.remote.sending.tally import Sent
from secondsite.engine.remote.trust import agents
from secondsite.engine.units import KIB, MIB

pytestmark = pytest.mark.timeout(60)
SIZE, BLOCK = 8 * MIB, 4096
# TLS, the headers of messages, and credits; and what the handshakes and questions of an attempt take.
SHARE, ATTEMPT = 1.01, 60 * KIB


@contextmanager
def through(there: Site, state: Path, troubles: list[Trouble]) -> Iterator[TcpProxy]:
    proxy = TcpProxy(there.port, troubles)
    (certificate,) = agents.find(state / "agents.json", "127.0.0.1", there.port).values()
    agents.keep(state / "agents.json", "127.0.0.1", proxy.port, certificate)
    try:
        yield proxy
    finally:
        proxy.close()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


def figures(there: Site) -> tuple[int, int]:
    """Bytes that came, and those of them that came again, as the agent's /metrics has them."""
    server = exporter.Server("127.0.0.1", 0, there.agent.figures)
    try:
        found = parsed(urllib.request.urlopen(f"http://{server.address}/metrics", timeout=10).read().decode())
    finally:
        server.close()
    name = "secondsite_received{}_bytes_total{{replica=\"disk\"}}"
    return int(found[name.format("")]), int(found[name.format("_twice")])


@pytest.mark.parametrize("count", [1, 4])
def test_all_three_agree_whatever_was_cut(there: Site, disk: Path, count: int) -> None:
    """What went and had not to come again is what came and had not to come again, to the byte; the proxy saw all that
    came, and no more than what went.
    """
    state, chance, sent, spare = there.host(), random.Random(count), Sent(), ATTEMPT
    troubles = [
        Trouble(kind, chance.randrange(MIB // 4, 2 * MIB)) for kind in ("cut", "reset", "cut", "flip", "reset")
        for _ in range(count)
    ]  # fmt: skip
    with through(there, state, troubles) as proxy:
        where, link = f"secondsite://127.0.0.1:{proxy.port}/disk", Link(40, (0.02,), sent=sent, connections=count)
        for cycle in range(3):
            proxy.troubles[:] = troubles[: (2 - cycle) * 3 * count]
            done = engine.replicate(disk, where, state=state, link=link, codec="none")
            spare += ATTEMPT * done.attempts * count
            with disk.open("r+b") as file:
                for block in chance.sample(range(SIZE // BLOCK), 700):
                    file.seek(block * BLOCK)
                    file.write(chance.randbytes(BLOCK))
        passed = sum(proxy.sent)
    received, twice = figures(there)
    print(f"went {sent.all_bytes}, again {sent.all_again}; came {received}, twice {twice}; passed {passed}")
    assert sent.all_again > 0, "nothing was lost: this test says nothing"
    assert sent.all_bytes - sent.all_again == received - twice
    assert twice <= sent.all_again and received <= passed <= sent.all_bytes * SHARE + spare


def test_a_point_whose_answer_was_lost_did_not_go_twice(
    there: Site, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spool is empty at the next attempt since it became the point."""
    conclude, lost = Receiver.__dict__["prune"], list[bool]()

    def once(self: Receiver, replica: object) -> int:
        if not lost:
            lost.append(True)
            raise Closed("the link broke here")
        return int(conclude(self, replica))

    monkeypatch.setattr(Receiver, "prune", once)
    done = engine.replicate(disk, there.url(), state=there.host(), link=Link(3, (0.02,)), codec="none")
    assert lost and done.attempts == 2 and done.again_bytes == 0
    assert SIZE < done.over_bytes < SIZE * SHARE and figures(there)[1] == 0


def test_what_was_dropped_at_the_agent_came_twice_on_both_sides(
    there: Site, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spool that does not fit any more is lost, and both say so."""
    state, sent = there.host(), Sent()
    taken_up = spool.Spool._resume
    monkeypatch.setattr(spool.Spool, "_resume", lambda held: False)
    with through(there, state, [Trouble("cut", 5 * MIB)]) as proxy:
        where = f"secondsite://127.0.0.1:{proxy.port}/disk"
        engine.replicate(disk, where, state=state, link=Link(3, (0.02,), sent=sent), codec="none")
    monkeypatch.setattr(spool.Spool, "_resume", taken_up)
    received, twice = figures(there)
    assert 2 * MIB < twice <= sent.all_again and sent.all_bytes - sent.all_again == received - twice
