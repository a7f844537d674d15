"""Values that no field takes: each is one line that says table, line and rule, and nothing ends in a traceback."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import samples

from secondsite.engine import errors
from secondsite.orchestration.estate import values
from secondsite.orchestration.estate.loading import parse
from secondsite.orchestration.estate.model import Estate
from secondsite.orchestration.scenarios.check import check

MORE = """
[[recovery]]
name = "p"
[[recovery.group]]
machines = ["app1"]
before = [{ name = "a", script = ["x"] }, { name = "b", manual = "look" }, { name = "c", http = "https://h/" }]
[[consistency]]
name = "g"
machines = ["app1"]
"""
MACHINE = """qmp = "/run/q"
guest_agent = "/run/g"
options = ["-x"]
quiesce = { before = ["x"], after = ["y"] }
signal = { serial = "up", tcp = 22, url = "http://{address}/" }
"""
HOST = """reach = ["ssh", "h"]
namespace = "n"
zone = "UTC"
commands = { start = ["a"], stop = ["b"], status = ["c"], screenshot = ["d"] }
"""
HOSTILE_TEXT = {
    "NUL": "a\0b", "nothing": "", "much": "x" * (1 << 20), "lines": "a\nb", "space": "a ", "order": "\u202ea",
    "terminal": "\x1b[2J", "upwards": "/a/../b", "relative": "a/b",
}  # fmt: skip
# What is right in some fields: arguments of commands are anybody's, and names are not those of files.
ARGUMENTS = {
    "reach", "start", "stop", "status", "screenshot", "options", "before", "after", "script", "manual", "serial",
}  # fmt: skip
PATHS = {"path", "run", "qmp", "guest_agent"}
# What is edited, how the line begins that is told, and what is told.
EDITS: list[tuple[str, str, str, str]] = [
    ('name = "app1"\nhost', 'name = ""\nhost', "name", "value: name of machine is empty"),
    ('path = "/replicas"', 'path = "replicas"', "path", "value: path of host 'lds1' is 'replicas', which is no abs"),
    ("os = true", "os = true, size = -1", "disks", "value: size of machine.disks is -1, and not 1 to"),
    ("os = true", "os = true, size = 1" + "0" * 30, "disks", "value: size of machine.disks is 1000"),
    ("copy_frequency = 300", "copy_frequency = -300", "copy_frequency", "R1.1: a copy each -300 s does not exist"),
    ('host = "lon-cluster"\n', 'host = "lon-cluster"\nmemory = 0\n', "memory", "value: memory of machine 'app1' is 0"),
    ('"lds1.example:8084"', '"lds1.example:84000"', "address", "which is not HOST[:PORT]"),
    ("cluster = true", 'cluster = true\nnamespace = "../x"', "namespace", "value: namespace of host 'lon-cluster' is"),
]  # fmt: skip


def enriched() -> dict[str, Any]:
    """S2's sample, with what it has no need to say."""
    text = samples.text("S2").replace("cluster = true\n", f"cluster = true\n{HOST}")
    text = text.replace('name = "app1"\nhost', f'name = "app1"\n{MACHINE}host') + MORE
    loaded = parse(text.encode())
    assert check(loaded.estate).findings == []
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(loaded.estate))
    return found


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if isinstance(value, dict | list):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(below, (*path, key))
    else:
        yield path, value


def changed(said: dict[str, Any], path: tuple[str | int, ...], value: Any) -> Any:
    """The estate with one leaf of it changed, or what msgspec says of it."""
    made = copy.deepcopy(said)
    at: Any = made
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    try:
        return msgspec.convert(made, Estate)
    except msgspec.ValidationError as error:
        return str(error)


@pytest.mark.parametrize("case", HOSTILE_TEXT)
def test_no_text_of_an_estate_is_hostile(case: str) -> None:
    said, bad, tried = enriched(), HOSTILE_TEXT[case], 0
    for path, value in leaves(said):
        names = [one for one in path if isinstance(one, str)]
        argument = names[-1] in ARGUMENTS
        fits = argument and case not in ("NUL", "much") and not (case == "nothing" and path[-1] == 0)
        fits = fits or (case in ("upwards", "relative") and names[-1] not in PATHS)
        fits = fits or (argument and case == "nothing" and names[-1] == "options")
        if not isinstance(value, str) or fits:
            continue
        estate = changed(said, path, bad)
        if isinstance(estate, str):
            continue  # one of a few words
        tried += 1
        findings = check(estate).findings
        assert findings, (path, bad[:20])
        assert all("\n" not in one.line(1) and len(one.line(1)) < 400 for one in findings[:1]), path
    assert tried >= len(PATHS), "the sample has such fields"


@pytest.mark.parametrize("bad", [-1, 10**30, float("nan"), True, "5", None], ids=str)
def test_no_number_of_an_estate_is_hostile(bad: object) -> None:
    said, tried = enriched(), 0
    for path, value in leaves(said):
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        estate = changed(said, path, bad)
        tried += 1
        may_be_none = bad is None and not isinstance(estate, str)
        assert isinstance(estate, str) or check(estate).findings or may_be_none, path
    assert tried > 6


@pytest.mark.parametrize(("old", "new", "begins", "told"), EDITS, ids=[one[1][:24] for one in EDITS])
def test_it_is_one_line_that_names_table_line_and_rule(old: str, new: str, begins: str, told: str) -> None:
    loaded = samples.edited("S2", (old, new))
    places = [(loaded.line(one.where), one) for one in check(loaded.estate).findings]
    lines = [(line, one.line(line)) for line, one in places if told in one.line(line)]
    assert lines, places
    number, text = lines[0]
    assert number is not None and text.startswith(f"line {number}: ")
    assert loaded.text.splitlines()[number - 1].startswith(begins)


def test_machines_that_only_case_tells_apart() -> None:
    twice = '[[machine]]\nname = "{}"\nhost = "lon-cluster"\ndisks = [{{ path = "/other" }}]\n'
    for name in ("APP1", "\uff41pp1"):
        loaded = samples.edited("S2", ("[[policy]]", twice.format(name) + "[[policy]]"))
        assert [one.rule for one in check(loaded.estate).findings] == ["name"]
    loaded = samples.edited("S2", ("[[policy]]", twice.format("app2") + "[[policy]]"))
    assert check(loaded.estate).findings == []


def test_a_field_of_a_new_table_has_a_rule_too() -> None:
    """Whoever adds a field of text need not think of it."""
    estate = parse(b'[vault]\nname = "v"\nregion = "r\\u0000"\nsubscription = "s"\n').estate
    assert [one.where for one in values.check(estate)] == [("vault", "region")]
    with pytest.raises(errors.Usage, match=r"line 4: vault\.subscription: Expected"):
        parse(b'[vault]\nname = "v"\nregion = "r"\nsubscription = 5\n')
