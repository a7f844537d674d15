"""What a store is and allows (engine/store/checking.py, account.py), and the limits of Azure that we hold to."""

from __future__ import annotations

import json
import mmap
import re

import pytest
from azurite.emulator import ACCOUNT, KEY
from store.diskkit import MIB
from store.storekit import azure_store, numbers
from store.test_credentials import sas

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.store import account, azure, checking, opening, place
from secondsite.engine.store.base import Rejected, check_name
from secondsite.orchestration import cli


def run(capsys, *arguments):
    status = cli.run([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


@pytest.fixture
def opened(azurite, opens, monkeypatch):
    """The container is there, and the environment is to be changed."""
    azure_store(azurite).close()
    return monkeypatch


# -- what the account is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sku", "kind", "hierarchical", "replicas", "disks"),
    [
        ("Standard_RAGRS", "StorageV2", None, True, True), ("Standard_LRS", "Storage", False, True, True),
        ("Premium_LRS", "StorageV2", False, False, True), ("Premium_ZRS", "BlockBlobStorage", False, True, False),
        ("Standard_GRS", "BlobStorage", False, True, False), ("Standard_GZRS", "StorageV2", True, True, False),
        ("Premium_LRS", "FileStorage", False, False, False),
    ],
)  # fmt: skip
def test_what_an_account_can_hold(sku, kind, hierarchical, replicas, disks):
    found = account.Account(sku, kind, hierarchical)
    assert (found.block_blobs, found.page_blobs) == (replicas, disks)


@pytest.mark.parametrize("sku", ["Standard_GRS", "Standard_RAGRS", "Standard_GZRS", "Standard_RAGZRS", "New_GRS"])
def test_a_geo_redundant_account_is_what_r12_11_asks_for(sku):
    assert not list(account.problems(account.Account(sku, "StorageV2")))


@pytest.mark.parametrize("sku", ["Standard_LRS", "Standard_ZRS", "Premium_LRS", "nonsense", ""])
def test_another_is_not(sku):
    found = list(account.problems(account.Account(sku, "StorageV2")))
    assert [problem.rule for problem in found] == ["R12.11"] and sku in found[0].text


def test_the_estate_may_be_wrong_about_it():
    found = account.Account("Standard_GRS", "StorageV2")
    assert not list(account.problems(found, said="GRS"))
    assert "the estate says RAGRS" in next(account.problems(found, said="RAGRS")).text
    assert not list(account.problems(account.Account("Standard_LRS", "StorageV2"), allowed=("LRS",)))


# -- what it allows -----------------------------------------------------------------------------------------------


@pytest.mark.needs("azurite")
def test_a_store_that_is_fit(opened, azurite, capsys):
    status, out, err = run(capsys, "check", "azure://tests/checked", "--json")
    said = json.loads(out)
    assert (status, err) == (0, "") and said["ok"] and said["problems"] == said["notes"] == []
    assert said["may"] == {"list": True, "write": True, "read": True, "delete": True}
    assert (said["sku"], said["kind"], said["redundancy"]) == ("Standard_RAGRS", "StorageV2", "RAGRS")
    assert said["page_blobs"] and said["block_blobs"] and abs(said["clock"]) < 30
    assert said["limits"] == {"page_blob": 8 << 40, "pages": 4 * MIB, "blocks": 50_000, "block": 4000 * MIB}
    assert not list(azure_store(azurite, "checked/").list())
    status, out, err = run(capsys, "check", "azure://tests/checked")
    assert (status, err) == (0, "") and "may         list, write, read, delete\n" in out
    assert out.endswith("ok: azure://tests/checked\n") and "8.0 TiB in pages of 4.0 MiB" in out


@pytest.mark.needs("azurite")
@pytest.mark.parametrize(
    ("rights", "may"), [("rl", "list, read"), ("rwl", "list, write, read"), ("wd", "write, delete"), ("", "nothing")]
)
def test_rights_that_are_missing_are_named(opened, azurite, capsys, rights, may):
    opened.delenv("AZURE_STORAGE_CONNECTION_STRING")
    opened.setenv("AZURE_STORAGE_ACCOUNT", ACCOUNT)
    opened.setenv("AZURE_STORAGE_SERVICE_ENDPOINT", azurite.url)
    signed = sas(-60) if not rights else sas(permission=rights)
    opened.setenv("AZURE_STORAGE_SAS_TOKEN", signed)
    prefix = f"p{next(numbers)}"
    status, out, err = run(capsys, "check", f"azure://tests/{prefix}")
    assert (status, err) == (errors.REFUSED, "") and f"may         {may}\n" in out and out.count("PROBLEM: ")
    assert f"NOT OK: azure://tests/{prefix}" in out and "sig=" not in out and signed[-20:] not in out
    left = [entry.name for entry in azure_store(azurite, prefix + "/").list()]
    assert (f"note: {left[0]} stays there\n" in out) if rights == "rwl" else not left


@pytest.mark.needs("azurite")
def test_a_container_that_is_missing_and_a_key_that_is_wrong(opened, azurite, capsys):
    status, out, _ = run(capsys, "check", "azure://nowhere/x")
    assert status == errors.REFUSED and "PROBLEM: list: there is no such container\n" in out
    assert out.count("PROBLEM") == 1
    opened.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.connection_string.replace(KEY, "B" * 86 + "=="))
    status, out, _ = run(capsys, "check", "azure://tests/x", "--json")
    said = json.loads(out)
    assert status == errors.REFUSED and not any(said["may"].values()) and said["sku"] is None
    assert "the account says nothing of itself" in said["notes"][0] and "BBBB" not in out


