"""`replicate` into a store again and again: what an idle cycle asks, who waits for whom, and how fast it may go."""

from __future__ import annotations

import threading
import time

import pytest
from store.httpproxy import Trouble, proxied
from store.sitekit import MIB, Site
from store.storekit import azure_store, s3_store

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.remote.link.schedule import Throttle, parse
from secondsite.engine.remote.patience import patiently
from secondsite.engine.store import retry
from secondsite.engine.store.base import Held
from secondsite.engine.store.folder import FolderStore
from secondsite.engine.store.log.layout import HEAD
from secondsite.engine.store.paced import Body, Pace
from secondsite.engine.store.retry import Limits

pytestmark = pytest.mark.needs("azurite")


@pytest.fixture
def site(opens_azure, tmp_path):
    return Site(opens_azure, tmp_path)


def quick():
    """Seconds of a clock that runs five times as fast."""
    return 5 * time.monotonic()


def briefly(seconds):
    time.sleep(seconds / 5)


class Watched:
    """A watch in a thread; `seen` are its cycles that ended, with the number of requests so far."""

    def __init__(self, site, count=lambda: 0, **more):
        self.seen, self.told, self.stop, self.count, self.failed = [], [], threading.Event(), count, None
        given = {"every": 1.0, "state": site.state, "tracker": "scan", "monotonic": quick, "sleep": briefly, **more}
        self.thread = threading.Thread(target=self._run, args=(site, given), daemon=True)
        self.thread.start()

    def _run(self, site, given):
        try:
            engine.watch(site.disk, site.url, observe=self._observe, cancel=self.stop.is_set, **given)
        except errors.Error as error:
            self.failed = error

    def _observe(self, now):
        if now.last is not None:
            self.seen.append((now.last, self.count()))
        self.told.append(now)

    def wait(self, cycles, seconds=30.0):
        end = time.monotonic() + seconds
        while len(self.seen) < cycles:
            assert time.monotonic() < end and self.failed is None, (self.seen, self.failed)
            time.sleep(0.02)
        return self

    def end(self):
        self.stop.set()
        self.thread.join(20)
        assert isinstance(self.failed, errors.Cancelled), self.failed


@pytest.fixture
def away(opens_azure, monkeypatch):
    """The proxy that the store is reached by, and an event; while that is set nothing is answered."""
    event = threading.Event()
    with proxied(opens_azure.port, lambda method, path: Trouble("refused") if event.is_set() else None) as proxy:
        text = opens_azure.connection_string.replace(f":{opens_azure.port}/", f":{proxy.port}/")
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
        yield proxy, event


def test_an_idle_cycle_asks_three_times(site, away):
    """It takes the lease, looks at the head, and lets go of it: whoever prunes gets his turn between two cycles."""
    site.write()
    proxy, _ = away
    watched = Watched(site, lambda: proxy.requests).wait(4)
    site.write()
    changed = len(watched.seen)
    watched.wait(changed + 4).end()
    kinds = [done.kind for done, _ in watched.seen]
    assert kinds[0] == "initial" and kinds.count("delta") == 1 and kinds[-1] == "unchanged", kinds
    counts = [after - before for (_, before), (_, after) in zip(watched.seen, watched.seen[1:], strict=False)]
    print(kinds, counts)
    for kind, count in zip(kinds[1:], counts, strict=True):
        assert count == 3 if kind == "unchanged" else count <= 10, (kinds, counts)
    assert site.restored() == bytes(site.data)


def test_a_store_that_is_away_for_a_moment_costs_time_and_no_cycle(site, away):
    site.write()
    _, event = away
    watched = Watched(site).wait(1)
    event.set()
    site.write()
    time.sleep(1.0)
    event.clear()
    watched.wait(4).end()
    assert [done.kind for done, _ in watched.seen].count("delta") == 1
    assert any("were made again" in line for done, _ in watched.seen for line in done.warnings)
    assert len(watched.seen[-1][0].warnings) == 0  # each is told with its own cycle
    assert site.restored() == bytes(site.data)


def test_a_watch_goes_on_while_others_prune_or_write(site):
    """What another holder changed between two cycles is noticed; while he holds it the watch tries again."""
    site.cycle()
    watched = Watched(site).wait(2)
    fence = patiently(lambda: site.store.fence(HEAD, 15))
    end = time.monotonic() + 20
    while watched.told[-1].state != "retrying" and time.monotonic() < end:
        time.sleep(0.02)
    assert "somebody else holds it" in watched.told[-1].error
    fence.release()
    site.write()
    before = len(watched.seen)
    watched.wait(before + 2).end()
    assert site.restored() == bytes(site.data)


