"""A machine that is protected in an account of Azure: the bench with the emulator as its second site."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from azure.storage.blob import ContainerClient

from bench import Bench, Clock

sys.path.insert(0, str(Path(__file__).parents[1]))

from azurite.emulator import Azurite

from secondsite.orchestration.vault.database import Database

# The least that Azure takes (R12.10).
SIZE = 20 << 20
_numbers = itertools.count(1)
# What S4 has instead of the second host and the second server.
TARGET = """
[[network]]
name = "azure-lan"
azure = true
subnets = [{{ name = "servers", range = "10.9.0.0/24" }}]
[[account]]
name = "account"
url = "azure://CONTAINER/london"
region = "r"
subscription = "s"
redundancy = "RAGRS"
"""


def azure(estate: str) -> str:
    """The same machine, protected in an account."""
    begin, end = estate.index('[[host]]\nname = "h2"'), estate.index('[[machine]]')
    text = estate[:begin] + TARGET + estate[end:]
    for old, new in (
        ('[[server]]\nname = "vmm-2"\nsite = "two"\nversion = "2012 R2"\nprovider = "3"\n', ""),
        ('[[cloud]]\nname = "c2"\nserver = "vmm-2"\n', ""), ('[[network]]\nname = "n2"\nserver = "vmm-2"\n', ""),
        ('[[classification]]\nname = "k2"\nserver = "vmm-2"\n', ""), ('scenario = "S2"', 'scenario = "S4"'),
        ('target = "c2"', 'target = "account"'), ("additional = 15", "hours = 12"),
        ('name = "h1"\n', 'name = "h1"\nagent = "2"\n'),
        ('host = "h1"\n', 'host = "h1"\nnics = [{{ network = "n1" }}]\n'),
        ("copy_frequency = 300", "copy_frequency = 900"),
    ):  # fmt: skip
        assert old in text, old
        text = text.replace(old, new)
    return text + '[[mapping.network]]\nsource = "n1"\ntarget = "azure-lan"\n'


class Cloud(Bench):
    """With a container of its own."""

    def __init__(self, folder: Path, vault: Database, emulator: Azurite, clock: Clock | None = None) -> None:
        name = f"recovery{next(_numbers)}"
        self.container = ContainerClient.from_connection_string(
            emulator.connection_string, name, api_version="2026-06-06"
        )
        self.container.create_container()
        text = lambda estate: azure(estate).replace("CONTAINER", name)  # noqa: E731
        super().__init__(folder, vault, clock or Clock(), text=text, size=SIZE)

    def machines(self) -> list[str]:
        """What lies there that machines have, or would have: snapshots too."""
        return [one.name for one in self.container.list_blobs("london/machines", include=["snapshots"])]
