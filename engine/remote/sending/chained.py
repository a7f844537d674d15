"""A replica as the source of another one, on a third host (R12.16): its newest point, while cycles go on arriving."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from secondsite.engine.files import LocalFiles
from secondsite.engine.images import Image, is_url
from secondsite.engine.remote.patience import patiently
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.layout import Layout
from secondsite.engine.replica.steady import SteadyPoint
from secondsite.engine.source import Given, Source


def opened(given: Given, stack: ExitStack, check: Callable[[], object]) -> Source:
    """The source, closed by `stack`. A replica's folder is its newest point, whose bytes never change while it is read,
    whatever arrives; it is known by the replica's own id, wherever the folder lies, and is as old as the point.
    """
    path = given.source
    if not isinstance(path, Image) and not is_url(path) and os.path.isdir(path):
        files = LocalFiles()
        if files.size(Layout(os.fspath(path)).identity) >= 0:
            replica = Replica.open(os.fspath(path), files)
            point = patiently(lambda: SteadyPoint(replica), check=check)
            stack.callback(point.close)
            name = given.name or f"replica-{replica.identity.replica_id.hex()}"
            given = replace(given, source=point, name=name, moment=point.point.time)
    origin = given.open()
    stack.callback(origin.close)
    return origin
