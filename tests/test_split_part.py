"""Parts of captured models: any operators as generated code, equal to the undivided model."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from captured_models import small
from rowcast.errors import ConfigError
from rowcast.split import capture


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
