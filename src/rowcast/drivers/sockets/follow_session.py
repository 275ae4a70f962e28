"""The connection of a standby to the server that it follows."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Protocol

import msgspec

from rowcast.config import LinkSettings
from rowcast.drivers.sockets.connection import Connection
from rowcast.drivers.sockets.endpoint import Endpoint, GuestTls
from rowcast.drivers.sockets.owner import Owner
from rowcast.drivers.sockets.tcp import tuned
from rowcast.drivers.state.mirror import Mirror
from rowcast.errors import AuthenticationFailed, ConfigError, RemoteProtocolError, RowcastError
from rowcast.session import Link
from rowcast.session.refusals import identity_error
from rowcast.session.states import ClientState, Conversation, Event
from rowcast.wire import (
    Challenge,
    Follow,
    Followed,
    Heartbeat,
    Leave,
    Message,
    Peer,
    Piece,
    Proof,
    Refusal,
    Stored,
)
from rowcast.wire.auth import followed_proof, follower_proof, matches

if TYPE_CHECKING:
    from rowcast.drivers.sockets.tls import Channel

__all__ = ["Follows", "Session"]


#: Refusals for which there is no use in trying again.
FINAL = ("standby", "secret", "certificate", "revoked", "tls", "version")


class Follows(Protocol):
    """What a session reports to: a standby."""

    endpoint: Endpoint
    link_settings: LinkSettings
    tls: GuestTls | None

    @property
    def mirror(self) -> Mirror:
        """What there is of the server that is followed."""

    def now(self) -> float:
        """The time (s)."""

    def fail(self, error: BaseException) -> None:
        """A fault of this process: it ends."""

    def heard(self) -> None:
        """The server that is followed lives."""

    def may_follow(self) -> bool:
        """Whether it can introduce itself now."""

    def introduction(self) -> Follow:
        """Who this is."""

    def following(self, followed: Followed) -> str | None:
        """The server lets this one follow it; why it does not on this connection, or ``None``."""


class Session(Owner):
    """One connection to the server that is followed.

    Args:
        standby: whose it is.
        secret: the team's shared secret, or ``None``.

    Attributes:
        over: set once the connection has ended; :attr:`error` is why it need not be tried again.
        followed: the other server lets this one follow it.
        starved: what came could not be written to this disk.
        cause: why the connection has ended.
    """

    def __init__(self, standby: Follows, secret: bytes | None) -> None:
        self.over = asyncio.Event()
        self.error: RowcastError | None = None
        self.cause = ""
        self.connection: Connection | None = None
        self._standby, self._secret = standby, secret
        self._challenges = 0
        self._challenge: Challenge | None = None
        self._follow: Follow | None = None
        self._proven = secret is None
        self.followed = self.starved = False
        self._piece = bytearray()
        self._groups: list[tuple[int, bytes]] = []

    # -- what the connection reports -------------------------------------------------------------------------------

    def on_open(self, connection: Connection, sock: socket.socket) -> None:
        congestion_control, fault = tuned(sock, self._standby.link_settings)
        connection.link = Link(
            str(self._standby.endpoint), congestion_control=congestion_control, secured=not connection.has_tls
        )
        connection.link.conversation = Conversation(ClientState.UNPROVEN)
        connection.link.opened(self._standby.now())
        self.connection = connection
        if fault:
            connection.close(fault)

    def on_secured(self, connection: Connection, channel: Channel) -> None:
        tls = self._standby.tls
        assert tls is not None
        bound_to, _ = tls.admit(channel)
        connection.link.secure(bound_to, None)

    def on_bytes(self, connection: Connection, begun: tuple[int, int]) -> None:
        connection.link.decoder.hold(*begun)

    def on_read(self, connection: Connection, count: int) -> str | None:
        try:
            for message in connection.link.decoder.filled(count):
                if (cause := self._take(connection, message)) is not None:
                    return cause
            self._store(connection)
        except RemoteProtocolError as error:
            return self._refused(error) if isinstance(error, AuthenticationFailed) else str(error)
        except OSError as error:
            self.starved = True
            return f"the state cannot be written: {error.strerror or error}"
        return None

    def on_garbage(self, connection: Connection, error: RemoteProtocolError) -> None:
        if isinstance(error, AuthenticationFailed):
            self._refused(error)
        connection.close(str(error))

    def on_failure(self, connection: Connection, error: Exception) -> None:
        self.error = error if isinstance(error, RowcastError) else None
        if self.error is None:
            self._standby.fail(error)
        connection.close(f"the standby failed: {error}")

    def after_read(self) -> None:
        if self.connection is not None:
            self.connection.pump()

    def after_write(self) -> None:
        pass

    def on_closed(self, connection: Connection, cause: str) -> None:
        self.cause = self.cause or cause
        self.over.set()

    def next_message(self, connection: Connection) -> Message | None:
        return connection.link.next_control(self._standby.now())

    # -- the conversation ------------------------------------------------------------------------------------------

    def _refused(self, error: RowcastError) -> str:
        self.error = error
        return str(error)

    def _take(self, connection: Connection, message: Message) -> str | None:
        """Handle one message; why the connection must end, or ``None``."""
        if isinstance(message, Refusal):
            return self._on_refusal(message)
        if isinstance(message, Leave):
            return message.cause
        if isinstance(message, Challenge):
            return self._on_challenge(connection, message)
        if isinstance(message, Proof):
            return self._on_proof(connection, message)
        if not self._proven:
            raise RemoteProtocolError(f"expected its proof first, got {type(message).__name__}")
        if isinstance(message, Followed):
            return self._on_followed(connection, message)
        if not self.followed or not isinstance(message, Piece | Heartbeat):
            raise RemoteProtocolError(f"expected the log of a server that is followed, got {type(message).__name__}")
        self._standby.heard()
        if isinstance(message, Piece):
            self._on_piece(connection, message)
        return None

    def _on_refusal(self, refusal: Refusal) -> str:
        text = f"{self._standby.endpoint} refuses this standby: {refusal.text}"
        if refusal.code in FINAL:
            self.error = identity_error(refusal.code, text) or ConfigError(text)
        return text

    def _on_challenge(self, connection: Connection, challenge: Challenge) -> str | None:
        """The first is for workers; that of who follows comes when it has said that it is a server."""
        if challenge.secret_needed != (self._secret is not None):
            has, lacks = ("server", "standby") if challenge.secret_needed else ("standby", "server")
            return self._refused(
                AuthenticationFailed(
                    f"the {has} has a shared secret and this {lacks} has none; give both the same --secret-file"
                )
            )
        self._challenges += 1
        if self._challenges == 1:
            connection.link.say(Peer())
            return None
        if self._challenges > 2:
            raise RemoteProtocolError("expected two challenges, got a third")
        if not self._standby.may_follow():
            return "this standby is about to ask for its place"
        self._challenge = challenge
        follow = self._standby.introduction()
        if self._secret is not None:
            proof = follower_proof(self._secret, challenge, follow, connection.link.channel)
            follow = msgspec.structs.replace(follow, proof=proof)
        self._follow = follow
        connection.link.say(follow)
        return None

    def _on_proof(self, connection: Connection, proof: Proof) -> str | None:
        if self._secret is None or self._challenge is None or self._follow is None or self._proven:
            raise RemoteProtocolError("expected a proof once, after its challenge, got one out of turn")
        channel = connection.link.channel
        if not matches(followed_proof(self._secret, self._challenge, self._follow, channel), proof.proof):
            return self._refused(AuthenticationFailed(f"{self._standby.endpoint}: its proof does not fit the secret"))
        self._proven = True
        return None

    def _on_followed(self, connection: Connection, followed: Followed) -> str | None:
        if self._follow is None or self._follow.leads:
            raise RemoteProtocolError("expected nothing for a server that leads, got one that is followed")
        connection.link.decoder.trusted = True
        connection.link.conversation.move(Event.PROVED)
        self._standby.heard()
        cause = self._standby.following(followed)
        self.followed = cause is None
        return cause

    def _on_piece(self, connection: Connection, piece: Piece) -> None:
        self._piece += piece.data
        if piece.left:
            return
        data, self._piece = bytes(self._piece), bytearray()
        if piece.snapshot:
            self._standby.mirror.take(piece.number, data)
            connection.link.say(Stored(piece.number))
        else:
            self._groups.append((piece.number, data))

    def _store(self, connection: Connection) -> None:
        """What has come together is written and synchronised together; then it is heard."""
        if not self._groups:
            return
        groups, self._groups = self._groups, []
        mirror = self._standby.mirror
        mirror.add(groups)
        connection.link.say(Stored(mirror.next))
        connection.pump()
        mirror.hear(groups)

    def beat(self) -> None:
        """Say that the standby lives."""
        if self.connection is not None and self.followed:
            self.connection.link.say(Heartbeat())
            self.connection.pump()
