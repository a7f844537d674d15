"""One sender of many that begin together: it loads everything, waits for a line, sends, and tells when it ended.

    python release.py SOURCE URL STATE
"""

from __future__ import annotations

import sys
import time

from secondsite import engine


def main(source: str, url: str, state: str) -> None:
    """The time is that of the clock which all processes of a machine share."""
    replicate = engine.replicate  # imports what it needs
    print("ready", flush=True)
    sys.stdin.readline()
    replicate(source, url, state=state)
    print(time.monotonic(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
