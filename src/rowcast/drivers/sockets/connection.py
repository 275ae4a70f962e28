"""One TCP connection: bytes to a link's decoder, a node's messages to bytes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

from rowcast.drivers.sockets.forks import let_go_in_children
from rowcast.drivers.sockets.owner import Owner
from rowcast.drivers.sockets.tcp import CHUNK_BYTES
from rowcast.errors import RemoteProtocolError, TlsNeeded
from rowcast.session import Link
from rowcast.wire import Challenge, Message, Proof, encode
from rowcast.wire.frames import renumbered

if TYPE_CHECKING:
    from rowcast.drivers.sockets.tls import Channel

__all__ = ["Connection"]

#: How much is read at once at most; from who has not proved anything.
READ_BYTES = 1 << 18
STRANGER_READ_BYTES = 1 << 12
#: So much is encoded and held until it may leave.
HOLD_BYTES = 1 << 20
#: What says nothing of the team's state, and leaves at once.
FREE = (Challenge, Proof)
#: The same of records of TLS; a whole one has 16 kB.
TLS_READ_BYTES = 1 << 16
#: So much is read in all of who has not proved anything; with the last read that is less than 64 kB.
MOST_STRANGER_BYTES = 60_000
#: A worker that speaks TLS begins at once. Who has said nothing for so long waits for us, and is told so (s).
SPEAKS_FIRST_S = 3.0
#: For so long the other end may take to close, once all is said (s).
LINGER_S = 1.0


class Connection(asyncio.BufferedProtocol):
    """Moves bytes; knows nothing of what they mean.

    Frames are taken from the node one by one, when the kernel has room, and written in chunks of at most 16 kB:
    so rows are chosen and encoded at the last moment, and a control message waits behind one frame at most.

    What the owner raises, or the encoder, goes to :meth:`Owner.on_failure`: asyncio would print it, close the
    connection and go on, for ever if the fault stays, and take an ``OSError`` for one of the network.

    Args:
        owner: what it reports to.
        channel: TLS on this connection, whose records it carries; ``None``: there is none.
        speaks_first: this is the end that connects, and begins with TLS.
        lingers: once all is said, what still comes is read and dropped until the other end closes, for a second at
            most: a socket that is closed with unread bytes may take along what the other end has not read yet, the
            goodbye among it.
    """

    def __init__(
        self, owner: Owner, *, channel: Channel | None = None, speaks_first: bool = False, lingers: bool = False
    ) -> None:
        self.link: Link
        self.sock: socket.socket
        self._owner = owner
        self._channel = channel
        self._speaks_first = speaks_first
        self._stranger_bytes = 0
        self._timers: list[asyncio.TimerHandle] = []
        self._transport: asyncio.Transport | None = None
        self._writable = True
        self._resumed: asyncio.Handle | None = None  # goes on writing in the next turn of the loop
        self._paused = False  # nothing is read until the other end has read
        self._rest = memoryview(b"")
        self._held: deque[tuple[int, bytes]] = deque()  # frames, and what must be committed before each
        self._held_bytes = 0
        self._urgent: deque[Message] = deque()
        self._left = 0  # frames that were given to the transport
        self._overtaken = False
        self.free = False  # what is sent here waits for no commit
        self._cause = ""
        self._lingers = lingers
        self._lingering: bytearray | None = None  # where what is dropped goes

    # -- asyncio's side --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)
        self.sock = self._transport.get_extra_info("socket")
        let_go_in_children(self, [self.sock])
        with self._reporting():
            self._owner.on_open(self, self.sock)
        if self._channel is not None and self._speaks_first:
            self._channel.advance()
            self._flush()
        elif self._channel is not None:
            self._later(SPEAKS_FIRST_S, self._expect_tls)
        self.pump()

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._lingering is not None:
            return memoryview(self._lingering)
        decoder = self.link.decoder
        if self._channel is not None:
            return self._channel.buffer(TLS_READ_BYTES if decoder.trusted else STRANGER_READ_BYTES)
        return decoder.buffer(READ_BYTES if decoder.trusted else STRANGER_READ_BYTES)

    def buffer_updated(self, nbytes: int) -> None:
        if self._lingering is not None:
            return
        if not self._stands:
            return
        with self._reporting():
            cause = None
            try:
                cause = self._read(nbytes)
            except RemoteProtocolError as error:
                self._blame(error)
            if cause is not None:
                self.close(cause)
            elif self.link.closing:
                self.pump()
        if self.link.is_clogged and self._transport is not None and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        with self._reporting():
            self._owner.after_read()

    def _read(self, nbytes: int) -> str | None:
        """Something arrived: messages, or records of TLS with messages inside; why the connection must end."""
        if self.link.is_stranger:
            self._stranger_bytes += nbytes
            if self._stranger_bytes > MOST_STRANGER_BYTES:
                raise RemoteProtocolError(
                    f"expected an introduction within {MOST_STRANGER_BYTES} bytes, got none in {self._stranger_bytes}"
                )
        if self._channel is None:
            return self._owner.on_read(self, nbytes)
        begins = False
        try:
            self._channel.filled(nbytes)
            if not self._channel.ready:
                if not self._channel.advance():
                    self._owner.on_bytes(self, self._channel.unfinished)
                    return None
                begins = True
                self._owner.on_secured(self, self._channel)
            cause = self._read_records(self._channel, STRANGER_READ_BYTES if begins else READ_BYTES)
        finally:
            self._flush()  # what the handshake says, and why it has failed
        if begins:
            self.pump()
        return cause

    def _read_records(self, channel: Channel, most: int) -> str | None:
        """Hear what is inside of records of TLS; why the connection must end, or ``None``."""
        while self._stands and not self.link.closing:
            count = channel.read(self.link.decoder.buffer(most))
            if not count:
                self._owner.on_bytes(self, channel.unfinished)
                return None
            cause = self._owner.on_read(self, count)
            if cause is not None:
                return cause
        return None

    def _blame(self, error: RemoteProtocolError) -> None:
        """What arrived was wrong: the other end is told, as far as it can be."""
        self._owner.on_garbage(self, error)
        channel, transport = self._channel, self._transport
        if channel is None or channel.usable:
            self.pump()
        elif transport is not None and not transport.is_closing():
            if isinstance(error, TlsNeeded):
                from rowcast.drivers.sockets.tls import plain_refusal

                transport.write(plain_refusal())
            self._cause = self._cause or str(error)
            self._linger(transport)

    def eof_received(self) -> bool:
        self._cause = self._cause or "closed by the other end"
        return False

    def pause_writing(self) -> None:
        self._writable = False
        if self._resumed is not None:  # what TLS had got to say has filled it again
            self._resumed.cancel()

    def resume_writing(self) -> None:
        # A write that fails within this call, or a close, is reported twice by asyncio, which then fails itself.
        self._resumed = asyncio.get_running_loop().call_soon(self.write_on)

    def write_on(self) -> None:
        """There is room again: go on writing."""
        self._writable = True
        self.pump()
        if not self.free:
            with self._reporting():
                self._owner.after_write()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for timer in self._timers:
            timer.cancel()
        with self._reporting():
            self._owner.on_closed(self, self._cause or (str(exc) if exc else "closed"))

    # -- the driver's side -----------------------------------------------------------------------------------

    def pump(self) -> None:
        """Write as long as the kernel takes it and the node has something."""
        transport, channel = self._transport, self._channel
        if transport is None or transport.is_closing() or (channel is not None and not channel.usable):
            return
        while self._writable and not transport.is_closing():
            if not self._rest and not self._take(transport):
                return
            chunk, self._rest = self._rest[:CHUNK_BYTES], self._rest[CHUNK_BYTES:]
            if channel is None:
                transport.write(chunk)
            else:
                channel.write(chunk)
                transport.write(channel.take())
            if self._paused and not self.link.is_clogged:
                self._paused = False
                transport.resume_reading()

    def _take(self, transport: asyncio.Transport) -> bool:
        """Get the next frame that may leave; whether there is one."""
        owner, held = self._owner, self._held
        if self._urgent and not (held and held[0][0] == 0):
            self._rest = memoryview(encode(self._urgent.popleft(), self._left & 0xFFFF))
            self._left, self._overtaken = self._left + 1, True
            return True
        while not held or (held[0][0] > owner.committed_to() and self._held_bytes < HOLD_BYTES):
            try:
                message = owner.next_message(self)
                if message is None:
                    if self.link.closing and not held:
                        self._say_no_more(transport)
                    return False
                frame = self.link.encoder.encode(message)
            except Exception as error:
                owner.on_failure(self, error)
                return False
            held.append((0 if self.free or isinstance(message, FREE) else owner.position(), frame))
            self._held_bytes += len(frame)
        if held[0][0] > owner.committed_to():
            return False
        frame = held.popleft()[1]
        self._held_bytes -= len(frame)
        self._rest = memoryview(renumbered(frame, self._left) if self._overtaken else frame)
        self._left += 1
        return True

    def urge(self, message: Message) -> None:
        """Send a message that the node does not know of, before all that waits; it follows from nothing."""
        self._urgent.append(message)
        self.pump()

    @property
    def holds(self) -> bool:
        """Something waits until what it follows from is committed."""
        return bool(self._held)

    def _say_no_more(self, transport: asyncio.Transport) -> None:
        if self._lingering is not None:
            return
        if self._channel is not None:
            self._channel.close()
            self._flush()
        if self._lingers:
            self._linger(transport)
        else:
            transport.close()

    def _linger(self, transport: asyncio.Transport) -> None:
        """Say nothing more, and drop what still comes until the other end closes."""
        if self._lingering is None:
            self._lingering = bytearray(STRANGER_READ_BYTES)
            if self._paused:
                transport.resume_reading()
            self._end_writing(transport)
            self._later(LINGER_S, lambda: self.close("left"))

    def _flush(self) -> None:
        """Send what TLS has got to say by itself."""
        if self._channel is not None and self._transport is not None and self._stands:
            records = self._channel.take()
            if records:
                self._transport.write(records)

    def _expect_tls(self) -> None:
        """Who speaks TLS would have begun long since."""
        if self._channel is None or self._channel.begun or not self._stands:
            return
        with self._reporting():
            self._blame(
                TlsNeeded(
                    f"expected TLS, got nothing in {SPEAKS_FIRST_S:g} s, as from a worker that speaks without: it "
                    "needs --secret-file or --team here, as the server has"
                )
            )
            self._owner.after_read()

    def _later(self, seconds: float, function: Callable[[], None]) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(seconds, function))

    @property
    def _stands(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @staticmethod
    def _end_writing(transport: asyncio.Transport) -> None:
        try:
            transport.write_eof()
        except OSError:  # the other end has closed already, and asyncio has not noticed yet
            transport.abort()

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._owner.on_failure(self, error)

    @property
    def peername(self) -> tuple[str, int]:
        """Address and port of the other end, as they were when it connected."""
        found = None if self._transport is None else self._transport.get_extra_info("peername")
        return (str(found[0]), int(found[1])) if found else ("an unknown address", 0)

    @property
    def has_tls(self) -> bool:
        """It begins with TLS: see :attr:`rowcast.session.Link.secured`."""
        return self._channel is not None

    def must_be_secured(self, within_s: float) -> None:
        """End it if TLS does not stand in time."""

        def look() -> None:
            if self._stands and not self.link.secured:
                with self._reporting():
                    self._blame(RemoteProtocolError(f"expected TLS within {within_s:g} s, got no end of the handshake"))

        if self._channel is not None:
            self._later(within_s, look)

    def end(self, cause: str, within_s: float) -> None:
        """End it once all is said that the node had queued, but not later than ``within_s``."""
        self._cause = self._cause or cause
        self.pump()
        self._later(within_s, lambda: self.close(cause))

    def close(self, cause: str) -> None:
        """End the connection now; what was not written is dropped."""
        self._cause = self._cause or cause
        if self._transport is not None:
            self._transport.abort()
