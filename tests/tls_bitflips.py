"""Every bit that a session inside TLS carries, flipped in turn: never a changed parameter.

A worker that pushes rows to a server and receives rows, real nodes joined by real TLS in memory; time is counted by the
turns that they take. Keys are new in each session, so that it is not played back but run anew, and one bit of it is
flipped on the way: the link ends there, the worker comes back, and all that was computed is there, once.

``python tests/tls_bitflips.py`` flips all; ``tests/test_tls_bitflips.py`` some of each part of a session.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import random
import sys
import time

import numpy as np

from rowcast.config import ServerSettings, WorkerSettings
from rowcast.drivers.sockets.connection import READ_BYTES
from rowcast.drivers.sockets.secured import SecretGuest, SecretHost
from rowcast.errors import LinkLost, RemoteProtocolError
from rowcast.rows import Layout
from rowcast.session import JoinRequest, Link
from rowcast.sync import parse_policy
from rowcast.training import ServerNode, WorkerNode, WorkerState

DIRECTIONS = ("up", "down")
#: 10 rows and 34 elements.
LAYOUT = Layout.from_shapes([("weight", (8, 3)), ("bias", (9,)), ("scale", ())], small_tensor=1)
STEPS, UPDATE = 2, 3
SECRET = b"the secret of this session......"
#: What one turn takes, and so many make a session that hangs.
TURN_S, MOST_TURNS = 0.001, 20_000


@functools.cache
def ends():
    return SecretGuest(), SecretHost()


class End:
    """A node, its link, and TLS on it."""

    def __init__(self, tls, link):
        self.tls, self.link = tls, link
        self.channel = tls.open()
        self.carried = 0

    def hear(self, data, receive):
        """What arrived; raises what a connection would end by."""
        self.channel.buffer(len(data))[:] = data
        self.channel.filled(len(data))
        if not self.channel.ready:
            if not self.channel.advance():
                return
            bound_to, _ = self.tls.admit(self.channel)
            self.link.secure(bound_to, None)
        while count := self.channel.read(self.link.decoder.buffer(READ_BYTES)):
            for message in self.link.decoder.filled(count):
                receive(message)
        self.link.decoder.hold(*self.channel.unfinished)

    def says(self, poll):
        """Bytes for the other end."""
        while self.channel.usable and (message := poll()) is not None:
            self.channel.write(memoryview(self.link.encoder.encode(message)))
        return self.channel.take()


class Session:
    """One worker, one server, from joining to the last goodbye.

    Args:
        flip: direction, byte and bit (as a mask) of the first connection; ``None``: nothing is flipped.

    Attributes:
        carried: how many bytes the first connection carried, by direction.
        records: where records of TLS began in them.
        connections: how often they connected.
        flipped: the bit came by.
    """

    def __init__(self, flip=None):
        entropy = random.Random(0).randbytes
        self.server = ServerNode(
            parse_policy("bsp?codec=raw"), settings=ServerSettings(gather_s=0.0), secret=SECRET, entropy=entropy
        )
        self.start = np.arange(LAYOUT.elements, dtype=np.float32)
        self.worker = WorkerNode(
            "robot",
            LAYOUT,
            self.start.copy(),
            settings=WorkerSettings(reconnect_first_s=0.01, reconnect_cap_s=0.05),
            request=JoinRequest(SECRET),
            entropy=entropy,
        )
        self.carried = dict.fromkeys(DIRECTIONS, 0)
        self.records = {direction: [] for direction in DIRECTIONS}
        self.connections = 0
        self.flipped = False
        self._flip = flip
        self._now = 0.0
        self._up: End | None = None
        self._down: End | None = None
        self._steps = 0

    def run(self):
        """Until both are done; raises AssertionError where that costs more than time, or changes anything."""
        self.server.listen(0.0)
        for _ in range(MOST_TURNS):
            if self.worker.over and not self.server.members:
                break
            if not self._turn():
                self._wait()
        assert self.worker.failure is None, self.worker.failure
        assert self.worker.over and not self.server.members, (self.worker.state, self.worker.iteration, self._now)
        expected = self.start - STEPS * UPDATE
        assert np.array_equal(self.server.parameters, expected), self.server.parameters
        assert np.array_equal(self.worker.replica, expected), self.worker.replica
        return self

    def _turn(self):
        """Whatever there is to do; returns whether there was something."""
        self._now += TURN_S
        worker, now = self.worker, self._now
        if self._up is None and not worker.over and worker.connect_at is not None and worker.connect_at <= now:
            self._connect()
        self._train()
        return any([self._carry("up"), self._carry("down")])

    def _connect(self):
        guest, host = ends()
        self._up, self._down = End(guest, Link("server", secured=False)), End(host, Link("robot:1", secured=False))
        self.connections += 1
        self.worker.connecting(self._now, "server")
        self.worker.link_up(self._now, self._up.link)
        self.server.link_up(self._now, self._down.link)
        self._up.channel.advance()

    def _train(self):
        worker = self.worker
        if worker.state is not WorkerState.COMPUTING:
            return
        if self._steps < STEPS:
            self._steps += 1
            parts = [worker.replica[spec.start : spec.stop] - np.float32(UPDATE) for spec in LAYOUT.tensors]
            worker.accumulate(parts, 1.0)
            worker.exchange(self._now)
        else:
            worker.finish(self._now)

    def _carry(self, direction):
        source, target = (self._up, self._down) if direction == "up" else (self._down, self._up)
        if source is None or target is None:
            return False
        data = source.says(self._poll_of(source))
        if not data:
            if source.link.closing:
                self._end("closed by the other end")
            return False
        data = self._harmed(direction, data)
        try:
            target.hear(data, self._receive_of(target))
        except LinkLost as error:
            self._end(str(error))
        except RemoteProtocolError as error:
            if target is self._up:
                self._end(self.worker.blame(self._now, error))
            else:
                self.server.blame(self._now, target.link, error)
                self._end(str(error))
        return True

    def _harmed(self, direction, data):
        if self.connections != 1:
            return data
        begins = place = self.carried[direction]
        self.carried[direction] += len(data)
        while place < self.carried[direction]:
            self.records[direction].append(place)
            place += 5 + int.from_bytes(data[place - begins + 3 : place - begins + 5], "big")
        if self._flip is None or self._flip[0] != direction or not begins <= self._flip[1] < begins + len(data):
            return data
        self.flipped = True
        harmed = bytearray(data)
        harmed[self._flip[1] - begins] ^= self._flip[2]
        return bytes(harmed)

    def _poll_of(self, end):
        if end is self._up:
            return lambda: self.worker.poll(self._now)
        return lambda: self.server.poll(self._now, end.link)

    def _receive_of(self, end):
        if end is self._up:
            self.worker.heard(self._now)
            return lambda message: self.worker.receive(self._now, message)
        self.server.heard(self._now, end.link)
        return lambda message: self.server.receive(self._now, end.link, message)

    def _end(self, cause):
        up, down, self._up, self._down = self._up, self._down, None, None
        if up is not None and down is not None:
            self.worker.link_down(self._now, cause)
            self.server.link_down(self._now, down.link, cause)

    def _wait(self):
        """Nothing moves: go to the next moment at which something is due."""
        due = [time for time in (self.worker.next_wake(), self.server.next_wake()) if time is not None]
        self._now = max(self._now, min(due, default=self._now))
        try:
            self.worker.on_timer(self._now)
        except LinkLost as error:
            self._end(str(error))
        if self.server.on_timer(self._now):
            self._end("the server's time was over")
        self.server.take_ready()


@functools.cache
def lengths():
    """Bytes of a session in each direction: those of the longest of some, for signatures differ by a byte or two."""
    found = [Session().run() for _ in range(8)]
    assert all(session.connections == 1 for session in found)
    return {direction: max(session.carried[direction] for session in found) for direction in DIRECTIONS}


def flip(direction, byte, bit):
    """Run a session with one bit flipped; returns whether the bit came by (a session may be a byte shorter)."""
    return Session((direction, byte, 1 << bit)).run().flipped


def cases(bits=range(8)):
    """These bits of each byte."""
    for direction in DIRECTIONS:
        for byte in range(lengths()[direction]):
            for bit in bits:
                yield direction, byte, bit


def _run(case):
    try:
        return flip(*case), None
    except Exception as error:
        return True, f"{case}: {type(error).__name__}: {error}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", default="01234567", help="which bits of each byte")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    options = parser.parse_args()
    wanted = [int(bit) for bit in options.bits]
    begun = time.monotonic()
    count, came_by, wrong = 0, 0, []
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for flipped, what in pool.imap_unordered(_run, cases(wanted), chunksize=64):
            count += 1
            came_by += flipped
            if what is not None:
                wrong.append(what)
                print(what, flush=True)
    bits = len(wanted) * sum(lengths().values())
    print(
        f"{came_by} sessions inside TLS with one of {bits} bits flipped, in {time.monotonic() - begun:.0f} s: "
        f"{len(wrong)} went wrong"
    )
    if came_by < 0.99 * bits:
        sys.exit("expected each bit of a session to be flipped")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
