"""A source and a replica in one process: the two ends over a socket pair, and a proxy that spoils what goes over it."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from secondsite.engine import errors
from secondsite.engine.files import Files
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.remote import talk
from secondsite.engine.remote.agent.receiver import Receiver
from secondsite.engine.remote.agent.stream import Streams
from secondsite.engine.remote.link import protocol
from secondsite.engine.remote.link.calls import Call
from secondsite.engine.remote.link.connection import Connection
from secondsite.engine.remote.sending.connections import Joining
from secondsite.engine.remote.sending.mapcache import MapCache
from secondsite.engine.remote.sending.sender import Sender, Sending
from secondsite.engine.remote.sending.tally import Sent
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.point import Point
from secondsite.engine.restoration import restore
from secondsite.engine.source import Source
from secondsite.engine.trackers.base import Tracker
from secondsite.engine.trackers.scan import ScanTracker

BLOCK = 4096


@dataclass
class Fault:
    """What happens to the bytes of one direction: `cut` or `flip` at the byte `at`."""

    kind: str
    at: int


class Proxy:
    """Two sockets whose bytes go through a thread that cuts the link or flips a bit at a byte of one direction."""

    def __init__(self, up: Fault | None = None, down: Fault | None = None) -> None:
        self.near, left = socket.socketpair()
        right, self.far = socket.socketpair()
        self._ends, self._faults = (left, right), (up, down)
        self.passed = [0, 0]
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            going = True
            while going:
                ready, _, _ = select.select(self._ends, [], [], 20)
                going = bool(ready) and all(self._pass(self._ends.index(end)) for end in ready)
        except OSError:
            pass
        finally:
            for end in self._ends:
                end.close()

    def _pass(self, side: int) -> bool:
        data = bytearray(self._ends[side].recv(65536))
        fault, before = self._faults[side], self.passed[side]
        going = bool(data)
        if fault is not None and before <= fault.at < before + len(data):
            if fault.kind == "flip":
                data[fault.at - before] ^= 0x10
            else:
                del data[fault.at - before :]
                going = False
        self.passed[side] += len(data)
        self._ends[1 - side].sendall(data)
        return going


@dataclass
class Pair:
    """A source image and a replica on "another host", with everything that lives longer than a connection.
    `unexpected` are errors of the replica's end that are none of ours.
    """

    image: MemoryImage
    files: Files = field(default_factory=MemoryFiles)
    state: Files = field(default_factory=MemoryFiles)
    history: str = "auto"
    kept: dict[int, bytes] = field(default_factory=dict)
    root: str = "/replicas/disk"
    unexpected: list[BaseException] = field(default_factory=list)
    streams: Streams = field(default_factory=Streams)

    def cycle(
        self, proxy: Proxy | None = None, sent: Sent | None = None, tracker: Tracker | None = None, *,
        codec: tuple[int, int] | None = None, workers: int = 2, epoch: int | None = None, source: str = "name:disk",
        accept: bool = False, block: int = BLOCK, joined: Sequence[Proxy] = (), **more: Any,
    ) -> Sending:  # fmt: skip
        """One attempt over a new connection, which those over `joined` join; what it raises is what the source's side
        sees. `more` goes into Begin.
        """
        proxy = proxy or Proxy()
        origin = Source(self.image, source.partition(":")[2])
        begin = talk.Begin(
            name="disk", source=source, source_format="raw", size=0, block_size=block, epoch=epoch,
            accept_source=accept, **more,
        )  # fmt: skip
        proxies, left = [proxy, *joined], list(joined)
        further = Joining(lambda: Connection(left.pop().near, "replica", client=True, idle=10), 1 + len(joined))
        with ThreadPoolExecutor(len(proxies)) as pool:
            there = [pool.submit(self.serve, one.far) for one in proxies]
            try:
                with Connection(proxy.near, "replica", client=True, idle=10) as connection:
                    sender = Sender(
                        origin, lambda state: tracker or ScanTracker(origin), begin, MapCache("/state", self.state),
                        codec=codec, workers=workers, sent=sent, joining=further,
                    )  # fmt: skip
                    return sender.run(connection)
            finally:
                for one, served in zip(proxies, there, strict=True):
                    one.near.close()
                    served.result(20)
                    one.far.close()

    def serve(self, sock: socket.socket) -> None:
        """The replica's end of one connection."""
        with contextlib.suppress(errors.Error), Connection(sock, "source", client=False, idle=10) as connection:
            while (call := connection.accept()) is not None:
                try:
                    with call:
                        self._answer(call)
                except errors.Error:
                    pass
                except BaseException as error:
                    self.unexpected.append(error)

    def _answer(self, call: Call) -> None:
        if call.operation == talk.JOIN:
            join = protocol.decode(call.args, talk.Join, call.peer)
            self.streams.find(join.ticket, "", join.name).serve(call)
            return
        begin = protocol.decode(call.args, talk.Begin, call.peer)
        Receiver(self.root, self.files, history=self.history, workers=2, streams=self.streams).run(call, begin)

    def points(self) -> list[Point]:
        return Replica.open(self.root, self.files).points()

    def note(self) -> None:
        """After a good cycle: what its point must be for ever."""
        self.kept[self.points()[-1].generation] = bytes(self.image.read(0, self.image.size))

    def check(self) -> None:
        """Every point that there was can be restored, and is byte for byte what it was."""
        if not self.kept:
            return
        replica = Replica.open(self.root, self.files)
        with replica.reading():
            pass
        assert {point.generation for point in replica.points()} >= set(self.kept)
        for generation, data in self.kept.items():
            out = f"/out/{generation}"
            self.files.mkdir("/out")
            self.files.unlink(out)
            restore(self.root, out, at=str(generation), files=self.files)
            with self.files.open(out, "r") as file:
                assert bytes(file.read(0, file.size)) == data, f"point {generation} is another one"


def scribble(image: MemoryImage, chance: random.Random, changes: int, *, zeros: bool = True) -> None:
    """Change some blocks, some of them to zeros."""
    blocks = image.size // BLOCK
    for _ in range(changes):
        block = chance.randrange(blocks)
        zero = zeros and chance.random() < 0.2
        image.write(block * BLOCK, bytes(BLOCK) if zero else chance.randbytes(BLOCK))
