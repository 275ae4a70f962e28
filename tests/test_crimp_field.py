"""The implicit map, its compiled twin, and the optimizer that leaves alone what was not seen."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mapped import empty_map
from rowcast.errors import ConfigError
from rowcast.optim import Optimizer
from rowcast.optim.shared import shared_parameters
from rowcast.tasks import build_task
from rowcast.tasks.crimp.decoder import load_decoder
from rowcast.tasks.crimp.field import BLOCK, FEATURES, MOST_BLOCKS, ImplicitMap
from rowcast.tasks.crimp.field_kernels import BLUE, GREEN, RED
from rowcast.tasks.crimp.lazy_adam import LazyAdam
from rowcast.tasks.crimp.scene import Bounds
from rowcast.tasks.crimp.se3 import inverse, moved, rigid, rotation, turned
from rowcast.tasks.crimp.settings import CrimpSettings
from rowcast.tasks.crimp.trajectory import pose_error
from test_optim_fakes import EchoTeam

PLACE = Bounds((-1.0, 0.0, 0.5), (1.2, 1.3, 1.4))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def field() -> ImplicitMap:
    """A map with random features, so large that signed distances and colours are spread over their ranges."""
    found = empty_map(PLACE, CrimpSettings())
    with torch.no_grad():
        found.grid.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    return found


def by_torch(field: ImplicitMap, points: np.ndarray) -> np.ndarray:
    """What :meth:`ImplicitMap.sample` gives, by the forward pass and its slopes."""
    places = torch.tensor(points, dtype=torch.float32, requires_grad=True)
    distance, colour = field(places)
    grey = colour @ torch.tensor([RED, GREEN, BLUE])
    slopes = [torch.autograd.grad(each.sum(), places, retain_graph=True)[0] for each in (distance, grey)]
    parts = [distance[:, None], slopes[0], grey[:, None], slopes[1], colour]
    return torch.cat(parts, dim=1).detach().numpy()


# -- the compiled loops ------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_compiled_map_is_that_of_pytorch(field: ImplicitMap, seed: int) -> None:
    """Value and slope, anywhere in a cell; at its faces the slope jumps, so they are apart."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, np.array(field.sizes) - 1, (20, 3))
    points = field.low + field.voxel * (cells + rng.uniform(0.001, 0.999, (20, 3)))
    found, wanted = field.sample(points), by_torch(field, points)
    np.testing.assert_allclose(found[:, [0, 4, 8, 9, 10]], wanted[:, [0, 4, 8, 9, 10]], atol=2e-5)
    np.testing.assert_allclose(found[:, [1, 2, 3, 5, 6, 7]], wanted[:, [1, 2, 3, 5, 6, 7]], rtol=1e-3, atol=5e-4)


def test_at_vertices_both_give_what_is_stored_there(field: ImplicitMap) -> None:
    """Those at the border of the box included: of each row the first vertex is at the block's corner."""
    places = np.stack(np.meshgrid(*map(np.arange, field.sizes), indexing="ij"), axis=-1).reshape(-1, 3)
    points = np.clip(field.low + field.voxel * places, field.low, field.high)
    blocks, within = places // BLOCK, places % BLOCK
    rows = (blocks[:, 0] * field.blocks[1] + blocks[:, 1]) * field.blocks[2] + blocks[:, 2]
    cells = (within[:, 0] * BLOCK + within[:, 1]) * BLOCK + within[:, 2]
    stored = field.grid.detach().reshape(len(field.grid), BLOCK**3, FEATURES)[torch.tensor(rows), torch.tensor(cells)]
    features = field.features(torch.tensor(points, dtype=torch.float32)).detach()
    np.testing.assert_allclose(features, stored, atol=2e-5)
    wanted = torch.tanh(field.decoder(stored)[:, 0]).detach()
    np.testing.assert_allclose(field.sample(points)[:, 0], wanted, atol=5e-5)
    first = (within == 0).all(axis=1)
    corners = field.block_corners()
    assert corners.shape == (len(field.grid), 3)
    np.testing.assert_allclose(points[first], corners[rows[first]])


def test_outside_is_free_space_without_a_slope(field: ImplicitMap) -> None:
    low, high = field.low, field.high
    outside = np.array([low - 1e-6, [low[0] - 1, *low[1:]], [*high[:2], high[2] + 1e-3], high + 5, [np.nan, *low[1:]]])
    found = field.sample(outside)
    assert (found[:, 0] == 1).all() and (found[:, 1:] == 0).all()
    assert field.inside(torch.tensor(outside, dtype=torch.float32)).tolist()[1:] == [False] * 4
    assert field.inside(torch.tensor((low + high) / 2, dtype=torch.float32)[None]).all()
    # PyTorch takes such a point to the border.
    border, beyond = (torch.tensor([[x, 0.5, 1.0]], dtype=torch.float32) for x in (low[0], low[0] - 3))
    assert torch.equal(field(border)[0], field(beyond)[0])


