"""The server: messages in, messages and timers out.

Here is what the driver calls. What a message leads to is the business of others, which
:mod:`~rowcast.training.server_core` puts together: how workers come (:mod:`~rowcast.training.admission`), what the
first one brings (:mod:`~rowcast.training.first`), who counts (:mod:`~rowcast.training.gate`), what is held and owed
(:mod:`~rowcast.training.model`), who may go on and when rows travel (:mod:`~rowcast.training.rules`), how workers go
(:mod:`~rowcast.training.drain`), and what time brings (:mod:`~rowcast.training.watch`).
"""

from __future__ import annotations

from rowcast.errors import LinkLost, RowcastError
from rowcast.session.host import Host
from rowcast.session.link import Link
from rowcast.session.readable import readable
from rowcast.session.recurring import HERE
from rowcast.session.refusals import code_of
from rowcast.session.texts import shorten
from rowcast.session.voter import Tenure
from rowcast.training.member import Member, MemberState
from rowcast.training.server_core import ServerCore
from rowcast.wire import Ack, Farewell, Heartbeat, Hello, Leave, Message, NewTerm, Peer, Probe, Subtree, Vote

__all__ = ["ANOTHER_SERVER", "ServerNode"]

#: Why a connection ends at whose other end a server is: what it wants is not the business of the node.
ANOTHER_SERVER = "it is another server"
#: Votes that wait for the driver at most.
MOST_VOTES = 1024

#: States in which something follows the last row frame, or may; see :attr:`ServerRule.states` for others.
_SENDING = (MemberState.RECEIVING, MemberState.DRAINING)


