"""The order of logs, and what is no chain."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from hrlkit import number, write_log

from secondsite.engine import errors
from secondsite.engine.hrl import HrlReader, check_chain, open_chain
from secondsite.engine.hrl import chain as chains

Make = Callable[..., HrlReader]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def ids(readers: list[HrlReader]) -> list[int]:
    return [reader.unique_id.int for reader in readers]


def test_any_order_is_put_right(log: Make) -> None:
    made = [log([], 2, 1), log([], 3, 2), log([], 4, 3), log([], 5, 4)]
    for given in itertools.permutations(made):
        assert ids(check_chain(given)) == [2, 3, 4, 5]
    assert check_chain([]) == []


def test_going_on(log: Make) -> None:
    made = [log([], 3, 2), log([], 4, 3), log([], 5, 4)]
    assert ids(check_chain(made, after=number(2))) == [3, 4, 5]
    assert ids(check_chain(made, after=number(3))) == [4, 5]
    assert ids(check_chain(made, after=number(5))) == []
    with pytest.raises(errors.Refused) as caught:
        check_chain(made, after=number(9))
    assert f"{number(3)} follows {number(2)}, the one before it is {number(9)}" in str(caught.value)


BROKEN = {
    "gap": ([(2, 1), (4, 3)], 4, ["chain is broken", 4, 3, 2]),
    "two beginnings": ([(2, 0), (3, 0)], 3, ["chain is broken", 3, 0, 2]),
    "fork": ([(2, 1), (3, 2), (4, 2)], 4, ["chain forks", 4, 3, 2]),
    "fork at the start": ([(2, 1), (3, 1)], 3, ["chain forks", 3, 2, 1]),
    "loop": ([(2, 3), (3, 2)], 2, ["comes back", 2, 3]),
    "loop beside a chain": ([(2, 1), (5, 6), (6, 5)], 5, ["comes back", 5, 6]),
    "itself": ([(2, 2)], 2, ["comes back", 2]),
    "twice": ([(2, 1), (2, 1)], 2, ["has the identifier", 2]),
    "twice with another past": ([(2, 1), (2, 3)], 2, ["has the identifier", 2]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_chain(tmp_path: Path, name: str) -> None:
    pairs, at, says = BROKEN[name]
    opened = []
    for index, (unique, previous) in enumerate(pairs):
        path = write_log(tmp_path / f"{index}.hrl", [], 99, 98)
        data = bytearray(path.read_bytes())
        # The writer would refuse some of these.
        data[60:76], data[76:92] = number(unique).bytes_le, number(previous).bytes_le
        data[40:44] = bytes(4)
        data[40:44] = (~sum(data[:4096]) & 0xFFFFFFFF).to_bytes(4, "little")
        path.write_bytes(data)
        opened.append(HrlReader(str(path)))
    with pytest.raises(errors.Refused) as caught:
        check_chain(opened)
    text = str(caught.value)
    assert not caught.value.retryable and "\n" not in text
    assert text.startswith(str(tmp_path / f"{max(i for i, pair in enumerate(pairs) if pair[0] == at)}.hrl"))
    for part in says:
        assert (part if isinstance(part, str) else str(number(part))) in text
    for reader in opened:
        reader.close()


def test_files_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_log(tmp_path / f"{n}.hrl", [], n, n - 1) for n in (2, 3, 4)]
    before = descriptors()
    chain = open_chain(paths, after=number(3))
    assert ids(chain) == [4] and descriptors() == before + 1
    chain[0].close()
    with pytest.raises(errors.Refused):
        open_chain([paths[0], paths[2]])
    (tmp_path / "3.hrl").write_bytes(b"")
    with pytest.raises(errors.Damaged):
        open_chain(paths)
    monkeypatch.setattr(chains, "MAX_LOGS", 2)
    with pytest.raises(errors.Refused, match="3 logs at once; at most 2"):
        open_chain(paths)
    assert descriptors() == before
