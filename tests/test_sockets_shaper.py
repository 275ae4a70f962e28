"""The shaper alone: bytes through a relay, and when they come out."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from live import LIMIT_S, eventually
from rowcast.drivers.sockets import Shaper
from rowcast.links import Trace

FAST = Trace.constant(1e9)


class Pipe:
    """A sender, a shaper and a receiver that notes when how many bytes had come."""

    def __init__(self, up, down=FAST, *, backwards=False):
        self.arrivals = []
        self.total = 0
        self.closed = threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.shaper = Shaper("127.0.0.1", listener.getsockname()[1], up=up, down=down)
            here = socket.create_connection(self.shaper.address, timeout=LIMIT_S)
            there, _ = listener.accept()
        self.sender, self.receiver = (there, here) if backwards else (here, there)
        self.receiver.settimeout(LIMIT_S)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        # Unhindered until begin(); the connection stands once a byte has passed.
        self.sender.sendall(b"x")
        eventually(lambda: self.total == 1)

    def _read(self):
        try:
            while data := self.receiver.recv(1 << 16):
                self.total += len(data)
                self.arrivals.append((time.monotonic(), self.total))
        except OSError:
            pass
        self.closed.set()

    def send(self, size):
        threading.Thread(target=self._send, args=(size,), daemon=True).start()

    def _send(self, size):
        with contextlib.suppress(OSError):
            self.sender.sendall(bytes(size))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.shaper.close()
        self._reader.join(LIMIT_S)
        self.sender.close()
        self.receiver.close()


@pytest.mark.parametrize("backwards", [False, True], ids=["up", "down"])
@pytest.mark.parametrize("rate_mbps", [0.5, 20.0])
def test_constant_rate(rate_mbps, backwards):
    trace = Trace.constant(rate_mbps * 1e6)
    size = int(rate_mbps * 1e6 / 8)  # a second's worth
    with Pipe(*((FAST, trace) if backwards else (trace, FAST)), backwards=backwards) as pipe:
        pipe.shaper.begin()
        begun = time.monotonic()
        pipe.send(size)
        eventually(lambda: pipe.total == 1 + size)
        assert pipe.arrivals[-1][0] - begun == pytest.approx(1.0, rel=0.05)


def test_nothing_passes_while_the_rate_is_zero():
    trace = Trace([0.0, 0.2, 0.8], [1e6, 0.0, 8e6], "gap", loop=False, duration_s=float("inf"))
    with Pipe(trace) as pipe:
        pipe.shaper.begin()
        begun = time.monotonic()
        pipe.send(100_000)
        eventually(lambda: pipe.total == 100_001)
        gaps = [
            (after[0] - before[0], before[0]) for before, after in zip(pipe.arrivals, pipe.arrivals[1:], strict=False)
        ]
        longest, at = max(gaps)
        assert longest == pytest.approx(0.6, abs=0.1)
        assert at - begun == pytest.approx(0.2, abs=0.1)


def test_lift_frees_what_is_stuck():
    with Pipe(Trace.constant(8.0)) as pipe:
        pipe.shaper.begin()
        pipe.send(50_000)
        begun = time.monotonic()
        pipe.shaper.lift()
        eventually(lambda: pipe.total == 50_001)
        assert time.monotonic() - begun < 5.0  # at 8 bit/s it would take half a day


def test_close_cuts_the_connection():
    pipe = Pipe(Trace.constant(8.0))
    with pipe:
        pipe.shaper.begin()
        pipe.send(50_000)
        pipe.shaper.close()
        assert pipe.closed.wait(LIMIT_S)
        assert pipe.total < 50_001
        pipe.shaper.close()  # twice is fine


def test_a_server_that_is_not_there_closes_the_worker_side():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with (
        Shaper("127.0.0.1", port, up=FAST, down=FAST) as shaper,
        socket.create_connection(shaper.address, timeout=LIMIT_S) as sock,
    ):
        assert sock.recv(1) == b""
