"""Execution row by row is equal to the whole model: however rows arrive, in batches, in parts on two sides."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from captured_models import NAMES, small, variant
from row_streams import SAME, Collected, pieces, rows_of, same, streamed
from rowcast.split import Captured, RowStream


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_the_whole_model_however_rows_arrive(name: str) -> None:
    captured, example = small(name)
    inputs = variant(example, 1)
    rows = rows_of(captured)
    for count in (1, 3, rows):
        same(captured, streamed(captured, inputs, itertools.repeat(-(-rows // count))), inputs)
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        ragged = iter(lambda generator=generator: int(torch.randint(1, 9, (), generator=generator)), 0)
        same(captured, streamed(captured, inputs, ragged), inputs)


@pytest.mark.parametrize("name", ["resnet50", "unet-bilinear", "mobilenet-se", "vit"])
def test_a_batch_of_several_requests_is_each_of_them(name: str) -> None:
    captured, example = small(name)
    inputs = variant(example, 2, batch=3)
    made = streamed(captured, inputs, itertools.cycle([5, 3]))
    same(captured, made, inputs)
    for request in range(3):
        one = streamed(captured, [x[request : request + 1] for x in inputs], itertools.cycle([7]))
        for batched, single in zip(made, one, strict=True):
            torch.testing.assert_close(batched[request : request + 1], single, **SAME)


def sides(captured: Captured, upper: set[int]) -> dict[int, set[int]]:
    """Operators of two sides; a part of an operator with several results is where that operator is."""
    placed: dict[int, int] = {}
    for op, each in enumerate(captured.graph.ops):
        placed[op] = placed[each.inputs[0]] if each.joined else int(op in upper)
    inside = [op for op in placed if captured.graph.ops[op].inputs]
    return {side: {op for op in inside if placed[op] == side} for side in (0, 1)}


def exchange(captured: Captured, upper: set[int], inputs: Sequence[Tensor], sizes: Iterator[int]) -> list[Tensor]:
    """The outputs where two streams compute a part each and send each other what the other reads.

    The inputs are there on side 0, which wants the outputs; what crosses is cut anew into pieces.
    """
    graph = captured.graph
    ops = sides(captured, upper)
    read = {side: {source for op in inside for source in graph.ops[op].inputs} for side, inside in ops.items()}
    crossing = {side: sorted(ops[side] & (read[1 - side] | (set(graph.outputs) if side else set()))) for side in ops}
    wanted = {0: [*graph.outputs, *(op for op in crossing[0] if op not in graph.outputs)], 1: crossing[1]}
    streams = {side: RowStream(captured, ops[side], wanted[side]) for side in ops}
    collected = {side: Collected(captured, streams[side], wanted[side]) for side in ops}
    pending: list[tuple[int, int, Tensor]] = []

    def send(side: int, op: int, rows: Tensor) -> None:
        if op in streams[side].outside:
            pending.extend((side, op, piece) for piece in pieces(captured, op, rows, sizes))

    for op, x in zip(graph.inputs, inputs, strict=True):
        for rows in pieces(captured, op, x, sizes):
            send(0, op, rows)
            send(1, op, rows)
    while pending:
        side, op, rows = pending.pop(0)
        streams[side].push(op, rows)
        for made, new in collected[side].take().items():
            if side == 1 or made not in ops[1]:
                send(1 - side, made, new)
    assert all(stream.finished and stream.held() == {} for stream in streams.values())
    return collected[0].whole()[: len(graph.outputs)]


def travels(captured: Captured, upper: set[int]) -> bool:
    """Whether all that crosses can travel."""
    ops = sides(captured, upper)
    crosses = {
        source
        for side, inside in ops.items()
        for op in inside
        for source in captured.graph.ops[op].inputs
        if source in ops[1 - side]
    }
    return all(captured.tensors[op] is not None for op in crosses)


@pytest.mark.parametrize("name", NAMES)
def test_cut_in_two_with_rows_of_all_that_crosses(name: str) -> None:
    captured, example = small(name)
    inputs = variant(example, 3)
    count = len(captured.graph)
    places = [upper for k in range(1, 6) if travels(captured, upper := set(range(k * count // 6, count)))]
    assert len(places) >= 3
    for upper in places:
        same(captured, exchange(captured, upper, inputs, itertools.cycle([3, 8, 1, 5])), inputs)


@settings(deadline=None, derandomize=True, max_examples=25)
@given(st.data())
def test_any_operators_on_either_side_and_tensors_that_come_back(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["densenet121", "unet-bilinear", "mobilenet-se", "detector"]))
    captured, example = small(name)
    inputs = variant(example, 4)
    changes = data.draw(st.sets(st.integers(1, len(captured.graph) - 1), max_size=5))
    upper = {op for op in range(len(captured.graph)) if sum(op >= change for change in changes) % 2}
    if travels(captured, upper):
        sizes = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))
        same(captured, exchange(captured, upper, inputs, itertools.cycle(sizes)), inputs)
