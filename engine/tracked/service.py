"""A tracking server: images under NBD for guests, each with a change map and a control socket for cycles."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from secondsite.engine import errors
from secondsite.engine.nbd import protocol as p
from secondsite.engine.nbd.export import Export, allocation, dirty
from secondsite.engine.nbd.server import Server
from secondsite.engine.nbd.tls import server_context
from secondsite.engine.tracked.control import Control
from secondsite.engine.tracked.disk import TrackedImage

# The metadata context of what was written since the point that the map is relative to.
CONTEXT_CHANGED = "qemu:dirty-bitmap:secondsite"


def track(
    images: Sequence[str | os.PathLike[str]],
    *,
    socket: str | None = None,
    listen: tuple[str, int] | None = None,
    tls: str | None = None,
    names: Sequence[str] = (),
    source_format: str | Sequence[str] | None = None,
    area: str | None = None,
    area_limit: int | None = None,
) -> Tracking:
    """Serve disk images over NBD until it is closed, and mark what is written, so that a cycle costs what changed.

    `socket` is a Unix socket's path, `listen` an address and a port (0: any); `tls` a folder with certificates. `names`
    of the exports are the files' own by default; `source_format` is that of all images, or of each. What a guest
    overwrites while a cycle reads is kept in the folder `area` (the image's own), in at most `area_limit` bytes. Raises
    Busy where another server has one of the images.
    """
    if socket is None and listen is None:
        raise errors.Usage("a tracking server needs a socket or an address to listen on")
    found = [os.path.basename(os.fspath(image)) for image in images]
    chosen = list(names) or found
    if not images or len(chosen) != len(images) or len(set(chosen)) != len(chosen) or not all(chosen):
        raise errors.Usage(
            f"{len(images)} images need as many different names; there are {', '.join(chosen) or 'none'}"
        )
    for image, name in zip(images, chosen, strict=True):
        if os.fsencode(name) != name.encode(errors="replace"):
            raise errors.Usage("its name is not UTF-8, as NBD wants; give it another (--name)", path=os.fspath(image))
    said = (source_format,) if source_format is None or isinstance(source_format, str) else source_format
    formats = [*said] * len(images) if len(said) == 1 else [*said]
    if len(formats) != len(images):
        raise errors.Usage(f"{len(images)} images have one format for all, or one each; {len(formats)} were given")
    tracking = Tracking(Server(tls=server_context(tls) if tls else None))
    try:
        for image, name, format in zip(images, chosen, formats, strict=True):
            tracking.add(TrackedImage(os.fspath(image), format=format, area=area, area_limit=area_limit), name)
        tracking.start(socket, listen, tls is not None)
    except BaseException:
        tracking.close()
        raise
    return tracking


class Tracking:
    """A running tracking server; `urls` are those of its exports."""

    def __init__(self, server: Server) -> None:
        self.server, self.images = server, list[TrackedImage]()
        self.names: list[str] = []
        self.urls: list[str] = []
        self._control: Control | None = None

    def add(self, image: TrackedImage, name: str) -> None:
        """Offer an image; before `start`."""
        self.images.append(image)
        image.clients = partial(self.server.clients, name)
        contexts = {p.CONTEXT_ALLOCATION: allocation(image.image), CONTEXT_CHANGED: dirty(image.changes.status)}
        self.server.add(Export(name, image.disk, "tracked by secondsite", contexts))
        self.names.append(name)

    def start(self, socket: str | None, listen: tuple[str, int] | None, tls: bool) -> None:
        """Listen, for guests and for cycles."""
        self._control = Control(self.images)
        scheme = "nbds" if tls else "nbd"
        if socket is not None:
            self.server.listen_unix(socket)
            where = quote(os.fsencode(os.path.abspath(socket)))
            self.urls += [f"{scheme}+unix:///{quote(name, safe='')}?socket={where}" for name in self.names]
        if listen is not None:
            host, port = self.server.listen_tcp(*listen)
            shown = f"[{host}]" if ":" in host else host
            self.urls += [f"{scheme}://{shown}:{port}/{quote(name, safe='')}" for name in self.names]
        self.server.start()

    def status(self) -> list[dict[str, Any]]:
        """What it tells of each image."""
        return [image.status() for image in self.images]

    def close(self) -> None:
        """Finish what is under way, flush, and save the maps. Raises Unreachable where a client's request does not end;
        the maps are then as after a crash.
        """
        for image in self.images:
            image.image.give_up()
        ended = self.server.stop()
        if self._control is not None:
            self._control.close()
        if not ended:
            raise errors.Unreachable("a request of a client does not end; the next cycle reads the active regions")
        for image in self.images:
            image.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
