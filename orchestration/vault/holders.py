"""Who holds a lease: a process by a name that no other has, of which this host can tell that it is gone.

A lease ends a minute after it was renewed last. One whose process was killed on this host ends with it: whoever starts
next need not wait.
"""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

from sqlalchemy import ColumnElement, Connection, or_, select

from secondsite.orchestration.vault import schema

_ITEM = schema.item


def new() -> str:
    """A name for something in this process, of at most 64 characters: host, boot, process, when that began, and what
    tells it from others in it.
    """
    return f"{this_process()} {secrets.token_hex(4)}"


def this_process() -> str:
    """The same of all in this process."""
    return f"{_host()} {_boot()} {os.getpid()} {_began(os.getpid())}"


def gone(holder: str) -> bool:
    """Was it a process of this host, and is it no more?"""
    parts = holder.split(" ")
    if len(parts) not in (4, 5) or parts[0] != _host() or not parts[2].isascii() or not parts[2].isdigit():
        return False
    return parts[1] != _boot() or _began(int(parts[2])) != parts[3]


def free(connection: Connection, at: float) -> ColumnElement[bool]:
    """Of items: nobody's."""
    held = select(_ITEM.c.lease_holder).where(_ITEM.c.lease_until >= at, _ITEM.c.lease_holder.is_not(None)).distinct()
    dead = [holder for holder in connection.execute(held).scalars() if gone(holder)]
    ended = or_(_ITEM.c.lease_until < at, _ITEM.c.lease_holder.is_(None))
    return or_(ended, _ITEM.c.lease_holder.in_(dead)) if dead else ended


def _host() -> str:
    return socket.gethostname()[:20].replace(" ", "_") or "-"


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]


def _began(process: int) -> str | None:
    """In ticks of this boot; None where there is none, or it is dead but for who has to look at it."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]
