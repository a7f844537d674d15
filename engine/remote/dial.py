"""From this host to an agent: a connection whose other end is the paired one and nobody else."""

from __future__ import annotations

import random
import socket
import time
from contextlib import suppress

from secondsite.engine import errors
from secondsite.engine.remote import url
from secondsite.engine.remote.home import Home
from secondsite.engine.remote.link import tls
from secondsite.engine.remote.link.connection import Connection
from secondsite.engine.remote.link.wire import Closed
from secondsite.engine.remote.trust import agents, identity

CONNECT_SECONDS = 15.0
# An agent that is crowded by strangers cuts the oldest connection that has not shown its key: that is tried again soon.
_TRIES = 4
_PAUSE_SECONDS = 0.5
_SOON_SECONDS = 30.0


def connect(remote: url.Remote, home: Home) -> Connection:
    """A new connection; the caller closes it. Raises Untrusted or Refused where trying again changes nothing,
    otherwise Unreachable.
    """
    ours, peer = identity.load(home.identity), url.address(remote.host, remote.port)
    pinned = agents.find(home.agents, remote.host, remote.port)
    for left in reversed(range(_TRIES)):
        began = time.monotonic()
        try:
            secure, pin = tls.shake(reach(remote.host, remote.port), ours, pinned, peer, server=False)
            if (other := tls.renewed(secure, pinned[pin])) is not None:
                with suppress(errors.Error):  # only for who asks how long it holds
                    agents.keep(home.agents, remote.host, remote.port, other)
            took = time.monotonic() - began
            made = Connection(secure, peer, client=True)
            made.handshake_seconds = took
            return made
        except (tls.Cut, Closed) as error:
            if time.monotonic() - began > _SOON_SECONDS:  # nobody cut it: the network or the agent is lost
                raise
            if not left:
                told = f"{error.message}, {_TRIES} times: it is crowded, or being stopped; try again later"
                raise errors.Unreachable(told, path=peer) from None
        time.sleep(_PAUSE_SECONDS * (_TRIES - left) * random.uniform(0.5, 1.5))
    raise AssertionError


def reach(host: str, port: int) -> socket.socket:
    """A TCP connection. Raises Unreachable."""
    peer = url.address(host, port)
    try:
        sock = socket.create_connection((host, port), CONNECT_SECONDS)
    except TimeoutError:
        raise errors.Unreachable(f"no answer in {CONNECT_SECONDS:g} seconds", path=peer) from None
    except socket.gaierror as error:
        raise errors.Unreachable(f"cannot find the host: {error.strerror}", path=peer) from None
    except OSError as error:
        raise errors.from_os(error, peer, "connect") from None
    # Requests and acknowledgements are small, and somebody waits for each.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
