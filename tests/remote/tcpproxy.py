"""A link that is spoiled on purpose: a TCP proxy which cuts, stalls, slows, delays or flips a bit, below TLS."""

from __future__ import annotations

import random
import select
import socket
import threading
import time
from dataclasses import dataclass


@dataclass
class Trouble:
    """After `at` bytes of one connection, both directions counted together: `cut`, `reset`, `flip`, `stall` for so many
    seconds, or `slow`: from there on so many for each 64 KiB.
    """

    kind: str
    at: int
    seconds: float = 0.0


class TcpProxy:
    """Connections in turn get the next of `troubles`; those after the last are left alone. `passed`: bytes of each,
    `sent`: those of them that the connecting side sent. It listens at `at`, and goes on to `port` of `host`.
    """

    def __init__(
        self, port: int, troubles: list[Trouble] | None = None, delay: float = 0.0, *, host: str = "127.0.0.1",
        at: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:  # fmt: skip
        self.troubles, self.delay, self.target = list(troubles or []), delay, (host, port)
        self.passed: list[int] = []
        self.sent: list[int] = []
        self._listener = socket.create_server(at)
        if any(trouble is not None and trouble.kind == "slow" for trouble in self.troubles):
            # Little is under way on such a link.
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.port: int = self._listener.getsockname()[1]
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            trouble = self.troubles.pop(0) if self.troubles else None
            self.sent.append(0)
            self.passed.append(0)
            thread = threading.Thread(target=self._run, args=(near, trouble, len(self.passed) - 1), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, near: socket.socket, trouble: Trouble | None, number: int) -> None:
        try:
            far = socket.create_connection(self.target, 10)
        except OSError:
            near.close()
            return
        try:
            self._pass(near, far, trouble, number)
        except OSError:
            pass
        finally:
            near.close()
            far.close()

    def _pass(self, near: socket.socket, far: socket.socket, trouble: Trouble | None, number: int) -> None:
        chance = random.Random(number)
        while not self._over.is_set():
            for end in select.select([near, far], [], [], 0.2)[0]:
                data = bytearray(end.recv(65536))
                if not data:
                    return
                if self.delay:
                    time.sleep(self.delay)
                before = self.passed[number]
                self.passed[number] += len(data)
                self.sent[number] += len(data) if end is near else 0
                if trouble is not None and trouble.kind == "slow" and before >= trouble.at:
                    self._over.wait(trouble.seconds)
                elif trouble is not None and before <= trouble.at < before + len(data):
                    cut = self._trouble(trouble, data, trouble.at - before, chance, (near, far))
                    if cut:
                        (far if end is near else near).sendall(data[: trouble.at - before])
                        return
                (far if end is near else near).sendall(data)

    def _trouble(
        self, trouble: Trouble, data: bytearray, at: int, chance: random.Random, ends: tuple[socket.socket, ...]
    ) -> bool:
        """Is the link cut here?"""
        if trouble.kind == "flip":
            data[at] ^= 1 << chance.randrange(8)
        elif trouble.kind == "stall":
            self._over.wait(trouble.seconds)
        elif trouble.kind == "reset":
            for end in ends:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return trouble.kind in ("cut", "reset")

    def close(self) -> None:
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
