"""Holders of leases: processes that are told from all others, and known to be gone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from sqlalchemy import insert, select

from secondsite.orchestration.vault import holders, schema
from secondsite.orchestration.vault.database import Database

NAME = "from secondsite.orchestration.vault import holders; print(holders.new(), flush=True); "


def test_a_holder_is_gone_with_its_process() -> None:
    process = subprocess.Popen([sys.executable, "-c", NAME + "input()"], stdin=-1, stdout=-1, text=True)
    assert process.stdout
    name = process.stdout.readline().strip()
    assert len(name) <= 64 and not holders.gone(name)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert holders.gone(name), "dead, though nobody has looked at it"
    process.wait()
    assert holders.gone(name)


def test_one_that_has_its_number_now_is_another() -> None:
    host, boot, number, began, word = holders.new().split(" ")
    assert not holders.gone(f"{host} {boot} {number} {began} {word}")
    assert holders.gone(f"{host} {boot} {number} {int(began) + 1} {word}")
    assert holders.gone(f"{host} 00000000 {number} {began} {word}"), "before this boot"


@pytest.mark.parametrize("name", ["", "h", "elsewhere 0 1 1 a", "a b c d e", "host-0123456789abcdef", "é é é"])
def test_of_others_nothing_is_known(name: str) -> None:
    assert not holders.gone(name)


def test_what_a_dead_process_held_is_free_at_once(vault: Database) -> None:
    host, boot, number, began, _ = holders.new().split(" ")
    held = {
        "alive": holders.new(), "dead": f"{host} {boot} {number} {int(began) + 1} x", "far": "elsewhere 0 1 1 x",
        "nobody": None,
    }  # fmt: skip
    item = schema.item
    with vault.begin() as connection:
        for name, holder in held.items():
            connection.execute(insert(item).values(
                id=name, machine=name, protection="p", state=3, enabled=0.0, due=0.0, statistics={},
                lease_holder=holder, lease_until=1000.0,
            ))  # fmt: skip
        free = [set(connection.execute(select(item.c.id).where(holders.free(connection, at))).scalars())
                for at in (999.0, 1001.0)]  # fmt: skip
    assert free == [{"dead", "nobody"}, {"alive", "dead", "far", "nobody"}]
