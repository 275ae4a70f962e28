"""A worker's place in the team, over all of its connections: who it is, what it proved, and how it takes its place."""

from __future__ import annotations

from collections.abc import Callable

from rowcast.errors import RemoteProtocolError
from rowcast.journal import Journal
from rowcast.nodes.handshake import WorkerHandshake
from rowcast.nodes.inbox import Inbox
from rowcast.nodes.outbox import Outbox
from rowcast.nodes.replica import digest_of
from rowcast.wire import Challenge, Hello, Start, Welcome

__all__ = ["Membership"]

MAX_ITERATION = 1 << 30


class Membership:
    """Introduces a worker on each connection, and takes its place: a new one, or the one that it had.

    Args:
        name: the worker's name.
        outbox: what is sent to the server; its source are the parameters.
        inbox: what comes from there.
        secret: the team's shared secret, or ``None``.
        journal: where joins and resumptions are recorded.
        entropy: source of random bytes.

    Attributes:
        welcomed: the server has let the worker in, on the connection that stands.
        joined: the server knows it, and its parameters are the team's.
        seeding: it brings the parameters of the team, and has not said that these were all.
    """

    def __init__(
        self,
        name: str,
        outbox: Outbox,
        inbox: Inbox,
        *,
        secret: bytes | None,
        journal: Journal,
        entropy: Callable[[int], bytes],
    ) -> None:
        self.welcomed = False
        self.joined = False
        self.seeding = False
        self._name = name
        self._outbox = outbox
        self._inbox = inbox
        self._secret = secret
        self._journal = journal
        self._entropy = entropy
        self._session = entropy(16)
        self._server = b""
        self._handshake = WorkerHandshake(secret, entropy)
        self._told_iteration = 0

    @property
    def server(self) -> bytes:
        """The life of the server that let the worker in last; empty before one did."""
        return self._server

    # -- the handshake -----------------------------------------------------------------------------------------

    def connect(self) -> None:
        """A connection stands; nothing was said on it."""
        self._handshake = WorkerHandshake(self._secret, self._entropy)
        self.welcomed = False

    def disconnect(self) -> None:
        """The connection is gone; the place stays."""
        self.welcomed = False

    def hello(self, challenge: Challenge, iteration: int) -> Hello:
        """The answer to a challenge.

        Args:
            challenge: what the server asks.
            iteration: iterations finished.

        Raises:
            AuthenticationFailed, RemoteProtocolError: see :meth:`WorkerHandshake.answer`.
        """
        self._told_iteration = iteration
        hello = Hello(
            name=self._name,
            session=self._session,
            nonce=b"",
            proof=b"",
            layout=self._outbox.layout.digest,
            state=digest_of(self._outbox.source),
            server=self._server,
            joined=self.joined,
            iteration=iteration,
            received=self._inbox.received,
        )
        return self._handshake.answer(challenge, hello)

    def verify(self, welcome: Welcome) -> None:
        """Check a welcome; nothing is changed by it yet.

        Raises:
            AuthenticationFailed: the server does not know the secret.
            RemoteProtocolError: it is out of turn, or has a count that cannot be.
        """
        if self.welcomed:
            raise RemoteProtocolError("expected one welcome, got a second one")
        _expect_countable(welcome.iteration)
        self._handshake.verify(welcome)

    # -- the place ---------------------------------------------------------------------------------------------

    def enter(self, welcome: Welcome) -> None:
        """The server that said so has let the worker in."""
        self._server = welcome.server
        self.welcomed = True

    def join(self, now: float, welcome: Welcome) -> None:
        """The server does not know this session: start its numbers afresh; what is pending stays pending.

        A server that has forgotten it may know how many frames it had applied; those are not sent again.
        """
        self._outbox.restart(welcome.received)
        self._inbox.received = 0
        self._outbox.renumber(welcome.iteration)
        self.joined = False
        self._journal.record(
            now,
            "join",
            peer="server",
            epoch=welcome.epoch,
            iteration=welcome.iteration,
            how=welcome.how,
            members=welcome.members,
        )
        self.seeding = welcome.how == "seed"
        if self.seeding:
            self._outbox.send_state()

    def resume(self, now: float, welcome: Welcome) -> int:
        """The server knows this session: go on where the link was lost.

        Returns:
            How many iterations more it counts than the hello told. A gradient may have been finished since then.

        Raises:
            RemoteProtocolError: see :meth:`Outbox.resume`.
        """
        delivered, restored = self._outbox.resume(now, welcome.received)
        self._journal.record(now, "resume", peer="server", delivered=delivered, restored=restored)
        # The server may have lost the link before it learnt that it has all parameters.
        self.seeding = welcome.state == b""
        return welcome.iteration - self._told_iteration

    def start(self, message: Start) -> None:
        """The parameters are the team's.

        Raises:
            RemoteProtocolError: they were already, or the count cannot be.
        """
        if self.joined:
            raise RemoteProtocolError("expected one permission to start, got a second one")
        _expect_countable(message.iteration)
        self.joined = True


def _expect_countable(iteration: int) -> None:
    """Refuse a count that the stamps of the rows (int32) could not follow."""
    if iteration > MAX_ITERATION:
        raise RemoteProtocolError(f"expected an iteration up to {MAX_ITERATION}, got {iteration}")