def test_the_compiled_map_looks_at_the_grid_itself(field: ImplicitMap) -> None:
    changed = copy.deepcopy(field)
    point = (field.low + field.high)[None] / 2
    before = changed.sample(point)
    with torch.no_grad():
        changed.grid.zero_()
    assert np.shares_memory(changed.arrays()[1], changed.grid.detach().numpy())
    assert not np.array_equal(changed.sample(point), before)


# -- blocks are rows ---------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_point_in_a_block_changes_its_row_alone(field: ImplicitMap, seed: int) -> None:
    rng = np.random.default_rng(seed)
    row = int(rng.integers(len(field.grid)))
    point = field.block_corners()[row] + field.voxel * rng.uniform(0.01, BLOCK - 1.01, 3)
    (slope,) = torch.autograd.grad(field(torch.tensor(point[None], dtype=torch.float32))[0].sum(), field.grid)
    assert slope.ne(0).any(dim=1).nonzero().tolist() == [[row]]


def test_between_blocks_both_rows_change(field: ImplicitMap) -> None:
    row = 0
    point = field.block_corners()[row] + field.voxel * np.array([1.5, 1.5, BLOCK - 0.5])
    (slope,) = torch.autograd.grad(field(torch.tensor(point[None], dtype=torch.float32))[0].sum(), field.grid)
    assert slope.ne(0).any(dim=1).nonzero().flatten().tolist() == [row, row + 1]


@settings(max_examples=50, deadline=None)
@given(
    low=st.tuples(*[st.floats(-5, 5)] * 3),
    sides=st.tuples(*[st.floats(0, 2)] * 3),
    voxel=st.floats(0.1, 0.4),
    margin=st.floats(0, 0.5),
)
def test_the_box_has_the_bounds_and_the_margin_in_its_middle(
    low: tuple[float, float, float], sides: tuple[float, float, float], voxel: float, margin: float
) -> None:
    high = tuple(np.add(low, sides).tolist())
    field = ImplicitMap(Bounds(low, high), voxel, margin)
    spare = 2e-6 * voxel
    assert (field.low <= np.array(low) - margin + spare).all() and (field.high >= np.array(high) + margin - spare).all()
    np.testing.assert_allclose(field.low + field.high, np.add(low, high), atol=1e-9)
    np.testing.assert_allclose(field.high - field.low, (np.array(field.sizes) - 1) * voxel, atol=1e-9)
    # No block more than it takes.
    assert (np.array(field.sizes) - 1 < (np.array(sides) + 2 * margin) / voxel + 1 + BLOCK).all()
    assert field.grid.shape == (np.prod(field.blocks), BLOCK**3 * FEATURES)
    assert field.sizes == tuple(BLOCK * each for each in field.blocks)


def test_a_side_of_whole_voxels_takes_no_more() -> None:
    """1.1 / 0.1 is a little over 11 as a computer has it: that makes no further block."""
    assert ImplicitMap(Bounds((0.0, 0.0, 0.0), (0.3, 0.7, 1.1)), 0.1, 0.0).sizes == (4, 8, 12)


def test_more_blocks_than_rows_are_refused_before_they_are_made() -> None:
    with pytest.raises(ConfigError, match=rf"voxel: 0.001 m makes \d+ blocks .* may have {MOST_BLOCKS}; .* larger"):
        ImplicitMap(Bounds((0.0, 0.0, 0.0), (100.0, 100.0, 10.0)), 0.001, 0.1)
    # The protocol bears as many, but the copies of a robot would take some tens of GB.
    with pytest.raises(ConfigError, match=r"voxel: 0.01 m makes 3072218 blocks of a place of 9.04 x 8.04 x 2.64 m"):
        ImplicitMap(Bounds((0.0, 0.0, 0.0), (9.0, 8.0, 2.6)), 0.01, 0.02)


@pytest.mark.parametrize("high", [(1.0, -1.0, 1.0), (1.0, 1.0, float("nan")), (1.0, float("inf"), 1.0)])
def test_bounds_that_are_none_are_refused(high: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match=re.escape("bounds: expected finite corners, each number of the lowest")):
        ImplicitMap(Bounds((0.0, 0.0, 0.0), high), 0.2, 0.2)


