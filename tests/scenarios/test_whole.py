"""S1, S2 and S4 from an empty vault on, by the command line alone: a machine with a raw disk and a VHDX that writes all
the time, an agent or Azure's emulator on another host, ten cycles with kills in between, every point restored. Without
--sweep it is four cycles and three points, of one of them.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import namespaces
import postgresql
import pytest
import samples
from azurite.emulator import Azurite
from commands import Service, paired, service
from namespaces import Host
from protectedsite import Site, environment
from siteguest import BLOCK, Guest, first
from tcpproxy import TcpProxy

from secondsite.engine import errors
from secondsite.orchestration import cli

pytestmark = [pytest.mark.needs("root", "namespaces"), pytest.mark.timeout(300)]
MIB = 1 << 20
# The least that Azure takes of a disk is 20 MiB (R12.10).
SIZES = 20 * MIB, 24 * MIB
PORT, BLOB_PORT = 8084, 10000
# The parts of the samples that are of their machines, and not of a machine here.
S1 = [
    ("copy_frequency = 30\nhours = 24\napplication_consistent = 4\n", "copy_frequency = 900\nhours = 2\n"),
    ('redundancy = "GRS"', 'redundancy = "RAGRS"'),  # as the emulator's account has it (R12.11)
    ('[[item]]\nmachine = "web1"\nprotection = "rotterdam-to-azure"\nnetwork = "azure-lan"\nsubnet = "web"\n', ""),
    ('"/vm/db1/system.vhdx", os = true, format = "vhdx", size = 42949672960', '"{raw}", os = true, format = "raw"'),
    ('"/vm/db1/data.vhdx", format = "vhdx", size = 214748364800', '"{vhdx}", format = "vhdx"'),
]
S2 = [
    ("lds1.example:8084", "{address}"), ('path = "/replicas"\nlogical = ["recovery"]', 'path = "{root}"\n'
     'reach = {reach}\nlogical = ["recovery"]'), ('["recovery", "lab"]', '["lab"]'), ("/csv/fast/app1.vhdx", "{vhdx}"),
    ('"/csv/bulk/app1-data.vhdx", format = "vhdx"', '"{raw}", format = "raw"'), ("additional = 15", "additional = 1"),
    ("application_consistent = 4\n", ""), ('initial = "media"\n', ""), ('medium = "/media/seeds"\n', ""),
]  # fmt: skip
S4 = [
    ('{ path = "/vm/web1.vhdx", os = true, format = "vhdx", size = 42949672960 }', '{ path = "{raw}", os = true },'
     ' { path = "{vhdx}" }'), ("application_consistent = 1\n", ""),
]  # fmt: skip


def estate(scenario: str, edits: list[tuple[str, str]], **values: Any) -> str:
    text = samples.text(scenario)
    for old, new in edits:
        assert old in text, old
        for name, value in values.items():
            new = new.replace("{" + name + "}", str(value))
        text = text.replace(old, new)
    return text


@dataclass
class There:
    """The other host. `cut` kills what is there, and `again` starts it; `most` is how many points the policy keeps at
    least of cycles that follow each other at once. A cycle that has begun `waits` for a while for what is cut.
    """

    cut: Callable[[], object]
    again: Callable[[], object]
    most: int
    waits: bool = False


@contextlib.contextmanager
def machine(folder: Path) -> Iterator[Guest]:
    """It runs, and has two disks: `system` is raw, `data` a VHDX."""
    raw, vhdx = folder / "system.raw", folder / "data.vhdx"
    raw.write_bytes(first(SIZES[0] // BLOCK))
    plain = folder / "plain.raw"
    plain.write_bytes(first(SIZES[1] // BLOCK))
    assert cli.run(["convert", str(plain), str(vhdx), "--format", "vhdx"]) == 0
    guest = Guest({raw: SIZES[0] // BLOCK, vhdx: SIZES[1] // BLOCK}, folder / "socket")
    try:
        yield guest
    finally:
        guest.stop()


@contextlib.contextmanager
def azure(host: Host) -> Iterator[tuple[Azurite, str]]:
    """The emulator on another host, and what opens it from the one next to it: a container `recovery` is there."""
    from azure.storage.blob import ContainerClient

    with host.inside():
        emulator = Azurite(stays=True)
        proxy = TcpProxy(emulator.port, at=(host.address["here"], BLOB_PORT))
        text = emulator.connection_string
        ContainerClient.from_connection_string(text, "recovery", api_version="2026-06-06").create_container()
    try:
        yield emulator, text.replace(f"127.0.0.1:{emulator.port}", f"{host.address['here']}:{BLOB_PORT}")
    finally:
        proxy.close()
        emulator.stop()


def in_azure(scenario: str, edits: list[tuple[str, str]], most: int) -> Any:
    @contextlib.contextmanager
    def begun(folder: Path, here: Host, far: Host, vault: str) -> Iterator[tuple[Site, There]]:
        # The orchestrator has it in both; S1's policy encrypts, S4's does not.
        assert cli.run(["key", "new", str(folder / "key")]) == 0
        key = {"SECONDSITE_KEY_FILE": str(folder / "key")}
        with azure(far) as (emulator, opens), contextlib.ExitStack() as stack:
            stack.enter_context(environment(
                AZURE_STORAGE_CONNECTION_STRING=opens, SECONDSITE_STATE=str(folder / "here"),
                **(key if scenario == "S1" else {}),
            ))  # fmt: skip
            guest = stack.enter_context(machine(folder))
            file = folder / "estate.toml"
            raw, vhdx = guest.disks
            file.write_text(estate(scenario, edits, raw=raw, vhdx=vhdx))
            site = Site(folder, here, vault, "db1" if scenario == "S1" else "web1", file, guest, key)
            stack.callback(site.close)

            def again() -> None:
                with far.inside():
                    emulator.again()

            yield site, There(emulator.end, again, most, waits=True)

    return begun


@contextlib.contextmanager
def at_an_agent(folder: Path, here: Host, far: Host, vault: str) -> Iterator[tuple[Site, There]]:
    where = f"{far.address['here']}:{PORT}"
    names = ("app1.system", "app1.data")
    with contextlib.ExitStack() as stack:
        stack.enter_context(environment(SECONDSITE_STATE=str(folder / "here")))
        agents = [stack.enter_context(service(folder, listen=where, within=far.within))]
        stack.callback(lambda: agents[-1].stop() if agents[-1].process.poll() is None else None)
        paired(folder, agents[0], *names, within=here.within)
        guest = stack.enter_context(machine(folder))
        file = folder / "estate.toml"
        raw, vhdx = guest.disks
        file.write_text(estate(
            "S2", S2, raw=raw, vhdx=vhdx, address=where, root=folder / "root",
            reach=[*far.within, "env", f"PATH={Path(sys.executable).parent}:{os.environ['PATH']}"],
        ))  # fmt: skip
        site = Site(folder, here, vault, "app1", file, guest)
        stack.callback(site.close)
        yield site, There(
            agents[0].process.kill, lambda: agents.append(Service(folder, listen=where, within=far.within)), 2
        )


BEGUN = {
    "S1": in_azure("S1", S1, 6),
    "S2": at_an_agent,
    "S4": in_azure("S4", S4, 6),
}
CASES = [
    pytest.param("S1", "sqlite", marks=pytest.mark.needs("azurite")),
    pytest.param("S2", "postgresql", marks=pytest.mark.needs("postgresql")),
    pytest.param("S4", "sqlite", marks=pytest.mark.needs("azurite")),
]


@pytest.mark.sweep(sample=1)
@pytest.mark.parametrize(("scenario", "database"), CASES)
def test_a_scenario_from_an_empty_vault_on(
    scenario: str, database: str, tmp_path: Path, request: pytest.FixtureRequest, sweep: bool
) -> None:
    vault, another = str(tmp_path / "vault.db"), str(tmp_path / "another.db")
    if database == "postgresql":
        names = (scenario.lower(), f"{scenario.lower()}_another")
        vault, another = (postgresql.database(request.getfixturevalue("server"), name) for name in names)
    with namespaces.row("here", "far") as (here, far), BEGUN[scenario](tmp_path, here, far, vault) as (site, there):
        chance, cycles = random.Random(scenario), 10 if sweep else 4
        site.enable()
        for number in range(1, cycles + 1):
            if number == cycles // 2:
                cut(site, there)
            elif number == cycles - 1:
                with site.syncing():
                    time.sleep(chance.random() * 0.6)
                    site.kill()
                    site.run()
            else:
                site.sync()
        assert len({one["point"] for one in site.made}) == cycles
        check(site, min(there.most, cycles), whole=sweep)
        lose_the_vault(site, another)
        disable(site, gone=scenario == "S2")
    assert not namespaces.leftovers()


def lose_the_vault(site: Site, another: str) -> None:
    """D8: another one knows all points, the pinned one as such, and cycles go on with what changed."""
    with site.guest.at_rest:
        site.sync()
        pinned = str(site.points()[0]["number"])
        site("protection", "pin", site.machine, "--point", pinned, "--vault", site.vault)
        before = site.points()
        assert site.orchestrator is not None
        site.orchestrator.end()
        if "://" not in site.vault:
            for path in Path(site.vault).parent.glob("vault.db*"):
                path.unlink()
        site.vault = another
        # S4's replicas are not encrypted; a key is given for others that would be.
        keyed = ("--key-file", site.folder / "key") if site.environment else ()
        site("vault", "rebuild", site.estate, "--vault", site.vault, *keyed)
        assert site.points() == before and before[0]["pinned"]
        assert site("plan", site.estate, "--vault", site.vault) == "nothing would change\n"
    time.sleep(0.1)
    with site.guest.at_rest:
        site.run()
        made = site.sync()
    after = site.points()
    assert made["point"] == after[-1]["number"] == before[-1]["number"] + 1
    assert (after[0]["number"], after[0]["generations"]) == (before[0]["number"], before[0]["generations"])
    site.verify()
    assert made["changed_bytes"] == site.guest.changed(site.restore(before[-1]), site.restore(after[-1])) > 0


def disable(site: Site, *, gone: bool) -> None:
    """R1.10: the replicas go with the item where the policy says so, those of an agent too."""
    replicas = site.replicas()
    text = site.estate.read_text()
    site.estate.write_text(text.partition("[[item]]")[0] + "".join(text.partition("[[mapping")[1:]))
    words = "the replica is deleted" if gone else "the replica stays"
    assert f"disable item {site.machine}: {words} (R1.10)\n" in site("apply", site.estate, "--vault", site.vault)
    until = time.monotonic() + 60
    while (shown := site("status", "--vault", site.vault)) != "nothing is protected\n":
        assert time.monotonic() < until, shown
        time.sleep(0.2)
    for replica in replicas.values():
        site("verify", replica, status=errors.UNREACHABLE if gone else 0)
    told = site.ask("vault", "audit", "--subject", site.machine)["actions"][-1]
    assert told["what"] == "disable" and told["detail"].startswith(
        f"replicas {'deleted' if gone else 'left as they are'}: {replicas[min(replicas)]}"
    )


def cut(site: Site, there: There) -> None:
    """The other host is lost, and comes again."""
    if there.waits:
        with site.syncing():
            there.cut()
            time.sleep(1)
            there.again()
        return
    there.cut()
    assert "it is tried again" in site("protection", "sync", site.machine, "--vault", site.vault, status=5)
    assert "R8.2 the source cannot send" in site("status", "--vault", site.vault, status=3)
    there.again()
    site.sync()


def check(site: Site, most: int, *, whole: bool) -> None:
    """What retention left restores, all disks of one instant, each later than the one before. An hour or two that
    begins meanwhile may keep a point more.
    """
    points = site.points()
    assert points[-1]["number"] == site.made[-1]["point"] and most <= len(points) <= most + 2
    for path, replica in site.replicas().items():
        held = {point["generation"] for point in site.ask_replica("points", replica)["points"]}
        wanted = {point["generations"][str(path)] for point in points}
        assert wanted <= held and len(held) <= len(wanted) + 1  # what the last cycle dropped goes with the next one
    site.verify()
    looked = range(len(points)) if whole else sorted({0, len(points) // 2, len(points) - 1})
    writes = [site.restore(points[place]) for place in looked]
    assert writes == sorted(set(writes)) and writes[0] > 0
