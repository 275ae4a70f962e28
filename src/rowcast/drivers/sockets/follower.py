"""The connection of a standby, at the server that it follows: who it is, what it is sent, what it has stored."""

from __future__ import annotations

import os
from collections import deque
from typing import Protocol

from rowcast.drivers.sockets.connection import Connection
from rowcast.errors import LinkLost, RemoteProtocolError
from rowcast.session.states import Event
from rowcast.wire import Challenge, Follow, Followed, Heartbeat, Message, Piece, Proof, Refusal, Stored
from rowcast.wire.auth import followed_proof, follower_proof, matches

__all__ = ["FollowerPort", "LeaderOf"]

#: So many bytes of a snapshot or a group travel in one message.
PIECE_BYTES = 1 << 16
#: A standby is caught up when no more than this is on its way.
CLOSE_BYTES = 1 << 20
#: A standby for which more than this of the log waits is let go: it is too slow for the team.
MOST_WAITING_BYTES = 1 << 30


class LeaderOf(Protocol):
    """What a port reports to."""

    def judge(self, follow: Follow) -> tuple[str, str] | None:
        """Why a server may not follow: code and sentence; ``None``: it may."""

    def followed(self, port: FollowerPort) -> Followed | None:
        """It has proved who it is; ``None``: it does not want to follow."""

    def stored(self, port: FollowerPort, position: int) -> None:
        """It has the log up to this position on its disk."""


class FollowerPort:
    """One connection of a standby.

    Args:
        leader: what it reports to.
        connection: the connection, on which a standby has said that it is one.
        secret: the team's shared secret, or ``None``.
        server: 16 bytes that name the server that is followed.
        now: the time (s).

    Attributes:
        follow: who it is; ``None``: it has not proved that.
        promise: the term in which it is to be attached; it has promised to ask for no such term.
        heard_at: when something came from it last (s).
        closing: nothing more is to be said.
    """

    def __init__(
        self, leader: LeaderOf, connection: Connection, secret: bytes | None, server: bytes, now: float
    ) -> None:
        self.connection = connection
        self.follow: Follow | None = None
        self.promise = 0
        self.heard_at = self.opened_at = now
        self._leader = leader
        self._secret = secret
        self._challenge = Challenge(server, os.urandom(16), secret is not None)
        self._says: deque[Message] = deque([self._challenge])
        self._waiting: deque[tuple[bool, int, memoryview]] = deque()
        self._waiting_bytes = self._unstored_bytes = 0
        self._first: int | None = None  # of the snapshot that was sent
        self._early: list[tuple[int, int, bytes]] = []
        self._sent: deque[tuple[int, int, int]] = deque()  # groups that are not stored: number, position, bytes

    # -- what comes ------------------------------------------------------------------------------------------------

    def arrived(self, now: float, count: int) -> str | None:
        """So many bytes arrived; why the connection must end, or ``None``."""
        self.heard_at = now
        link = self.connection.link
        link.heard(now)
        try:
            for message in link.decoder.filled(count):
                self._take(message)
        except RemoteProtocolError as error:
            self.refuse("protocol", str(error))
        except LinkLost as error:
            return str(error)
        return None

    def _take(self, message: Message) -> None:
        if self.connection.link.closing:
            return
        if isinstance(message, Follow) and self.follow is None:
            self._prove(message)
        elif self.follow is None:
            raise RemoteProtocolError(f"expected Follow, because nobody has introduced himself; got {_kind(message)}")
        elif isinstance(message, Stored):
            self._on_stored(message.next)
        elif not isinstance(message, Heartbeat):
            raise RemoteProtocolError(f"expected Stored or Heartbeat of a standby, got {_kind(message)}")

    def _prove(self, follow: Follow) -> None:
        link = self.connection.link
        if self._secret is not None:
            if not matches(follower_proof(self._secret, self._challenge, follow, link.channel), follow.proof):
                self.refuse("secret", "the standby's proof does not fit the server's shared secret; give both the same")
                return
            self._says.append(Proof(followed_proof(self._secret, self._challenge, follow, link.channel)))
        if link.identity:
            self.refuse("certificate", f"its certificate is that of the robot {link.identity!r}, and it is a server")
            return
        if (refusal := self._leader.judge(follow)) is not None:
            self.refuse(*refusal)
            return
        self.follow = follow
        link.decoder.trusted = True
        link.conversation.move(Event.LET_IN)
        if (answer := self._leader.followed(self)) is None:
            link.closing = True
        else:
            self._says.append(answer)

    def _on_stored(self, following: int) -> None:
        position = 0
        while self._sent and self._sent[0][0] < following:
            _, position, size = self._sent.popleft()
            self._unstored_bytes -= size
        self._leader.stored(self, position)

    # -- what is sent ----------------------------------------------------------------------------------------------

    def group(self, number: int, position: int, content: bytes) -> None:
        """A group of the log was committed here."""
        if self._first is None:
            self._early.append((number, position, content))
            return
        self._sent.append((number, position, len(content)))
        self._unstored_bytes += len(content)
        if number >= self._first:
            self._queue(False, number, content)
        self.connection.pump()

    def snapshot(self, first: int, data: bytes) -> None:
        """The snapshot is there; groups follow from ``first`` on."""
        self._first = first
        self._queue(True, first, data)
        early, self._early = self._early, []
        for each in early:
            self.group(*each)
        self.connection.pump()

    def _queue(self, snapshot: bool, number: int, data: bytes) -> None:
        self._waiting.append((snapshot, number, memoryview(data)))
        if not snapshot:
            self._waiting_bytes += len(data)
        if self._waiting_bytes > MOST_WAITING_BYTES:
            self.connection.close("the standby is too slow: more of the log waits for it than it is worth")

    @property
    def caught_up(self) -> bool:
        """It has nearly all that there is."""
        return self._first is not None and not self._waiting and self._unstored_bytes <= CLOSE_BYTES

    def say(self, message: Message) -> None:
        """Send something now."""
        self._says.append(message)
        self.connection.pump()

    def refuse(self, code: str, text: str) -> None:
        """Say why it is not let in, and close."""
        self._says.append(Refusal(code, text))
        self.connection.link.closing = True
        self.connection.pump()

    def next_message(self) -> Message | None:
        """What to send next."""
        if self._says:
            return self._says.popleft()
        if not self._waiting:
            return None
        snapshot, number, data = self._waiting[0]
        piece, rest = data[:PIECE_BYTES], data[PIECE_BYTES:]
        if not snapshot:
            self._waiting_bytes -= len(piece)
        if len(rest):
            self._waiting[0] = snapshot, number, rest
        else:
            self._waiting.popleft()
        return Piece(snapshot, number, bytes(piece), len(rest))


def _kind(message: Message) -> str:
    return type(message).__name__
