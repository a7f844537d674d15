"""Agents that this host goes to: the certificate that is pinned for each address."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Literal

import msgspec

from secondsite.engine import errors
from secondsite.engine.remote import identity, url

MAX_AGENTS = 1000
_MAX_FILE = 8 << 20


class Book(msgspec.Struct, forbid_unknown_fields=True):
    """The file: certificates (PEM) by address, as `url.address` writes it."""

    version: Literal[1] = 1
    agents: dict[str, str] = {}


def load(path: Path) -> Book:
    """An empty book where there is no file. Raises Damaged, Unreachable."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except FileNotFoundError:
        return Book()
    except OSError as error:
        raise errors.from_os(error, path, "read which agents are paired") from None
    try:
        if len(data) > _MAX_FILE:
            raise msgspec.ValidationError("too long")
        return msgspec.json.decode(data, type=Book)
    except msgspec.DecodeError as error:
        raise errors.Damaged(f"does not say which agents are paired: {error}", path=str(path)) from None


def find(path: Path, host: str, port: int) -> dict[str, str]:
    """The certificate of the agent at an address, by its pin. Raises Refused where none is paired."""
    where = _key(host, port)
    found = load(path).agents.get(where)
    if found is None:
        raise errors.Refused(f"is not paired with this host; `secondsite pair {where} --token KEY` does it", path=where)
    return {identity.pin(found, str(path)): found}


def keep(path: Path, host: str, port: int, certificate: str) -> None:
    """Pin an agent's certificate, in the place of an older one. Raises Refused, Unreachable."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.with_name(path.name + ".lock").open("ab") as lock:
            identity.give_to_owner(lock.fileno(), path.parent)
            fcntl.flock(lock, fcntl.LOCK_EX)  # held for the few milliseconds of a write
            book = load(path)
            book.agents[_key(host, port)] = certificate
            if len(book.agents) > MAX_AGENTS:
                raise errors.Refused(f"{MAX_AGENTS} agents are paired already", path=str(path))
            identity.write(path, msgspec.json.format(msgspec.json.encode(book)), 0o600)
    except OSError as error:
        raise errors.from_os(error, path, "note which agents are paired") from None


def _key(host: str, port: int) -> str:
    return url.address(host.lower().rstrip("."), port)
