"""The worker: proposes updates, exchanges rows of them with its team, applies what it is sent.

Here is what the training loop and the driver call. What a message leads to is mostly the business of others: its
state (:mod:`~rowcast.training.core`), how it comes into the team (:mod:`~rowcast.training.joining`), what it adds
(:mod:`~rowcast.training.proposal`), when rows travel (:mod:`~rowcast.training.rules`), and what time brings
(:mod:`~rowcast.training.worker_watch`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rowcast.errors import LocalProtocolError, NonFiniteGradient, RemoteProtocolError
from rowcast.session.figures import LONGEST_NAME, MOST_REPORTED, keep
from rowcast.session.link import Link
from rowcast.session.readable import readable
from rowcast.session.states import ClientState, expect
from rowcast.session.texts import shorten
from rowcast.training.core import WorkerCore
from rowcast.training.patience import limit_of, out_of_time, waits_for
from rowcast.training.worker_state import WorkerState
from rowcast.wire import (
    Finish,
    Leave,
    Message,
    StateEnd,
)

__all__ = ["WorkerNode", "WorkerState"]


class WorkerNode(WorkerCore):
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

    # -- the training loop's side ------------------------------------------------------------------------------

    def hold(self) -> None:
        """Arriving rows wait until :meth:`release`, so that the replica does not move."""
        self._replica.hold()

    def release(self) -> None:
        """Apply the rows that arrived since :meth:`hold`."""
        self._replica.release()

    @property
    def anticipated(self) -> tuple[npt.NDArray[np.float32], float] | None:
        """How far beyond the replica the next gradient is computed: a vector, and how often to subtract it.

        What is pending, float32 [elements]; once, or as often as the team has such a share (the inverse of the
        averaging weight), never less than once. ``None`` where the policy has gradients computed from the replica,
        and when the work is done.
        """
        if self.policy is None or self.policy.anticipate == "off" or self.state is WorkerState.DONE:
            return None
        return self.pending, 1.0 if self.policy.anticipate == "own" else max(1.0, 1.0 / self.contribution.weight)

    def waits_for(self, now: float) -> str | None:
        """What a long wait of the training loop is for, for people; ``None``: the server says it."""
        return waits_for(self, now)

    @property
    def server_life(self) -> bytes:
        """The life of the server that let this worker in last; empty before one did."""
        return self.client.server

    @property
    def local_steps(self) -> int:
        """Optimizer steps for each iteration, from the server's policy; 1 before the server has told it."""
        return 1 if self.policy is None else self.policy.local_steps

    def accumulate(
        self,
        sources: Sequence[npt.NDArray[np.float32]],
        weight: float,
        origin: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Add ``weight * (origin - sources)`` to pending; no iteration is finished by it.

        ``origin`` is from where the sources were made; ``None``: from the replica as it is.

        The policy's outer learning rate and momentum come in here. See
        :meth:`rowcast.training.proposal.replica.Replica.propose` for shapes and errors.

        Returns:
            What each row counted, float32 [rows]: less than ``weight`` where the policy lets contributions fade that
            were computed from old parameters.
        """
        return self.contribution.add(self.policy, self.iteration, sources, weight, origin)

    def offer(
        self, update: tuple[Sequence[npt.NDArray[np.float32]], float, npt.NDArray[np.float32] | None] | None
    ) -> NonFiniteGradient | None:
        """:meth:`accumulate` an update, if there is one; why it was refused, or ``None``."""
        try:
            if update is not None:
                self.accumulate(*update)
        except NonFiniteGradient as error:
            return error
        return None

    def accumulate_rows(self, amounts: npt.NDArray[np.float32]) -> None:
        """Add an amount to each row of a timing-only layout: an update of which only the sizes matter.

        Args:
            amounts: importance of what was computed, float32 [rows], >= 0; a row with 0 has nothing to send.

        Raises:
            LocalProtocolError: the layout has content.
        """
        self.contribution.add_rows(amounts, 1 / self.members)

    def exchange(self, now: float) -> None:
        """Finish the iteration: push, then wait at the gate, then pull. :attr:`state` is COMPUTING when done.

        Where the policy gives slots, both push and pull wait for one.

        An iteration in which nothing was accumulated counts as well: nobody waits for it.

        Raises:
            LocalProtocolError: an exchange is under way, or the worker has not joined.
        """
        if self.state is not WorkerState.COMPUTING:
            raise LocalProtocolError(f"exchange: expected a worker that computes, it is {self.state.value}")
        self.iteration += 1
        self.step.proposed = now
        self.step.skipped = not self.contribution.end(self.policy, self.iteration)
        self.rule.exchange(now)

    def finish(self, now: float, *, wait: bool = True) -> None:
        """Deliver everything, receive everything, say goodbye. :attr:`state` is DONE when done.

        Args:
            now: time (s).
            wait: stay until the others have finished too, so that all end with the same parameters.
        """
        if self.state is not WorkerState.COMPUTING:
            raise LocalProtocolError(f"finish: expected a worker between two steps, it is {self.state.value}")
        self.state = WorkerState.FINISHING
        self.search.again_from(now)  # it looks for the server anew, however long that was gone before
        self._finish_wait = wait
        self._drain(now)

    def leave(self, now: float, cause: str) -> None:
        """Go at once; what is pending is not delivered."""
        if self.link is not None:
            self.link.say(Leave(shorten(cause)))
            self.link.closing = True
        self.state = WorkerState.DONE
        self.journal.record(now, "end", cause=cause)

    def report(self, now: float, metrics: dict[str, float]) -> None:
        """Tell the journal and the server's display a few numbers."""
        plain = {name: float(value) for name, value in metrics.items()}
        left_out = keep(self.metrics, plain, MOST_REPORTED)
        if left_out and not self._metrics_left_out:
            self._metrics_left_out = True
            what = f"figures under further names: {left_out[0][:LONGEST_NAME]!r} ..."
            why = f"expected at most {MOST_REPORTED} names of {LONGEST_NAME} characters; the journal has all of them"
            self.journal.record(now, "dropped", peer=self.name, what=what, why=why)
            self.notices.append(f"{self.name}: the server's display is not told {what}: {why}")
        for name, value in plain.items():
            self.journal.record(now, "metric", iteration=self.iteration, name=name, value=value)

    # -- the driver's side -------------------------------------------------------------------------------------

    def connecting(self, now: float, address: str) -> None:
        """The driver tries to connect to the server at ``address`` (for people)."""
        self.search.trying(now, address)

    def connect_failed(self, now: float, cause: str) -> None:
        """The attempt came to nothing; ``cause`` says why, for people."""
        if not self.search.failed(now, cause, limit_of(self)):
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
        state = self.client.state
        if state is ClientState.UNPROVEN:
            self._joining.hear_stranger(now, self.link, message)
            return
        expect(state, message)
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
        if self.outbox.idle and not self.client.seeding:
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
        frame = self.outbox.next_frame(now)
        if frame is None and self.state is not WorkerState.FINISHING and self.rule.refine(now):
            frame = self.outbox.next_frame(now)
        return frame or self._after_rows(now)

    def _after_rows(self, now: float) -> Message | None:
        """What follows the last row frame."""
        if self.state is not WorkerState.FINISHING:
            return self.rule.after_rows(now)
        transfer = self.outbox.transfer
        if self._finish_said or transfer is None or not self.outbox.settled or not transfer.finished(now):
            return None
        self._finish_said = True
        return Finish(self.iteration, self._finish_wait)

    def next_wake(self) -> float | None:
        """When :meth:`on_timer` must be called (s), or ``None``; without a connection, :attr:`connect_at`."""
        return self._watch.next_wake()

    def on_timer(self, now: float) -> None:
        """Time passed.

        Raises:
            LinkLost: the server has been silent for too long; close the connection.
        """
        self._watch.on_timer(now)
