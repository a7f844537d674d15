"""R9.14: a failover of encrypted replicas asks for the customer's key before it does anything, and keeps it nowhere."""

from __future__ import annotations

import os
import signal
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cloudkit
import killing
import pytest
from azurite.emulator import Azurite, configure
from cloudkit import Cloud
from operators import Shell
from shellkit import shell_of

from bench import Bench, Clock, plainly
from secondsite import engine
from secondsite.orchestration.health.states import State
from secondsite.orchestration.vault.database import Database

WORDS = "correct horse battery staple"
KINDS = ("planned", "unplanned", "test")


@pytest.fixture
def key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("secondsite.engine.store.keyring._SCRYPT", (1 << 14, 8, 1))
    made = folder / "words"
    made.touch(mode=0o600)
    made.write_text(WORDS)
    return made


@pytest.fixture
def wrong(folder: Path) -> Path:
    engine.new_key_file(folder / "wrong.key")
    return folder / "wrong.key"


def nowhere(folder: Path, *said: str) -> None:
    """What opens it stands in nothing that was written or said, nor in what any process was started with."""
    secret = WORDS.encode()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.name != "words":
            assert secret not in path.read_bytes(), path
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                assert secret not in (process / name).read_bytes(), process
            except OSError:
                continue  # it ended
    assert not any(WORDS in one for one in said)


class Refusing:
    """Without a key, and with another one, a command is one line and nothing else."""

    def __init__(self, shell: Shell, wrong: Path, state: Callable[[], object]) -> None:
        self._shell, self._wrong, self._state = shell, wrong, state

    def __call__(self, *arguments: str) -> None:
        before = self._state()
        for more, words in (((), "is encrypted, and no key was given: --key-file"),
                            (("--key-file", str(self._wrong)), "is opened by a passphrase")):  # fmt: skip
            told = self._shell("failover", *arguments, *more, status=3).splitlines()
            assert words in told[-1] and all(": see that" in line for line in told[:-1]), told
            assert self._state() == before


@pytest.fixture
def sealed(
    folder: Path, vault: Database, azurite: Azurite, key: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cloud]:
    configure(azurite, folder, monkeypatch)
    made = Cloud(folder, vault, azurite, Clock(time.time() - 9000))
    text = made.text
    made.text = lambda estate: text(estate).replace('name = "p"\n', 'name = "p"\nencrypt = true\n')
    made.apply()
    yield made
    made.end()


@pytest.mark.needs("azurite")
def test_to_azure_and_home(
    sealed: Cloud, key: Path, wrong: Path, capsys: pytest.CaptureFixture[str], sweep: bool
) -> None:
    """Whatever needs the key asks for it while all is as it was; what does not, does without."""
    with engine.using_key(engine.Key(passphrase_file=key)):
        first, second = sealed.cycle(), sealed.cycle()
        has = {one.number: sealed.contents(one) for one in (first, second)}
    shell, opens = shell_of(capsys, sealed), ("--passphrase-file", str(key))
    refused = Refusing(shell, wrong, lambda: (sealed.item.failover, sealed.item.test, sealed.item.state,
                                              sealed.runs("source"), sealed.machines()))  # fmt: skip
    sealed.start_home()
    for kind in KINDS if sweep else KINDS[:1]:
        refused(kind, "app1", *(["--source-is-dead"] if kind == "unplanned" else []))
    sealed.power_off("source")
    said = [shell("failover", "unplanned", "app1", "--at", str(first.number), *opens)]
    assert plainly(sealed.away()) == plainly(has[first.number])
    assert f"in Azure: azure://{sealed.container.container_name}/{sealed.machines()[1]} (boots)" in said[0]
    assert "app1: fail over waiting completion; has its disks in Azure, replicates forward" in said[0]
    assert "leave the machine to whoever makes it in Azure" in said[0]
    refused("change-point", "app1", "--at", str(second.number))
    said += [shell("failover", "change-point", "app1", "--at", str(second.number), *opens)]
    assert plainly(sealed.away()) == plainly(has[second.number])
    refused("commit", "app1")
    nowhere(sealed.folder, *said)
    if not sweep:
        return
    said += [shell("failover", "commit", "app1", *opens)]
    assert shell.json("failover", "status", "app1")["machines"][0]["away"]["definition"]["name"] == "app1"
    (sealed.folder / "data.raw").write_bytes(os.urandom(cloudkit.SIZE))
    said += [shell("failover", "failback", "app1", *opens)]
    assert sealed.runs("source") and plainly(sealed.source()) == plainly(has[second.number])
    said += [shell("failover", "commit", "app1"), shell("failover", "reverse", "app1")]
    assert sealed.item.state is State.RESYNCHRONIZING and sealed.machines() == []
    with engine.using_key(engine.Key(passphrase_file=key)):
        made = sealed.cycle(write=False)
        assert sealed.contents(made) == sealed.source()
    said += [shell("failover", "test", "app1", *opens), shell("failover", "test-cleanup", "app1")]
    said += [shell("failover", "planned", "app1", *opens)]
    assert plainly(sealed.away()) == plainly(sealed.source())
    said += [shell("failover", "cancel", "app1")]
    nowhere(sealed.folder, *said)


