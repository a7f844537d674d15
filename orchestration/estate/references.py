"""Names that lead somewhere: tables of an estate by name, and what is wrong with names (rule "name")."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from secondsite.orchestration.estate.findings import Finding
from secondsite.orchestration.estate.lines import Where
from secondsite.orchestration.estate.model import Array, Estate

NAME = "name"
# Which key of which table names one of which kinds. A key of a table below another one: table.key.
_REFERENCES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "server": {"site": ("site",)},
    "cloud": {"server": ("server",)},
    "host": {"cloud": ("cloud",), "site": ("site",)},
    "network": {"server": ("server",), "site": ("site",)},
    "classification": {"server": ("server",), "locations.host": ("host",)},
    "array": {"site": ("site",), "server": ("server",), "peers": ("array",)},
    "group": {"array": ("array",)},
    "machine": {
        "host": ("host",), "group": ("group",), "nics.network": ("network",),
        "disks.classification": ("classification",),
    },
    "protection": {
        "source": ("cloud", "site", "array"), "target": ("cloud", "array", "account", "site"), "policy": ("policy",),
    },
    "item": {"machine": ("machine",), "protection": ("protection",), "network": ("network",)},
    "recovery": {"group.machines": ("machine",), "group.groups": ("group",)},
    "consistency": {"machines": ("machine",)},
}  # fmt: skip
_MAPPED = {"network": "network", "storage": "classification", "array": "array"}


class Index:
    """Each kind of table by name. Of names that stand twice the first counts; `problems` tells of the others."""

    def __init__(self, estate: Estate) -> None:
        self.estate = estate
        self.tables: dict[str, dict[str, Any]] = {}
        self.where: dict[int, Where] = {}
        self._twice: list[Finding] = []
        for kind in Estate.__struct_fields__:
            rows = getattr(estate, kind)
            if isinstance(rows, tuple):
                self._add(kind, rows)

    def _add(self, kind: str, rows: tuple[Any, ...]) -> None:
        named = self.tables[kind] = {}
        for place, row in enumerate(rows):
            self.where[id(row)] = (kind, place)
            name = row.machine if kind == "item" else row.name
            if name in named:
                where = (kind, place, "machine" if kind == "item" else "name")
                self._twice.append(Finding(NAME, where, f"there are two of the {kind} {name!r}"))
            else:
                named[name] = row

    def find(self, kinds: tuple[str, ...], name: str) -> tuple[str, Any] | None:
        """The kind and the table of a name that may be of one of some kinds."""
        for kind in kinds:
            if name in self.tables[kind]:
                return kind, self.tables[kind][name]
        return None

    def place(self, row: Any, *keys: str | int) -> Where:
        """Where a table stands in the file, or a key of it."""
        return (*self.where.get(id(row), ()), *keys)

    def problems(self) -> list[Finding]:
        """Everything that is wrong with names."""
        return [*self._twice, *self._dangling(), *self._mapped()]

    def _dangling(self) -> Iterator[Finding]:
        for kind, references in _REFERENCES.items():
            for row in getattr(self.estate, kind):
                for key, kinds in references.items():
                    for where, name in _named(row, key.split("."), self.place(row)):
                        if self.find(kinds, name) is None:
                            yield Finding(NAME, where, f"there is no {' or '.join(kinds)} {name!r}")

    def _mapped(self) -> Iterator[Finding]:
        mapping = self.estate.mapping
        for kind, rows in ((kind, getattr(mapping, kind)) for kind in mapping.__struct_fields__):
            for place, row in enumerate(rows):
                for key in ("source", "target"):
                    name = getattr(row, key)
                    if not self._is_mapped(kind, name):
                        where = ("mapping", kind, place, key)
                        yield Finding(NAME, where, f"there is no {_MAPPED.get(kind, kind)} {name!r}")

    def _is_mapped(self, kind: str, name: str) -> bool:
        if kind != "pool":
            return name in self.tables[_MAPPED[kind]]
        array, _, pool = name.partition("/")
        found: Array | None = self.tables["array"].get(array)
        return found is not None and pool in found.pools


def _named(row: Any, keys: list[str], where: Where) -> Iterator[tuple[Where, str]]:
    """The names that stand at a key of a table, with their places."""
    value = getattr(row, keys[0])
    if len(keys) > 1:
        for place, below in enumerate(value):
            yield from _named(below, keys[1:], (*where, keys[0], place))
    elif isinstance(value, tuple):
        yield from (((*where, keys[0]), name) for name in value)
    elif value is not None:
        yield (*where, keys[0]), value
