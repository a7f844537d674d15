"""Values that a field of an estate cannot have, whatever else the estate says (rule "value").

Every text and every number of the tables in model.py is held to the kind that its field is of. A file that is read
again from the vault is not: what was applied before there was a rule goes on, and the next change of it is told.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from secondsite.orchestration.estate.findings import Finding
from secondsite.orchestration.estate.lines import Where
from secondsite.orchestration.estate.model import (
    Account,
    Commands,
    Disk,
    Estate,
    Host,
    Item,
    Location,
    Machine,
    Policy,
    Quiesce,
    Server,
    Signal,
    Step,
    Table,
    Tier,
)
from secondsite.orchestration.estate.references import NAME

VALUE = "value"
# As the vault's columns take them (../vault/schema.py).
MOST_NAME, MOST_PATH = 200, 1000
# Of one argument of a command, and of what a person is told; Linux takes 128 KiB of the first.
MOST_WORD = 100_000
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_URL = re.compile(r"[a-z][a-z0-9+]{1,20}://[^/]")
_ADDRESS = re.compile(r"(?:\w[\w.-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\])(?::(\d{1,5}))?")
_DAY = 86_400
# Numbers that every reader of JSON reads as they are.
_EXACT = 1 << 53
Check = Callable[[Any], str | None]


def check(estate: Estate) -> Iterator[Finding]:
    """Each field that breaks its rule, and machines whose names only a careful reader tells apart."""
    yield from _walk(estate, (), "")
    yield from _alike(estate)


def _walk(table: Table, where: Where, called: str) -> Iterator[Finding]:
    """`called` is what messages call the table."""
    for key, default, found in _fields(type(table)):
        value = getattr(table, key)
        if value is default or value == default:
            continue  # most fields of most estates
        if found is None:
            below = enumerate(value) if isinstance(value, tuple) else ((None, value),)
            for place, one in below:
                here = (*where, key) if place is None else (*where, key, place)
                yield from _walk(one, here, f"{called}.{key}" if called else key)
        elif (wrong := found(value)) is not None:
            yield Finding(VALUE, (*where, key), f"{key} of {_who(table, called)} {wrong}")


def _who(table: Table, called: str) -> str:
    name = getattr(table, "name", None) or getattr(table, "machine", None)
    return f"{called} {short(name)}" if name else called


def short(value: object) -> str:
    """As a message quotes it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:70]}... ({len(text)} characters)"


@cache
def _fields(kind: type[Table]) -> tuple[tuple[str, Any, Check | None], ...]:
    """Of a table: each field that has a rule, its default, and the rule; None where it holds further tables."""
    hints = get_type_hints(kind)
    found: list[tuple[str, Any, Check | None]] = []
    for field in msgspec.structs.fields(kind):
        said = _RULES.get(kind, {}).get(field.name)
        words = set(_leaves(hints[field.name]))
        if said is not None:
            found.append((field.name, field.default, said))
        elif any(isinstance(one, type) and issubclass(one, Table) for one in words):
            found.append((field.name, field.default, None))
        elif str in words:
            found.append((field.name, field.default, _many(_word) if _is_tuple(hints[field.name]) else _word))
    return tuple(found)


def _leaves(hint: Any) -> Iterator[Any]:
    """The types that a hint is made of; the values of a Literal are none."""
    if get_origin(hint) is None:
        yield hint
    elif str(get_origin(hint)) != "typing.Literal":
        for one in get_args(hint):
            yield from _leaves(one)


def _is_tuple(hint: Any) -> bool:
    return get_origin(hint) is tuple or any(get_origin(one) is tuple for one in get_args(hint))


def _many(one: Check) -> Check:
    """Of a list: of the first that is wrong."""
    return lambda values: next((wrong for value in values if (wrong := one(value)) is not None), None)


def _word(value: str) -> str | None:
    """A name, or what else is one short line."""
    if not value:
        return "is empty"
    if len(value) > MOST_NAME:
        return f"has {len(value)} characters, and {MOST_NAME} are possible"
    if not value.isprintable():
        return f"is {short(value)}, with a character that no line shows"
    return f"is {short(value)}, with a space at an end" if value != value.strip() else None


