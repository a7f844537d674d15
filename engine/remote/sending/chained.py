"""A replica as the source of another one, on a third host (R12.16): its newest point, while cycles go on arriving."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from secondsite.engine.files import LocalFiles
from secondsite.engine.images import Image, is_url
from secondsite.engine.remote.patience import patiently
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.layout import Layout
from secondsite.engine.replica.proved import ProvedPoint
from secondsite.engine.source import Given, Source
from secondsite.engine.store.key import current_key, using_key
from secondsite.engine.store.place import is_log


def opened(given: Given, stack: ExitStack, check: Callable[[], object]) -> Source:
    """The source, closed by `stack`. A replica's folder is its newest point, whose bytes never change while it is read,
    whatever arrives, and each block that is read is proved: rot here is not to pass for a change there. It is known by
    the replica's own id, wherever the folder lies, and is as old as the point.
    """
    path = given.source
    if not isinstance(path, Image) and not is_url(path) and os.path.isdir(path):
        files = LocalFiles()
        if is_log(os.fspath(path)):
            given = replace(given, **_logged(os.fspath(path), given, stack))
        elif files.size(Layout(os.fspath(path)).identity) >= 0:
            replica = Replica.open(os.fspath(path), files)
            point = patiently(lambda: ProvedPoint(replica), check=check)
            stack.callback(point.close)
            name = given.name or f"replica-{replica.identity.replica_id.hex()}"
            given = replace(given, source=point, name=name, moment=point.point.time)
    origin = given.open()
    stack.callback(origin.close)
    return origin


def _logged(path: str, given: Given, stack: ExitStack) -> dict[str, Any]:
    """Of a folder with a log, where a point stays as it is by itself; encrypted or not, whatever the target is."""
    from secondsite.engine.store.log.calls import open_point

    with using_key(replace(current_key(), plain=True)):
        point = stack.enter_context(open_point(path, "latest"))
    name = given.name or f"replica-{point.identity.replica_id.hex()}"
    return {"source": point, "name": name, "moment": point.point.time}