@pytest.mark.needs("azurite")
@pytest.mark.parametrize(("off", "problem"), [(100, False), (2000, True), (-100000, True)])
def test_a_clock_that_is_off(opened, monkeypatch, off, problem):
    real = azure.AzureStore.account
    monkeypatch.setattr(azure.AzureStore, "account", lambda self: (real(self)[0], real(self)[1] + off))
    found = engine.check_store("azure://tests/x")
    line = next(line for line in [*found.problems, *found.notes] if "clock" in line)
    assert (line in found.problems) == problem and abs(int(re.search(r"(\d+) s off", line)[1]) - abs(off)) < 30


def test_s3_is_tried_too(moto, monkeypatch, tmp_path):
    said = f'endpoint = "{moto}"\nregion = "us-east-1"\naccess_key_id = "test"\nsecret_access_key = "test"\n'
    (tmp_path / "stores.toml").write_text(f"[s3]\n{said}")
    (tmp_path / "stores.toml").chmod(0o600)
    monkeypatch.setenv("SECONDSITE_STORES", str(tmp_path / "stores.toml"))
    found = engine.check_store("s3://bucket/x")
    assert found.ok and all(found.may.values()) and found.sku is None, found


def test_what_is_no_store_is_checked_as_an_image(capsys, tmp_path):
    assert run(capsys, "check", tmp_path / "none.vhdx")[0] == errors.UNREACHABLE
    with pytest.raises(errors.Usage):
        checking.check_store(str(tmp_path))


# -- documented limits, of which the emulator enforces none --------------------------------------------------------


@pytest.fixture
def blob(opened):
    with opening.open_page_blob(f"azure://tests/limits{next(numbers)}/disk.vhd") as made:
        yield made


@pytest.mark.needs("azurite")
def test_a_page_blob_has_at_most_8_tib(blob):
    with pytest.raises(Rejected):
        blob.create((8 << 40) + 512, {})
    blob.create(8 << 40, {})
    with blob.held():
        blob.find()
        for size in ((8 << 40) + 512, MIB + 1):
            with pytest.raises(Rejected):
                blob.resize(size)
        blob.resize(MIB)


@pytest.mark.needs("azurite")
@pytest.mark.parametrize(("offset", "length"), [(0, 4 * MIB + 512), (0, 8 * MIB), (256, 512), (0, 700), (511, 1)])
def test_pages_are_sectors_and_at_most_4_mib_at_once(blob, offset, length):
    blob.create(16 * MIB, {})
    with blob.held():
        with pytest.raises(Rejected) as raised:
            blob.put(offset, bytes(length))
        assert "sectors of 512 bytes, at most 4194304" in str(raised.value)
        blob.put(0, bytes(4 * MIB))


class Reached(Exception):
    """What is too much went to the service."""


@pytest.mark.needs("azurite")
def test_a_blob_has_at_most_50000_blocks(azurite, monkeypatch):
    def stage(self, *given):
        raise Reached

    with azure_store(azurite) as store:
        monkeypatch.setattr(azure, "PUT_BYTES", 16)
        monkeypatch.setattr(azure, "BLOCK_BYTES", 16)
        monkeypatch.setattr(azure.AzureStore, "_stage", stage)
        with pytest.raises(Rejected) as raised:
            store.put_if_absent("many", bytes(16 * 50_001))
        assert "50000 blocks" in str(raised.value)
        with pytest.raises(Reached):
            store.put_if_absent("many", bytes(16 * 50_000))


@pytest.mark.needs("azurite")
def test_a_block_has_at_most_4000_mib_and_a_request_5000(azurite, monkeypatch):
    def digest(*given, **how):
        raise Reached

    # Pages that nobody touches take no memory.
    with azure_store(azurite) as store, mmap.mmap(-1, 5001 * MIB, flags=mmap.MAP_PRIVATE | 0x4000) as big:
        monkeypatch.setattr(azure.hashlib, "md5", digest)
        for limit, length, fine in ((4001, 4001, 4000), (5001, 5001, 5000)):
            monkeypatch.setattr(azure, "PUT_BYTES", MIB if limit == 4001 else 6000 * MIB)
            monkeypatch.setattr(azure, "BLOCK_BYTES", limit * MIB)
            for count, raises in ((length, Rejected), (fine, Reached)):
                with memoryview(big) as whole, whole[: count * MIB] as part, pytest.raises(raises):
                    store.put_if_absent("big", part)


@pytest.mark.parametrize("name", ["ab", "a" * 64, "-ab", "ab-", "a--b", "aBc", "a_b", "a.b", "ä" * 3, "$logs"])
def test_names_of_containers(name):
    with pytest.raises(errors.Usage):
        place.parse(f"azure://{name}/x")


@pytest.mark.parametrize("name", ["a.", "a./b", "a//b", "/a", "a/", "..", "a\\b", "a?b", "x" * 513, "ä", "", "a b"])
def test_names_of_blobs(name):
    with pytest.raises(errors.Usage):
        check_name(name)
    assert check_name("a/b-c_d.e") == "a/b-c_d.e"
