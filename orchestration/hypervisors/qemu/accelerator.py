"""Whether this host's KVM runs machines. It is tried: a KVM below another one may be there, and hang or abort.

A machine without disks is started, and given a few seconds for its firmware to find nothing to boot. What came of it
holds until the host boots again.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

PROGRAM = "qemu-system-x86_64"
_DEVICE = "/dev/kvm"
# SeaBIOS is there after 0.3 s on a host whose KVM works, and a busy one is given more.
_TRY_SECONDS = 8.0
_BOOTED = b"No bootable device"
_CACHE = ".accelerator"
_CHOSEN = ("-accel", "--accel", "-enable-kvm", "--enable-kvm")


def chosen(options: Sequence[str]) -> bool:
    """Do a machine's own options say which?"""
    return any(one in _CHOSEN or "accel=" in one for one in options)


def choose(folder: str, device: str = _DEVICE, command: Sequence[str] | None = None) -> str:
    """kvm or tcg. What was found is kept in the folder of machines; `command` is what is tried."""
    if not os.access(device, os.R_OK | os.W_OK):
        return "tcg"
    boot, cache = Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.path.join(folder, _CACHE)
    with suppress(OSError, ValueError, AttributeError):
        known = json.loads(Path(cache).read_bytes())
        if known.get("boot") == boot and known.get("accelerator") in ("kvm", "tcg"):
            return str(known["accelerator"])
    found = "kvm" if _works(command or _command()) else "tcg"
    with suppress(OSError):
        Path(f"{cache}.{os.getpid()}").write_text(json.dumps({"boot": boot, "accelerator": found}))
        os.replace(f"{cache}.{os.getpid()}", cache)
    return found


def _command() -> list[str]:
    return [
        PROGRAM, "-accel", "kvm", "-cpu", "max", "-m", "64", "-nodefaults", "-no-user-config", "-display", "none",
        "-chardev", "stdio,id=said,signal=off", "-device", "isa-debugcon,iobase=0x402,chardev=said",
    ]  # fmt: skip


def _works(command: Sequence[str]) -> bool:
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )  # fmt: skip
    except OSError:
        return False
    assert process.stdout is not None
    said, until = b"", time.monotonic() + _TRY_SECONDS
    try:
        while _BOOTED not in said:
            left = until - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                return False
            got = os.read(process.stdout.fileno(), 4096)
            if not got:
                return False
            said = said[-4096:] + got
        return True
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
