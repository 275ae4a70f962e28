"""Captured models computed row by row and compared with the whole: what tests of streams share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from rowcast.split import Captured, RowStream

SAME: dict[str, float] = {"rtol": 1e-5, "atol": 1e-5}


def everything(captured: Captured) -> RowStream:
    return RowStream(captured, range(len(captured.graph)), captured.graph.outputs)


def axis_of(captured: Captured, op: int) -> int | None:
    kind = captured.tensors[op]
    assert kind is not None
    return kind.row_axis if captured.graph.ops[op].rows > 1 else None


def pieces(captured: Captured, op: int, tensor: Tensor, sizes: Iterator[int]) -> list[Tensor]:
    """A tensor cut into pieces of so many rows; the whole of it where it has no rows."""
    axis = axis_of(captured, op)
    if axis is None:
        return [tensor]
    cut, rows = [], tensor.shape[axis]
    while sum(cut) < rows:
        cut.append(min(next(sizes), rows - sum(cut)))
    return list(tensor.split(cut, axis))


class Collected:
    """What is taken of the wanted tensors of a stream."""

    def __init__(self, captured: Captured, stream: RowStream, wanted: Sequence[int]) -> None:
        self.captured, self.stream = captured, stream
        self.parts: dict[int, list[Tensor]] = {op: [] for op in wanted}
        self.seen: list[Tensor] = []

    def take(self) -> dict[int, Tensor]:
        """The new rows of each."""
        new = {op: rows for op in self.parts if (rows := self.stream.take(op)) is not None}
        for op, rows in new.items():
            self.parts[op].append(rows)
            self.seen.append(rows.clone())
        return new

    def whole(self) -> list[Tensor]:
        """All rows of each; nothing that was taken has changed since."""
        assert all(torch.equal(a, b) for a, b in zip(sorted_parts(self.parts), self.sorted_seen(), strict=True))
        return [
            parts[0] if len(parts) == 1 else torch.cat(parts, axis_of(self.captured, op))
            for op, parts in self.parts.items()
        ]

    def sorted_seen(self) -> list[Tensor]:
        return sorted(self.seen, key=_key)


def sorted_parts(parts: dict[int, list[Tensor]]) -> list[Tensor]:
    return sorted(itertools.chain(*parts.values()), key=_key)


def _key(tensor: Tensor) -> tuple[float, int]:
    return float(tensor.double().sum()), tensor.numel()


def streamed(captured: Captured, inputs: Sequence[Tensor], sizes: Iterator[int]) -> list[Tensor]:
    """The outputs, all inputs pushed in turns, a piece of each."""
    stream = everything(captured)
    before = [tensor.clone() for tensor in inputs]
    collected = Collected(captured, stream, captured.graph.outputs)
    queues = [(op, pieces(captured, op, x, sizes)) for op, x in zip(captured.graph.inputs, inputs, strict=True)]
    for turn in itertools.zip_longest(*(parts for _, parts in queues)):
        for (op, _), rows in zip(queues, turn, strict=True):
            if rows is not None:
                assert not stream.finished
                stream.push(op, rows)
                collected.take()
    assert stream.finished and stream.held() == {}
    assert all(torch.equal(a, b) for a, b in zip(before, inputs, strict=True)), "what is pushed is not written to"
    return collected.whole()


def same(captured: Captured, made: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
    for rows, whole in zip(made, captured.whole(*inputs), strict=True):
        torch.testing.assert_close(rows, whole, **SAME)


def rows_of(captured: Captured) -> int:
    return max(captured.graph.ops[op].rows for op in captured.graph.inputs)
