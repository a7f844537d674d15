"""A replica as the source of another one, on a third host (R12.16): its newest point, while cycles go on arriving."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack

from secondsite.engine.files import LocalFiles
from secondsite.engine.images import Image, is_url
from secondsite.engine.remote.patience import patiently
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.layout import Layout
from secondsite.engine.replica.steady import SteadyPoint


def source(
    given: str | os.PathLike[str] | Image, name: str | None, stack: ExitStack, check: Callable[[], object]
) -> tuple[str | os.PathLike[str] | Image, str | None]:
    """What is to be read and how it is called. A replica's folder is its newest point, whose bytes never change
    while it is read, whatever arrives; it is known by the replica's own id, wherever the folder lies.
    """
    if isinstance(given, Image) or is_url(given) or not os.path.isdir(given):
        return given, name
    files = LocalFiles()
    if files.size(Layout(os.fspath(given)).identity) < 0:
        return given, name
    replica = Replica.open(os.fspath(given), files)
    point = patiently(lambda: SteadyPoint(replica), check=check)
    stack.callback(point.close)
    return point, name or f"replica-{replica.identity.replica_id.hex()}"
