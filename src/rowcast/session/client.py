"""A worker's place in the team, over all of its connections: who it is, what it proved, and how it takes its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from rowcast.config import Secret
from rowcast.delivery.inbox import Inbox
from rowcast.delivery.outbox import Outbox
from rowcast.errors import LinkLost, RemoteProtocolError
from rowcast.journal import Journal
from rowcast.rows.digest import digest_of
from rowcast.session.proof import WorkerHandshake, expect_countable
from rowcast.session.states import ClientState, Conversation, Event
from rowcast.session.voter import Voter
from rowcast.wire import Challenge, Hello, Message, Proof, Start, Welcome

__all__ = ["Client", "JoinRequest"]


@dataclass(frozen=True)
class JoinRequest:
    """How a worker asks to join a team.

    Attributes:
        secret: the team's shared secret, or ``None``.
        wish: whose parameters it wants (:data:`~rowcast.session.seeding.WISHES`). ``"mine"``: its own are to become the
            team's; ``"team"``: the team's replace its own in any case; empty: whoever comes first brings them, and
            training is not overwritten.
    """

    secret: bytes | None = None
    wish: str = ""

    def __post_init__(self) -> None:
        if self.secret is not None and not isinstance(self.secret, Secret):
            object.__setattr__(self, "secret", Secret(self.secret))  # shown nowhere


class Kept(Protocol):
    """A place in a team that was kept; see the attributes of :class:`Client`."""

    session: bytes
    server: bytes
    joined: bool
    training: bytes
    origin: str
    how: str


class Client:
    """Introduces a worker on each connection, and takes its place: a new one, or the one that it had.

    Args:
        name: the worker's name.
        outbox: what is sent to the server; its snapshot is of the parameters.
        inbox: what comes from there.
        request: how it asks to join.
        journal: where joins and resumptions are recorded.
        entropy: source of random bytes.

    Attributes:
        conversation: that on the connection that stands, or on the last one.
        secret: the team's shared secret, or ``None``.
        server: the life of the server that let the worker in last; empty before one did.
        joined: the server knows it, and its parameters are the team's.
        seeding: it brings the parameters of the team, and has not said that these were all.
        training: names the training that its parameters belong to; empty where they are not a team's.
        origin: the worker that brought the team's parameters.
        how: how it joined last: ``seed``, ``equal`` or ``receive``.
        goes_on: the team that it joined last goes on with the training that its parameters belong to.
        session: 16 bytes that name this life of the worker.
        voter: its say in which server leads the team.
        anew: it knows its session, and cannot go on in it: it joins anew, and is told what of it had arrived.
        way: name of the relay that it is connected to, empty where that is the server itself.
        relay: the same of the connection on which it was let in last; ``None``: it was not let in yet.
    """

    def __init__(
        self,
        name: str,
        outbox: Outbox,
        inbox: Inbox,
        *,
        request: JoinRequest,
        journal: Journal,
        entropy: Callable[[int], bytes],
    ) -> None:
        self.training = b""
        self.origin = ""
        self.how = ""
        self.goes_on = False
        self._joining = b""  # the training of the team that it is about to join
        self._wish = request.wish
        self.conversation = Conversation(ClientState.APART)
        self.joined = False
        self.seeding = False
        self._name = name
        self._outbox = outbox
        self._inbox = inbox
        self.secret = request.secret
        self._journal = journal
        self._entropy = entropy
        self.session = entropy(16)
        self.anew = False
        self.way = ""
        self.relay: str | None = None
        self.voter = Voter()
        self.server = b""
        self._handshake = WorkerHandshake(request.secret, entropy)
        self._told_iteration = 0

    def restore(self, place: Kept) -> None:
        """Take the place of another life of this worker."""
        self.session, self.server = place.session, place.server
        self.training, self.origin, self.how = place.training, place.origin, place.how
        self.joined = place.joined
        self.voter.abstains = True

    # -- the handshake -----------------------------------------------------------------------------------------

    def connect(self) -> Conversation:
        """A connection stands, and nothing was said on it: the conversation begins."""
        self._handshake = WorkerHandshake(self.secret, self._entropy)
        self.way = ""
        self.conversation = Conversation(ClientState.UNPROVEN if self.secret is not None else ClientState.PROVEN)
        return self.conversation

    def disconnect(self) -> None:
        """The connection is gone; the place stays."""
        self.conversation.move(Event.LOST)

    @property
    def proven(self) -> bool:
        """On this connection the server has proved that it knows the secret, or there is none."""
        return self._handshake.proven

    @property
    def welcomed(self) -> bool:
        """The server has let the worker in, on the connection that stands."""
        return self.conversation.is_let_in

    def introduce(self, message: Message, iteration: int, trained: int, channel: bytes = b"") -> Hello | None:
        """Handle a message of a server that has not proved anything yet.

        Returns:
            What to answer; ``None``: the server has proved that it knows the secret.

        Raises:
            RemoteProtocolError: anything but a challenge that asks for a proof, and then the right proof.
        """
        if isinstance(message, Challenge):
            return self.hello(message, iteration, trained, channel)
        if not isinstance(message, Proof):
            raise RemoteProtocolError(f"expected its proof first, got {type(message).__name__}")
        self._handshake.verify(message)
        self.conversation.move(Event.PROVED)
        return None

    def hello(self, challenge: Challenge, iteration: int, trained: int, channel: bytes = b"") -> Hello:
        """The answer to a challenge.

        Args:
            challenge: what the server asks.
            iteration: iterations finished, one that is being exchanged included.
            trained: the same without that one.
            channel: see :class:`.Link`.

        Raises:
            AuthenticationFailed, RemoteProtocolError: see :meth:`WorkerHandshake.answer`.
        """
        self._told_iteration = iteration
        hello = Hello(
            name=self._name,
            session=self.session,
            nonce=b"",
            proof=b"",
            layout=self._outbox.layout.digest,
            state=digest_of(self._outbox.snapshot.parameters),
            server=self.server,
            joined=self.joined,
            iteration=iteration,
            received=self._inbox.received,
            training=self.training,
            trained=trained,
            wish=self._wish,
            anew=self.anew,
            team=self.voter.team,
            served=self.voter.served,
        )
        return self._handshake.answer(challenge, hello, channel)

    def verify(self, welcome: Welcome) -> None:
        """Check a welcome; nothing is changed by it yet.

        Raises:
            RemoteProtocolError: it has a count that cannot be, or no hello was said.
            LinkLost: the server does not lead the team any longer.
        """
        expect_countable(welcome.iteration)
        self._handshake.expect_introduced()
        if not self.voter.accepts(welcome.team, welcome.term):
            raise LinkLost(
                f"this server leads in term {welcome.term}, and another one has served this worker in term "
                f"{self.voter.served}"
            )

    # -- the place ---------------------------------------------------------------------------------------------

    def enter(self, welcome: Welcome) -> None:
        """The server that said so has let the worker in."""
        self.server, self.relay = welcome.server, self.way
        self.voter.serve(welcome.team, welcome.term)
        self._joining, self.origin = welcome.training, welcome.origin
        resumes = welcome.how == "resume" and self.joined
        self.conversation.move(Event.RESUMED if resumes else Event.LET_IN)

    def join(self, now: float, welcome: Welcome) -> None:
        """The server does not know this session: start its numbers afresh; what is pending stays pending.

        A server that has forgotten it may know how many frames it had applied; those are not sent again.
        """
        self._outbox.restart(welcome.received)
        self._inbox.received = 0
        self.anew = False
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
        self.how = welcome.how
        self.seeding = welcome.how == "seed"
        self.goes_on = self.training == welcome.training
        if welcome.how == "receive" and not self.goes_on:
            self.training = b""  # until all of the team's have arrived its parameters are neither's
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
            RemoteProtocolError: the count cannot be.
        """
        expect_countable(message.iteration)
        self.conversation.move(Event.STARTED)
        self.joined = True
        self.training = self._joining
        if self._wish == "mine":
            self._wish = ""  # it was granted
