"""Azurite, the emulator of Azure's storage: installed once into build/azurite, started on a free port, ended by its id.

What is installed is what package-lock.json says, to the byte. The port is chosen by the system and read from what the
emulator says, so that two runs never meet; then it is asked until it answers. All that it holds is in its memory.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / "build" / "azurite"
MAIN = "node_modules/azurite/dist/src/blob/main.js"
START_SECONDS = 60
MEMORY_MIB = 1024
# The account that every emulator has; both are in its documentation and open nothing else.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_LISTENS = re.compile(rb"successfully listens on https?://127\.0\.0\.1:(\d+)")


class Unavailable(Exception):
    """It cannot be had here."""


def install() -> Path:
    """The folder with it. Raises Unavailable."""
    for command in ("node", "npm"):
        if shutil.which(command) is None:
            raise Unavailable(f"no command {command}")
    files = [HERE / "package.json", HERE / "package-lock.json"]
    wanted = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = CACHE / "installed"
        if not stamp.exists() or stamp.read_text() != wanted:
            stamp.unlink(missing_ok=True)
            for file in files:
                shutil.copy(file, CACHE)
            _npm()
            stamp.write_text(wanted)
    return CACHE


def _npm() -> None:
    """276 packages: 11 s, 88 MB. None of their scripts is run."""
    command = ("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error")
    done = subprocess.run(command, cwd=CACHE, capture_output=True, text=True, timeout=300)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Unavailable(f"npm ci: {lines[0] if lines else done.returncode}")


class Azurite:
    """A running one. `url` ends with the account, `ca` is the certificate to trust where it speaks https. What `stays`
    is on disk, and there after `end` and `again`.
    """

    def __init__(self, *, https: bool = False, stays: bool = False) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="azurite")
        self.folder = Path(self._folder.name)
        self.ca: Path | None = None
        more: list[str] = []
        if https:
            more = ["--cert", *self._certificate(), "--oauth", "basic"]
        self.log = self.folder / "log"
        memory = ["--inMemoryPersistence", "--extentMemoryLimit", str(MEMORY_MIB)]
        more += ["--location", str(self.folder / "data")] if stays else memory
        usual = ["--blobHost", "127.0.0.1", "--silent", "--disableTelemetry"]
        self._command = ["node", str(install() / MAIN), *usual, *more]
        self.port = self._start(0)
        self.url = f"http{'s' if https else ''}://127.0.0.1:{self.port}/{ACCOUNT}"

    def _start(self, port: int) -> int:
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [*self._command, "--blobPort", str(port)], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, preexec_fn=_end_with_us,
            )  # fmt: skip
        atexit.register(self.stop)
        try:
            return self._wait()
        except BaseException:
            self.stop()
            raise

    def end(self) -> None:
        """With what it holds on disk: it writes its tables there each five seconds, and now."""
        self.process.terminate()
        self.process.wait(30)

    def again(self) -> None:
        """Started anew where it was."""
        self._start(self.port)

    def _certificate(self) -> list[str]:
        self.ca, key = self.folder / "cert.pem", self.folder / "key.pem"
        made = [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=azurite", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", self.ca,
        ]  # fmt: skip
        subprocess.run(made, check=True, capture_output=True)
        return [str(self.ca), "--key", str(key)]

    def _wait(self) -> int:
        """The port that it listens on, once it answers there. A busy machine takes 6 s."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            found = _LISTENS.search(self.log.read_bytes())
            if found and _answers(int(found[1]), self.ca):
                return int(found[1])
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise Unavailable(f"azurite did not start: {self.log.read_text(errors='replace')[-300:]!r}")

    @property
    def connection_string(self) -> str:
        protocol = "https" if self.ca else "http"
        return f"DefaultEndpointsProtocol={protocol};AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={self.url};"

    def stop(self) -> None:
        """End it, by its id; a second call does nothing."""
        atexit.unregister(self.stop)
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._folder.cleanup()


def _end_with_us() -> None:
    """Where the test run is killed, the emulator must not go on."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _answers(port: int, ca: Path | None) -> bool:
    import ssl

    context = ssl.create_default_context(cafile=str(ca)) if ca else None
    try:
        urllib.request.urlopen(f"http{'s' if ca else ''}://127.0.0.1:{port}/", timeout=5, context=context)
    except urllib.error.HTTPError:
        return True  # it wants to be asked for something else
    except OSError:
        return False
    return True


@contextmanager
def running(*, https: bool = False) -> Iterator[Azurite]:
    """One for a block."""
    made = Azurite(https=https)
    try:
        yield made
    finally:
        made.stop()


def configure(emulator: Azurite, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of this process opens the emulator, and nothing of the machine's does."""
    for name in list(os.environ):
        if name.startswith(("AZURE_", "SECONDSITE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", emulator.connection_string)
