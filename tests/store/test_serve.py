"""`serve` over a replica in Azure's emulator: bytes, overlays, and a store that is away for a while."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from cli.clikit import start
from store.httpproxy import Trouble, proxied
from store.sitekit import MIB, Site

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.images.nbd import NbdImage
from secondsite.engine.store.log import steady
from secondsite.engine.store.retry import Limits

pytestmark = pytest.mark.needs("azurite")
pytest.importorskip("secondsite.engine._nbd", reason="the native kernels are not built")


def serve(site, at="latest", **more):
    return engine.serve(site.url, at, socket=str(site.folder / "s"), **more)


@pytest.fixture
def site(opens_azure, tmp_path):
    made = Site(opens_azure, tmp_path)
    for _ in range(3):
        made.cycle()
    return made


def whole(serving):
    with NbdImage(serving.urls[0]) as image:
        return bytes(image.read(0, image.size))


def test_points_are_served_while_cycles_go_on(site):
    with serve(site, "2") as serving:
        assert (serving.point, serving.size, serving.writable) == ("2", len(site.points[1]), False)
        site.cycle()
        assert whole(serving) == site.points[1]
    with serve(site) as serving:
        assert serving.point == "4" and whole(serving) == site.points[3]
        with NbdImage(serving.urls[0]) as image:
            data = site.points[3]
            for extent in image.extents(0, image.size):
                assert not extent.zero or not any(data[extent.start : extent.start + extent.length])


def test_an_overlay_takes_writes_and_is_used_again(site):
    expected = bytearray(site.points[0])
    for turn in range(2):
        with serve(site, "1", overlay=site.folder / "overlay") as serving, NbdImage(serving.urls[0], "rw") as image:
            image.write(100_001 * (turn + 1), b"written")
            expected[100_001 * (turn + 1) : 100_001 * (turn + 1) + 7] = b"written"
            image.flush()
            assert bytes(image.read(0, image.size)) == expected
    with pytest.raises(errors.Refused), serve(site, "2", overlay=site.folder / "overlay"):
        pass
    assert engine.verify(site.url).ok


@pytest.fixture
def away(site, opens_azure, monkeypatch):
    """An event; while it is set nothing that is asked of the store is answered."""
    event = threading.Event()
    with proxied(opens_azure.port, lambda method, path: Trouble("refused") if event.is_set() else None) as proxy:
        text = opens_azure.connection_string.replace(f":{opens_azure.port}/", f":{proxy.port}/")
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
        yield event


def test_a_read_waits_for_a_store_that_is_away(site, away):
    with serve(site) as serving, NbdImage(serving.urls[0]) as image:
        away.set()
        threading.Timer(1.5, away.clear).start()
        began = time.monotonic()
        assert bytes(image.read(0, image.size)) == site.points[-1]
        assert time.monotonic() - began > 1.4


def test_a_store_that_stays_away_is_an_error_and_no_other_bytes(site, away, monkeypatch):
    monkeypatch.setattr(steady, "PATIENCE", Limits(attempts=1000, seconds=1.0, longest=0.5))
    with serve(site) as serving, NbdImage(serving.urls[0]) as image:
        held = bytes(image.read(0, 5000))
        away.set()
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(errors.Unreachable):
                image.read(8 * MIB, 100_000)
            assert time.monotonic() - began < 10
        assert bytes(image.read(0, 5000)) == held == site.points[-1][:5000]  # what is kept is served
        away.clear()
        assert bytes(image.read(0, image.size)) == site.points[-1]


def test_why_a_read_failed_is_logged_once(site, caplog):
    """NBD has a number for it, and whoever runs `serve` is to know: a key that ran out, a segment that is gone."""
    for entry in list(site.store.list("segments/")):
        site.store.delete(entry.name)
    with serve(site) as serving, NbdImage(serving.urls[0]) as image:
        for _ in range(3):
            with pytest.raises(errors.Error):
                image.read(0, 4096)
    told = [record.getMessage() for record in caplog.records if "a read failed" in record.getMessage()]
    assert len(told) == 1 and "a segment is missing" in told[0], told


def test_who_ends_it_does_not_wait_for_the_store(site, away):
    def read(image):
        with pytest.raises(errors.Error):
            image.read(8 * MIB, 9)

    with serve(site) as serving:
        image = NbdImage(serving.urls[0])
        away.set()
        reader = threading.Thread(target=read, args=(image,), daemon=True)
        reader.start()
        time.sleep(0.5)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    reader.join(5)
    image.close()


def test_the_program_serves_until_it_is_told_to_stop(site):
    process = start("serve", site.url, "--at", "1", "--socket", site.folder / "s")
    line = process.stdout.readline()
    assert line.startswith("serving point 1 (read-only): nbd+unix://"), line
    with NbdImage(line.split()[-1]) as image:
        assert bytes(image.read(0, image.size)) == site.points[0]
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, ""), (out, err)
    assert not os.path.exists(site.folder / "s")
    process = start("serve", site.url, "--at", "77", "--socket", site.folder / "s")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 3 and f"{site.url}: no point 77; there are 1 to 3" in err
