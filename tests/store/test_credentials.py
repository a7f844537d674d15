"""What opens a store (engine/store/credentials.py), on the emulator; and that no output ever holds it."""

from __future__ import annotations

import base64
import datetime
import json
import logging
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from azurite.emulator import ACCOUNT, KEY
from store.httpproxy import Trouble, listed, proxied
from store.storekit import azure_store

from secondsite.engine import errors
from secondsite.engine.store import credentials, place
from secondsite.engine.store.base import Denied
from secondsite.engine.store.opening import open_store
from secondsite.engine.store.retry import Limits

QUICK = Limits(2, 5, 0.01, 0.01)


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """No environment of the machine's, and a folder of configuration that is empty."""
    import os

    for name in list(os.environ):
        if name.startswith(("AZURE_", "AWS_", "SECONDSITE_STORES")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return monkeypatch


def configure(tmp_path, text, mode=0o600):
    file = tmp_path / "secondsite" / "stores.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    file.chmod(mode)
    return file


def works(url="azure://tests/credentials", **more):
    with open_store(url, limits=QUICK, timeout=5, **more) as store:
        name = f"a{time.monotonic_ns()}"
        store.put_if_absent(name, b"opened")
        assert store.get(name).data == b"opened"
        store.delete(name)


def sas(seconds=600, permission="rwdlc", key=KEY):
    from azure.storage.blob import generate_container_sas

    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
    return generate_container_sas(ACCOUNT, "tests", account_key=key, permission=permission, expiry=end)


@pytest.fixture
def container(azurite):
    azure_store(azurite).close()
    return azurite


@pytest.mark.needs("azurite")
@pytest.mark.parametrize("kind", ["connection string", "key", "SAS", "SAS in a connection string"])
def test_the_environment_opens_it(container, bare, kind):
    if kind == "connection string":
        bare.setenv("AZURE_STORAGE_CONNECTION_STRING", container.connection_string)
    elif kind == "SAS in a connection string":
        text = f"BlobEndpoint={container.url};SharedAccessSignature={sas()}"
        bare.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    else:
        bare.setenv("AZURE_STORAGE_ACCOUNT", ACCOUNT)
        bare.setenv("AZURE_STORAGE_SERVICE_ENDPOINT", container.url)
        names = {"key": ("AZURE_STORAGE_KEY", KEY), "SAS": ("AZURE_STORAGE_SAS_TOKEN", sas())}
        bare.setenv(*names[kind])
    works()


@pytest.mark.needs("azurite")
def test_a_file_opens_it_that_only_its_owner_reads(container, tmp_path):
    text = f'[azure]\naccount = "{ACCOUNT}"\nkey = "wrong"\n'
    own = f'[azure.tests]\naccount = "{ACCOUNT}"\nkey = "{KEY}"\nendpoint = "{container.url}"\n'
    file = configure(tmp_path, text + own)
    works()
    for mode in (0o640, 0o604, 0o660):
        file.chmod(mode)
        with pytest.raises(errors.Refused) as raised:
            works()
        assert str(raised.value) == f"{file}: is open to other users; it is to be yours and have mode 600"


@pytest.mark.needs("azurite")
def test_a_token_of_azure_identity_opens_it(azurite_https, bare, tmp_path):
    """As a machine of Azure gets one: from an address in its environment. The emulator looks at what it says."""
    azure_store(azurite_https).close()
    configure(tmp_path, f'[azure]\nendpoint = "{azurite_https.url}"\nca = "{azurite_https.ca}"\n')
    asked = []

    class Tokens(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            end = int(time.time()) + 3600
            said = json.dumps({"access_token": token(end), "expires_on": str(end), "token_type": "Bearer"}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *args):
            return None

    server = HTTPServer(("127.0.0.1", 0), Tokens)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    bare.setenv("IDENTITY_ENDPOINT", f"http://127.0.0.1:{server.server_port}/token")
    bare.setenv("IDENTITY_HEADER", "header")
    try:
        works()
    finally:
        server.shutdown()
        server.server_close()
    assert asked and "storage.azure.com" in asked[0]


def token(end):
    said = {
        "aud": "https://storage.azure.com", "iss": "https://sts.windows.net/ab1f708d-50f6-404c-a006-d71b2ac7a606/",
        "iat": end - 3700, "nbf": end - 3700, "exp": end,
    }  # fmt: skip
    parts = [json.dumps(part).encode() for part in ({"alg": "RS256", "typ": "JWT"}, said)] + [b"unchecked"]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def test_nothing_that_opens_it_is_said_in_one_line(tmp_path):
    with pytest.raises(errors.Refused) as raised:
        open_store("azure://tests/x")
    said = str(raised.value)
    assert said.startswith("azure://tests: nothing says how to open it: set AZURE_STORAGE_CONNECTION_STRING")
    assert str(tmp_path) in said and "\n" not in said


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"AZURE_STORAGE_ACCOUNT": "a", "AZURE_STORAGE_KEY": "not base64!"}, "the account key"),
        ({"AZURE_STORAGE_ACCOUNT": "a", "AZURE_STORAGE_KEY": KEY, "AZURE_STORAGE_SAS_TOKEN": "sig=1"}, "both"),
        ({"AZURE_STORAGE_KEY": KEY}, "no account"),
        ({"AZURE_STORAGE_SERVICE_ENDPOINT": "https://x.y", "AZURE_STORAGE_KEY": KEY}, "not the name of its account"),
        ({"AZURE_STORAGE_CONNECTION_STRING": f"AccountKey={KEY}"}, "neither AccountName nor BlobEndpoint"),
        ({"AZURE_STORAGE_CONNECTION_STRING": f"UseDevelopmentStorage=true;AccountKey={KEY}"}, "emulator"),
        ({"AZURE_STORAGE_CONNECTION_STRING": f"BlobEndpoint=ftp://x;AccountName=a;AccountKey={KEY}"}, "no URL"),
        ({"AZURE_STORAGE_CONNECTION_STRING": "BlobEndpoint=http://10.0.0.1/a;SharedAccessSignature=sig=1"}, "https"),
        ({"AZURE_STORAGE_ACCOUNT": "a", "AZURE_STORAGE_SERVICE_ENDPOINT": "http://10.0.0.1/a"}, "https"),
    ],
)
def test_what_makes_no_sense_is_said_without_a_secret(bare, environment, said):
    for name, value in environment.items():
        bare.setenv(name, value)
    with pytest.raises(errors.Error) as raised:
        open_store("azure://tests/x")
    assert said in str(raised.value) and "environment" in str(raised.value)
    assert raised.value.exit_code in (errors.USAGE, errors.REFUSED)
    assert KEY not in _all_of(raised.value) and "not base64!" not in _all_of(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        'key = "secret"', '[azure]\nkey = 5', '[azure]\nkay = "secret"', "[azure\n", '[azure]\nkey = "secret',
        "[[azure]]", "azure = 1", "\x00",
    ],
)  # fmt: skip
def test_a_file_that_makes_no_sense_is_refused_by_name(tmp_path, text):
    file = configure(tmp_path, text)
    with pytest.raises(errors.Error) as raised:
        open_store("azure://tests/x")
    assert str(file) in str(raised.value) and "secret" not in _all_of(raised.value)


