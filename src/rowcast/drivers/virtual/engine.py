"""What drives nodes in virtual time: it carries what they say, tells them the time, and does what they ask for.

What a link is made of, and what a robot computes, is the business of who builds on it: the simulation carries messages
over a shared medium (:mod:`~rowcast.drivers.virtual.simulation`), the team of the tests bytes over scripted links
(:mod:`rowcast.testing.virtual`).
"""

from __future__ import annotations

import math
from typing import Generic, Protocol, TypeVar

from rowcast.drivers.nodes import GuestNode, HostNode
from rowcast.drivers.virtual.clock import Clock
from rowcast.errors import LinkLost
from rowcast.session import Link
from rowcast.wire import Message

__all__ = ["Direction", "Engine", "Peer"]

#: Timers go off behind everything else that happens at the same moment.
TIMER = 2


class Direction(Protocol):
    """One direction of a link."""

    def takes(self, now: float) -> bool:
        """Whether a message can be handed to it now."""

    def carry(self, now: float, message: Message) -> None:
        """Take a message along."""


class Peer:
    """A worker and its link.

    Args:
        node: the worker node.
        up, down: its link, to the server and from there; they stay the same over all connections.
        delay_s: how long anything is on its way there (s).

    Attributes:
        worker_link, server_link: the connection that stands, or the last one, as its two ends see it.
        connected: a connection stands.
        killed: the worker is gone, with all it had in memory: nothing is done with its node any more.
        back_at: a script has cut the link until then (s); ``None``: the node says when it is tried again.
        worker_wake: when its node is looked at next (s).
    """

    worker_link: Link
    server_link: Link

    def __init__(self, node: GuestNode, up: Direction, down: Direction, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.node = node
        self.up = up
        self.down = down
        self.connected = False
        self.killed = False
        self.back_at: float | None = None
        self.worker_wake = math.inf


P = TypeVar("P", bound=Peer)


class Engine(Generic[P]):
    """A server and workers in virtual time.

    Args:
        server: the server node.
        clock: the time; a new one unless given.

    Attributes:
        clock: the time.
        server: the server.
        noted: what notes the server's inputs, and stands in its place to connections; ``None``: nothing does.
    """

    noted: HostNode | None = None

    def __init__(self, server: HostNode, *, clock: Clock | None = None) -> None:
        self.server = server
        self.clock = clock or Clock()
        self._by_link: dict[Link, P] = {}
        self._server_wake = math.inf

    @property
    def host(self) -> HostNode:
        """What connections have to do with."""
        return self.server if self.noted is None else self.noted

    # -- what is built on it ---------------------------------------------------------------------------------------

    def _opened(self, peer: P) -> None:
        """A connection is made: :attr:`Peer.worker_link` and :attr:`Peer.server_link` are new."""

    def _closing(self, peer: P, now: float) -> None:
        """The connection ends: what is on the way gets lost, or arrives now."""

    def _changed(self, peer: P) -> None:
        """The worker node has changed: perhaps it computes now, or has ended."""

    def _has_left(self, direction: Direction) -> bool:
        """Whether all that was handed to a direction that takes more has left it."""
        return True

    # -- connections -----------------------------------------------------------------------------------------------

    def connect(self, peer: P) -> None:
        """Try to connect now: the server is there, so it succeeds."""
        node, now = peer.node, self.clock.now
        if peer.connected or peer.killed or node.over or node.failure is not None:
            return
        peer.connected = True
        peer.worker_link, peer.server_link = Link("server"), Link(node.name)
        self._by_link[peer.server_link] = peer
        self._opened(peer)
        node.connecting(now, "server")
        node.link_up(now, peer.worker_link)
        self.host.link_up(now, peer.server_link)
        self.serve()
        self.attend(peer)

    def disconnect(self, peer: P, cause: str, back_s: float | None = None) -> None:
        """End the connection of ``peer`` now, if it has one.

        Args:
            peer: the worker.
            cause: why.
            back_s: the link is back after so many seconds, and its worker connects then; ``None``: its node says when.
        """
        if not peer.connected:
            return
        now, link = self.clock.now, peer.server_link
        self._closing(peer, now)
        if not peer.connected or peer.server_link is not link:
            return  # what arrived last has ended it already
        peer.connected = False
        peer.worker_wake = math.inf
        del self._by_link[link]
        self.host.link_down(now, link, cause)
        if not peer.killed:
            peer.node.link_down(now, cause)
        if back_s is not None:
            peer.back_at = now + back_s
            self.clock.at(peer.back_at, self._is_back, peer, peer.back_at)
        self.serve()
        self.attend(peer)

    def _is_back(self, peer: P, back_at: float) -> None:
        if peer.back_at == back_at:
            peer.back_at = None
            self.connect(peer)

    def _hang_up(self, peer: P, link: Link, cause: str) -> None:
        """One end has said its last word on ``link``."""
        if peer.connected and peer.server_link is link and not peer.node.over:
            self.disconnect(peer, cause)

    # -- the worker ------------------------------------------------------------------------------------------------

    def attend(self, peer: P) -> None:
        """Something was done with the worker node of ``peer``, or has happened to it: send, go on, set its timer."""
        if peer.killed:
            return
        while peer.connected and peer.up.takes(self.clock.now) and self.send_up(peer):
            pass
        self._changed(peer)
        due = peer.node.next_wake(peer.worker_wake)
        if due is not None and due < peer.worker_wake:
            peer.worker_wake = due
            self.clock.at(due, self._wake_worker, peer, due, priority=TIMER)

    def send_up(self, peer: P) -> bool:
        """Hand the worker's next message to its link, which takes it; whether there was one."""
        now, node = self.clock.now, peer.node
        message = node.poll(now)
        if message is not None:
            peer.up.carry(now, message)
            return True
        if peer.worker_link.closing and self._has_left(peer.up):
            self.clock.at(now + peer.delay_s, self._hang_up, peer, peer.server_link, "closed by the worker")
        return False

    def _wake_worker(self, peer: P, due: float) -> None:
        if due != peer.worker_wake or peer.killed:
            return
        peer.worker_wake = math.inf
        node, now = peer.node, self.clock.now
        wanted = node.next_wake()
        if wanted is not None and wanted <= now:
            if not peer.connected and (connect_at := node.connect_at) is not None and connect_at <= now:
                if peer.back_at is None:
                    self.connect(peer)
                return
            try:
                node.on_timer(now)
            except LinkLost as error:
                self.disconnect(peer, str(error))
        self.attend(peer)

    # -- the server ------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Send what the server has got to say, and set its timer."""
        server, by_link = self.host, self._by_link
        while ready := server.take_ready():  # what one robot is sent may let another one go on
            for link in ready:
                peer = by_link.get(link)
                while peer is not None and peer.down.takes(self.clock.now) and self.send_down(peer):
                    pass
        due = server.next_wake()
        if due is not None and due < self._server_wake:
            self._server_wake = due
            self.clock.at(due, self._wake_server, due, priority=TIMER)

    def send_down(self, peer: P) -> bool:
        """Hand the server's next message for ``peer`` to its link, which takes it; whether there was one."""
        now, link = self.clock.now, peer.server_link
        message = self.host.poll(now, link)
        if message is not None:
            peer.down.carry(now, message)
            return True
        if link.closing and self._has_left(peer.down):
            self.clock.at(now + peer.delay_s, self._hang_up, peer, link, "closed by the server")
        return False

    def _wake_server(self, due: float) -> None:
        if due != self._server_wake:
            return
        self._server_wake = math.inf
        for link, cause in self.host.on_timer(self.clock.now):
            peer = self._by_link.get(link)
            if peer is not None:
                self.disconnect(peer, cause)
        self.serve()
