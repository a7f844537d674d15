"""Run one command and report its seconds and its own peak memory: `python -I -S launch.py FD COMMAND...`

A process of its own, because the kernel counts the memory of whoever forked a command into the command's peak:
this one is some ten megabytes, the benchmark may be hundreds.
"""

import json
import os
import sys
import time


def main(report: int, command: list[str]) -> int:
    """Run `command`, write what it used to the file descriptor `report`; its exit status."""
    os.set_inheritable(report, False)
    began = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - began
    used = {"seconds": seconds, "cpu": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss * 1024}
    os.write(report, json.dumps(used).encode())
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