def test_the_state_is_grid_and_decoder(field: ImplicitMap) -> None:
    state = field.state_dict()
    assert list(state) == ["grid", "decoder.0.weight", "decoder.0.bias", "decoder.2.weight", "decoder.2.bias"]
    other = ImplicitMap(PLACE, field.voxel, 0.2)
    other.load_state_dict(state)
    points = np.random.default_rng(0).uniform(field.low, field.high, (50, 3))
    np.testing.assert_array_equal(other.sample(points), field.sample(points))


def test_the_team_trains_the_grid_alone() -> None:
    task = build_task("crimp-room", frames=2, visit_frames=2)
    model = task.model()
    shared = shared_parameters(model, task.make_optimizer(model))
    assert shared.names == ("grid",) and len(shared.layout.tensors) == 1
    assert len(shared.layout.offsets) == len(model.grid) + 1
    assert {name for name, each in model.named_parameters() if each.requires_grad} == {"grid"}
    assert all(torch.equal(model.decoder.state_dict()[name], value) for name, value in load_decoder().items())
    # Where nobody has seen anything there is free space.
    distance, _ = model(torch.tensor(np.random.default_rng(0).uniform(model.low, model.high, (20, 3))).float())
    assert (distance > 0.9).all()


# -- rigid motions -----------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), angle=st.one_of(st.floats(0, 3.1), st.floats(0, 1e-7)))
def test_motions_are_rigid_and_of_the_size_that_was_asked(seed: int, angle: float) -> None:
    rng = np.random.default_rng(seed)
    pose = moved(np.eye(4), 3.0, 2.0, rng)
    off = moved(pose, 0.7, angle, rng)
    metres, radians = pose_error(off[None], pose[None])
    assert metres[0] == pytest.approx(0.7) and radians[0] == pytest.approx(angle, abs=1e-7)
    np.testing.assert_allclose(inverse(off) @ off, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(off[:3, :3] @ off[:3, :3].T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(rigid(off + 1e-4 * rng.normal(size=(4, 4)))[:3, :3], off[:3, :3], atol=1e-3)
    vector = angle * np.array([0.6, 0.0, -0.8])
    np.testing.assert_allclose(rotation(vector) @ rotation(-vector), np.eye(3), atol=1e-12)


def test_turned_is_about_the_camera_and_along_its_axes() -> None:
    pose = moved(np.eye(4), 1.0, 0.4, np.random.default_rng(1))
    found = turned(pose, 0.3, right=0.1, forward=-0.2)
    np.testing.assert_allclose(found[:3, 3], pose[:3, 3] + 0.1 * pose[:3, 0] - 0.2 * pose[:3, 2])
    np.testing.assert_allclose(found[:3, 1], pose[:3, 1])  # down is as it was
    # To the right: what was ahead is on the left.
    np.testing.assert_allclose(pose[:3, 0] @ found[:3, 2], np.sin(0.3))


def test_a_mirror_becomes_a_rotation() -> None:
    assert np.linalg.det(rigid(np.diag([1.0, 1.0, -1.0, 1.0]))[:3, :3]) == pytest.approx(1.0)


# -- lazy Adam ---------------------------------------------------------------------------------------------------------


def parameter(*shape: int, seed: int = 0) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def noise(like: torch.Tensor, step: int) -> torch.Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(step))


@pytest.mark.parametrize("shape", [(5, 7), (3, 2, 4), (6,), ()], ids=str)
@pytest.mark.parametrize("first", [0.0, 0.9])
def test_where_everything_has_a_gradient_it_is_adam(shape: tuple[int, ...], first: float) -> None:
    ours, theirs = parameter(*shape), parameter(*shape)
    lazy = LazyAdam([ours], lr=0.02, betas=(first, 0.99), eps=1e-8)
    adam = torch.optim.Adam([theirs], lr=0.02, betas=(first, 0.99), eps=1e-8)
    for step in range(20):
        ours.grad, theirs.grad = noise(ours, step), noise(ours, step)
        lazy.step()
        adam.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), first=st.sampled_from([0.0, 0.5, 0.9]), decay=st.sampled_from([0.0, 0.1, 3.0]))
