"""Hostile peers on real sockets."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time

from rowcast.experiment.faults.hostile import Stranger

__all__ = ["Crowd"]

#: Where they come from: another address than the robots.
SOURCE = "127.0.0.9"


class Crowd(threading.Thread):
    """Connects to a server, and does what it does until its time is over.

    Args:
        port: the server's, on loopback.
        kind: see :class:`~rowcast.experiment.faults.script.Hostile`.
        count: so many at once.
        for_s: how long (s).
        drip_s: between two bytes of a slow one (s).

    Attributes:
        closed: connections that the server has ended.
        opened: connections that there were.
    """

    def __init__(self, port: int, kind: str, count: int, for_s: float, drip_s: float) -> None:
        super().__init__(name=f"rowcast-{kind}", daemon=True)
        self.closed = self.opened = 0
        self._port, self._kind, self._count = port, kind, count
        self._for_s, self._drip_s = for_s, drip_s

    def run(self) -> None:
        ends = time.monotonic() + self._for_s
        with selectors.DefaultSelector() as selector:
            peers = [self._connect(selector, number) for number in range(self._count)]
            next_drip = time.monotonic()
            while (now := time.monotonic()) < ends and self.closed < self.opened:
                if now >= next_drip:
                    next_drip = now + self._drip_s
                    for sock, stranger in filter(None, peers):
                        self._drip(sock, stranger)
                for key, _ in selector.select(min(ends, next_drip) - now if self._kind == "slow" else ends - now):
                    self._hear(selector, key.fileobj, key.data)  # type: ignore[arg-type]
            for sock, _ in filter(None, peers):
                sock.close()

    def _connect(self, selector: selectors.BaseSelector, number: int) -> tuple[socket.socket, Stranger] | None:
        try:
            sock = socket.create_connection(("127.0.0.1", self._port), 10.0, source_address=(SOURCE, 0))
        except OSError:  # turned away: that is the server's right
            return None
        stranger = Stranger(self._kind, number)
        self.opened += 1
        selector.register(sock, selectors.EVENT_READ, stranger)
        return sock, stranger

    def _drip(self, sock: socket.socket, stranger: Stranger) -> None:
        byte, stranger.drips = stranger.drips[:1], stranger.drips[1:]
        with contextlib.suppress(OSError):  # that it was closed is heard
            sock.sendall(byte)

    def _hear(self, selector: selectors.BaseSelector, sock: socket.socket, stranger: Stranger) -> None:
        try:
            data = sock.recv(1 << 16)
            if data:
                sock.sendall(stranger.hears(data))
                return
        except OSError:
            pass  # reset: it was closed
        self.closed += 1
        selector.unregister(sock)
