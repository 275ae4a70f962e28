"""Captured models of the zoo: whole, in a batch, in parts; all tests of one file, so that each is captured once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from captured_models import NAMES, answer_of, assert_equal_answers, small, variant
from rowcast.graphs import Profile
from rowcast.planning import LATENCY, CostModel, LinkCosts, pipeline
from rowcast.split import Captured

CUTS = 5
BATCHES = (1, 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_captured_model_answers_as_the_model_does(name: str) -> None:
    captured, example = small(name)
    for inputs in (example, variant(example, 1)):
        assert_equal_answers(captured(*inputs), answer_of(captured, inputs))


@pytest.mark.parametrize("name", NAMES)
def test_any_batch_is_answered_as_each_input_by_itself(name: str) -> None:
    captured, example = small(name)
    assert captured.batched
    inputs = variant(example, 2, batch=3)
    together = captured.whole(*captured.flat_inputs(*inputs))
    for place in range(3):
        alone = captured.whole(*(tensor[place : place + 1] for tensor in inputs))
        for op, batch, single in zip(captured.graph.outputs, together, alone, strict=True):
            axis = captured.batch_axes[op]
            assert axis is not None
            width = single.shape[axis]
            torch.testing.assert_close(batch.narrow(axis, place * width, width), single, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_activations_of_the_zoo_are_of_order_one(name: str) -> None:
    captured, example = small(name)
    floats = [
        op
        for op, kind in enumerate(captured.tensors)
        if kind is not None and kind.dtype.name == "float32" and captured.graph.ops[op].inputs
    ]
    values = captured.part(range(len(captured.graph)), floats)(*example)
    sizes = [float(value.pow(2).mean().sqrt()) for value in values]
    raw = 300.0 if name == "camera" else 0.0  # pixels are numbers up to 255
    assert max(sizes) < max(raw, 30.0)
    assert min(sizes) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_types_and_sizes_are_those_of_the_tensors(name: str) -> None:
    captured, example = small(name)
    known = [op for op, kind in enumerate(captured.tensors) if kind is not None and captured.graph.ops[op].inputs]
    values = captured.part(range(len(captured.graph)), known)(*example)
    for op, value in zip(known, values, strict=True):
        kind = captured.tensors[op]
        assert kind is not None
        assert (str(value.dtype), tuple(value.shape)) == (f"torch.{kind.dtype}", kind.shape)
        assert captured.graph.ops[op].bytes == kind.nbytes == value.numel() * value.element_size()
    assert len(captured.nodes) == len(captured.tensors) == len(captured.graph)


def assert_equal(given: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    assert len(given) == len(expected)
    for mine, own in zip(given, expected, strict=True):
        torch.testing.assert_close(mine, own, rtol=1e-5, atol=1e-5)


def in_two_parts(captured: Captured, second: set[int], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The outputs, where the second side computes ``second`` and the first one everything else before it."""
    graph = captured.graph
    later = set(second)
    for op, reads in enumerate(graph.reads):  # what needs the second side is not the first one's
        if later & set(reads):
            later.add(op)
    first = set(range(len(graph))) - later
    on_second = captured.part(later, [op for op in graph.outputs if op in later])
    on_first = captured.part(first, [*on_second.reads, *(op for op in graph.outputs if op not in later)])
    given = dict(zip(graph.inputs, inputs, strict=True))
    made = dict(zip(on_first.wanted, on_first(*(given[op] for op in on_first.reads)), strict=True))
    made |= dict(zip(on_second.wanted, on_second(*(made[op] for op in on_second.reads)), strict=True))
    return tuple(made[op] for op in graph.outputs)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", NAMES)
def test_two_parts_are_the_model_wherever_it_is_cut(name: str, batch: int) -> None:
    captured, example = small(name)
    inputs = variant(example, 3, batch)
    whole = captured.whole(*inputs)
    for cut in range(1, CUTS + 1):
        place = cut * len(captured.graph) // (CUTS + 1)
        assert_equal(in_two_parts(captured, set(range(place, len(captured.graph))), inputs), whole)


@pytest.mark.parametrize("name", NAMES)
def test_any_operators_can_be_the_other_side(name: str) -> None:
    captured, example = small(name)
    draw = random.Random(name)
    whole = captured.whole(*example)
    for share in (0.05, 0.5):
        chosen = {op for op in range(len(captured.graph)) if draw.random() < share} - set(captured.graph.inputs)
        assert_equal(in_two_parts(captured, chosen, example), whole)


@pytest.mark.parametrize("name", ["densenet121", "detector", "mobilenet-se", "unet-bilinear", "vit"])
def test_the_plan_of_a_minimum_cut_answers_as_the_model(name: str) -> None:
    """Robot and server take turns where the plan says so; what crosses is what the plan says."""
    captured, example = small(name)
    graph = captured.graph
    draw = np.random.default_rng(1)
    robot = np.array([0.0 if not op.inputs else draw.uniform(0.0, 0.1) for op in graph.ops])
    profile = Profile(robot, robot * draw.uniform(0.1, 2.0, len(graph)))
    split = 0
    for rate in (1e6, 1e7, 1e8):
        plan = pipeline(CostModel(graph, profile, LinkCosts(rate, rate)), LATENCY)
        sides = {"robot": set(range(len(graph))) - plan.on_server, "server": set(plan.on_server)}
        split += bool(plan.on_server) and len(plan.on_server) < len(graph) - len(graph.inputs)
        values = dict(zip(graph.inputs, example, strict=True))
        for side, ops in stages(graph.reads, sides):
            wanted = [
                op for op in ops if graph.last_use[op] > max(ops) or op in graph.outputs or crosses(graph, op, ops)
            ]
            part = captured.part(ops, wanted)
            other = {op for op in part.reads if op not in sides[side]}
            assert other <= {*plan.up, *plan.down}
            values |= dict(zip(wanted, part(*(values[op] for op in part.reads)), strict=True))
        assert_equal([values[op] for op in graph.outputs], captured.whole(*example))
    assert split


def crosses(graph: Any, op: int, ops: Sequence[int]) -> bool:
    return any(reader not in ops for reader in graph.consumers[op])


def stages(reads: Sequence[Sequence[int]], sides: dict[str, set[int]]) -> list[tuple[str, list[int]]]:
    """Runs of operators that one side can compute before it waits for the other."""
    found: list[tuple[str, list[int]]] = []
    for op, sources in enumerate(reads):
        if sources:
            side = "robot" if op in sides["robot"] else "server"
            if found and found[-1][0] == side:
                found[-1][1].append(op)
            else:
                found.append((side, [op]))
    return found


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("camera", "recurrent")])
def test_tensors_may_lie_in_memory_in_any_order(name: str) -> None:
    captured, (image,) = small(name)
    turned = image.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert turned.stride() != image.stride()
    assert_equal(captured.whole(turned), captured.whole(image))
