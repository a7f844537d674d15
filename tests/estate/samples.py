"""The sample estates, and edits of them."""

from __future__ import annotations

from importlib import resources

from secondsite.orchestration.estate.loading import Loaded, parse


def text(scenario: str) -> str:
    folder = resources.files("secondsite.orchestration").joinpath("samples")
    return folder.joinpath(f"{scenario.lower()}.toml").read_text()


def edited(scenario: str, *edits: tuple[str, str]) -> Loaded:
    """A sample, in which each first text is replaced by the second one; every edit must find its text."""
    found = text(scenario)
    for old, new in edits:
        assert old in found, f"{old!r} is not in the sample of {scenario}"
        found = found.replace(old, new)
    return parse(found.encode())
