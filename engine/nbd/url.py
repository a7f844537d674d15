"""NBD URLs: which server, which export, how encrypted, and the dirty bitmap that is asked for.

The NBD project's doc/uri.md, with two parameters beside it: `bitmap`, and libnbd's `tls-certificates`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from secondsite.engine import errors
from secondsite.engine.nbd.protocol import CONTEXT_DIRTY_BITMAP, MAX_STRING, PORT

# scheme: (on a Unix socket, encrypted)
SCHEMES = {
    "nbd": (False, False), "nbds": (False, True), "nbd+unix": (True, False), "nbds+unix": (True, True),
}  # fmt: skip
_PARAMETERS = ("socket", "bitmap", "tls-certificates", "tls-hostname", "tls-type", "tls-verify-peer")
_CONTROL = re.compile(r"[\x00-\x20\x7f]")


@dataclass(frozen=True)
class NbdUrl:
    """One export of one server; `str` gives the URL back, in its one spelling.

    Either `host` and `port` or `socket` say where it is; a socket that begins with NUL lies in Linux's abstract
    namespace. `bitmap` is a whole metadata context. `certificates` is a folder with ca-cert.pem, and client-cert.pem
    and client-key.pem where the server asks for them. `hostname` is what the server's certificate must be for,
    where that is not the host.
    """

    export: str = ""
    host: str = ""
    port: int = PORT
    socket: str = ""
    tls: bool = False
    bitmap: str | None = None
    certificates: str | None = None
    hostname: str | None = None

    @property
    def server_name(self) -> str:
        """The name that the server's certificate must be for; libnbd takes `localhost` for a socket too."""
        return self.hostname or self.host or "localhost"

    def __str__(self) -> str:
        scheme = ("nbds" if self.tls else "nbd") + ("+unix" if self.socket else "")
        host = f"[{self.host}]" if ":" in self.host else quote(self.host, safe="")
        place = "" if self.socket else host + (f":{self.port}" if self.port != PORT else "")
        asked = {
            "socket": self.socket,
            "bitmap": _short_bitmap(self.bitmap),
            "tls-certificates": self.certificates,
            "tls-hostname": self.hostname,
        }
        query = "&".join(f"{name}={quote(os.fsencode(value), safe='/:')}" for name, value in asked.items() if value)
        return f"{scheme}://{place}/{quote(self.export, safe='/')}" + (f"?{query}" if query else "")


def is_url(path: str) -> bool:
    """Whether a path is meant as an NBD URL: no file's name begins with such a scheme and `://`."""
    scheme, mark, _ = path.partition("://")
    return bool(mark) and scheme.lower() in SCHEMES


def parse_url(text: str) -> NbdUrl:
    """The parts of an NBD URL. Raises Usage with the one thing that is wrong with it."""
    if not is_url(text):
        raise errors.Usage(f"{text!r} is no NBD URL: it begins with nbd://, nbds://, nbd+unix:// or nbds+unix://")
    if _CONTROL.search(text):
        raise errors.Usage(f"{text!r} has a blank or a control character: write it as %20 and the like")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise _wrong(text, f"is no URL: {error}") from None
    if parts.fragment or text.endswith("#"):
        raise _wrong(text, "has a '#': write it as %23")
    if "@" in parts.netloc:
        raise _wrong(text, "names a user, and NBD has none")
    unix, tls = SCHEMES[parts.scheme]
    given = _query(text, parts.query)
    _check_place(text, unix, parts.netloc, host, given)
    _check_tls(text, tls, given)
    return NbdUrl(
        export=_string(text, "export", _decoded(text, parts.path.removeprefix("/"))),
        host=_decoded(text, host),
        port=PORT if port is None else port,
        socket=given.get("socket", ""),
        tls=tls,
        bitmap=_bitmap(text, given.get("bitmap")),
        certificates=given.get("tls-certificates"),
        hostname=given.get("tls-hostname"),
    )


def _check_place(text: str, unix: bool, netloc: str, host: str, given: dict[str, str]) -> None:
    if unix and netloc:
        raise _wrong(text, "names a host, and is for a socket: write nbd+unix:///EXPORT?socket=PATH")
    if unix and "socket" not in given:
        raise _wrong(text, "names no socket: add ?socket=PATH")
    if not unix and "socket" in given:
        raise _wrong(text, "names a socket, which is for nbd+unix://")
    if not unix and not host:
        raise _wrong(text, "names no host")
    if "\0" in given.get("socket", "")[1:]:
        raise _wrong(text, "names a socket with a NUL in it")


def _check_tls(text: str, tls: bool, given: dict[str, str]) -> None:
    named = next((name for name in given if name.startswith("tls-")), None)
    if named and not tls:
        raise _wrong(text, f"says {named}, which is for nbds:// and nbds+unix://")
    if given.get("tls-type", "x509") != "x509":
        raise _wrong(text, f"asks for TLS with {given['tls-type']!r}: only x509 is there")
    if given.get("tls-verify-peer", "1") != "1":
        raise _wrong(text, "asks for TLS with anybody: the server is always verified")


def _query(text: str, query: str) -> dict[str, str]:
    """Name and value of each parameter; `+` stands for itself, as in RFC 3986."""
    given: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        if name not in _PARAMETERS:
            raise _wrong(text, f"has an unknown parameter {name!r}; known are {', '.join(_PARAMETERS[:4])}")
        if name in given or not value:
            raise _wrong(text, f"says {name} {'twice' if value else 'and not which'}")
        given[name] = _decoded(text, value)
    return given


def _bitmap(text: str, name: str | None) -> str | None:
    if name is None:
        return None
    return _string(text, "bitmap", name if ":" in name else CONTEXT_DIRTY_BITMAP + name)


def _short_bitmap(context: str | None) -> str | None:
    name = (context or "").removeprefix(CONTEXT_DIRTY_BITMAP)
    return context if ":" in name else name


def _string(text: str, what: str, value: str) -> str:
    if "\0" in value or len(value.encode()) > MAX_STRING:
        raise _wrong(text, f"names an {what} with a NUL" if "\0" in value else f"has too long a name of the {what}")
    return value


def _decoded(text: str, part: str) -> str:
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise _wrong(text, "is not UTF-8 where it is percent-encoded") from None


def _wrong(text: str, message: str) -> errors.Usage:
    return errors.Usage(message, path=text)
