"""Files that are no estate get one line with the line of the file and what may have been meant."""

from __future__ import annotations

import time

import pytest
import samples

from secondsite.engine import errors
from secondsite.orchestration.estate import lines
from secondsite.orchestration.estate.loading import load, parse
from secondsite.orchestration.scenarios.check import check

VAULT = '[vault]\nname = "v"\nregion = "r"\nsubscription = "s"\n'
MACHINE = '[[machine]]\nname = "m"\nhost = "h"\n'
DISK = "[[machine.disks]]\n"
PROTECTION = '[[protection]]\nname = "p"\nscenario = "S9"\nsource = "a"\ntarget = "b"\npolicy = "c"\n'
WRONG = {
    "unknown key": (
        VAULT + '[[host]]\nname = "a"\nagnt = "1"\n',
        "line 7: host.agnt: there is no key 'agnt' here; did you mean 'agent'?",
    ),
    "unknown table": (VAULT + "[mappings]\n", "line 5: mappings: there is no key 'mappings' here;"),
    "nothing near": (VAULT + "zzz = 1\n", "line 5: vault.zzz: there is no key 'zzz' here"),
    "inline table": (VAULT + MACHINE + 'disks = [{ pth = "x" }]\n', "line 8: machine.disks.pth"),
    "second of two": (
        VAULT + MACHINE + DISK + 'path = "x"\n' + DISK + 'paht = "x"\n',
        "line 11: machine.disks.paht: there is no key 'paht' here; did you mean 'path'?",
    ),
    "wrong type": (VAULT + '[[policy]]\nname = "m"\ncopy_frequency = "5"\n', "line 7: policy.copy_frequency: Expected"),
    "missing": (VAULT + "[[policy]]\n", "line 5: policy: misses required field 'name'"),
    "no vault": ("", "misses required field 'vault'"),
    "no scenario": (VAULT + PROTECTION, "line 7: protection.scenario"),
    "no TOML": (VAULT + "[[", "is no TOML"),
    "no text": ("\udcff", "is no TOML"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_estate_is_refused_with_its_line(case: str) -> None:
    text, message = WRONG[case]
    with pytest.raises(errors.Usage) as caught:
        parse(text.encode(errors="surrogateescape"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: object) -> None:
    with pytest.raises(errors.Unreachable):
        load(f"{tmp_path}/estate.toml")


def test_lines_of_keys_behind_strings_and_arrays_of_several_lines() -> None:
    text = 'a = """\n[b]\nc = 1\n"""\nd = [\n  1,\n  { e = 2 },\n]\n'
    text += '[f]\ng.h = 1 # [x]\n[[i]]\n[[i]]\n[i.j]\nk = "[[l]]"\n'
    found = lines.positions(text)
    assert found == {
        ("a",): 1, ("d",): 5, ("f",): 9, ("f", "g", "h"): 10, ("i", 0): 11, ("i", 1): 12, ("i", 1, "j"): 13,
        ("i", 1, "j", "k"): 14,
    }  # fmt: skip
    assert lines.find(found, ("i", 1, "j", "x", 3)) == 13
    assert lines.find(found, ("z",)) is None


def test_ten_thousand_machines_are_checked_in_a_moment() -> None:
    """`plan` of such an estate has 3 s in all; this is the part that grows with the estate."""
    head, machine = samples.text("S4").split("[[machine]]\n")
    machine, rest = machine.split("[[policy]]")
    rest, item = rest.split("[[item]]\n")
    item, mapping = item.split("[[mapping.network]]")
    many = "".join("[[machine]]\n" + machine.replace("web1", f"web{n}") for n in range(10_000))
    items = "".join("[[item]]\n" + item.replace("web1", f"web{n}") for n in range(10_000))
    text = f"{head}{many}[[policy]]{rest}{items}[[mapping.network]]{mapping}"
    began = time.process_time()
    loaded = parse(text.encode())
    assert check(loaded.estate).findings == []
    assert len(loaded.estate.item) == 10_000
    took = time.process_time() - began
    assert took < 6, f"{took:.1f} s of processor time"
