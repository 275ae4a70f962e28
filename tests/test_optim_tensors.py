"""Between torch tensors and flat float32: views where possible, one tensor at a time elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rowcast.optim import Optimizer
from rowcast.optim.projection import Projection
from rowcast.optim.shared import Shared
from rowcast.optim.tensors import Proposal, first_nonfinite, from_host_, read_into, to_host
from rowcast.optim.view import View
from rowcast.rows import Layout
from test_optim_fakes import EchoTeam


def variants() -> dict[str, torch.Tensor]:
    base = torch.arange(24, dtype=torch.float32)
    return {
        "plain": base.view(4, 6),
        "transposed": base.view(6, 4).t(),
        "channels-last": base.view(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
        "strided": torch.arange(48, dtype=torch.float32)[::2],
        "double": base.double().view(2, 12),
        "half": base.half(),
        "bfloat16": base.bfloat16().view(3, 8),
        "scalar": torch.tensor(3.0),
    }


@pytest.mark.parametrize("name", variants())
def test_there_and_back(name: str) -> None:
    tensor = nn.Parameter(variants()[name])
    host = to_host(tensor)
    assert host.dtype == np.float32 and host.flags.c_contiguous and host.shape == (tensor.numel(),)
    np.testing.assert_array_equal(host, tensor.detach().float().contiguous().numpy().ravel())
    shared = name in ("plain", "scalar")
    assert shared == (host.ctypes.data == tensor.data_ptr())
    strides, values = tensor.stride(), np.arange(tensor.numel(), dtype=np.float32) * 2 + 1
    values.setflags(write=False)
    from_host_(tensor, values)
    np.testing.assert_array_equal(to_host(tensor), values)
    assert tensor.stride() == strides and tensor.requires_grad


def test_a_model_of_mixed_tensors_and_its_vector() -> None:
    tensors = list(variants().values())
    layout = Layout.from_shapes([(name, tuple(t.shape)) for name, t in variants().items()])
    vector = layout.zeros()
    read_into(vector, layout, tensors)
    copies = [torch.zeros_like(t) for t in tensors]
    view = view_of(layout, copies)
    view.fill(vector, None)
    for copy, tensor in zip(copies, tensors, strict=True):
        assert torch.equal(copy, tensor)
    np.testing.assert_array_equal(view.image, vector)
    proposal = Proposal(tensors, [np.full(2, 7, dtype=np.float32)])
    assert len(proposal) == len(tensors) + 1 and len(proposal[1:3]) == 2
    np.testing.assert_array_equal(np.concatenate(list(proposal)), [*vector, 7, 7])
    np.testing.assert_array_equal(proposal[-2], [3.0])
    times = np.full(layout.rows, 0.25, dtype=np.float32)
    view.fill(vector, (vector, times))
    assert view.holds(vector, (vector, times)) and not view.holds(vector, None)
    np.testing.assert_array_equal(np.concatenate(view.proposal([], [])[0]), 0.75 * vector)


def view_of(layout: Layout, tensors: list[torch.Tensor]) -> View:
    names = tuple(spec.name for spec in layout.tensors)
    return View(Shared(layout, names, tuple(tensors), frozenset()), layout, Projection(nn.Module(), None))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_rounding_of_a_narrow_type_does_not_travel(dtype: torch.dtype) -> None:
    layout = Layout.from_shapes([("a", (5,))])
    replica = np.linspace(0.1, 0.9, 5, dtype=np.float32)
    tensor = torch.empty(5, dtype=dtype)
    view = view_of(layout, [tensor])
    view.fill(replica, None)
    assert (to_host(tensor) != replica).any()
    np.testing.assert_array_equal(view.proposal([], [])[0][0], view.origin())
    tensor += 0.25
    assert np.abs(view.proposal([], [])[0][0] - view.origin() - 0.25).max() < 0.01


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_of_another_type_trains(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, team = nn.Linear(3, 2).to(dtype), EchoTeam()
    model.weight.data = model.weight.data.t().contiguous().t()
    optimizer = Optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, team)
    features = torch.ones(4, 3, dtype=dtype)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = model(features).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    assert model.weight.dtype == dtype and not model.weight.is_contiguous()
    np.testing.assert_array_equal(to_host(model.bias), torch.tensor(team.replica[6:]).to(dtype).float().numpy())


def test_nonfinite_values_are_found_and_large_ones_are_not_suspected() -> None:
    good = torch.full((3000,), 3e38)
    assert first_nonfinite([("large", good), ("half", torch.full((300,), 6e4, dtype=torch.float16))]) is None
    assert first_nonfinite([("double", torch.full((3,), 1e300, dtype=torch.float64))]) is None
    assert first_nonfinite([]) is None
    for poison in (float("nan"), float("inf"), -float("inf")):
        bad = torch.ones(7)
        bad[5] = poison
        assert first_nonfinite([("good", good), ("bad", bad), ("worse", bad)]) == "bad"
    opposite = torch.tensor([float("inf"), -float("inf")])
    assert first_nonfinite([("opposite", opposite)]) == "opposite"


def test_sparse_gradients_of_an_embedding() -> None:
    torch.manual_seed(0)
    model, team = nn.Sequential(nn.Embedding(5, 3, sparse=True)), EchoTeam()
    optimizer = Optimizer(torch.optim.SGD(model.parameters(), lr=1.0), model, team)
    before = model[0].weight.detach().clone()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(model(torch.tensor([1, 1, 3])).sum()).backward()
    scaler.step(optimizer)
    torch.testing.assert_close(
        before - model[0].weight.detach(), torch.tensor([[0.0], [2], [0], [1], [0]]).expand(5, 3)
    )
    sparse = torch.sparse_coo_tensor([[1]], [float("nan")], (4,), check_invariants=True)
    assert first_nonfinite([("sparse", sparse)]) == "sparse"