@pytest.fixture
def far(folder: Path, vault: Database, key: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Replicas that were made encrypted, on a host that shares neither environment nor process with us."""
    for name in list(os.environ):
        if name.startswith("SECONDSITE_") and name != "SECONDSITE_KERNEL":
            monkeypatch.delenv(name)
    path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    second = 'name = "h2"\ncloud'
    reach = f'reach = ["env", "-i", "PATH={path}", "HOME={folder}"]\n{second}'
    made = Bench(folder, vault, Clock(time.time() - 9000), text=lambda estate: estate.replace(second, reach))
    with engine.using_key(engine.Key(passphrase_file=key)):
        for disk, replica in made.item.homes.items():
            engine.replicate(disk, replica, encrypt=True)
    yield made
    made.end()


def test_on_a_host(far: Bench, key: Path, wrong: Path, capsys: pytest.CaptureFixture[str], sweep: bool) -> None:
    """The key travels with the call that needs it, and the server of its disks has it as long as it serves them."""
    opening = lambda: engine.using_key(engine.Key(passphrase_file=key, plain=True))  # noqa: E731
    with opening():
        first, second = far.cycle(), far.cycle()
        has = {one.number: far.contents(one) for one in (first, second)}
    shell, opens = shell_of(capsys, far), ("--passphrase-file", str(key))
    refused = Refusing(
        shell, wrong, lambda: (far.item.failover, far.item.test, far.runs("source"), far.runs("target"))
    )  # fmt: skip
    far.start_home()
    for kind in KINDS if sweep else KINDS[:1]:
        refused(kind, "app1", *(["--source-is-dead"] if kind == "unplanned" else []))
    far.power_off("source")
    said = [shell("failover", "unplanned", "app1", "--at", str(first.number), *opens)]
    with opening():
        assert far.runs("target") and plainly(far.away()) == plainly(has[first.number])
    nowhere(far.folder, *said)
    if not sweep:
        return
    refused("change-point", "app1", "--at", str(second.number))
    said += [shell("failover", "change-point", "app1", "--at", str(second.number), *opens)]
    with opening():
        assert far.runs("target") and plainly(far.away()) == plainly(has[second.number])
    far.power_off("target")
    for number in killing.servers(far.folder):
        os.kill(number, signal.SIGKILL)
    said += [shell("failover", "start", "app1", *opens)]
    with opening():
        assert far.runs("target") and plainly(far.away()) == plainly(has[second.number])
    said += [shell("failover", "cancel", "app1", *opens), shell("failover", "test", "app1", *opens)]
    said += [shell("failover", "test-cleanup", "app1", *opens)]
    said += [shell("failover", "planned", "app1", *opens), shell("failover", "commit", "app1", *opens)]
    with opening():
        far.clock.now = time.time()
        made = far.cycle(write=False)
        there = far.away()
        assert far.contents(made) == there
    refused("failback", "app1")
    said += [shell("failover", "failback", "app1", *opens), shell("failover", "commit", "app1", *opens)]
    assert far.runs("source") and plainly(far.source()) == plainly(there)
    with opening():
        far.cycle()
    nowhere(far.folder, *said)
