"""One process that answers for all taps of a namespace: it is started with the first address, and ends by itself."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys

from secondsite.engine import errors

# A name without a file, which belongs to the network namespace, and is free again when its process ends, however.
NAME = "\0secondsite-dhcp"
_MODULE = "secondsite.orchestration.networks.dhcp.serving"
_SECONDS = 20.0
_CREDENTIALS = struct.Struct("=iII")


def ensure(namespace: str | None) -> None:
    """From within the namespace, while it is locked (`links.changing`): the process ends under the same lock, so that
    one that is there stays for what has come. Raises Unreachable.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as only:
        try:
            only.bind(NAME)
            only.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                _check_holder()
                return
            raise errors.from_os(error, "DHCP", "start it") from None
        program = [sys.executable, "-P", "-m", _MODULE, str(only.fileno()), namespace or ""]
        # By a shell that ends at once: what is left is nobody's child whom somebody would have to wait for.
        command = ["/bin/sh", "-c", '"$@" &', "sh", *program]
        try:
            subprocess.run(
                command, pass_fds=[only.fileno()], start_new_session=True, cwd="/", timeout=_SECONDS, check=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            raise errors.Unreachable(f"DHCP could not be started: {error}") from None


def _check_holder() -> None:
    """Anybody may take a name: is it one of us? Raises Refused."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as asks:
        try:
            asks.connect(NAME)
            who = asks.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except BlockingIOError:
            return  # it has been asked before: only one of us listens and does not answer
        except OSError as error:
            raise errors.Refused(f"DHCP cannot be started: its name is taken ({error})") from None
    process, user, _ = _CREDENTIALS.unpack(who)
    if user != os.geteuid():
        raise errors.Refused(f"DHCP cannot be started: process {process} of user {user} has its name")
