"""Two hosts in one process: an agent with its folder, and a host that pairs with it, over TLS on the loopback."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from secondsite import engine
from secondsite.engine.remote import dial, hosts, url
from secondsite.engine.remote.agent.service import Agent
from secondsite.engine.remote.home import Home
from secondsite.engine.remote.link.connection import Connection
from secondsite.engine.units import MIB


@dataclass
class Site:
    """`folder` holds root, there (the agent's state) and one folder of state for each host that pairs."""

    folder: Path
    agent: Agent
    port: int

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def there(self) -> Path:
        return self.folder / "there"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, name: str = "disk") -> str:
        return f"secondsite://{self.address}/{name}"

    def key(self, *replicas: str, allow: str = "send") -> str:
        actions = allow.split(",")
        return hosts.registration_key(replicas or ("disk",), allow=actions, state=self.there)  # type: ignore[arg-type]

    def host(self, name: str = "source", *replicas: str, allow: str = "send") -> Path:
        """The state folder of a host that is paired now."""
        state = self.folder / name
        hosts.init_identity(name=name, state=state)
        hosts.pair(self.address, self.key(*replicas, allow=allow), name=name, state=state)
        return state

    def connect(self, state: Path, name: str = "disk") -> Connection:
        return dial.connect(url.Remote("127.0.0.1", self.port, name), Home.of(state))


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    """An agent that serves `folder`/root."""
    (folder / "root").mkdir(exist_ok=True)
    there = folder / "there"
    if not there.exists():
        hosts.init_identity(name="agent", state=there)
    with Agent(str(folder / "root"), Home.of(there)) as agent:
        yield Site(folder, agent, agent.listen("127.0.0.1", 0)[1])


def soon(true: Callable[[], bool], seconds: float = 5) -> bool:
    """Does it become true in that time?"""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def replica_of(there: Site, name: str, tmp_path: Path) -> Path:
    """A source of 2 MiB, and the replica of it that the agent keeps under a name."""
    source = tmp_path / "disk.raw"
    source.write_bytes(random.Random(3).randbytes(2 * MIB))
    engine.replicate(source, there.root / name, source_id="disk")
    return source
