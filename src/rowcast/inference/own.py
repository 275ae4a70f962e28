"""The whole model on the robot: one inference after the other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rowcast.inference.inference import Inference
from rowcast.inference.model import ModelSpec, whole
from rowcast.inference.outcome import ROUNDING_S
from rowcast.inference.work import Piece, Work

__all__ = ["OwnLane"]


class OwnLane:
    """What the robot computes by itself. It has one inference at a time: who comes next is decided when it is free.

    Args:
        model: the model.

    Attributes:
        inference: whose answer is computed, or is as soon as the engine is ready; ``None``: the lane is free.
    """

    def __init__(self, model: ModelSpec) -> None:
        self.inference: Inference | None = None
        self._model = model
        self._since: float | None = None

    def begin(self, inference: Inference) -> None:
        """Compute this one next; the lane must be free."""
        assert self.inference is None
        graph = self._model.graph
        pieces = [Piece(op, 0, self._model.tensor(op).rows) for op in graph.inputs]
        inference.local = Work(("whole", inference.ticket), whole(graph), pieces, inputs=inference.inputs)
        self.inference = inference
        self._since = None

    def _free_at(self, now: float, local_s: float) -> float:
        """When it is free again, if an inference takes ``local_s`` (s)."""
        if self.inference is None:
            return now
        return (now if self._since is None else self._since) + local_s

    def make_room(self, now: float, ones: Iterable[Inference], local_s: float) -> None:
        """Begin inferences so early that all deadlines can be kept one after the other, if they can.

        Args:
            now: time (s).
            ones: those that the robot may have to compute.
            local_s: what each takes.
        """
        start = math.inf
        starts: list[tuple[Inference, float]] = []
        in_order = sorted((one for one in ones if one.local is None), key=Inference.urgency)
        for one in reversed(in_order):
            start = min(one.start_at(local_s), start - local_s)
            starts.append((one, start))
        if start >= self._free_at(now, local_s) - ROUNDING_S:
            for one, at in starts:
                one.local_at = at

    def take_work(self, now: float) -> Sequence[Work]:
        """What the engine is to do next; empty: nothing."""
        if self.inference is None or self.inference.local is None or self._since is not None:
            return ()
        self._since = now
        return (self.inference.local,)

    def done(self, work: Work, seconds: float) -> Inference | None:
        """The engine has done some work in ``seconds``; whose that was, if anybody still wants it."""
        inference = self.inference
        if inference is None or inference.local is not work:
            return None
        self.inference = None
        inference.spent.robot_s += seconds
        return inference

    def end(self, now: float, inference: Inference) -> None:
        """Nobody wants this one any more."""
        if inference is not self.inference:
            return
        assert inference.local is not None
        inference.local.cancelled = True
        inference.spent.robot_s += 0.0 if self._since is None else now - self._since
        self.inference = None
