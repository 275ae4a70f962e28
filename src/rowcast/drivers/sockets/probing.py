"""A connection to a server that measures the link: the way of a worker up to its introduction, and probes after it."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from dataclasses import dataclass
from statistics import median

from rowcast.config import LinkSettings
from rowcast.drivers.sockets.endpoint import Endpoint, Security
from rowcast.drivers.sockets.tcp import tuned
from rowcast.drivers.sockets.tls import Channel
from rowcast.errors import LinkLost, RemoteProtocolError
from rowcast.session.proof import WorkerHandshake
from rowcast.session.refusals import identity_error
from rowcast.session.seeding import PROBES
from rowcast.session.texts import shorten
from rowcast.wire import Challenge, Echo, FrameDecoder, FrameEncoder, Hello, Leave, Message, Probe, Proof, Refusal
from rowcast.wire.asides import MAX_FILLING

__all__ = ["Flow", "Prober", "ProbesRefused", "RoundTrips"]

READ_BYTES = 1 << 16
#: Small probes for the round trip.
TRIPS = 15
#: A measurement of bandwidth ends after so long (s) or so many bytes, and keeps so many probes under way.
FLOW_S, FLOW_BYTES, UNDER_WAY = 1.5, 16 << 20, 16
#: Linux: the MTU of the path of a connected socket.
_IP_MTU = 14


class ProbesRefused(RemoteProtocolError):
    """The server has let nobody measure: it is of an older release, or trains no team."""


@dataclass(frozen=True)
class RoundTrips:
    """What small probes have shown.

    Attributes:
        least_s, median_s, most_s: from a probe to its echo.
        release: version of the server's software.
        offset_s: how far the server's wall clock is ahead of this machine's, to within half of ``least_s``.
    """

    least_s: float
    median_s: float
    most_s: float
    release: str
    offset_s: float


@dataclass(frozen=True)
class Flow:
    """What large probes have shown in one direction.

    Attributes:
        bytes: that arrived; ``seconds``: in which.
    """

    bytes: int
    seconds: float

    @property
    def rate_bps(self) -> float:
        """Bits a second, of what the probes were filled with."""
        return 8 * self.bytes / self.seconds if self.seconds > 0 else 0.0


class Prober:
    """One connection to a server, from the introduction of a worker on.

    Args:
        sock: a connected TCP socket; taken over.
        endpoint: the server, with the secret or the certificate to prove.
        name: the worker.
        limit_s: no single answer takes longer.

    Attributes:
        certificate: that of the server (DER); empty where there is no TLS.

    Raises:
        RemoteProtocolError: TLS, the proof or the version does not fit; the message says what to do.
        ProbesRefused: the other end answers no probes.
        LinkLost: the connection ended, or nothing came in time.
    """

    def __init__(self, sock: socket.socket, endpoint: Endpoint, name: str, limit_s: float) -> None:
        self._sock = sock
        sock.settimeout(limit_s)
        self._limit_s = limit_s
        self._decoder, self._encoder = FrameDecoder(), FrameEncoder()
        self._heard: deque[Message] = deque()
        self._number = 0
        self._channel: Channel | None = None
        self.certificate = b""
        try:
            tuned(sock, LinkSettings())
            self._begin(endpoint.security, name)
        except BaseException:
            sock.close()
            raise

    def _begin(self, security: Security, name: str) -> None:
        tls = security.guest(name)
        self._channel = None if tls is None else tls.open()
        bound_to = b""
        if tls is not None and self._channel is not None:
            self._shake_hands(self._channel)
            self.certificate = self._channel.peer_certificate
            bound_to, _ = tls.admit(self._channel)
        self._introduce(name, security.secret, bound_to)

    def close(self) -> None:
        """Say goodbye and close."""
        try:
            self._say(Leave("the link was measured"))
        except LinkLost:
            pass  # it is gone already
        finally:
            self._sock.close()

    # -- measurements ------------------------------------------------------------------------------------------

    @property
    def mtu_bytes(self) -> int | None:
        """The MTU of the path as the system knows it; ``None`` where it does not say (not Linux, or IPv6)."""
        try:
            return self._sock.getsockopt(socket.IPPROTO_IP, _IP_MTU)
        except OSError:
            return None

    def round_trips(self) -> RoundTrips:
        """Send small probes, one after the other."""
        found = []
        for _ in range(TRIPS):
            before, wall = time.perf_counter(), time.time()
            self._probe(b"", 0)
            echo = self._echo()
            took_s = time.perf_counter() - before
            found.append((took_s, echo.clock - (wall + took_s / 2), echo.release))
        best = min(found)
        times = [took_s for took_s, _, _ in found]
        return RoundTrips(best[0], median(times), max(times), best[2], best[1])

    def up(self) -> Flow:
        """How fast bytes go to the server: what has been answered for, by the time of the last answer."""
        return self._flow(os.urandom(MAX_FILLING), 0)

    def down(self) -> Flow:
        """How fast bytes come from the server."""
        return self._flow(b"", MAX_FILLING)

    def _flow(self, filling: bytes, wanted: int) -> Flow:
        each = len(filling) + wanted
        began = time.perf_counter()
        sent = answered = 0
        while True:
            over = time.perf_counter() - began >= FLOW_S or sent * each >= FLOW_BYTES
            # One more for each that was answered: a slow link is not given what it cannot carry in time.
            if not over and sent - answered < min(1 + answered, UNDER_WAY):
                self._probe(filling, wanted)
                sent += 1
                continue
            if answered == sent:
                return Flow(answered * each, time.perf_counter() - began)
            self._echo()
            answered += 1

    def _probe(self, filling: bytes, wanted: int) -> None:
        self._number += 1
        self._say(Probe(self._number, wanted, filling))

    def _echo(self) -> Echo:
        while True:
            message = self._hear()
            if isinstance(message, Echo):
                return message
            self._check(message)

    # -- the conversation --------------------------------------------------------------------------------------

    def _introduce(self, name: str, secret: bytes | None, channel: bytes) -> None:
        handshake = WorkerHandshake(secret, os.urandom)
        message = self._hear()
        if not isinstance(message, Challenge):
            self._check(message)
            raise RemoteProtocolError(f"expected a challenge, as a server says first, got {type(message).__name__}")
        hello = Hello(name, os.urandom(16), b"", b"", b"", b"", b"", False, 0, 0, wish=PROBES)
        self._say(handshake.answer(message, hello, channel))
        while not handshake.proven:
            message = self._hear()
            if isinstance(message, Proof):
                handshake.verify(message)
            else:
                self._check(message)
        self._decoder.trusted = True
        self._probe(b"", 0)
        self._echo()

    @staticmethod
    def _check(message: Message) -> None:
        if isinstance(message, Leave):
            raise LinkLost(f"the server said goodbye: {shorten(message.cause)}")
        if not isinstance(message, Refusal):
            return  # a heartbeat
        if (error := identity_error(message.code, message.text)) is not None:
            raise error
        text = shorten(message.text)
        if message.code == "protocol":
            raise ProbesRefused(text)
        raise RemoteProtocolError(f"{message.code}: {text}")

    # -- bytes -------------------------------------------------------------------------------------------------

    def _shake_hands(self, channel: Channel) -> None:
        try:
            while not channel.advance():
                self._write(channel.take())
                self._fill(channel)
        finally:
            self._write(channel.take())

    def _say(self, message: Message) -> None:
        frame = self._encoder.encode(message)
        if self._channel is None:
            self._write(frame)
            return
        self._channel.write(memoryview(frame))
        self._write(self._channel.take())

    def _hear(self) -> Message:
        while not self._heard:
            if self._channel is None:
                count = self._receive(self._decoder.buffer(READ_BYTES))
                self._heard.extend(self._decoder.filled(count))
                continue
            count = self._channel.read(self._decoder.buffer(READ_BYTES))
            if count:
                self._heard.extend(self._decoder.filled(count))
            else:
                self._fill(self._channel)
        return self._heard.popleft()

    def _fill(self, channel: Channel) -> None:
        channel.filled(self._receive(channel.buffer(READ_BYTES)))

    def _receive(self, place: memoryview) -> int:
        try:
            count = self._sock.recv_into(place)
        except TimeoutError as error:
            raise LinkLost(f"nothing came for {self._limit_s:g} s") from error
        except OSError as error:
            raise LinkLost(f"the connection broke: {error.strerror}") from error
        if not count:
            raise LinkLost("the server closed the connection")
        return count

    def _write(self, data: bytes) -> None:
        if not data:
            return
        try:
            self._sock.sendall(data)
        except TimeoutError as error:
            raise LinkLost(f"nothing could be sent for {self._limit_s:g} s") from error
        except OSError as error:
            self._hear_out()
            raise LinkLost(f"the connection broke: {error.strerror}") from error

    def _hear_out(self) -> None:
        """The other end has closed: what it said before says why.

        Raises:
            RemoteProtocolError, LinkLost: what it said.
        """
        while True:
            try:
                message = self._hear()
            except LinkLost:
                return
            self._check(message)
