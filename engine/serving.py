"""Serve a recovery point over NBD without copying it, read-only or with the writes in an overlay."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from secondsite.engine import errors
from secondsite.engine.images.base import Image
from secondsite.engine.remote import reach, url
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.steady import SteadyPoint
from secondsite.engine.store.key import refuse_plain
from secondsite.engine.store.place import finding_logs, is_place
from secondsite.engine.workers import looking

if TYPE_CHECKING:
    from secondsite.engine.nbd.export import Export
    from secondsite.engine.remote.far.point import FarPoint
    from secondsite.engine.store.log.steady import StoredPoint

    # Quoted, since importing goes round in a circle here.
    Standing: TypeAlias = "SteadyPoint | FarPoint | StoredPoint"

# How often a served head is compared with what cycles did to it: points before are then free to be dropped.
_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Serving:
    """A point that is served. `urls` are NBD URLs; `writable` says that an overlay takes writes."""

    urls: list[str]
    point: str
    size: int
    writable: bool


@contextmanager
def serve(
    replica: str | os.PathLike[str],
    at: str = "latest",
    *,
    socket: str | None = None,
    listen: tuple[str, int] | None = None,
    overlay: str | os.PathLike[str] | None = None,
    tls: str | None = None,
    state: str | os.PathLike[str] | None = None,
    told: Callable[[str], object] = lambda line: None,
) -> Iterator[Serving]:
    """Export a recovery point while the context is open. Its bytes never change, and cycles into the replica go on.

    Of a replica in a store what is read is fetched, and some of it kept in memory; where the store does not answer a
    read waits half a minute and then fails.

    `socket` is the path of a Unix socket, `listen` an address and a port (0: any); one of them at least. `overlay` is a
    file that takes the writes; it may be used again with the same point. `tls` is a folder with server-cert.pem and
    server-key.pem, and ca-cert.pem where clients must show a certificate. `told` gets a line where the link to another
    host's replica is lost, where it is back, and where the point is gone.

    Raises Usage, Refused, Busy, Damaged, Unreachable.
    """
    from secondsite.engine.nbd.server import Server, native
    from secondsite.engine.nbd.tls import server_context

    native()
    if socket is None and listen is None:
        raise errors.Usage("say where to listen: a socket's path, or an address and a port")
    with ExitStack() as stack:
        point = open_steady(os.fspath(replica), at, state, told)
        stack.enter_context(point)
        image = _over(point, overlay) if overlay is not None else point
        if image is not point:
            stack.enter_context(image)
        server = Server(tls=server_context(tls) if tls else None)
        server.add(_export(image, point))
        urls = []
        if socket is not None:
            server.listen_unix(socket)
            urls.append(_url(tls, socket=os.path.abspath(socket)))
        if listen is not None:
            host, port = server.listen_tcp(*listen)
            urls.append(_url(tls, host=host, port=port))
        stack.enter_context(server)
        stack.callback(point.give_up)  # or the server would wait for who waits
        stack.enter_context(following(point))
        yield Serving(urls, point.name, point.size, overlay is not None)


@finding_logs
def open_steady(
    replica: str, at: str, state: str | os.PathLike[str] | None, told: Callable[[str], object]
) -> Standing:  # fmt: skip
    """A point that stays as it is while cycles go on; its holder is `following` meanwhile, `told` of trouble."""
    if is_place(replica):
        from secondsite.engine.store.log.steady import StoredPoint

        return StoredPoint(replica, at, state)
    refuse_plain(replica)
    if url.is_remote(replica):
        return reach.far_point(replica, state, at, told)
    return SteadyPoint(Replica.open(replica), at)


def _over(point: Standing, overlay: str | os.PathLike[str]) -> Image:
    from secondsite.engine.images.overlay import OverlayImage

    return OverlayImage(point, overlay, point.over)


def _export(image: Image, point: Standing) -> Export:
    from secondsite.engine._nbd import Disk
    from secondsite.engine.nbd import protocol
    from secondsite.engine.nbd.export import Export, allocation

    plain = image is point
    disk = Disk(image, image.size, fd=point.fd if plain else -1, read_only=plain)
    return Export(
        f"point-{point.name}", disk, point.path, {protocol.CONTEXT_ALLOCATION: allocation(image)}
    )  # fmt: skip


def _url(tls: str | None, *, socket: str = "", host: str = "", port: int = 0) -> str:
    from secondsite.engine.nbd.url import NbdUrl

    return str(NbdUrl(socket=socket, host=host, port=port or 10809, tls=tls is not None))


def following(point: Standing) -> AbstractContextManager[None]:
    """Look after the head now and then, so that what is needed of the replica does not grow with the time served."""

    def follow() -> bool:
        try:
            point.follow()
        except errors.Error:
            return False  # each read says it
        return True

    return looking(_LOOK_SECONDS, follow, "follow")
