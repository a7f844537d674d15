"""What msgspec knows of our types is made by one thread at a time.

It is made at a type's first conversion; when two threads made it of one type at once, that ended a process in the
garbage collector (msgspec 0.22.0). So a module whose types threads convert calls `ready` for them when it is imported,
or before it converts.
"""

from __future__ import annotations

import threading
from typing import Any

import msgspec

_LOCK = threading.Lock()
_READY = set[Any]()


def ready(*kinds: Any) -> None:
    """Make what is needed to convert to these types, and to what is in them, unless it was made."""
    with _LOCK:
        for kind in kinds:
            if kind not in _READY:
                msgspec.json.Decoder(kind)
                _READY.add(kind)
