"""The commands of the vault, as an operator runs them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from operators import Shell

sys.path.insert(0, str(Path(__file__).parents[1] / "estate"))
import samples


class Operator(Shell):
    """Runs command lines against one vault, with an estate file."""

    def __init__(self, vault: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(capsys, vault)
        self.folder = folder

    def estate(self, text: str) -> str:
        path = self.folder / "estate.toml"
        path.write_text(text)
        return str(path)


@pytest.fixture
def run(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Operator:
    return Operator(url, tmp_path, capsys)


def test_an_estate_is_planned_applied_and_planned_again(run: Operator) -> None:
    path = run.estate(samples.text("S2"))
    assert "there is no vault" in run("apply", path, status=3)
    run("vault", "init")
    assert "enable item app1: by london-to-leeds" in run("plan", path)
    assert "applied: changes: 21" in run("apply", path)
    assert run("plan", path) == "nothing would change\n"
    assert run("apply", path) == "nothing to change\n"
    assert json.loads(run("plan", path, "--json")) == {"changes": [], "findings": []}


def test_every_broken_rule_is_listed_with_its_line_and_nothing_changes(run: Operator) -> None:
    run("vault", "init")
    text = samples.text("S4").replace('"RAGRS"', '"LRS"').replace('agent = "2.0.8700"\n', "", 1)
    path = run.estate(text)
    shown = run("plan", path, status=3)
    assert "R12.11: account" in shown and "R12.12: the agent is not installed on host 'hv1'" in shown
    assert shown.count("FAIL  line ") == 2 and "2 rules are broken; nothing was changed" in shown
    broken = [line for line in shown.splitlines(True) if not line.startswith(("add ", "enable "))]
    assert run("apply", path, status=3) == "".join(broken)
    for command in ("plan", "apply"):
        found = json.loads(run(command, path, "--json", status=3).splitlines()[0])["findings"]
        assert [(one["rule"], text.splitlines()[one["line"] - 1][:10]) for one in found] == [
            ("R12.11", "redundancy"), ("R12.12", "[[host]]"),
        ]  # fmt: skip
    assert run("plan", run.estate(samples.text("S4"))).startswith("add vault")
    refused = json.loads(run("vault", "audit", "--json"))["actions"][-1]
    assert (refused["what"], refused["result"]) == ("apply", "failed")


def test_a_provider_registers_by_a_key_once(run: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    run("vault", "init")
    monkeypatch.setenv("SECONDSITE_KEY", run("vault", "key").strip())
    arguments = ("vault", "register", "provider", "vmm-london", "--version", "3.5.468")
    run(*arguments)
    assert "R1.7" in run(*arguments, status=3)
    assert "vmm-london" in run("vault", "registered")
    audit = run("vault", "audit")
    assert audit.count("register") == 2 and "failed" in audit


def test_a_plan_needs_no_vault(run: Operator) -> None:
    if "://" not in run.vault:
        assert "add site london" in run("plan", run.estate(samples.text("S2")))
        assert not Path(run.vault).exists()


def test_an_estate_is_held_to_what_registered(run: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    """R1.8: a Provider of another version than the estate says; one that it does not name contradicts nothing."""
    run("vault", "init")
    for name, version in (("vmm-elsewhere", "9.9"), ("vmm-london", "9.9")):
        monkeypatch.setenv("SECONDSITE_KEY", run("vault", "key").strip())
        run("vault", "register", "provider", name, "--version", version)
    text = samples.text("S2")
    path = run.estate(text)
    for command in ("plan", "apply"):
        told = run(command, path, status=3)
        assert told.count("R1.8") == 1 and "'vmm-london' registered with version 9.9" in told
    installed = next(line for line in text.splitlines() if line.startswith("provider = "))
    run("apply", run.estate(text.replace(installed, 'provider = "9.9"')))
