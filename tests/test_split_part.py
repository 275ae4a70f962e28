"""Parts of captured models: any operators as generated code, equal to the undivided model."""

from __future__ import annotations

import random
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from captured_models import NAMES, small, variant
from rowcast.errors import ConfigError
from rowcast.graphs import Profile
from rowcast.planning import LATENCY, CostModel, LinkCosts, pipeline
from rowcast.split import Captured, capture

CUTS = 5
BATCHES = (1, 2)


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


def test_a_part_is_made_once() -> None:
    captured, _ = small("detector")
    outputs = captured.graph.outputs
    part = captured.part(range(20, len(captured.graph)), outputs)
    assert captured.part(reversed(range(20, len(captured.graph))), list(outputs)) is part
    assert captured.part(range(21, len(captured.graph)), outputs) is not part


def test_what_is_given_can_be_wanted() -> None:
    captured, (image,) = small("camera")
    part = captured.part([1], [0, 1])
    assert part.reads == (0,)
    given, moved = part(image)
    assert given is image
    assert torch.equal(moved, image.permute(0, 3, 1, 2))


def test_a_part_reads_live_parameters_and_needs_no_gradient() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    x = torch.ones(1, 3)
    captured = capture(net, x)
    part = captured.part([3], [3])
    with torch.no_grad():
        net[2].weight.fill_(1.0)
        net[2].bias.zero_()
    (answer,) = part(torch.tensor([[1.0, 2.0, 3.0]]))
    assert answer.tolist() == [[6.0, 6.0]]
    assert not answer.requires_grad


class Alive(TorchDispatchMode):
    """How many tensors that operators have made are alive at the same time, at most."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[weakref.ref[Tensor]] = []
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.made.append(weakref.ref(result))
        self.most = max(self.most, sum(each() is not None for each in self.made))
        return result


def test_a_tensor_is_freed_behind_its_last_reader() -> None:
    class Chain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            first = x + 1
            for _ in range(20):
                x = (x * 2).relu()
            return x + first

    captured = capture(Chain().eval(), torch.ones(1, 4))
    part = captured.whole
    x = torch.ones(1, 4)
    with Alive() as alive:
        part(x)
    assert len(alive.made) == len(captured.graph) - 1
    assert alive.most <= 3  # the first, what is read, what is made


def test_wrong_operators_and_wrong_numbers_of_tensors_are_refused() -> None:
    captured, example = small("recurrent")
    count = len(captured.graph)
    for ops, wanted in (([count], [1]), ([1], [-1])):
        with pytest.raises(ConfigError, match=rf"expected operators in 0 \.\. {count - 1}, got"):
            captured.part(ops, wanted)
    part = captured.part([1, 2], [2])
    with pytest.raises(ConfigError, match=r"expected 1 tensors, of operators \[0\], got 2"):
        part(*example, *example)


def test_the_code_of_a_part_calls_torch_and_nothing_of_ours() -> None:
    """No interpreter: one Python function with a statement for each operator."""
    captured, _ = small("resnet50")
    code = captured.whole.code
    assert code.co_name == "run"
    assert {f"t{op}" for op in range(len(captured.graph))} <= set(code.co_varnames)
    assert not any(name.startswith("rowcast") for name in code.co_names)
