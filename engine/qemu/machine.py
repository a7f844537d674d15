"""How to reach a running QEMU: what `replicate(qemu=...)` takes."""

from __future__ import annotations

from dataclasses import dataclass

from secondsite.engine.units import GIB


@dataclass(frozen=True, slots=True)
class Qemu:
    """The QEMU that has the source open.

    `qmp` is its monitor and `agent` its guest agent: a socket's path or HOST:PORT. `node` names the block node where
    the source's file does not tell which. `nbd` is the URL of an NBD server that somebody else began in it. What the
    machine overwrites while it is read is kept in `folder` (the source's own by default), up to `copy_limit` bytes.
    """

    qmp: str
    node: str | None = None
    agent: str | None = None
    nbd: str | None = None
    folder: str | None = None
    copy_limit: int = 16 * GIB