class ServerNode(ServerCore, Host):
    """The server of one team.

    It needs no model: the first worker brings the layout and the parameters.

    Args:
        policy: the synchronisation policy of the team.
        settings, link_settings: see :mod:`rowcast.config`.
        secret: the team's shared secret, or ``None``.
        journal: where events are recorded.
        entropy: source of random bytes (replaced in tests).
    """

    # -- the driver's side -------------------------------------------------------------------------------------

    def listen(self, now: float) -> None:
        """Workers can connect from now on. Those that trained before a restart may be on their way."""
        self._admission.seeding.listen(now)

    def link_up(self, now: float, link: Link) -> None:
        """Somebody connected.

        Raises:
            LinkLost: there are too many strangers, or this address failed too often; close the connection.
        """
        self._admission.connected(now, link)
        self._watch.timers.touch(link)

    def secured(self, now: float, link: Link, channel: bytes, identity: str | None) -> None:
        """TLS stands on a connection that came up without; no message has come on it (see :class:`.Link`)."""
        link.secure(channel, identity)

    def link_down(self, now: float, link: Link, cause: str) -> None:
        """A connection ended."""
        member = self._admission.by_link.get(link)
        self._watch.timers.forget(link)
        self._admission.disconnected(now, link, cause)
        if member is not None:
            self._watch.timers.touch(member)

    def heard(self, now: float, link: Link, begun: tuple[int, int] = (0, 0)) -> None:
        """Bytes arrived, whole message or not: the link lives.

        Args:
            now: the time (s).
            link: the connection.
            begun: of a record of TLS that is not whole, see :meth:`rowcast.wire.FrameDecoder.hold`.
        """
        link.heard(now)
        link.decoder.hold(*begun)
        self._watch.timers.touch(link)

    def blame(self, now: float, link: Link, error: RowcastError) -> None:
        """What came on ``link`` was wrong: tell the peer why and close; everybody else goes on.

        A member stays one: it comes back and goes on where it was.
        """
        if link.closing:
            return
        member = self._admission.by_link.get(link)
        peer = member.name if member else link.peer
        text = shorten(str(error))
        self._recurring.tell(now, type(error).__name__, peer, text, member=member is not None)
        link.control.clear()
        self.team.notifier.refuse(link, code_of(error), text)

    def receive(self, now: float, link: Link, message: Message) -> None:
        """Handle one message.

        Raises:
            RemoteProtocolError: it has no place in the conversation; :meth:`blame` the link.
            LinkLost: the worker left; close the connection.

        What comes on a connection that is being closed is left unread.
        """
        if link.closing:
            return
        message = readable(message)
        member = self._admission.by_link.get(link)
        if isinstance(message, Vote):
            self._take_vote(link, member, message)
            return
        if member is None:
            self._hear_stranger(now, link, message)
            return
        if link.control and (cause := self._watch.overrun(now, link)) is not None:
            raise LinkLost(cause)
        member.recounted = False  # only who was welcomed says anything
        link.conversation.expect(message)
        self._incoming.take(now, member, message)

    def _hear_stranger(self, now: float, link: Link, message: Message) -> None:
        """Handle a message of somebody that is no member."""
        link.conversation.expect(message)
        if isinstance(message, Leave):
            link.closing = True  # it says goodbye before it has introduced itself: nothing to complain of
            raise LinkLost(message.cause)
        if isinstance(message, Peer):
            link.introduced = True
            raise LinkLost(ANOTHER_SERVER)
        if isinstance(message, Hello):
            self._admission.greet(now, link, message)
        if isinstance(message, Subtree):
            self._admission.branches.hear(now, link, message)
        if isinstance(message, Probe):
            self.team.notifier.say(link, self._admission.newcomers.echo(link, message))

    def _take_vote(self, link: Link, member: Member | None, vote: Vote) -> None:
        """Keep a vote for the driver, by the session of who gave it; the state of the team does not depend on it."""
        link.conversation.expect(vote)
        session = self._admission.session_of(link) if member is None else member.session
        if session and len(self.votes) < MOST_VOTES:
            self.votes.append((session, vote))

    def lead(self, now: float, tenure: Tenure) -> None:
        """From now on the team is led so: every member is told."""
        self.team.tenure = tenure
        for member in self.members.values():
            if member.link is not None:
                self.team.notifier.say(member.link, NewTerm(tenure.term, tenure.standby))

    def poll(self, now: float, link: Link) -> Message | None:
        """The next message to send on ``link``, or ``None``: then nothing has changed for anybody else.

        Control overtakes rows.
        """
        member = self._admission.by_link.get(link)
        message = None if member is None else self._rule.take_next(member)
        if message is None and link.control:
            message = link.next_control(now)
        if message is not None or link.closing:
            return message
        if member is None:
            return None
        if member.state in self._rule.states:
            message = self._rule.next_message(now, member)
        elif member.owed.idle and member.state not in _SENDING:
            return None
        else:
            message = member.owed.next_frame(now) or self._after_rows(now, member)
        if message is not None:
            link.spoke_at = now
        return message

    def push_work(self, message: Message) -> float | None:
        """What it costs the server to take a message of a worker in, for a driver that charges time for it.

        Returns:
            How much of a push's work it is: 1 for all that a whole push costs. 0: none, but it takes its turn behind
            what came before it. ``None``: it is about the link, and waits for nothing.
        """
        return None if isinstance(message, Ack | Heartbeat) else self._rule.push_work(message)

    def pull_work(self, message: Message) -> float:
        """What it costs the server to go on behind a message to a worker: 1 for all that a whole pull costs."""
        return self._rule.pull_work(message)

    def trouble(self, now: float, kind: str, text: str) -> None:
        """Something that the driver notices at this end, perhaps again and again: no descriptors, or a fault."""
        self._recurring.tell(now, kind, HERE, text)

    def forget(self, now: float, name: str, cause: str) -> None:
        """What the worker called ``name`` was sent is not known: it joins anew, and what it had pending counts once."""
        self._admission.forget(now, self.members[name], cause, cause)

    def stop(self, now: float) -> None:
        """The server stops: what was counted and not told is told."""
        self._recurring.on_timer(now, ending=True)

    def farewell(self, link: Link, cause: str) -> None:
        """The server stops: tell the peer, then close."""
        link.control.clear()
        self.team.notifier.say(link, Leave(shorten(cause)))
        link.closing = True

    def expel(self, now: float, link: Link, cause: str) -> None:
        """Who is at this link may not be here any more: tell him, then close; nobody waits for him."""
        member = self._admission.by_link.get(link)
        self.farewell(link, cause)
        if member is not None:
            self._admission.expel(now, member, cause)

    def take_ready(self) -> list[Link]:
        """The links on which something may be sent since the last call."""
        self._rule.wake_all_ready()
        layout = self.team.model.layout
        if layout is not None and layout.buffers:
            self._leader.tell(layout)
        self._sharing.refresh()
        ready = self.team.notifier.take()
        if ready:
            self._watch.timers.touch_all(ready)
        return ready

    def next_wake(self) -> float | None:
        """When :meth:`on_timer` must be called (s), or ``None``."""
        return self._watch.next_wake()

    def on_timer(self, now: float) -> list[tuple[Link, str]]:
        """Time passed.

        Returns:
            Connections that the driver must close, with the reason: call :meth:`link_down` for each.
        """
        return self._watch.on_timer(now)

    # -- what follows the rows ---------------------------------------------------------------------------------

    def _after_rows(self, now: float, member: Member) -> Message | None:
        """What follows the last row frame to a worker that has come, or that goes."""
        owed = member.owed
        if member.state is MemberState.RECEIVING and owed.settled and not owed.snapshot.left:
            self._admission.is_ready(now, member)
            return member.link.next_control(now) if member.link is not None else None
        if member.state is not MemberState.DRAINING:
            return None
        message = self.team.departures.next_message(now, member)
        if isinstance(message, Farewell) and (link := member.link) is not None:
            self._admission.finished(now, member)
            link.closing = True
        return message
