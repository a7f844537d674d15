"""Files that are no estate get one line with the line of the file and what may have been meant."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
import samples

from secondsite.engine import errors
from secondsite.orchestration.estate import lines, loading
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


def test_what_is_no_file_ends_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_SECONDS", 0.3)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(errors.Usage, match="is a pipe"):
        load(pipe)
    writer = os.open(pipe, os.O_RDWR)
    os.write(writer, VAULT.encode())
    with pytest.raises(errors.Usage, match="no whole estate came out of it"):
        load(pipe)
    os.close(writer)
    for device in ("/dev/zero", "/dev/null"):
        with pytest.raises(errors.Usage, match="is a device"):
            load(device)
    with pytest.raises(errors.Unreachable, match="directory"):
        load(tmp_path)
    with pytest.raises(errors.Usage, match="no name of a file"):
        load("a\0b")


def test_an_estate_comes_out_of_a_pipe_too() -> None:
    """`secondsite plan <(generate)`: more than a pipe holds at once."""
    read, write = os.pipe()
    said = VAULT + "".join(f'[[site]]\nname = "site {number}"\n' for number in range(10_000))
    writer = threading.Thread(target=lambda: Path(f"/proc/self/fd/{write}").write_text(said))
    writer.start()
    time.sleep(0.1)
    os.close(write)
    try:
        assert len(load(f"/proc/self/fd/{read}").estate.site) == 10_000
    finally:
        os.close(read)
        writer.join()


def test_a_file_of_windows_is_an_estate_too() -> None:
    """Its editors begin with a byte order mark, and end lines their own way."""
    text = samples.text("S2")
    assert parse(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()).estate == parse(text.encode()).estate
    with pytest.raises(errors.Usage, match="line 1: zzz: there is no key"):
        parse(b"\xef\xbb\xbfzzz = 1\r\n" + text.encode())


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
