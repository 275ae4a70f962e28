"""The whole model on the robot: one inference after the other."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence

from rowcast.inference.inference import Inference
from rowcast.inference.model import ModelSpec, whole
from rowcast.inference.outcome import ROUNDING_S
from rowcast.inference.work import Piece, Work

__all__ = ["OwnLane"]

#: Of so many inferences it is remembered what they took; that counts from so many on.
REMEMBERED, FEWEST = 64, 8
#: The share of them that take no longer than what is counted with.
QUANTILE = 0.95
#: Less than this is no difference (s).
GRAIN_S = 1e-5


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
        self._begun_at = 0.0
        self._took: deque[float] = deque(maxlen=REMEMBERED)

    def local_s(self, known_s: float) -> float:
        """How long an inference takes here, from when it is decided until its answer is there (s).

        What was measured beforehand, or what it took lately where that is more: a robot that is hot, or busy with
        other things, begins earlier.

        Args:
            known_s: what was measured beforehand.
        """
        if len(self._took) < FEWEST:
            return known_s
        usual_s = sorted(self._took)[int(QUANTILE * (len(self._took) - 1))]
        return usual_s if usual_s > known_s + GRAIN_S else known_s

    def begin(self, now: float, inference: Inference) -> None:
        """Compute this one next; the lane must be free."""
        assert self.inference is None
        self._begun_at = now
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

    def done(self, now: float, work: Work, seconds: float) -> Inference | None:
        """The engine has done some work in ``seconds``; whose that was, if anybody still wants it."""
        inference = self.inference
        if inference is None or inference.local is not work:
            return None
        self._took.append(now - self._begun_at)
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
