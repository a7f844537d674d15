"""How two hosts come to know each other: one key that the agent's operator hands to the other host's.

The key holds the pin of the agent's certificate, so that who pairs knows the agent before a word is said and nothing is
trusted on first use, and a secret that the agent takes once. Who pairs shows no certificate in the handshake: it goes
over inside of it, and whoever has not its private key can do nothing with having sent it.
"""

from __future__ import annotations

import base64
import re
from typing import NamedTuple

import msgspec

from secondsite.engine import errors
from secondsite.engine.remote import dial, url
from secondsite.engine.remote.home import Home
from secondsite.engine.remote.link import protocol, tls
from secondsite.engine.remote.link.calls import Call
from secondsite.engine.remote.link.connection import Connection
from secondsite.engine.remote.link.secure import Secure
from secondsite.engine.remote.trust import access, agents, certificate, identity

OPERATION = "register"
_KEY = re.compile(r"2ss1\.([A-Za-z0-9_-]{43})\.([A-Za-z0-9_-]{43})")
ANSWER_SECONDS = 20.0


class Register(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What who pairs says."""

    secret: str
    name: str
    certificate: str


class Registered(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What it may do now."""

    name: str
    replicas: list[str]
    actions: list[access.Action]


class Key(NamedTuple):
    """A registration key in its parts."""

    pin: str
    secret: str


def format_key(pin: str, secret: str) -> str:
    return f"2ss1.{base64.urlsafe_b64encode(bytes.fromhex(pin)).decode().rstrip('=')}.{secret}"


def parse_key(text: str) -> Key:
    """Raises Usage."""
    match = _KEY.fullmatch(text.strip())
    if match is None:
        raise errors.Usage("this is no registration key, or not all of it; `secondsite agent --token` prints one")
    return Key(base64.urlsafe_b64decode(match[1] + "=").hex(), match[2])


def pair(host: str, port: int, key: Key, name: str, home: Home) -> Registered:
    """From the side of who will connect. Raises Refused for a key that is wrong, used or old, Untrusted for another
    agent than the one that gave it out, and Unreachable.
    """
    ours, peer = identity.load(home.identity), url.address(host, port)
    said = Register(key.secret, url.check_name(name, "host"), ours.certificate)
    secure, certificate = tls.shake_to_pair(dial.reach(host, port), key.pin, peer)
    # First: an answer that is lost on the way then costs nothing. Of what is refused nothing is kept.
    try:
        before = agents.pinned(home.agents, host, port)
        agents.keep(home.agents, host, port, certificate)
    except BaseException:
        secure.close()
        raise
    try:
        return _register(secure, said, peer)
    except errors.Refused:
        agents.put_back(home.agents, host, port, before)
        raise


def _register(secure: Secure, said: Register, peer: str) -> Registered:
    try:
        connection = Connection(secure, peer, client=True)
    except tls.Untrusted:
        raise errors.Refused("the registration key was used, or is older than five days", path=peer) from None
    with connection, connection.call(OPERATION, said) as call:
        return protocol.decode(call.receive(ANSWER_SECONDS).control, Registered, peer)


def take(call: Call, home: Home) -> access.Peer:
    """At the agent: a stranger's one request, answered. Raises Refused, Garbled, Damaged."""
    said = protocol.decode(call.args, Register, call.peer)
    if not certificate.holds_now(said.certificate, call.peer):
        raise errors.Refused("the certificate does not hold now: compare the clocks, or make a new identity")
    made = access.register(home.peers, said.secret, said.name, said.certificate)
    call.send(Registered(made.name, made.replicas, made.actions))
    return made
