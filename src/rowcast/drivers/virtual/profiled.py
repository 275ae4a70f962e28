"""An engine that computes nothing: how long it would take, and which rows it would make, follow from a profile."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from rowcast.codecs.tensors import tensor_codec_by_name
from rowcast.inference import Made, ModelSpec, Piece, Side, Work
from rowcast.inference.work import cuts
from rowcast.planning import TensorCosts

__all__ = ["ProfileEngine"]


class _Run:
    """How far a request is: rows of each tensor that are there, and that were handed out."""

    def __init__(self, side: Side, ops: int) -> None:
        self.rows = [0] * ops
        self.made: dict[int, int] = dict.fromkeys(side.wanted, 0)
        self.worked: dict[int, float] = {}


class ProfileEngine:
    """Works of requests on one side, in virtual time.

    Payloads are of the size that they would have, and hold nothing.

    Args:
        model: the model.
        op_s: seconds of each operator on this side, for one input.
        floor_s: the least that an operator takes, however few rows it computes.
        step_s: what it takes on top each time that it computes a part of its rows.
        codecs: what codecs take and leave; those that are not here, as they are.
        coding_speed: how many times as fast as ``codecs`` says this side codes.

    Attributes:
        version: of the parameters, for tests.
    """

    def __init__(
        self,
        model: ModelSpec,
        op_s: Sequence[float],
        floor_s: float = 0.0,
        codecs: Sequence[TensorCosts] = (),
        coding_speed: float = 1.0,
        step_s: float = 0.0,
    ) -> None:
        self.version = 0
        self._model = model
        self._op_s = list(op_s)
        self._floor_s, self._step_s = floor_s, step_s
        self._codecs = [(tensor_codec_by_name(costs.codec).wire_id, costs) for costs in codecs]
        self._speed = coding_speed
        self._runs: dict[Hashable, _Run] = {}
        self._whole: dict[Side, float] = {}

    def run(self, works: Sequence[Work]) -> tuple[list[Made], float]:
        """What would come of some work, and the seconds that it would take."""
        made, seconds = [], 0.0
        for work in works:
            result, took_s = self._one(work)
            made.append(result)
            seconds += took_s
        return made, seconds

    def forget(self, key: Hashable) -> None:
        """Nothing more comes of this request."""
        self._runs.pop(key, None)

    def _one(self, work: Work) -> tuple[Made, float]:
        side = work.side
        run = self._runs.setdefault(work.key, _Run(side, len(self._model.graph)))
        seconds = 0.0
        for piece in work.pieces:
            run.rows[piece.op] = self._rows(piece.op, piece.stop)
            if piece.payload is not None:
                seconds += self._coding_s(piece.op, piece.stop - piece.start, piece.codec, decode=True)
        seconds += self._compute(side, run)
        pieces = []
        for op, codec in work.codecs.items():
            there = self._travelling(op, run.rows[op])
            for start, stop in cuts(self._model.tensor(op), run.made[op], there):
                pieces.append(Piece(op, start, stop, codec, self._payload(op, stop - start, codec)))
                seconds += self._coding_s(op, stop - start, codec, decode=False)
            run.made[op] = there
        complete = all(run.rows[op] == self._model.graph.ops[op].rows for op in side.wanted)
        if complete:
            del self._runs[work.key]
        return Made(tuple(pieces), complete, self.version), seconds

    def _rows(self, op: int, come: int) -> int:
        """Rows of a tensor to compute with, of those that have come: one that is read whole has a single one."""
        rows = self._model.graph.ops[op].rows
        return come if rows > 1 else int(come == self._model.tensor(op).rows)

    def _travelling(self, op: int, rows: int) -> int:
        """The reverse: rows in which it travels."""
        return rows if self._model.graph.ops[op].rows > 1 else rows * self._model.tensor(op).rows

    def _compute(self, side: Side, run: _Run) -> float:
        """Compute what can be computed; the seconds that it takes."""
        ops = self._model.graph.ops
        if not run.worked and all(run.rows[op] == ops[op].rows for op in side.outside):
            if side not in self._whole:
                self._whole[side] = sum(self._op_s[index] for index in side.ops)
            for index in side.ops:
                run.rows[index] = ops[index].rows
            return self._whole[side]
        return sum(self._advance(index, run) for index in sorted(side.ops))

    def _advance(self, index: int, run: _Run) -> float:
        """Compute what can be computed of an operator; the seconds that it takes."""
        graph = self._model.graph
        rule = graph.ops[index].rule
        there = graph.read_rows(index, run.rows)
        run.rows[index] = rule.can(there)
        done = there / rule.rows if rule.incremental else run.rows[index] / rule.out_rows
        share = done - run.worked.get(index, 0.0)
        run.worked[index] = done
        whole_s = self._op_s[index]
        if share <= 0:
            return 0.0
        return max(whole_s * share, min(whole_s, self._floor_s)) + (self._step_s if share < 1 and whole_s else 0.0)

    def _costs(self, op: int, codec: int) -> TensorCosts | None:
        """What a codec comes to for a tensor; ``None``: nothing is known of it."""
        fitting = (
            costs for number, costs in self._codecs if number == codec and (costs.ops is None or op in costs.ops)
        )
        return next(fitting, None)

    def _coding_s(self, op: int, rows: int, codec: int, *, decode: bool) -> float:
        costs = self._costs(op, codec)
        if costs is None:
            return 0.0
        tensor = self._model.tensor(op)
        per_byte = costs.decode_s_per_byte if decode else costs.encode_s_per_byte
        return per_byte * tensor.nbytes * rows / tensor.rows / self._speed

    def _payload(self, op: int, rows: int, codec: int) -> npt.NDArray[np.uint8]:
        tensor = self._model.tensor(op)
        costs = self._costs(op, codec)
        size = round(tensor.nbytes * rows / tensor.rows * (1.0 if costs is None else costs.ratio))
        nothing: npt.NDArray[np.uint8] = np.broadcast_to(np.uint8(0), (size,))
        return nothing
