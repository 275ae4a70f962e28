"""The worker's side of matrices as two factors (:mod:`rowcast.training.rules.factored`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec
from rowcast.delivery.source import Sending
from rowcast.delivery.vectors import VectorInbox, VectorOutbox
from rowcast.rows import Layout
from rowcast.sync import Policy
from rowcast.training.rules.factored import STREAM, Forms
from rowcast.training.rules.phased import PhasedWorker
from rowcast.training.worker_state import WorkerState
from rowcast.wire import Ack, Message, RowLimits, Rows
from rowcast.wire.frames import frame_bytes

if TYPE_CHECKING:
    from rowcast.training.core import WorkerCore

__all__ = ["FactoredWorker"]


class FactoredWorker(PhasedWorker):
    """Sends a sketch of what is pending, waits for the basis, then pushes and pulls in it.

    The left factors of what it pulls are those from which the next sketch is made (the warm start of the paper). A
    newcomer begins with random ones, as the whole team does.
    """

    asks_for = "the basis of this iteration, which is made of everybody's sketch"
    resumes = False  # sketches and bases have numbers of their own, and are not kept

    def __init__(self, node: WorkerCore) -> None:
        super().__init__(node)
        self._forms: Forms | None = None
        self._left = self._pulled = np.zeros(0, dtype=np.float32)
        self._has_pulled = False
        self._sketches: VectorOutbox | None = None
        self._bases: VectorInbox | None = None
        self._sketched = self._based = -1  # the iterations of the newest sketch, and of the basis that answers it
        self._number = 0  # of the newest sketch
        self._code: Codec | None = None
        self._told_at: float | None = None  # the server has the sketch since then, and has not answered yet (s)
        self._answered = False

    def welcomed(self, policy: Policy) -> Policy:
        if self._forms is None or self._forms.policy != policy:
            self._forms = Forms(self.node.layout, policy)
            self._left = self._forms.factors.first_left()
            self._has_pulled = False
        return policy

    def streams(self, layout: Layout) -> dict[int, RowLimits]:
        assert self._forms is not None
        return self._forms.streams(layout)

    def start(self) -> None:
        assert self._forms is not None
        self._sketched = self._based = -1
        layout = self._forms.basis_layout
        if layout is None:
            self._sketches, self._bases, self._code = None, None, self._forms.code(self._left)
            return
        self._sketches = VectorOutbox(layout, self.node.outbox.window, STREAM)
        self._sketches.link_ready()
        self._bases = VectorInbox(layout)

    # -- the sketch --------------------------------------------------------------------------------------------

    def exchange(self, now: float) -> None:
        if self._sketches is None:
            self.begin_push(now)
            return
        node = self.node
        node.state = WorkerState.ASKING
        self.forget_transfer()
        self._told_at, self._answered = None, False
        self._sketched, self._based = node.iteration, -1
        self._number += 1
        self._sketches.send(self._sketch(), self._number)

    def _sketch(self) -> npt.NDArray[np.float32]:
        assert self._forms is not None and self._forms.basis_layout is not None
        if self._forms.basis_layout.is_timing_only:
            return self._forms.basis_layout.zeros()
        if self._has_pulled:
            self._left, self._has_pulled = self._pulled, False
        return self._forms.factors.sketch(self.node.pending, self._left)

    def carry_on(self, now: float) -> None:
        node, sketches = self.node, self._sketches
        if sketches is None:
            super().carry_on(now)
            return
        sketches.link_ready()
        if not node.exchanging:
            return
        if self._based == node.iteration:
            self.begin_push(now)
        elif self._sketched != node.iteration:
            self.exchange(now)

    def link_lost(self, now: float) -> None:
        if self._sketches is not None:
            self._sketches.link_lost()

    @property
    def sending(self) -> Sending:
        sketches = self._sketches
        return self.node.outbox if sketches is None or sketches.settled else sketches

    @property
    def busy(self) -> bool:
        return self._sketches is not None and not self._sketches.empty

    def after_rows(self, now: float) -> Message | None:
        frame = None if self._sketches is None else self._sketches.next_frame(now)
        if frame is None:
            return super().after_rows(now)
        self.node.step.push_bytes += frame_bytes(frame)
        return frame

    def side_acknowledged(self, now: float, message: Ack) -> None:
        if self._sketches is not None:
            self._sketches.acknowledged(now, message.number, message.arrived_s)
            if self._sketches.empty and self.node.state is WorkerState.ASKING and not self._answered:
                self._told_at = now

    # -- the basis ---------------------------------------------------------------------------------------------

    def side_rows(self, now: float, message: Rows) -> None:
        assert self._bases is not None
        node, bases = self.node, self._bases
        if bases.accept(message):
            node.step.pull_bytes += frame_bytes(message)
            if node.state is WorkerState.ASKING and bases.number == self._number:
                self._arrives(now, bases)
        node.say(Ack.at(now, bases.received, STREAM))

    def _arrives(self, now: float, bases: VectorInbox) -> None:
        """A part of the basis for which this worker waits is here."""
        assert self._forms is not None and self._sketches is not None
        node = self.node
        if self._told_at is not None:
            node.step.held_s += now - self._told_at
        self._told_at, self._answered = None, True
        if not bases.whole:
            return
        self._sketches.all_arrived(now)
        self._code = self._forms.code(bases.vector)
        node.inbox.codes = {self._code.wire_id: self._code}
        self._based = node.iteration
        self._pulled, self._has_pulled = np.zeros_like(self._left), False
        self.begin_push(now)

    # -- push and pull -----------------------------------------------------------------------------------------

    def push_code(self, policy: Policy) -> Codec:
        assert self._code is not None
        return self._code

    def arrived(self, codec: Codec, message: Rows) -> None:
        if codec is not self._code or self._forms is None or self.node.layout.is_timing_only:
            return
        if self._forms.factors.blocks:
            self._forms.factors.collect(message.payload, message.rows, self._pulled)
            self._has_pulled = True
