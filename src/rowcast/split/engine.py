"""PyTorch as the engine of a node: tensors decoded, operators computed, tensors encoded."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rowcast.codecs.tensors import RawTensor, tensor_codec_by_id
from rowcast.inference import Made, ModelSpec, Piece, Side, Work
from rowcast.inference.work import cuts
from rowcast.split.captured import Captured
from rowcast.split.part import Part
from rowcast.split.rowstream import RowStream
from rowcast.split.versions import Versions

__all__ = ["TorchEngine", "spec_of"]

#: What can be interrupted is computed in so many segments.
SEGMENTS = 12

Array = npt.NDArray[Any]
Tensors = Mapping[int, torch.Tensor]


def spec_of(captured: Captured) -> ModelSpec:
    """What the nodes know of a captured model, with its parameters as they are now."""
    return ModelSpec(
        captured.graph,
        captured.tensors,
        code=captured.digest,
        parameters=captured.parameters_digest(),
        describe=captured.description,
    )


class _Rows:
    """The rows of one tensor that have come, from the first on."""

    def __init__(self, model: ModelSpec, op: int) -> None:
        self.there = 0
        self._tensor = model.tensor(op)
        self._array: Array | None = None

    @property
    def complete(self) -> bool:
        return self.there == self._tensor.rows

    def add(self, piece: Piece, array: Array) -> None:
        self.there = piece.stop
        if (piece.start, piece.stop) == (0, self._tensor.rows):
            self._array = array
            return
        if self._array is None:
            self._array = np.empty(self._tensor.shape, self._tensor.dtype)
        self._array[self._tensor.index(piece.start, piece.stop)] = array

    def rows(self, start: int, stop: int) -> torch.Tensor:
        assert self._array is not None
        return torch.from_numpy(self._array[self._tensor.index(start, stop)])


class _Request:
    """What has come of one request, and what was made of it.

    Attributes:
        side: what is computed for it.
        passed: wanted tensors that come from outside, and are passed on.
        computed: the other ones that are wanted.
        outside: rows that have come.
        used: how many of them were computed with.
        stream: computes row by row; ``None`` before it does, and where all is computed at once.
        unsent: rows that are complete and do not travel yet; ``kept``: those of the answer.
        rows: how many rows of what is wanted are complete.
        sent: some have travelled.
    """

    def __init__(self, model: ModelSpec, side: Side) -> None:
        self.side = side
        self.passed = tuple(op for op in side.wanted if op in side.outside)
        self.computed = tuple(op for op in side.wanted if op not in side.outside)
        self.outside = {op: _Rows(model, op) for op in side.outside}
        self.stream: RowStream | None = None
        self.sent = False
        self.begin_anew()

    def begin_anew(self) -> None:
        """Nothing was computed; what has come is here."""
        self.used = dict.fromkeys(self.side.outside, 0)
        self.told = dict.fromkeys(self.passed, 0)
        self.stream = None
        self.unsent: dict[int, list[torch.Tensor]] = {op: [] for op in self.side.wanted}
        self.kept: dict[int, list[torch.Tensor]] = {op: [] for op in self.side.wanted}
        self.rows = dict.fromkeys(self.side.wanted, 0)

    @property
    def at_once(self) -> bool:
        """Nothing was computed for it, and all of its rows are here."""
        return (
            self.stream is None and not any(self.used.values()) and all(each.complete for each in self.outside.values())
        )


class TorchEngine:
    """Computes parts of a captured model.

    A request whose rows are all there at once runs generated code; one whose rows come in slabs, or from both sides, is
    computed row by row. All of an answer is made with one version of the parameters.

    Args:
        captured: the model.
        versions: of its parameters; ``None``: they do not change.
        interruptible: what is computed at once is computed in segments, and ends behind one when nobody wants it any
            more.
    """

    def __init__(self, captured: Captured, versions: Versions | None = None, *, interruptible: bool = False) -> None:
        self._captured = captured
        self._graph = captured.graph
        self._model = ModelSpec(captured.graph, captured.tensors)
        self._versions = versions
        self._device = captured.inputs[0].device
        self._interruptible = interruptible
        self._requests: dict[Hashable, _Request] = {}
        self._segments: dict[Side, list[Part]] = {}

    def run(self, works: Sequence[Work]) -> Sequence[Made]:
        """See :class:`rowcast.inference.Engine`."""
        self._renew()
        if len(works) > 1 and len({work.key for work in works}) == len(works):
            requests = [self._taken_in(work) for work in works]
            if self._fit_together(works, requests):
                self._compute_together(requests)
            else:
                for request, work in zip(requests, works, strict=True):
                    self._compute(work, request)
            return [self._result(work, request) for work, request in zip(works, requests, strict=True)]
        return [self._one(work) for work in works]

    def _one(self, work: Work) -> Made:
        request = self._taken_in(work)
        self._compute(work, request)
        return self._result(work, request)

    def is_trivial(self, works: Sequence[Work]) -> bool:
        """See :class:`rowcast.inference.Engine`."""
        return all(not work.side.ops and self._is_plain(work) for work in works)

    @staticmethod
    def _is_plain(work: Work) -> bool:
        """Tensors are as they are, on both ways."""
        codecs = {*work.codecs.values(), *(piece.codec for piece in work.pieces if piece.payload is not None)}
        return codecs <= {RawTensor.wire_id}

    def forget(self, key: Hashable) -> None:
        """See :class:`rowcast.inference.Engine`."""
        self._requests.pop(key, None)

    # -- what comes --------------------------------------------------------------------------------------------

    def _renew(self) -> None:
        """Take over newer parameters; what was begun with the old ones, and not told yet, is begun anew."""
        versions = self._versions
        if versions is None or not versions.waiting or any(request.sent for request in self._requests.values()):
            return
        versions.take_over()
        for request in self._requests.values():
            request.begin_anew()

    def _taken_in(self, work: Work) -> _Request:
        """The request, with the rows of the work."""
        request = self._requests.get(work.key)
        if request is None:
            request = self._requests[work.key] = _Request(self._model, work.side)
        for piece in work.pieces:
            tensor = self._model.tensor(piece.op)
            if piece.payload is None:
                place = self._graph.inputs.index(piece.op)
                array = work.inputs[place].cpu().numpy()[tensor.index(piece.start, piece.stop)]
            else:
                array = tensor_codec_by_id(piece.codec).decode(piece.payload, tensor.slab(piece.start, piece.stop))
            request.outside[piece.op].add(piece, array)
        return request

    # -- what is computed --------------------------------------------------------------------------------------

    def _fit_together(self, works: Sequence[Work], requests: Sequence[_Request]) -> bool:
        side, axes = works[0].side, self._captured.batch_axes
        same = all(work.side == side for work in works) and all(request.at_once for request in requests)
        return same and bool(side.ops) and all(axes[op] is not None for op in (*side.outside, *side.wanted))

    def _compute_together(self, requests: Sequence[_Request]) -> None:
        first = requests[0]
        given = {op: self._put_together([self._new_rows(each, op) for each in requests], op) for op in first.outside}
        for op, tensor in self._at_once(first, given).items():
            axis = self._captured.batch_axes[op]
            assert axis is not None
            for request, one in zip(requests, tensor.chunk(len(requests), dim=axis), strict=True):
                self._keep(request, op, one)
        for request in requests:
            self._pass_on(request)

    def _put_together(self, tensors: list[torch.Tensor], op: int) -> torch.Tensor:
        axis = self._captured.batch_axes[op]
        assert axis is not None
        return torch.cat(tensors, dim=axis)

    def _compute(self, work: Work, request: _Request) -> None:
        """Compute what can be computed of a request."""
        self._pass_on(request)
        if not request.computed:
            return
        if request.at_once:
            given = {op: self._new_rows(request, op) for op in request.outside}
            made = self._in_segments(work, given) if self._interruptible else self._at_once(request, given)
            for op, tensor in made.items():
                self._keep(request, op, tensor)
            return
        if request.stream is None:
            request.stream = RowStream(self._captured, request.side.ops, request.computed)
        news = [op for op in request.stream.outside if self._has_news(request, op)]
        request.stream.push_all({op: self._new_rows(request, op) for op in news})
        for op in request.computed:
            if (rows := request.stream.take(op)) is not None:
                self._keep(request, op, rows)

    def _has_news(self, request: _Request, op: int) -> bool:
        """Rows of a tensor have come that can be computed with; one that is read whole is used when all of it is."""
        come = request.outside[op]
        return come.there > request.used[op] and (come.complete or self._graph.ops[op].rows > 1)

    def _at_once(self, request: _Request, given: Tensors) -> dict[int, torch.Tensor]:
        """All that is to be computed, of whole tensors."""
        part = self._captured.part(request.side.ops, request.computed)
        return dict(zip(request.computed, part(*(given[op] for op in part.reads)), strict=True))

    def _in_segments(self, work: Work, given: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
        """The same in some steps; nothing where the work is cancelled between two of them."""
        if work.side not in self._segments:
            self._segments[work.side] = segments(self._captured, work.side)
        for part in self._segments[work.side]:
            if work.cancelled:
                return {}
            given = {**dict(zip(part.wanted, part(*(given[op] for op in part.reads)), strict=True))}
        return given

    def _new_rows(self, request: _Request, op: int) -> torch.Tensor:
        """Rows that have come and were not computed with."""
        there, used = request.outside[op].there, request.used[op]
        request.used[op] = there
        return request.outside[op].rows(used, there).to(self._device)

    def _pass_on(self, request: _Request) -> None:
        """Rows that are only passed on."""
        for op in request.passed:
            there, told = request.outside[op].there, request.told[op]
            if there > told:
                request.told[op] = there
                self._keep(request, op, request.outside[op].rows(told, there))

    def _keep(self, request: _Request, op: int, rows: torch.Tensor) -> None:
        request.unsent[op].append(rows)
        request.kept[op].append(rows)
        request.rows[op] += rows.shape[self._model.tensor(op).row_axis]

    # -- what goes ---------------------------------------------------------------------------------------------

    def _result(self, work: Work, request: _Request) -> Made:
        complete = all(request.rows[op] == self._model.tensor(op).rows for op in request.side.wanted)
        if work.cancelled and not complete:
            del self._requests[work.key]
            return Made()
        pieces: list[Piece] = []
        for op, codec in work.codecs.items():
            pieces.extend(self._encoded(request, op, codec))
        value = None
        if complete:
            del self._requests[work.key]
            value = self._value(request)
        request.sent = request.sent or bool(pieces)
        version = 0 if self._versions is None else self._versions.current
        return Made(pieces, complete, version, value)

    def _encoded(self, request: _Request, op: int, codec: int) -> list[Piece]:
        """Rows of a tensor that travels, which have become complete since the last time."""
        made, request.unsent[op] = request.unsent[op], []
        tensor, coder = self._model.tensor(op), tensor_codec_by_id(codec)
        pieces = []
        start = request.rows[op] - sum(rows.shape[tensor.row_axis] for rows in made)
        for rows in made:
            array, stop = rows.cpu().numpy(), start + rows.shape[tensor.row_axis]
            for first, last in cuts(tensor, start, stop):
                slab = array[tensor.index(first - start, last - start)]
                pieces.append(Piece(op, first, last, codec, coder.encode(slab, tensor.slab(first, last))))
            start = stop
        return pieces

    def _value(self, request: _Request) -> Any:
        """The model's answer, where all of it is on this side."""
        outputs = self._graph.outputs
        if not all(request.kept.get(op) for op in outputs):
            return None
        return self._captured.answer([self._joined(op, request.kept[op]) for op in outputs])

    def _joined(self, op: int, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        whole = rows[0] if len(rows) == 1 else torch.cat(list(rows), dim=self._model.tensor(op).row_axis)
        return whole.to(self._device)


def segments(captured: Captured, side: Side) -> list[Part]:
    """A side as parts that are computed one after the other, each with about as many operators."""
    ops = sorted(side.ops)
    size = max(1, -(-len(ops) // SEGMENTS))
    chunks = [ops[start : start + size] for start in range(0, len(ops), size)]
    parts: list[Part] = []
    needed = set(side.wanted)
    for chunk in reversed(chunks):
        part = captured.part(chunk, sorted(needed))
        parts.append(part)
        needed = set(part.reads)
    return parts[::-1]
