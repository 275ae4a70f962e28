"""A relay on loopback between a worker and its server that does harm to what passes: damage, loss."""

from __future__ import annotations

import contextlib
import socket
import threading

from rowcast.wire import HEADER_BYTES


class Relay:
    """Carries bytes both ways; closes both ends when one does.

    Args:
        port: the server's, on loopback.
        harm: ``harm(direction, connection, offset, data)`` returns what is passed on of ``data``, which stands at
            ``offset`` of what this connection (0, 1, ..) carries ``"up"`` to the server or ``"down"``.
    """

    def __init__(self, port, harm):
        self._server = ("127.0.0.1", port)
        self._harm = harm
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        self._sockets, self._threads = [], []
        self._start(self._accept)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for sock in (self._listener, *self._sockets):
            _end(sock)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def _start(self, target, *arguments):
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                worker, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._sockets += [worker, server]
                for sock in (worker, server):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._start(self._carry, "up", self.connections, worker, server)
                self._start(self._carry, "down", self.connections, server, worker)
                self.connections += 1

    def _carry(self, direction, connection, source, target):
        offset = 0
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(self._harm(direction, connection, offset, data))
                offset += len(data)
        _end(source)
        _end(target)


def _end(sock):
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def flip(direction, places):
    """Flip one bit on each connection for which ``places`` has an offset: the lowest at even ones, the highest else."""

    def harm(way, connection, offset, data):
        place = places[connection] if way == direction and connection < len(places) else -1
        if not offset <= place < offset + len(data):
            return data
        harmed = bytearray(data)
        harmed[place - offset] ^= 0x80 if place % 2 else 1
        return bytes(harmed)

    return harm


class Swallow:
    """Drops whole frames of one kind in one direction of the first connection, while :attr:`open` is set.

    Attributes:
        swallowed: how many.
    """

    def __init__(self, direction, kind):
        self.swallowed = 0
        self.open = threading.Event()
        self._direction, self._kind = direction, kind
        self._rest = b""

    def __call__(self, way, connection, offset, data):
        if way != self._direction or connection:
            return data
        self._rest += data
        kept = []
        while len(self._rest) >= HEADER_BYTES:
            length = HEADER_BYTES + int.from_bytes(self._rest[4:8], "big")
            if len(self._rest) < length:
                break
            frame, self._rest = self._rest[:length], self._rest[length:]
            if self.open.is_set() and frame[3] == self._kind:
                self.swallowed += 1
            else:
                kept.append(frame)
        return b"".join(kept)