def test_no_repr_holds_a_secret(bare):
    found = credentials.Azure(account="a", key="KEY", sas="SAS", connection_string="STRING")
    assert repr(found) == "Azure(account='a')" == str(found)
    assert "SECRET" not in repr(credentials.S3(secret_access_key="SECRET", session_token="SECRET"))


@pytest.mark.parametrize(
    "url",
    [
        "azure://", "azure://tests", "azure://tests/", "azure://Tests/x", "azure://t/x", "azure://a--b/x", "azure://tests/../x",
        "azure://tests/a b", "azure://tests//x", "ftp://tests/x", "azure://tests/" + "x" * 300, "azure://te%73ts/x",
    ],
)  # fmt: skip
def test_what_is_no_place_is_refused(url):
    with pytest.raises(errors.Usage):
        place.parse(url)


@pytest.mark.parametrize("url", ["azure://tests/a", "azure://tests/a/b-c/d_e.f/", "s3://a-b/c"])
def test_what_is_a_place(url):
    assert str(place.parse(url)) == url.rstrip("/")


@pytest.mark.parametrize("behind", ["?sv=2024&sig=SECRET", "#SECRET", "/sig=SECRET", "@SECRET"])
def test_a_signature_on_the_command_line_is_refused_and_not_repeated(behind):
    with pytest.raises(errors.Usage) as raised:
        place.parse("azure://tests/x" + behind)
    assert "SECRET" not in str(raised.value)


def _all_of(error):
    """The whole story of an error, as SECONDSITE_DEBUG=1 shows it."""
    return "".join(traceback.format_exception(error)) + str(error) + repr(error)


@pytest.mark.needs("azurite")
@pytest.mark.parametrize(
    "trouble",
    ["wrong key", "expired", "no right", "nobody there", "reset", "busy", "half", "stalled", "no certificate", "gone"],
)
def test_no_output_holds_a_secret(request, container, bare, capfd, trouble):
    """Errors with all that led to them, retries as they are told, and logs of everybody at the lowest level."""
    import io

    said = io.StringIO()
    handler = logging.StreamHandler(said)
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(1)
    expired = sas(-60) if trouble == "expired" else sas(permission="l" if trouble == "no right" else "rwdlc")
    wrong = "B" * 86 + "=="
    kinds = {"reset": "refused", "busy": "busy", "half": "half", "stalled": "stalled"}
    emulator = request.getfixturevalue("azurite_https") if trouble == "no certificate" else container
    try:
        with proxied(emulator.port, listed(*[Trouble(kinds.get(trouble, "x"), 1.2)] * 20)) as proxy:
            port = {"nobody there": 1}.get(trouble, proxy.port if trouble in kinds else emulator.port)
            url = emulator.url.replace(f":{emulator.port}", f":{port}")
            bare.setenv("AZURE_STORAGE_ACCOUNT", ACCOUNT)
            bare.setenv("AZURE_STORAGE_SERVICE_ENDPOINT", url)
            if trouble == "wrong key":
                bare.setenv("AZURE_STORAGE_KEY", wrong)
            else:
                bare.setenv("AZURE_STORAGE_SAS_TOKEN", expired)
            told = []
            store = open_store("azure://tests/none", limits=QUICK, timeout=0.6, told=told.append)
            with store, pytest.raises(errors.Error) as raised:
                store.get("a") if trouble in ("gone", "half") else store.put_if_absent("a", b"1")
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    out = "\n".join([_all_of(raised.value), *map(str, told), *map(repr, told), said.getvalue(), *capfd.readouterr()])
    signature = expired.split("sig=")[1].split("&")[0]
    for secret in (KEY, wrong, signature, "sig=", expired):
        assert secret not in out, f"{trouble}: {secret[:4]}… in {out}"
    assert "azure://tests/none/a" in str(raised.value) and "\n" not in str(raised.value)
    if trouble in ("wrong key", "expired", "no right", "no certificate"):
        assert isinstance(raised.value, Denied) and not raised.value.retryable
    print(raised.value)
