"""A disk of Azure that nobody runs from any more is deleted (engine/diskdeletion.py): that one, and no other."""

from __future__ import annotations

import random

import pytest
from azure.storage.blob import BlobLeaseClient
from store.diskkit import MIB, Lab, cutting
from store.httpproxy import Trouble, listed, proxied

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.store.base import Held

pytestmark = [pytest.mark.needs("azurite"), pytest.mark.usefixtures("opens")]
DATA = random.Random(5).randbytes(MIB)


@pytest.fixture
def lab(azurite, tmp_path):
    made = Lab(azurite, tmp_path)
    made.cycle(DATA)
    return made


def number(lab: Lab) -> str:
    return engine.info(lab.replica).replica_id


def test_what_was_made_goes_with_our_snapshots_and_a_second_call_finds_nothing(lab):
    engine.standby(lab.replica, lab.url)
    reader = engine.open_image(lab.url)  # which has a snapshot of its own
    assert len(list(lab.all_snapshots())) == 2
    assert engine.delete_disk(lab.url, replica_id=number(lab))
    assert not lab.blob.exists() and not list(lab.all_snapshots())
    assert not engine.delete_disk(lab.url, replica_id=number(lab))
    reader.close()


def test_one_that_was_never_finished_goes_too_and_its_dead_writer_with_it(lab, monkeypatch):
    with monkeypatch.context() as patch:
        cutting(patch, 3, made=True)
        with pytest.raises(errors.Cancelled):
            lab.materialize()
    assert lab.state == "writing"
    BlobLeaseClient(lab.blob).acquire(lease_duration=60)  # as of a writer that was killed
    with pytest.raises(Held, match="within the last minute"):
        engine.delete_disk(lab.url, replica_id=number(lab))
    with pytest.raises(Held, match="within the last minute"):
        lab.materialize()
    assert lab.materialize(take=True).kind == "continued" and lab.holds(DATA)
    BlobLeaseClient(lab.blob).acquire(lease_duration=60)
    assert engine.delete_disk(lab.url, replica_id=number(lab), take=True)
    assert not lab.blob.exists()


def test_what_somebody_else_has_or_made_stays(lab):
    lab.materialize()
    with pytest.raises(errors.Refused, match="another replica"):
        engine.delete_disk(lab.url, replica_id="0" * 32)
    by_hand = lab.blob.create_snapshot()["snapshot"]
    with pytest.raises(errors.Refused, match=f"took a snapshot of it .{by_hand[:10]}"):
        engine.delete_disk(lab.url, replica_id=number(lab))
    lab.container.get_blob_client(lab.blob.blob_name, snapshot=by_hand).delete_blob()
    machine = BlobLeaseClient(lab.blob)
    machine.acquire(lease_duration=-1)
    assert engine.disk_in_use(lab.url)
    for take in (False, True):
        with pytest.raises(Held, match="a machine in Azure has it"):
            engine.delete_disk(lab.url, replica_id=number(lab), take=take)
        with pytest.raises(Held):
            lab.materialize(in_place=True, take=take)
    machine.release()
    assert not engine.disk_in_use(lab.url) and lab.holds(DATA)
    lab.blob.set_blob_metadata({})
    with pytest.raises(errors.Refused, match="not made by secondsite"):
        engine.delete_disk(lab.url, replica_id=number(lab))
    lab.blob.delete_blob()
    lab.blob.upload_blob(b"no disk", metadata={"secondsite_format": "1", "secondsite_replica": number(lab)})
    with pytest.raises(errors.Refused, match="not made by secondsite"):
        engine.delete_disk(lab.url, replica_id=number(lab), take=True)
    assert lab.blob.exists()


def test_a_deletion_whose_answer_is_lost_is_done(lab, azurite, monkeypatch):
    lab.materialize()
    with proxied(azurite.port, listed(Trouble("lost", methods=("DELETE",)))) as proxy:
        text = azurite.connection_string.replace(f":{azurite.port}/", f":{proxy.port}/")
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
        assert engine.delete_disk(lab.url, replica_id=number(lab))
        assert proxy.met == ["lost"]
    assert not lab.blob.exists()
