"""Registration keys, versions of Providers, and the audit log."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import select

from secondsite.engine import errors
from secondsite.orchestration.vault import audit, keys, schema
from secondsite.orchestration.vault.database import Database

NOW = 1_800_000_000.0
DAY = 86400


def test_r1_7_a_key_opens_once_within_five_days(vault: Database) -> None:
    key = keys.new_key(vault, NOW)
    assert keys.register(vault, key, keys.PROVIDER, "vmm", "3.5", NOW + 5 * DAY - 1).name == "vmm"
    with pytest.raises(errors.Refused, match=r"R1\.7"):
        keys.register(vault, key, keys.PROVIDER, "vmm-2", "3.5", NOW + 10)
    for late in (NOW + 5 * DAY, NOW - 1):
        with pytest.raises(errors.Refused, match=r"R1\.7"):
            keys.register(vault, keys.new_key(vault, NOW), keys.AGENT, "hv", "2.0", late)
    with pytest.raises(errors.Refused, match=r"R1\.7"):
        keys.register(vault, "guessed", keys.AGENT, "hv", "2.0", NOW)
    assert [one.name for one in keys.registered(vault)] == ["vmm"]


def test_a_key_is_kept_as_a_digest_alone(vault: Database) -> None:
    key = keys.new_key(vault, NOW)
    with vault.begin() as connection:
        rows = connection.execute(select(schema.key)).all()
    assert len(rows) == 1 and key not in repr(rows)


def test_r1_8_all_providers_have_one_version(vault: Database) -> None:
    keys.register(vault, keys.new_key(vault, NOW), keys.PROVIDER, "one", "3.5", NOW)
    key = keys.new_key(vault, NOW)
    with pytest.raises(errors.Refused, match=r"R1\.8: the other Providers of this vault have version 3\.5, not 3\.6"):
        keys.register(vault, key, keys.PROVIDER, "two", "3.6", NOW)
    keys.register(vault, key, keys.PROVIDER, "two", "3.5", NOW)  # the key was not used up by the refusal
    keys.register(vault, keys.new_key(vault, NOW), keys.AGENT, "hv", "2.0", NOW)


def test_of_two_at_once_one_registers(vault: Database) -> None:
    key = keys.new_key(vault, NOW)
    results: list[object] = []

    def register(name: str) -> None:
        try:
            results.append(keys.register(vault, key, keys.AGENT, name, "2.0", NOW))
        except errors.Refused as error:
            results.append(error)

    threads = [threading.Thread(target=register, args=(f"hv{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(isinstance(one, keys.Registered) for one in results) == 1 and len(results) == 8


def test_an_action_is_written_down_before_and_after(vault: Database) -> None:
    times = iter([NOW, NOW + 5, NOW + 6, NOW + 7])
    with audit.action(vault, "enable", "app1", who="me", clock=lambda: next(times)):
        running = audit.newest(vault)[0]
        assert (running.what, running.subject, running.result) == ("enable", "app1", None)
    with pytest.raises(errors.Refused), audit.action(vault, "disable", "app1", who="me", clock=lambda: next(times)):
        raise errors.Refused("not now")
    told = [(one.what, one.at, one.result, one.ended, one.detail) for one in audit.newest(vault)]
    assert told == [("enable", NOW, "done", NOW + 5, None), ("disable", NOW + 6, "failed", NOW + 7, "not now")]
    assert audit.newest(vault, subject="app2") == []
    assert len(audit.newest(vault, 1)) == 1
