"""Agents that this host goes to: the certificate that is pinned for each address."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from secondsite.engine import errors
from secondsite.engine.remote import url
from secondsite.engine.remote.trust import book
from secondsite.engine.remote.trust import certificate as cert

MAX_AGENTS = 1000
_MAX_FILE, _WHAT = 8 << 20, "which agents are paired"


class Book(msgspec.Struct, forbid_unknown_fields=True):
    """The file: certificates (PEM) by address, as `url.address` writes it."""

    version: Literal[1] = 1
    agents: dict[str, str] = {}


def load(path: Path) -> Book:
    """An empty book where there is no file. Raises Damaged, Unreachable."""
    return book.load(path, Book, _MAX_FILE, _WHAT)


def find(path: Path, host: str, port: int) -> dict[str, str]:
    """The certificate of the agent at an address, by its pin. Raises Refused where none is paired."""
    where = _key(host, port)
    found = pinned(path, host, port)
    if found is None:
        raise errors.Refused(f"is not paired with this host; `secondsite pair {where} --token KEY` does it", path=where)
    return {cert.pin(found, str(path)): found}


def keep(path: Path, host: str, port: int, certificate: str) -> None:
    """Pin an agent's certificate, in the place of an older one. Raises Refused, Unreachable."""
    with book.changing(path, Book, _MAX_FILE, _WHAT) as held:
        held.agents[_key(host, port)] = certificate
        if len(held.agents) > MAX_AGENTS:
            raise errors.Refused(f"{MAX_AGENTS} agents are paired already", path=str(path))


def put_back(path: Path, host: str, port: int, certificate: str | None) -> None:
    """Pin what was pinned before, or nothing."""
    with book.changing(path, Book, _MAX_FILE, _WHAT) as held:
        held.agents.pop(_key(host, port), None)
        if certificate is not None:
            held.agents[_key(host, port)] = certificate


def pinned(path: Path, host: str, port: int) -> str | None:
    """The certificate at an address, if one is."""
    return load(path).agents.get(_key(host, port))


def _key(host: str, port: int) -> str:
    return url.address(host.lower().rstrip("."), port)
