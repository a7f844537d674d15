"""A link over a distance, on one machine: each connection carries at most a window of bytes in the time there and back.

That is what TCP does on a long link whose hosts have small buffers, and what makes several connections faster than one.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# Of the window: one that is read and not full counts all the same.
_CHUNK = 16 * 1024


class LongLink:
    """A TCP proxy to `port` of `host`; `seconds` there and back, `window` bytes in that time, in each direction of each
    connection. `port` is where it listens; `carried` is how many bytes each connection has brought from who connected.
    """

    def __init__(self, port: int, seconds: float, window: int, host: str = "127.0.0.1") -> None:
        self._target, self._way, self._chunks = (host, port), seconds / 2, max(window // _CHUNK, 1)
        self.port, self.carried = 0, list[int]()
        self._loop, self._ready = asyncio.new_event_loop(), threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._tasks = set[asyncio.Task[None]]()

    async def _serve(self) -> None:
        self._over = asyncio.Event()
        listening = socket.create_server(("127.0.0.1", 0))
        # Small, so that what the system takes at once is little beside the window.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * _CHUNK)
        server = await asyncio.start_server(self._connected, sock=listening, limit=4 * _CHUNK)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        number, end = len(self.carried), writer
        self.carried.append(0)
        try:
            far_reader, end = await asyncio.open_connection(*self._target, limit=4 * _CHUNK)
            await asyncio.gather(self._pass(reader, end, number), self._pass(far_reader, writer, -1))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            end.close()
            self._tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        room, under_way = asyncio.Semaphore(self._chunks), asyncio.Queue[tuple[float, bytes]]()
        delivering = asyncio.create_task(self._deliver(under_way, writer, room))
        try:
            while data := await self._read(reader, room):
                if number >= 0:
                    self.carried[number] += len(data)
                under_way.put_nowait((self._loop.time() + self._way, data))
            under_way.put_nowait((self._loop.time() + self._way, b""))
            await delivering
        finally:
            delivering.cancel()

    async def _read(self, reader: asyncio.StreamReader, room: asyncio.Semaphore) -> bytes:
        await room.acquire()
        return await reader.read(_CHUNK)

    async def _deliver(
        self, under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, room: asyncio.Semaphore
    ) -> None:
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(due - self._loop.time())
            if not data:
                with suppress(OSError):
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()
            self._loop.call_later(self._way, room.release)  # the way back of what acknowledges it

    def start(self) -> None:
        """Until `close`."""
        self._thread.start()
        self._ready.wait()

    def close(self) -> None:
        """Ends what goes over it."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()


@contextmanager
def distance(port: int, seconds: float, window: int) -> Iterator[LongLink]:
    """One to this port, while the context is open."""
    made = LongLink(port, seconds, window)
    made.start()
    try:
        yield made
    finally:
        made.close()
