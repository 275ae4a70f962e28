"""The worker: proposes updates, exchanges rows of them with its team, applies what it is sent.

Here is what the driver calls. What a message leads to is mostly the business of others: its state
(:mod:`~rowcast.training.core`), what the training loop asks (:mod:`~rowcast.training.worker_loop`), how it comes into
the team (:mod:`~rowcast.training.joining`), what it adds (:mod:`~rowcast.training.proposal`), when rows travel
(:mod:`~rowcast.training.rules`), and what time brings (:mod:`~rowcast.training.worker_watch`).
"""

from __future__ import annotations

import math

from rowcast.errors import RemoteProtocolError
from rowcast.session.link import Link
from rowcast.session.readable import readable
from rowcast.session.states import ClientState
from rowcast.session.texts import shorten
from rowcast.training.kept.notes import note_sent
from rowcast.training.patience import limit_of, out_of_time
from rowcast.training.worker_loop import WorkerLoop
from rowcast.training.worker_state import WorkerState
from rowcast.wire import Finish, Message, StateEnd

__all__ = ["WorkerNode", "WorkerState"]


class WorkerNode(WorkerLoop):
    """One worker.

    Args:
        name: stable name, unique in the team.
        layout: the model's rows.
        replica: flat float32 parameters; taken over and changed in place. The training loop copies them from
            here; nothing else moves them.
        settings, link_settings: see :mod:`rowcast.config`.
        request: how it asks to join: its secret, and whose parameters it wants; ``None``: no secret and no wish.
        journal: where events are recorded.
        entropy: source of random bytes (replaced in tests).
    """

    # -- the driver's side -------------------------------------------------------------------------------------

    def connecting(self, now: float, address: str) -> None:
        """The driver tries to connect to the server at ``address`` (for people)."""
        self.search.trying(now, address)

    def connect_failed(self, now: float, cause: str) -> None:
        """The attempt came to nothing; ``cause`` says why, for people."""
        if not self.search.failed(now, cause, limit_of(self), hurries=bool(self.standby)):
            self.fail(out_of_time(self))

    def link_up(self, now: float, link: Link) -> None:
        """A connection to the server stands."""
        self.link = link
        self.search.connected(now)
        self._joining.connected(link)
        link.opened(now)
        self.journal.record(
            now, "link_up", peer=link.peer, congestion_control=link.congestion_control, shaped_by=link.shaped_by
        )

    def link_down(self, now: float, cause: str) -> None:
        """The connection ended."""
        if self.link is None:
            return
        cause = shorten(cause)
        self.journal.record(now, "link_down", peer=self.link.peer, cause=cause)
        self.link = None
        self.awaited = ""
        was_in = self.client.welcomed
        self.client.disconnect()
        self.outbox.link_lost()
        if was_in:
            self.search.welcomed(now, self.setbacks)
        if self.state is not WorkerState.DONE and self.failure is None:
            self.connect_failed(now, cause)
        self.rule.link_lost(now)
        self._joining.lost(now, cause, was_in=was_in)

    def heard(self, now: float) -> None:
        """Bytes arrived, whole message or not: the link lives."""
        if self.link is not None:
            self.link.heard(now)

    def blame(self, now: float, error: RemoteProtocolError) -> str:
        """What the server sent was wrong: close the connection. Damage on the way is a cut link, nothing more.

        Returns:
            Why the connection is closed.
        """
        return self._joining.blame(now, error)

    @property
    def setbacks(self) -> int:
        """How often in a row one end found the other's messages wrong, with nothing delivered in between."""
        return self._joining.setbacks

    def receive(self, now: float, message: Message) -> None:
        """Handle one message.

        Raises:
            RemoteProtocolError: it has no place in the conversation; close the connection.
            LinkLost: the server said goodbye, or did not prove that it knows the secret; close the connection.
        """
        if self.link is None:
            raise RemoteProtocolError(f"expected nothing without a connection, got {type(message).__name__}")
        conversation = self.link.conversation
        if conversation.state is ClientState.UNPROVEN:
            self._joining.hear_stranger(now, self.link, message)
            return
        conversation.expect(message)
        kind = type(message)
        handler = self._handlers.get(kind) or self.rule.handlers.get(kind)
        if handler is None:
            name = "no policy" if self.policy is None else f"the policy {self.policy.name}"
            raise RemoteProtocolError(f"expected a server's message that goes with {name}, got {kind.__name__}")
        handler(now, readable(message))

    def poll(self, now: float) -> Message | None:
        """The next message to send, or ``None``. Control overtakes rows."""
        link = self.link
        if link is None:
            return None
        message = link.next_control(now) if link.control else None
        if message is not None or link.closing or not self.client.welcomed:
            return message
        if self.outbox.idle and not self.client.seeding and not self.rule.busy:
            return None
        message = self._next_in_order(now)
        if message is not None:
            link.spoke_at = now
        return message

    def _next_in_order(self, now: float) -> Message | None:
        """Rows, and the messages whose place is before or behind rows."""
        if self.client.seeding and not self.outbox.snapshot.left:
            self.client.seeding = False
            return StateEnd()
        if not (self.client.joined or self.client.seeding):
            return None
        finishing = self.state is WorkerState.FINISHING  # everything was chosen
        if not finishing:
            self.rule.before_frame(now)
        frame = self.outbox.next_frame(now)
        if frame is None and not finishing and self.rule.refine(now):
            frame = self.outbox.next_frame(now)
        if frame is None:
            return self._after_rows(now)
        if self.notebook is not None:
            note_sent(self.notebook, self.residual, frame)
        return frame

    def _after_rows(self, now: float) -> Message | None:
        """What follows the last row frame."""
        if self.state is not WorkerState.FINISHING:
            return self.rule.after_rows(now)
        transfer = self.outbox.transfer
        if self._finish_said or transfer is None or not self.outbox.settled or not transfer.finished(now):
            return None
        self._finish_said = True
        return Finish(self.iteration, self._finish_wait)

    def next_wake(self, before: float = math.inf) -> float | None:
        """When :meth:`on_timer` must be called (s); ``None``: not at all, or not before the time ``before``.

        Without a connection it is :attr:`connect_at`.
        """
        return self._watch.next_wake(before)

    def on_timer(self, now: float) -> None:
        """Time passed.

        Raises:
            LinkLost: the server has been silent for too long; close the connection.
        """
        self._watch.on_timer(now)
