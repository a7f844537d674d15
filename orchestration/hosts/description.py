"""What a host says of itself, so that its caller knows whom he speaks to."""

from __future__ import annotations

import os
import time

from secondsite.engine import errors, kernel
from secondsite.orchestration.hosts.operations import OPERATIONS, Cancel, Json


def describe(arguments: Json, cancel: Cancel) -> Json:
    """`host.describe`: its name, version, time and operations."""
    from importlib.metadata import version

    if arguments:
        raise errors.Usage("host.describe takes no arguments")
    return {
        "name": os.uname().nodename, "version": version("secondsite"), "kernel": kernel.NAME,
        "time": time.time(), "root": os.geteuid() == 0, "operations": list(OPERATIONS),
    }  # fmt: skip
