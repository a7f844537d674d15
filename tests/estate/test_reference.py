"""ESTATE.md is what an operator writes an estate from: every key of every table, and no other, with its default."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from secondsite.orchestration.estate import model
from secondsite.orchestration.estate.loading import parse

TEXT = (Path(model.__file__).parent / "ESTATE.md").read_text()
# Told in one row of the table that they are in.
INLINE = (model.Quiesce, model.Location, model.Tier, model.Mapping)
# What is called otherwise where it is in both of two places.
CALLED = {"recovery.group.before": "recovery.step", "recovery.group.after": "recovery.step"}


def tables(kind: Any) -> Iterator[type[model.Table]]:
    """Those that a field may hold."""
    if isinstance(kind, type) and issubclass(kind, model.Table):
        yield kind
    for one in typing.get_args(kind):
        yield from tables(one)


def keys(table: type[model.Table], place: str) -> Iterator[tuple[str, Any]]:
    kinds = typing.get_type_hints(table)
    for field in msgspec.structs.fields(table):
        called = CALLED.get(f"{place}.{field.name}", f"{place}.{field.name}")
        yield f"{place}.{field.name}", "required" if field.required else field.default
        for inner in tables(kinds[field.name]):
            if inner not in INLINE:
                yield from keys(inner, called)


def written() -> Iterator[tuple[str, str]]:
    for section in TEXT.split("\n## ")[1:]:
        heads = section.splitlines()[0].split(", ")
        for names, default in re.findall(r"^\| (`[^|]*) \| ([^|]*) \|", section, re.M):
            told = default.split(", ") if default.startswith("`") else [default]
            for name, one in zip(found := names.split(", "), told * len(found), strict=False):
                key = name.strip("`")
                yield (key if key.split(".")[0] in heads and len(heads) > 1 else f"{heads[0]}.{key}"), one


def test_every_key_is_there_with_its_default() -> None:
    kinds = typing.get_type_hints(model.Estate)
    known = {key: default for name in kinds for table in tables(kinds[name]) for key, default in keys(table, name)}
    told = dict(written())
    assert set(told) == set(known)
    for key, default in known.items():
        if default == "required" or isinstance(default, str | int):
            assert told[key].strip("`") == (default if default == "required" else json.dumps(default)), key
        else:
            assert told[key] != "required", key


def test_its_plan_can_be_read() -> None:
    (plan,) = re.findall(r"```toml\n(.*?)```", TEXT, re.S)
    loaded = parse(b'[vault]\nname = "v"\nregion = "r"\nsubscription = "s"\n' + plan.encode())
    assert [len(group.machines) for group in loaded.estate.recovery[0].group] == [1, 2]
