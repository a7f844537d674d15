"""Where a replica on another host is: `secondsite://HOST[:PORT]/NAME`, and which names there are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from secondsite.engine import errors

SCHEME = "secondsite://"
PORT = 8084
MAX_NAME = 200
_MAX_URL = 2048
# One folder below the agent's root: no separators, no hidden ones, nothing that a shell or a log could misread.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@-]*")
# Between dots 63 letters at most, and one at least: others no name server is asked for.
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_V6 = re.compile(r"[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._-]{1,15})?")


@dataclass(frozen=True)
class Remote:
    """A replica `name` of the agent at `host` and `port`."""

    host: str
    port: int
    name: str

    def __str__(self) -> str:
        return f"{SCHEME}{address(self.host, self.port)}/{self.name}"


def address(host: str, port: int) -> str:
    """As it is written: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_remote(text: str) -> bool:
    """Whether a path on the command line is such a URL, or meant to be: with one slash it would be a folder here."""
    return text.lower().startswith(SCHEME.rstrip("/"))


def parse(text: str) -> Remote:
    """Raises Usage with what is wrong."""
    if not text.lower().startswith(SCHEME) or len(text) > _MAX_URL:
        raise errors.Usage(f"is not a URL of the form {SCHEME}HOST[:PORT]/NAME", path=text[:200])
    where, slash, name = text[len(SCHEME) :].partition("/")
    if not slash or not name:
        raise errors.Usage("names no replica; the form is secondsite://HOST[:PORT]/NAME", path=text)
    host, port = parse_address(where)
    try:
        return Remote(host, port, check_name(unquote_to_bytes(name).decode("ascii")))
    except UnicodeDecodeError:
        raise errors.Usage("the replica's name is not ASCII", path=text) from None


def parse_address(text: str, port: int = PORT) -> tuple[str, int]:
    """HOST, HOST:PORT, [IPV6] or [IPV6]:PORT. Raises Usage."""
    if text.startswith("["):
        host, end, rest = text[1:].partition("]")
        known = bool(end) and ":" in host and _V6.fullmatch(host) is not None and (not rest or rest[0] == ":")
        number = rest[1:] if rest else None
    else:
        host, colon, after = text.partition(":")
        known, number = len(host) <= 253 and _HOST.fullmatch(host) is not None, after if colon else None
    if not known:
        raise errors.Usage(f"{text[:200]!r} is no host; an IPv6 address stands in brackets")
    return host, port if number is None else _port(number)


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        raise errors.Usage(f"{text[:20]!r} is no port; there are 1 to 65535")
    return int(text)


def check_name(name: str, what: str = "replica") -> str:
    """The name of a replica, or of a host, itself. Raises Refused for what is none: it may come from a peer."""
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise errors.Refused(
            f"{name[:80]!r} is no name of a {what}: letters, digits and ._+@- (at most {MAX_NAME}), "
            "not beginning with a dot"
        )
    return name