def _path(value: str) -> str | None:
    """A file or folder of a host."""
    if len(value) > MOST_PATH:
        return f"has {len(value)} characters, and {MOST_PATH} are possible"
    if _CONTROL.search(value):
        return f"is {short(value)}, with a control character"
    if not value.startswith("/"):
        return f"is {short(value)}, which is no absolute path"
    return f"is {short(value)}, which leads upwards" if ".." in value.split("/") else None


def _image(value: str) -> str | None:
    """A disk: a path, or the URL of a server that has it."""
    if _URL.match(value) and not _CONTROL.search(value) and len(value) <= MOST_PATH:
        return None
    return _path(value)


def _argument(value: str) -> str | None:
    """Of a command; lines are possible."""
    if len(value) > MOST_WORD:
        return f"has {len(value)} characters, and {MOST_WORD} are possible"
    return f"is {short(value)}, with a NUL in it" if "\0" in value else None


def _text(value: str) -> str | None:
    """Words for a person, or from a machine: the empty one would be everywhere."""
    return _argument(value) if value.strip() else "is empty"


def _command(values: tuple[str, ...]) -> str | None:
    if values and not values[0].strip():
        return "names no program"
    return _many(_argument)(values)


def _url(*schemes: str) -> Check:
    def wrong(value: str) -> str | None:
        if len(value) > MOST_PATH or _CONTROL.search(value):
            return f"is {short(value)}, which is no URL"
        known = any(value.startswith(f"{one}://") and len(value) > len(one) + 3 for one in schemes)
        return None if known else f"is {short(value)}, which does not begin with {' or '.join(schemes)}://"

    return wrong


def _address(value: str) -> str | None:
    match = _ADDRESS.fullmatch(value)
    known = match is not None and (match[1] is None or 0 < int(match[1]) < 65536)
    return None if known else f"is {short(value)}, which is not HOST[:PORT]"


def _file_name(value: str) -> str | None:
    if "/" in value or value in (".", "..") or value.startswith("-"):
        return f"is {short(value)}, which is no plain name"
    return _word(value)


def _number(least: int, most: int) -> Check:
    return lambda value: None if least <= value <= most else f"is {short(value)}, and not {least} to {most}"


_COMMANDS = {key: _command for key in ("start", "stop", "status", "screenshot")}
_RULES: Mapping[type[Table], Mapping[str, Check]] = {
    Server: {"reach": _command},
    Host: {
        "path": _path, "run": _path, "reach": _command, "address": _address, "namespace": _file_name,
    },
    Commands: {**_COMMANDS, "seconds": _number(1, _DAY)},
    Location: {"path": _path},
    Account: {"url": _url("azure")},
    Disk: {"path": _image, "size": _number(1, 1 << 60)},
    Machine: {
        "qmp": _path, "guest_agent": _path, "options": _many(_argument), "memory": _number(1, 1 << 24),
        "processors": _number(1, 4096),
    },
    Quiesce: {"before": _command, "after": _command, "seconds": _number(1, _DAY)},
    Signal: {
        "serial": _text, "tcp": _number(1, 65535), "url": _url("http", "https"), "seconds": _number(1, _DAY),
    },
    Tier: dict.fromkeys(("every", "seconds"), _number(1, _EXACT)),
    # What else they are has its own rules: R1.1, R2.4, R3.1, R4.1, R5.4, R5.6, R12.6, R12.7, R12.15.
    Policy: {
        **dict.fromkeys(("copy_frequency", "hours", "additional", "application_consistent"), _number(-_EXACT, _EXACT)),
        "rpo_threshold": _number(1, _EXACT), "drill_days": _number(0, 3650), "limit": _argument,
    },
    Item: {"cards": _number(0, 64), "medium": _argument, "existing": _many(_argument)},
    Step: {"script": _command, "manual": _text, "http": _argument, "seconds": _number(-_EXACT, _EXACT)},
}  # fmt: skip


def _alike(estate: Estate) -> Iterator[Finding]:
    """Hypervisors, shares and name services do not tell such machines apart."""
    seen: dict[str, str] = {}
    for place, machine in enumerate(estate.machine):
        name = machine.name
        plain = name.lower() if name.isascii() else unicodedata.normalize("NFKC", name).casefold()
        before = seen.setdefault(plain, name)
        if before != name:
            message = f"machine {short(name)} differs from {short(before)} by case or form alone"
            yield Finding(NAME, ("machine", place, "name"), message)