def test_figures_for_prometheus(site):
    import urllib.request

    site.write()
    watched = Watched(site, metrics=("127.0.0.1", 0)).wait(1)
    where = next(now.metrics for now in watched.told if now.metrics)
    text = urllib.request.urlopen(f"http://{where}/metrics", timeout=10).read().decode()
    watched.end()
    assert f'secondsite_cycles_total{{replica="{site.url}"}} ' in text
    sent = next(line for line in text.splitlines() if line.startswith("secondsite_sent_bytes_total"))
    assert float(sent.split()[-1]) > 8 * MIB and "certificate" not in text


@pytest.mark.parametrize("kind", ["azure", "s3", "folder"])
def test_new_objects_keep_to_a_pace(kind, azurite, request, tmp_path):
    pace = Pace(Throttle(4 * MIB))
    if kind == "azure":
        store = azure_store(azurite)
    else:
        store = FolderStore(str(tmp_path)) if kind == "folder" else s3_store(request.getfixturevalue("moto"))
    store.put_if_absent("held", b"x" * 100)
    store.pace = pace
    began, data = time.monotonic(), bytes(range(256)) * (24 << 10)
    store.put_if_absent("large", data)
    took = time.monotonic() - began
    assert took > 1.1, took  # 6 MiB, of which a quarter of a second's are free
    fence = store.fence("held", 15)
    pace.throttle.limit = 0  # nothing may go, and who holds a fence goes on holding it
    began = time.monotonic()
    fence.renew()
    fence.release()
    assert time.monotonic() - began < 1 and bytes(store.get("large").data) == data


def test_a_body_is_read_as_fast_as_it_may_go():
    data = bytes(range(256)) * 4096
    throttle = Throttle(4 * MIB)
    began, body, parts = time.monotonic(), Body(data, Pace(throttle)), []
    while part := body.read(16384):
        parts.append(part)
        assert sum(map(len, parts)) <= (time.monotonic() - began + 0.3) * 4 * MIB
    assert b"".join(parts) == data == b"".join(Body(data, Pace(Throttle()))) and len(body) == len(data)
    body = Body(data, Pace(throttle))
    throttle.limit = 0
    assert b"".join(iter(lambda: body.read(100_000), b"")) == data  # what was begun is not left standing


def test_a_limited_cycle_goes_so_fast_and_a_stop_ends_it(site):
    site.write()
    began = time.monotonic()
    site.replicate(limit=4 * MIB, block_size=65536)
    assert 2.0 < time.monotonic() - began < 12
    assert site.restored() == bytes(site.data)
    site.write(MIB)
    stop = threading.Event()
    threading.Timer(0.7, stop.set).start()
    began = time.monotonic()
    with pytest.raises(errors.Cancelled):
        site.replicate(schedule="0", cancel=stop.is_set)
    assert time.monotonic() - began < 5
    assert parse("0")[0].rate == 0 and len(engine.points(site.url)) == 1
    assert site.replicate().kind == "delta"


def test_who_holds_it_is_waited_for_only_where_somebody_says_so(site):
    site.cycle()
    fence, told = site.store.fence(HEAD, 15), []
    for link in (None, engine.Link(), engine.Link(retries=0)):
        with pytest.raises(Held):
            site.replicate(link=link)
    threading.Timer(0.6, fence.release).start()
    site.write()
    done = site.replicate(link=engine.Link(retries=20, delays=(0.2,), notify=told.append))
    assert done.kind == "delta" and told and "somebody else holds it" in told[0] and "tried again in 0.2 s" in told[0]


def hasty(monkeypatch):
    """A call to a store is given up after two tries."""
    monkeypatch.setattr(retry, "Limits", lambda: Limits(attempts=2, seconds=1.0, first=0.05, longest=0.1))


def test_a_store_that_is_not_there_ends_the_first_try(site, away, monkeypatch):
    hasty(monkeypatch)
    site.write()
    _, event = away
    event.set()
    began, told = time.monotonic(), []
    with pytest.raises(errors.Unreachable):
        site.replicate(link=engine.Link(delays=(0.1,), notify=told.append))
    assert time.monotonic() - began < 20 and told == []
    threading.Timer(1.0, event.clear).start()
    assert site.replicate(link=engine.Link(retries=50, delays=(0.1,), notify=told.append)).kind == "initial"
    assert "given up after 2 attempts" in told[0]


def test_a_watch_begins_while_the_store_is_away(site, away, monkeypatch):
    hasty(monkeypatch)
    site.write()
    _, event = away
    event.set()
    watched = Watched(site)
    end = time.monotonic() + 10
    while not (watched.told and watched.told[-1].state == "retrying") and time.monotonic() < end:
        time.sleep(0.02)
    assert "no answer" in watched.told[-1].error
    event.clear()
    watched.wait(1).end()
    assert watched.seen[0][0].kind == "initial"