def test_each_element_is_as_if_it_were_alone(seed: int, first: float, decay: float) -> None:
    """An element without a gradient keeps value and statistics, and counts its own steps: it is an Adam of its own."""
    ours = parameter(4, 3)
    lazy = LazyAdam([ours], lr=0.02, betas=(first, 0.99), decay=decay)
    alone = [torch.nn.Parameter(value.clone()) for value in ours.detach().flatten()]
    adams = [torch.optim.Adam([each], lr=0.02, betas=(first, 0.99), eps=1e-10) for each in alone]
    rng = np.random.default_rng(seed)
    for step in range(8):
        seen = torch.tensor(rng.random((4, 3)) < 0.4)
        gradient = noise(ours, seed + step) * seen
        before = [ours.detach().clone(), *(value.clone() for value in lazy.state[ours].values())]
        ours.grad = gradient
        lazy.step()
        for each, adam, slope in zip(alone, adams, gradient.flatten(), strict=True):
            if slope:
                each.grad = slope.clone()
                taken = adam.state[each]["step"].item() if each in adam.state else 0
                adam.param_groups[0]["lr"] = 0.02 / (1 + decay * (taken + 1))
                adam.step()
        torch.testing.assert_close(ours.detach().flatten(), torch.stack(alone).detach(), rtol=1e-5, atol=1e-6)
        after = [ours.detach(), *lazy.state[ours].values()]
        for old, new in zip(before, after, strict=bool(step)):
            assert torch.equal(old[~seen], new[~seen])


def test_its_state_goes_into_another_one() -> None:
    ours, theirs = parameter(4, 3), parameter(4, 3)
    first, second = LazyAdam([ours], betas=(0.9, 0.99)), LazyAdam([theirs], lr=1.0)
    for step in range(3):
        ours.grad = noise(ours, step)
        first.step()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    with torch.no_grad():
        theirs.copy_(ours)
    for step in range(3, 6):
        ours.grad, theirs.grad = noise(ours, step), noise(ours, step)
        first.step()
        second.step()
        assert torch.equal(ours, theirs)


def test_groups_have_rates_of_their_own_and_a_closure_is_called() -> None:
    still, moving = parameter(2, 2), parameter(2, 2, seed=1)
    optimizer = LazyAdam([{"params": [still], "lr": 0.0}, {"params": [moving]}], lr=0.5)
    before = still.detach().clone(), moving.detach().clone()

    def closure() -> float:
        optimizer.zero_grad()
        loss = still.sum() + 3 * moving.sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == pytest.approx(float(before[0].sum() + 3 * before[1].sum()))
    assert torch.equal(still, before[0])
    torch.testing.assert_close(moving.detach(), before[1] - 0.5)  # the first step of Adam is the rate


def test_without_any_gradient_nothing_happens() -> None:
    ours, other = parameter(2, 2), parameter(2)
    before = ours.detach().clone()
    optimizer = LazyAdam([ours, other])
    ours.grad = torch.zeros(2, 2)
    assert optimizer.step() is None
    assert torch.equal(ours, before) and other not in optimizer.state


@pytest.mark.parametrize(
    "changed",
    [
        {"lr": -1.0},
        {"lr": float("nan")},
        {"eps": -1e-9},
        {"betas": (1.0, 0.9)},
        {"betas": (0.9, -0.1)},
        {"decay": -0.1},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(changed: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"LazyAdam: expected lr, eps and decay >= 0 and betas in \[0, 1\), got"):
        LazyAdam([parameter(2)], **changed)


class Patch(torch.nn.Module):
    """A table of which each loss uses some rows."""

    def __init__(self) -> None:
        super().__init__()
        self.grid = parameter(6, 4)

    def forward(self, rows: list[int]) -> torch.Tensor:
        return self.grid[rows].square().sum()


class Proposals(EchoTeam):
    """A team of one that notes the rows of each proposal in which anything was to change."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[int]] = []

    def accumulate(self, sources: Sequence[np.ndarray], weight: float, origin: np.ndarray | None = None) -> None:
        super().accumulate(sources, weight, origin)
        self.rows.append(np.flatnonzero(self.pending.reshape(6, 4).any(axis=1)).tolist())


def test_in_a_team_rows_without_a_gradient_are_not_proposed() -> None:
    """Adam itself goes on proposing rows that were seen once; and a step without any gradient proposes nothing."""
    model, team = Patch(), Proposals()
    optimizer = Optimizer(LazyAdam(model.parameters(), lr=0.1, betas=(0.9, 0.99)), model, team, weight=1.0)
    for rows in ([1, 4], [4, 5]):
        optimizer.zero_grad()
        model(rows).backward()
        optimizer.step()
    before = model.grid.detach().clone()
    optimizer.zero_grad()
    optimizer.step()
    assert team.rows == [[1, 4], [4, 5], []]
    assert torch.equal(model.grid, before)
