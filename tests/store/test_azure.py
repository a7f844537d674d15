"""What is Azure's own: https, credentials that do not open, and what is not loaded where nobody asks for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from secondsite.engine.store.base import Denied, Rejected

pytestmark = pytest.mark.needs("azurite")
MIB = 1 << 20


def _store(emulator, container="tests", **more):
    from azure.storage.blob import ContainerClient

    from secondsite.engine.store.azure import AzureStore, client_settings

    text = more.pop("connection_string", emulator.connection_string)
    client = ContainerClient.from_connection_string(text, container, **client_settings(10), **more)
    return AzureStore(client, "x/", "azure://tests")


def test_https_with_a_certificate_of_ours(azurite_https):
    from store.storekit import azure_store

    with azure_store(azurite_https) as store:
        data = os.urandom(5 * MIB)
        store.put_if_absent("large", data)
        assert store.get("large").data == data


def test_a_certificate_that_nobody_vouches_for_is_refused(azurite_https):
    with _store(azurite_https) as store, pytest.raises(Denied) as raised:
        store.get("a")
    assert "certificate" in str(raised.value) and "CERTIFICATE_VERIFY_FAILED" in str(raised.value)


def test_a_wrong_key_is_refused(azurite):
    from azurite.emulator import KEY

    wrong = azurite.connection_string.replace(KEY, "A" * 86 + "==")
    with _store(azurite, connection_string=wrong) as store, pytest.raises(Denied) as raised:
        store.put_if_absent("a", b"")
    assert str(raised.value) == "azure://tests/a: the store refuses the credentials: AuthorizationFailure"


def test_a_container_that_is_not_there_is_named(azurite):
    with _store(azurite, "nowhere") as store:
        for call in (lambda: store.put_if_absent("a", b""), lambda: store.get("a"), lambda: list(store.list())):
            with pytest.raises(Denied) as raised:
                call()
            assert "no such container" in str(raised.value)


def test_more_blocks_than_a_blob_may_have_are_refused_before_they_are_sent(azurite, monkeypatch):
    """The documented limit is 50,000; the emulator takes more."""
    from secondsite.engine.store import azure

    monkeypatch.setattr(azure, "MAX_BLOCKS", 1)
    with _store(azurite) as store, pytest.raises(Rejected):
        store.put_if_absent("a", bytes(17 * MIB))


@pytest.mark.parametrize(
    "command", [["--help"], ["points", "/nonexistent"], ["replicate", "--help"], ["materialize", "--help"]]
)
def test_commands_that_do_not_use_it_do_not_load_it(command):
    """The SDK takes 0.4 s to import."""
    code = (
        "import sys; from secondsite.orchestration.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'azure', 'obstore', 'requests'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
