"""Azurite, the emulator of Azure's storage, for a block: `azurite-blob` of PATH, on a port that the system chooses.

What it holds is in its memory, and goes back only long after a blob was removed: who uploads much starts another.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secondsite.engine import errors
from secondsite.orchestration.bench import process

COMMAND = "azurite-blob"
CONTAINER = "bench"
_MEMORY_MIB = 3072
_START_SECONDS = 60.0
# The account that every emulator has; both are in its documentation and open nothing else.
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_LISTENS = re.compile(rb"successfully listens on http://127\.0\.0\.1:(\d+)")


class Server:
    """Something that speaks as Azure's blobs do on a port of the loopback. `log` has a line for each request."""

    def __init__(self, pid: int, port: int, log: Path) -> None:
        self.pid, self.log = pid, log
        self.url = f"http://127.0.0.1:{port}/{_ACCOUNT}"

    @property
    def env(self) -> dict[str, str]:
        """What opens it."""
        text = f"DefaultEndpointsProtocol=http;AccountName={_ACCOUNT};AccountKey={_KEY};BlobEndpoint={self.url};"
        return {"AZURE_STORAGE_CONNECTION_STRING": text}

    def cpu(self) -> float:
        """Its processor seconds until now."""
        return process.cpu(self.pid)

    def requests(self) -> int:
        """How many it has answered."""
        return self.log.read_bytes().count(b" HTTP/1.1")


@contextmanager
def started(command: list[str], log: Path, says: re.Pattern[bytes]) -> Iterator[Server]:
    """Run a server, whose port is what `says` finds in its output, which goes into `log`. Raises Unreachable."""
    log.write_bytes(b"")
    with process.running(["sh", "-c", 'exec "$@" >"$0" 2>&1', str(log), *command]) as child:
        end = time.monotonic() + _START_SECONDS
        while not (found := says.search(log.read_bytes())):
            if child.poll() is not None or time.monotonic() > end:
                raise errors.Unreachable(f"{command[0]} does not serve")
            time.sleep(0.02)
        yield Server(child.pid, int(found[1]), log)


@contextmanager
def azurite(folder: Path) -> Iterator[Server]:
    """One for a block."""
    command = [
        COMMAND, "--blobHost", "127.0.0.1", "--blobPort", "0", "--disableTelemetry", "--inMemoryPersistence",
        "--extentMemoryLimit", str(_MEMORY_MIB),
    ]  # fmt: skip
    with started(command, folder / "azurite.log", _LISTENS) as server:
        yield server
