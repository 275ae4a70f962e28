"""A link on loopback that has a rate, and stalls in either direction, in the middle of a frame, and tells nobody."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from rowcast.wire import HEADER_BYTES, Rows

__all__ = ["DOWN", "UP", "Link"]

UP, DOWN = "up", "down"
#: Bytes that are carried at once at most, and the buffers of its sockets: what is on its way is lost from sight.
PIECE_BYTES, BUFFER_BYTES = 8192, 32768


class _Frames:
    """Where frames of rows stand in the bytes of one direction of one connection, without TLS."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._body = 0

    def middle(self, data: bytes) -> int | None:
        """Where a frame of rows that begins in these bytes has its middle, or they end; ``None``: none begins."""
        place, found = 0, None
        while place < len(data):
            if self._body:
                step = min(self._body, len(data) - place)
                self._body -= step
                place += step
                continue
            step = min(HEADER_BYTES - len(self._head), len(data) - place)
            self._head += data[place : place + step]
            place += step
            if len(self._head) == HEADER_BYTES:
                kind, length = self._head[3], int.from_bytes(self._head[5:8], "big")
                self._body = length
                if kind == Rows.KIND and found is None and length > 1:
                    found = min(place + length // 2, len(data))
                self._head.clear()
        return found


class _Way:
    """One direction of the link, over all of its connections."""

    def __init__(self, rate_bps: float) -> None:
        self.changed = threading.Condition()
        self.rate_bps = rate_bps
        self.stalled = self.waits_for_frame = False
        self.ended = False
        self.carried = 0

    def stall(self, *, mid_frame: bool) -> None:
        """Nothing passes from now on, or from the middle of the next frame of rows on."""
        with self.changed:
            self.stalled, self.waits_for_frame = not mid_frame, mid_frame

    def go_on(self) -> bool:
        """What was held passes; returns whether it had stalled, or had not to."""
        with self.changed:
            waited, self.stalled, self.waits_for_frame = self.waits_for_frame, False, False
            self.changed.notify_all()
        return not waited

    def set_rate(self, rate_bps: float) -> None:
        """From now on it carries so much (bit/s); 0: nothing."""
        with self.changed:
            self.rate_bps = rate_bps
            self.changed.notify_all()

    def end(self) -> None:
        """The link is over: nobody waits any more."""
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def due(self, frames: _Frames, data: bytes) -> int | None:
        """How much of it passes before a stall that waits for the middle of a frame; ``None``: none is due."""
        middle = frames.middle(data)
        with self.changed:
            if not self.waits_for_frame or middle is None:
                return None
            self.stalled, self.waits_for_frame = True, False
            return middle

    def passes(self, count: int, free_at: float, *, before_stall: bool = False) -> float:
        """Wait until so many bytes have passed, those of ``before_stall`` also where it stalls behind them.

        Returns:
            When the link is free again (s).
        """
        left = 8.0 * count
        now = time.monotonic()
        begun = max(now, free_at) if free_at > now - 0.05 else now
        with self.changed:
            while not self.ended:
                rate_bps = 0.0 if self.stalled and not before_stall else self.rate_bps
                if rate_bps == 0:
                    self.changed.wait()
                    begun = time.monotonic()
                    continue
                done = begun + left / rate_bps
                wait_s = done - time.monotonic()
                if wait_s <= 0:
                    self.carried += count
                    return done
                if self.changed.wait(wait_s):  # its rate is another one, or it stalls
                    now = time.monotonic()
                    left, begun = max(left - max(now - begun, 0.0) * rate_bps, 0.0), now
        return begun


class Link:
    """Carries the connections of one robot to its server.

    Args:
        port: the server's, on loopback.
        rate_bps: of each direction (bit/s).

    Attributes:
        port: where the robot connects instead.
        ways: the two directions.
    """

    def __init__(self, port: int, rate_bps: float) -> None:
        self._server = ("127.0.0.1", port)
        self.ways = {UP: _Way(rate_bps), DOWN: _Way(rate_bps)}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stall(self, direction: str = "both", *, mid_frame: bool = False) -> None:
        """Nothing passes in a direction (``up``, ``down``, ``both``); connections stand, and nobody is told."""
        for way in self._named(direction):
            way.stall(mid_frame=mid_frame)

    def go_on(self) -> bool:
        """Everything passes again, what was held first; returns whether no stall has waited for a frame in vain."""
        gone_on = [way.go_on() for way in self.ways.values()]
        return all(gone_on)

    def set_rate(self, rate_bps: float) -> None:
        """Both directions have this rate from now on (bit/s); 0: nothing passes."""
        for way in self.ways.values():
            way.set_rate(rate_bps)

    def hang_up(self) -> None:
        """End the connections that there are; new ones may come."""
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for sock in sockets:
            _shut(sock)

    def close(self) -> None:
        """End everything."""
        _shut(self._listener)
        self._listener.close()
        for way in self.ways.values():
            way.end()
        self.hang_up()
        for thread in self._threads:
            thread.join()

    def _named(self, direction: str) -> list[_Way]:
        return list(self.ways.values()) if direction == "both" else [self.ways[direction]]

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name="rowcast-faulty-link", daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                robot, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._server)
            except OSError:  # no server: so it is for the robot
                robot.close()
                continue
            for sock in (robot, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                    sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
            with self._lock:
                self._sockets |= {robot, server}
            self._start(self._relay, robot, server)

    def _relay(self, robot: socket.socket, server: socket.socket) -> None:
        """One connection; it ends when either direction does."""
        down = threading.Thread(target=self._carry, args=(DOWN, server, robot), daemon=True)
        down.start()
        self._carry(UP, robot, server)
        down.join()
        with self._lock:
            self._sockets -= {robot, server}
        robot.close()
        server.close()

    def _carry(self, direction: str, source: socket.socket, target: socket.socket) -> None:
        way, frames, free_at = self.ways[direction], _Frames(), 0.0
        with contextlib.suppress(OSError):
            while data := source.recv(PIECE_BYTES):
                if first := way.due(frames, data):
                    free_at = way.passes(first, free_at, before_stall=True)
                    target.sendall(data[:first])
                    data = data[first:]
                if data:
                    free_at = way.passes(len(data), free_at)
                    target.sendall(data)
        # How a connection ends passes like its bytes: not while nothing does.
        way.passes(0, free_at)
        _shut(source)
        _shut(target)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
