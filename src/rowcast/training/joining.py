"""How a worker comes into its team, and back into it: introductions, proofs, the welcome, refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rowcast.errors import (
    AuthenticationFailed,
    CertificateRevoked,
    ConfigError,
    LayoutMismatch,
    LinkLost,
    ParametersConflict,
    RemoteProtocolError,
    RowcastError,
    StreamDamaged,
    VersionMismatch,
)
from rowcast.rows.outline import Outline
from rowcast.session.client import Client
from rowcast.session.doubt import Doubt, claim_of, said
from rowcast.session.figures import LONGEST_NAME
from rowcast.session.link import Link
from rowcast.session.liveness import Streak
from rowcast.session.refusals import identity_error
from rowcast.session.states import CLIENT, ClientState
from rowcast.session.tables import TableParts, table_parts
from rowcast.session.texts import shorten
from rowcast.sync import parse_policy
from rowcast.training.kept.notes import Joined, Resumed, Started
from rowcast.training.proposal.replica import first_nonfinite
from rowcast.training.rules.base import WorkerHandler
from rowcast.training.worker_state import EXCHANGING, WorkerState
from rowcast.wire import (
    Ballot,
    Challenge,
    Heartbeat,
    Hello,
    LayoutTable,
    Leave,
    Message,
    NewTerm,
    Notice,
    Refusal,
    Start,
    Through,
    Waiting,
    Welcome,
    Withdrawal,
)

if TYPE_CHECKING:
    from rowcast.training.core import WorkerCore

__all__ = ["Joining"]

#: Refusals with which a worker need not come back; they have their place in the handshake only.
_FINAL = ("version", "secret", "tls", "revoked")

#: A table of the server's is read up to twice the length of our own and so much more: by then one of the two differs.
TABLE_ROOM_BYTES = 1 << 16


class Joining:
    """The worker's part of the conversation until it computes with its team, on each connection anew.

    Args:
        node: the worker.
        client: its place in the team.

    Attributes:
        introduced: the hello was said, on the connection that stands.
        heartbeat_due: when the next heartbeat is (s).
    """

    def __init__(self, node: WorkerCore, client: Client) -> None:
        self._node = node
        self.client = client
        self.introduced = False
        self.heartbeat_due = 0.0
        self._doubt = Doubt(node.name, claim_of(client.secret), node.settings.patience_s, node.notices)
        self._refusals = Streak()
        self._table: TableParts | None = None
        self._lost_at: float | None = None
        self._stamp = -1  # what every row counts as sent in since the link came back; negative: each as before
        self.handlers: dict[type[Message], WorkerHandler] = {
            Challenge: self._on_challenge,
            Welcome: self._on_welcome,
            Start: self._on_start,
            LayoutTable: self._on_layout_table,
            Refusal: self._on_refusal,
            Waiting: self._on_waiting,
            Notice: self._on_notice,
            Ballot: self._on_ballot,
            Withdrawal: self._on_withdrawal,
            NewTerm: self._on_new_term,
            Through: self._on_through,
        }

    # -- connections -------------------------------------------------------------------------------------------

    def connected(self, link: Link) -> None:
        """A connection to the server stands."""
        link.conversation = self.client.connect()
        self.introduced = False
        self._table = TableParts(2 * len(self._node.layout.to_table()) + TABLE_ROOM_BYTES)
        link.decoder.trusted = self.client.proven

    def lost(self, now: float, cause: str, *, was_in: bool) -> None:
        """The connection is gone; the worker had been let in on it, or not."""
        node = self._node
        if node.state is not WorkerState.DONE and self.client.joined and was_in and self._lost_at is None:
            self._lost_at = now
            node.notices.append(f"{node.name}: link to the server lost ({cause}); reconnecting")

    @property
    def unproven(self) -> str:
        """What was wrong with the newest server that did not prove that it knows the secret; empty once one did."""
        return self._doubt.cause

    # -- what was wrong ----------------------------------------------------------------------------------------

    def blame(self, now: float, error: RemoteProtocolError) -> str:
        """What the server sent was wrong; see :meth:`rowcast.training.WorkerNode.blame`."""
        text = shorten(str(error))
        self._node.journal.record(now, "error", peer="server", error=type(error).__name__, message=text)
        if isinstance(error, AuthenticationFailed):
            self._bar(error)
            return text
        unknown = not self.client.proven or (self._node.link is not None and not self._node.link.secured)
        if unknown and not isinstance(error, StreamDamaged):
            return str(self.doubt(now, text))
        if isinstance(error, VersionMismatch) and not self.client.welcomed:
            self._node.fail(error)
        elif not isinstance(error, StreamDamaged):
            self._count_refusal(error)
        return text

    @property
    def setbacks(self) -> int:
        """How often in a row one end found the other's messages wrong, with nothing delivered in between."""
        return self._refusals.length(self._delivered)

    @property
    def _delivered(self) -> tuple[int, int]:
        """Another value whenever rows were delivered, in either direction."""
        return self._node.outbox.delivered, self._node.inbox.received

    def _count_refusal(self, error: RemoteProtocolError) -> None:
        """One end found the other's messages wrong: try again, but not for ever.

        What was not let in goes on trying anyway, for as long as it does while nobody answers.
        """
        if self.client.welcomed and self._refusals.add(self._delivered) > self._node.settings.refusals_limit:
            self._node.fail(error)

    # -- the handshake -----------------------------------------------------------------------------------------

    def doubt(self, now: float, what: str) -> LinkLost:
        """The error to raise for a server that has not proved who it is.

        It ends the connection and not the worker: anybody may answer at the server's address for a while. The driver
        looks on until its own limit.

        Args:
            now: time (s).
            what: what was wrong.
        """
        return self._doubt.raised(now, "?" if self._node.link is None else self._node.link.peer, what)

    def hear_stranger(self, now: float, link: Link, message: Message) -> None:
        """Handle a message of a server that has not proved that it knows the secret: believe nothing but its proof."""
        if isinstance(message, Heartbeat):
            return  # it takes its time; how long it may take is not for it to say
        if type(message) not in CLIENT[ClientState.UNPROVEN].session:
            raise self.doubt(now, said(message))
        try:
            hello = self.client.introduce(message, self._node.iteration, self._trained, link.channel)
        except RemoteProtocolError as error:
            raise self.doubt(now, str(error)) from error
        if hello is not None:
            self._introduce(now, hello)
            return
        self._doubt.settle()
        link.decoder.trusted = True

    @property
    def _trained(self) -> int:
        """Iterations of training behind the parameters: one that is being exchanged does not count."""
        return max(self._node.iteration - (1 if self.client.joined and self._node.exchanging else 0), 0)

    def _introduce(self, now: float, hello: Hello) -> None:
        self._node.say(hello)
        self.introduced = True
        self.heartbeat_due = now + self._node.settings.heartbeat_s

    def _on_challenge(self, now: float, message: Message) -> None:
        challenge, node = cast(Challenge, message), self._node
        channel = b"" if node.link is None else node.link.channel
        try:
            self._introduce(now, self.client.hello(challenge, node.iteration, self._trained, channel))
        except AuthenticationFailed as error:
            self._node.fail(error)

    def _on_welcome(self, now: float, message: Message) -> None:
        welcome = cast(Welcome, message)
        self.client.verify(welcome)
        self._check_way(welcome)
        try:
            self._node.follow(parse_policy(welcome.policy))
        except ConfigError as error:
            self._node.fail(
                RemoteProtocolError(
                    f"the server's policy is not known here: {shorten(str(error))}; "
                    "install the same version of rowcast on both"
                )
            )
            return
        if not self._node.holding.fit():
            return
        self._node.members = max(welcome.members, 1)
        self.client.enter(welcome)
        self._node.standby = welcome.standby
        self._node.turned_away = self._node.awaited = ""
        self._node.leads = False
        self._node.welcomed_at = now
        self._node.supplier.connected()
        self._say_that_the_link_is_back(now)
        assert self._node.link is not None
        self._node.link.decoder.streams.update(self._node.rule.streams(self._node.layout))
        self.heartbeat_due = now + self._node.settings.heartbeat_s
        if welcome.how not in ("seed", "equal", "receive", "resume"):
            raise RemoteProtocolError(f"expected seed, equal, receive or resume, got {welcome.how!r}")
        recovery = self._node.recovery
        if recovery is not None:
            recovery.welcomed(now, welcome)
        if welcome.how == "resume":
            self._resume(now, welcome, recovers=recovery is not None)
        else:
            self._join(now, welcome, recovers=recovery is not None)
        if self.client.seeding and not self._bring():
            return
        if self.client.joined:
            self._node.carry_on(now)

    def _on_through(self, now: float, message: Message) -> None:
        self.client.way = shorten(cast(Through, message).relay, LONGEST_NAME)

    def _check_way(self, welcome: Welcome) -> None:
        """Another relay than the one before cannot know which of the frames on their way have arrived there.

        Raises:
            LinkLost: there are some; the worker goes on looking for its relay.
        """
        node, before, now = self._node, self.client.relay, self.client.way
        if before is None or before == now or node.outbox.settled or welcome.how == "resume":
            return
        names = [f"relay {name}" if name else "the server" for name in (before, now)]
        self._turn_away(
            RemoteProtocolError(
                f"{len(node.outbox.unacknowledged())} frames of {node.name} are on their way to {names[0]}, and "
                f"{names[1]} cannot know which of them have arrived: connect to {names[0]} again, and finish there "
                "before going elsewhere"
            )
        )

    def _resume(self, now: float, welcome: Welcome, *, recovers: bool) -> None:
        """The server knows the session: go on where the link was lost."""
        node = self._node
        self._recount(self.client.resume(now, welcome))
        if node.notebook is not None:
            node.notebook.note(Resumed(welcome.received, node.iteration, self._stamp, recovers))

    def _join(self, now: float, welcome: Welcome, *, recovers: bool) -> None:
        """The server does not know the session: all numbers start again."""
        node = self._node
        node.rule.forget_transfer()
        node.iteration = welcome.iteration
        if not recovers:
            node.resumed_positions = welcome.positions
        self.client.join(now, welcome)
        if node.notebook is not None:
            training = welcome.training, welcome.origin
            joined = Joined(welcome.server, welcome.how, *training, welcome.iteration, welcome.received, recovers)
            node.notebook.note(joined)

    def _bring(self) -> bool:
        """Tell the layout of the model that the team begins with; returns whether its parameters will do."""
        node = self._node
        if (name := first_nonfinite(node.layout, node.replica)) is not None:
            node.say(Leave("its parameters are not finite"))
            node.fail(
                ConfigError(
                    f"parameter {name!r}: expected finite numbers for the team to begin with, found NaN or Inf; "
                    "look at how the model is initialised, or at the checkpoint that was loaded"
                )
            )
            return False
        for part in table_parts(node.layout.to_table()):
            node.say(part)
        return True

    def _say_that_the_link_is_back(self, now: float) -> None:
        """Whether the server is the same one or another: what was said to be lost is there again."""
        if self._lost_at is not None:
            gone_s = max(now - self._lost_at, 0.0)
            self._node.notices.append(f"{self._node.name}: link to the server is back, after {gone_s:.3g} s")
            self._lost_at = None

    def _recount(self, more: int) -> None:
        """The server counts so many iterations more than it was told."""
        self._stamp = -1
        if more:
            self._node.iteration += more
            self._stamp = self._node.iteration - (1 if self._node.state in EXCHANGING else 0)
            self._node.outbox.renumber(self._stamp)

    def _on_start(self, now: float, message: Message) -> None:
        """The parameters are the team's, and the team is complete: begin, or go on where the work was left."""
        start = cast(Start, message)
        self.client.start(start)
        self._node.members = max(start.members, 1)
        self._node.iteration = start.iteration
        self._node.notices.append(self._whose_parameters(start))
        self._node.read_own_writes()
        self._node.rule.start()
        self._node.outbox.renumber(start.iteration)
        if self._node.notebook is not None:
            self._node.notebook.note(Started(start.iteration, self._node.outbox.sent_frames))
        self._node.start(now)

    def _whose_parameters(self, message: Start) -> str:
        """A line for the user: with whose parameters it trains, and from which iteration on."""
        membership, at = self.client, f"iteration {message.iteration}"
        if membership.how == "seed":
            return f"{self._node.name}: its parameters are the team's, from {at}"
        if membership.how == "equal":
            return f"{self._node.name}: has the team's parameters, which {membership.origin} brought, from {at}"
        if membership.goes_on:
            return f"{self._node.name}: goes on with the team's parameters as {membership.origin} held them, from {at}"
        return (
            f"{self._node.name}: the team's parameters, which {membership.origin} brought, have replaced its own, "
            f"from {at}; "
            "to bring its own, join with parameters='mine'"
        )

    def _on_layout_table(self, now: float, message: Message) -> None:
        piece = cast(LayoutTable, message)
        if self._table is not None and len(piece.part) + piece.left > self._table.limit_bytes:
            self._table = None  # it is not ours, and the refusal that follows says so
        table = None if self._table is None else self._table.add(piece)
        if table is None:
            return
        try:
            self._node.layout.check_equal(Outline.read(table), ours=f"worker {self._node.name}", theirs="the team")
        except LayoutMismatch as error:
            self._turn_away(LayoutMismatch(shorten(str(error))))

    def _turn_away(self, error: RowcastError) -> None:
        """The team is another one than this worker's: a worker that has trained keeps that, and goes on looking."""
        self._bar(error)
        if self._node.failure is None:
            raise LinkLost(str(error))

    def _bar(self, error: RowcastError) -> None:
        """This worker is not let in: the end of one that has not trained, or for whom nothing will change."""
        if not self.client.training or isinstance(error, CertificateRevoked):
            self._node.fail(error)
        else:
            self._node.turned_away = str(error)

    def _on_refusal(self, now: float, message: Message) -> None:
        refusal = cast(Refusal, message)
        code, text = shorten(refusal.code, 20), refusal.text
        self._node.journal.record(now, "error", peer="server", error=f"refused: {code}", message=text)
        if code == "name":
            # It may be this worker's own former life, whose connection the server has not given up yet.
            self._node.turned_away = text
            raise LinkLost(text)
        if code == "damaged":
            raise LinkLost(f"the server got damaged bytes: {text}")
        error = RemoteProtocolError(f"the server refused this worker ({code}): {text}")
        if code in _FINAL and not self.client.welcomed:
            self._node.fail(identity_error(code, text) or error)
        elif code == "certificate" and not self.client.welcomed:
            self._turn_away(AuthenticationFailed(text))
        elif code == "parameters":
            self._turn_away(ParametersConflict(text))
        elif code == "loop":
            self._node.fail(ConfigError(text))
        elif code == "layout":
            self._turn_away(LayoutMismatch(f"the server refused this worker: {text}; run the same model code on both"))
        elif code == "model":
            self._turn_away(error)
        else:
            self._count_refusal(error)
            if not self.client.welcomed:
                self._node.turned_away = text
            raise LinkLost(str(error))

    def _on_waiting(self, now: float, message: Message) -> None:
        reason = cast(Waiting, message).reason
        if self.client.welcomed:
            self._node.notices.append(f"{self._node.name}: waiting for {reason}")
        else:
            self._node.awaited = reason

    def _on_notice(self, now: float, message: Message) -> None:
        self._node.notices.append(f"the server: {cast(Notice, message).text}")

    # -- which server leads --------------------------------------------------------------------------------------

    def _on_ballot(self, now: float, message: Message) -> None:
        self._node.say(self.client.voter.vote(cast(Ballot, message)))

    def _on_withdrawal(self, now: float, message: Message) -> None:
        self.client.voter.withdrawn(cast(Withdrawal, message))

    def _on_new_term(self, now: float, message: Message) -> None:
        term = cast(NewTerm, message)
        if not self.client.welcomed:
            raise RemoteProtocolError("expected a new term after a welcome, got one before")
        self.client.voter.serve(self.client.voter.team, term.term)
        self._node.standby = term.standby
