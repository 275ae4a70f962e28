"""What a worker says that it holds, what it does without where that is too much, and when it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from live import LiveServer
from loops import run_team
from rowcast.config import LinkSettings, WorkerSettings
from rowcast.drivers.sockets import Team
from rowcast.drivers.virtual import VirtualWorker
from rowcast.errors import ConfigError
from rowcast.optim import Optimizer
from rowcast.rows import Layout
from rowcast.sync import Policy, parse_policy
from rowcast.testing import VirtualTeam
from rowcast.training import WorkerNode
from rowcast.training.memory import KEPT_SHARE, Loop, Part, plan, stands_still
from teams import LAYOUT, finished, worker

STEPS = 6
LOOP = Loop(copies=1, spares=True)
#: With each of them a worker can do without a vector.
SPARING = ["bsp", "ssp:2", "rog:4", "flown:2", "diloco:2", "localsgd:2", "powersgd:2"]
SPARING += ["rowcast:4?refine=off", "rowcast:8?refine=off&anticipate=own"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def autoencoder() -> nn.Module:
    """Rows of 600 elements, as long as those of a network that is worth the trouble."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(600, 40), nn.Tanh(), nn.Linear(40, 600))


def gradient_of(model: nn.Module, seed: int) -> None:
    inputs = torch.randn(8, 600, generator=torch.Generator().manual_seed(seed))
    model.zero_grad()
    (model(inputs) - inputs).square().mean().backward()


def least_mb(policy: str, layout: Layout, loop: Loop = LOOP) -> float:
    """What suffices for a worker that does without a vector, and not for one that does not."""
    whole = plan(layout, parse_policy(policy), loop, limit_mb=None, keeps_state=False)
    small = plan(layout, parse_policy(policy), loop, limit_mb=whole.size / 1e6 - 1e-5, keeps_state=False)
    assert small.small and small.size < whole.size
    return small.size / 1e6 + 1e-5


class Trained:
    """Two workers that have trained an autoencoder.

    Attributes:
        replicas: of both, at the end.
        held: bytes of the arrays that hang on the first one and its optimizer, behind its last step.
        said: bytes that it said it would hold.
        vectors: how many of these arrays are vectors of the model.
    """

    def __init__(self, policy: str, memory_mb: float | None, make: Callable[[], nn.Module] = autoencoder) -> None:
        self.held = self.said = self.vectors = 0

        def loop(index: int, team: VirtualWorker) -> None:
            model = make()
            with Optimizer(torch.optim.SGD(model.parameters(), lr=0.5), model, team) as optimizer:
                for step in range(STEPS):
                    gradient_of(model, 2 * step + index)
                    optimizer.step()
                if index == 0:
                    self._look(team, optimizer)

        large = LinkSettings(frame_min_bytes=8192, window_min_bytes=32768)
        worker = WorkerSettings(memory_mb=memory_mb)
        _, teams = run_team(policy, 2, loop, rate_bps=2e5, settings=worker, link_settings=large)
        self.replicas = [team.replica.copy() for team in teams]

    def _look(self, team: VirtualWorker, optimizer: Optimizer) -> None:
        of_the_model = {p.data_ptr() for p in optimizer._model.shared.tensors}
        arrays = [
            array
            for array in arrays_of(team.node, optimizer._model._view, optimizer._stepping._scattered)
            if array.__array_interface__["data"][0] not in of_the_model
        ]
        node = team.node
        self.held = sum(array.nbytes for array in arrays)
        self.vectors = sum(array.size == node.layout.elements for array in arrays)
        assert node.policy is not None
        limit_mb = node.settings.memory_mb
        self.said = plan(node.layout, node.policy, node.loop, limit_mb=limit_mb, keeps_state=False).size


def arrays_of(*roots: object) -> list[np.ndarray]:
    """The distinct arrays that hang on some objects of rowcast, each as a whole."""
    seen: set[int] = set()
    found: dict[int, np.ndarray] = {}
    stack: list[object] = list(roots)
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, np.ndarray):
            while isinstance(item.base, np.ndarray):
                item = item.base
            found[id(item)] = item
        elif isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list | tuple | set) or type(item).__name__ == "deque":
            stack.extend(item)
        elif type(item).__module__.startswith("rowcast") and "journal" not in type(item).__module__:
            stack.extend(vars(item).values() if hasattr(item, "__dict__") else [])
            names = [name for kind in type(item).__mro__ for name in getattr(kind, "__slots__", ())]
            stack.extend(getattr(item, name) for name in names if hasattr(item, name))
    return list(found.values())


# -- the sums ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [*SPARING, "sparta?share=0.1", "demo"])
def test_a_worker_holds_what_it_says_and_hardly_less(policy: str) -> None:
    trained = Trained(policy, None)
    assert 0.95 * trained.said <= trained.held <= trained.said


def layout_of(model: nn.Module) -> Layout:
    return Layout.from_shapes([(name, tuple(p.shape)) for name, p in model.named_parameters()])


@pytest.mark.parametrize("policy", SPARING)
def test_with_less_memory_it_holds_a_vector_less_and_trains_to_the_same_bits(policy: str) -> None:
    whole, small = Trained(policy, None), Trained(policy, least_mb(policy, layout_of(autoencoder())))
    assert small.vectors == whole.vectors - 1
    assert 0.85 * small.said <= small.held <= small.said  # frames may be kept up to a bound, and need not be
    np.testing.assert_array_equal(whole.replicas, small.replicas)


@pytest.mark.parametrize("policy", ["bsp", "rog:4", "rowcast", "sparseloco:2"])
def test_with_still_less_it_holds_half_of_what_is_pending_and_trains_as_well(policy: str) -> None:
    """What the loss has come down by differs by less than a fiftieth: rounding decides which rows travel first, too."""
    layout = layout_of(autoencoder())
    words = layout, parse_policy(policy), LOOP
    half_mb = refused_size(*words, keeps_state=False) / 1e6 + 1e-5
    assert plan(*words, limit_mb=half_mb, keeps_state=False).half
    whole, half = Trained(policy, None), Trained(policy, half_mb)
    assert half.vectors == whole.vectors - 1  # 16-bit numbers in place of what is pending, and another one less
    assert 0.85 * half.said <= half.held <= half.said < whole.said
    first, ends = loss_of(None), [loss_of(one.replicas[0]) for one in (whole, half)]
    assert ends[0] < first and not np.array_equal(whole.replicas[0], half.replicas[0])
    assert abs(ends[0] - ends[1]) < 0.02 * (first - ends[0])
    np.testing.assert_allclose(half.replicas[0], half.replicas[1], atol=1e-6)


def loss_of(parameters: np.ndarray | None) -> float:
    """Of the autoencoder on all of its data, with these parameters or with those that it begins with."""
    model = autoencoder()
    if parameters is not None:
        torch.nn.utils.vector_to_parameters(torch.from_numpy(parameters.copy()), model.parameters())
    seeds = range(2 * STEPS)
    inputs = torch.cat([torch.randn(8, 600, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    with torch.no_grad():
        return float((model(inputs) - inputs).square().mean())


def test_where_frames_are_large_some_are_forgotten_and_the_training_hardly_differs() -> None:
    """What the sign has left follows in half precision on an idle link, and takes sixteen times as much."""
    start = np.concatenate([p.detach().numpy().ravel() for p in autoencoder().parameters()])
    whole, small = Trained("rowcast", None), Trained("rowcast", least_mb("rowcast", layout_of(autoencoder())))
    apart = np.linalg.norm(whole.replicas[0] - small.replicas[0]) / np.linalg.norm(whole.replicas[0] - start)
    assert 0 < apart < 0.01 and small.vectors == whole.vectors - 1
    np.testing.assert_allclose(small.replicas[0], small.replicas[1], atol=1e-6)


def test_a_policy_without_a_vector_to_spare_is_refused_with_what_it_takes() -> None:
    policy = parse_policy("sparta?share=0.1")
    whole = plan(LAYOUT, policy, LOOP, limit_mb=None, keeps_state=False)
    with pytest.raises(ConfigError, match="memory_mb"):
        plan(LAYOUT, policy, LOOP, limit_mb=whole.size / 1e6 - 1e-5, keeps_state=False)
    assert not plan(LAYOUT, policy, LOOP, limit_mb=whole.size / 1e6, keeps_state=False).small


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(2, 300), st.integers(100, 3000)), min_size=1, max_size=6),
    st.sampled_from([*SPARING, "rowcast", "sparta", "asp"]),
    st.integers(0, 3),
    st.booleans(),
)
def test_what_a_refusal_asks_for_suffices_and_its_parts_are_the_sum(
    shapes: list[tuple[int, int]], policy: str, copies: int, keeps_state: bool
) -> None:
    layout = Layout.from_shapes([(str(k), shape) for k, shape in enumerate(shapes)])
    words = layout, parse_policy(policy), Loop(copies, spares=True)
    with pytest.raises(ConfigError) as refused:
        plan(*words, limit_mb=1e-3, keeps_state=keeps_state)
    found = re.match(r"memory_mb: expected at least ([\d.]+) with the policy", str(refused.value))
    assert found is not None and "\n" not in str(refused.value)
    fits = plan(*words, limit_mb=float(found[1]), keeps_state=keeps_state)
    told = sum(map(float, re.findall(r" ([\d.]+)(?:, [a-z]|\);)", str(refused.value).partition("parameters: ")[2])))
    assert fits.size <= 1e6 * float(found[1]) <= 1.02 * refused_size(*words, keeps_state) + 1e4
    assert 0.98 * float(found[1]) - 0.01 <= told <= 1.02 * float(found[1]) + 0.08  # each is rounded up


def refused_size(layout: Layout, policy: Policy, loop: Loop, keeps_state: bool) -> int:
    """The least that a worker can do with: what it holds when a byte less would not do."""
    low, high = 0, plan(layout, policy, loop, limit_mb=None, keeps_state=keeps_state).size
    while low + 1 < high:
        middle = (low + high) // 2
        try:
            plan(layout, policy, loop, limit_mb=middle / 1e6, keeps_state=keeps_state)
            high = middle
        except ConfigError:
            low = middle
    return high


def test_a_state_dir_and_an_outer_momentum_count() -> None:
    def names(policy: str, keeps_state: bool) -> list[Part]:
        return list(plan(LAYOUT, parse_policy(policy), LOOP, limit_mb=None, keeps_state=keeps_state).parts)

    vector = 4 * LAYOUT.elements
    assert Part("a picture for state_dir", 2 * vector) in names("bsp", True)
    assert Part("a picture for state_dir", 3 * vector) in names("diloco:2", True)
    assert Part("outer momentum", vector) in names("diloco:2", False)
    assert not any("picture" in part.name for part in names("bsp", False))


def test_large_models_are_told_in_millions() -> None:
    layout = Layout.from_shapes([("weight", (3000, 1000)), ("bias", (100_000,))])
    told = plan(layout, parse_policy("rowcast"), LOOP, limit_mb=48, keeps_state=False)
    assert str(told).startswith(
        "39.2 MB for rows of 3.1 M parameters: replica 12.4, pending 12.4, own frames at most 1.55"
    )


# -- at joining --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_mb", [100.0, None])
def test_at_joining_a_line_says_what_it_takes(memory_mb: float | None, caplog: pytest.LogCaptureFixture) -> None:
    with LiveServer("bsp") as server:
        _, optimizer = joined(server, autoencoder(), memory_mb)
        optimizer.close()
    told = [record.getMessage() for record in caplog.records if "memory" in record.getMessage()]
    line = (
        "robot: memory: 0.66 MB for rows of 48,640 parameters: replica 0.20, pending 0.20, copies in the training loop "
        "0.20, numbers for 642 rows 0.08"
    )
    assert told == ([] if memory_mb is None else [line])


def test_a_link_that_comes_back_is_no_reason_to_say_it_again() -> None:
    script = worker("robot0", iterations=10, compute_s=0.2, rate_bps=1e5)
    team = VirtualTeam(LAYOUT, "rowcast:4", [script], worker_settings=WorkerSettings(memory_mb=10.0))
    node, told = team.workers["robot0"].node, []
    for time in (0.7, 1.3):
        team.at(time, lambda: team.cut("robot0", 0.1))
    team.at(2.0, lambda: told.extend(notice for notice in node.notices if "memory: " in notice))
    finished(team)
    assert len(told) == 1 and any("is back" in notice for notice in node.notices)


def test_a_worker_that_has_too_little_refuses_before_it_trains() -> None:
    with pytest.raises(ConfigError, match=r"memory_mb: expected at least 0\.45 with the policy 'bsp', got 0\.3 \("):
        Trained("bsp", 0.3)


@pytest.mark.parametrize("limit", [0, -1, "12", float("nan"), 1e10])
def test_limits_that_are_none_are_refused(limit: object) -> None:
    with pytest.raises(ConfigError, match="memory_mb: expected a number in"):
        WorkerSettings(memory_mb=limit)  # type: ignore[arg-type]


# -- a step that is counted from the replica ---------------------------------------------------------------------


def test_only_where_nothing_moves_the_replica_is_it_counted_from() -> None:
    assert all(stands_still(parse_policy(policy)) for policy in SPARING if not policy.startswith("rowcast"))
    assert not any(stands_still(parse_policy(policy)) for policy in ("rowcast", "rowcast?anticipate=off", "sparta"))


def test_what_would_be_counted_from_a_replica_that_has_moved_is_left_out() -> None:
    node = WorkerNode("robot0", LAYOUT, LAYOUT.zeros())
    proposed = [node.replica[spec.start : spec.stop] - np.float32(1) for spec in LAYOUT.tensors]
    node.moved = True
    node.accumulate(proposed, 1.0, node.replica)
    assert not node.pending.any() and "makes no contribution" in node.notices[-1]
    node.accumulate(proposed, 1.0, node.replica.copy())  # it knows from where
    assert node.pending.all()
    node.begin(0.0)
    node.accumulate(proposed, 1.0, node.replica)
    np.testing.assert_array_equal(node.pending, np.full(LAYOUT.elements, 2.0))


def joined(
    server: LiveServer, model: nn.Module, memory_mb: float | None = 0.5, **words: object
) -> tuple[Team, Optimizer]:
    team = Team(server.endpoint, name="robot", settings=WorkerSettings(memory_mb=memory_mb))
    return team, Optimizer(torch.optim.SGD(model.parameters(), lr=0.5), model, team, **words)  # type: ignore[arg-type]


def test_parameters_that_come_anew_within_a_step_cost_that_step_alone() -> None:
    model = autoencoder()
    with LiveServer("bsp?codec=raw") as server:
        team, optimizer = joined(server, model)
        assert team.lean and optimizer._model._view.image is team.replica
        gradient_of(model, 0)
        with team.still():
            team.replica[:] += np.float32(1.0)  # as the rows of a server that has begun anew
            team.node.moved = True
        optimizer.step()
        before = team.replica.copy()
        np.testing.assert_array_equal(flat(model), before)
        gradient_of(model, 1)
        optimizer.step()
        gradient = np.concatenate([p.grad.numpy().ravel() for p in model.parameters()])
        np.testing.assert_allclose(team.replica, before - np.float32(0.5) * gradient, atol=1e-6)
        optimizer.close()
    assert optimizer.skipped_steps == 0 and team.finished == 2


def flat(model: nn.Module) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])


def test_parameters_written_by_hand_are_put_back_and_do_not_travel() -> None:
    model = autoencoder()
    with LiveServer("bsp?codec=raw") as server:
        team, optimizer = joined(server, model)
        start = team.replica.copy()
        gradient_of(model, 0)
        with torch.no_grad():
            next(model.parameters()).add_(100.0)
        with pytest.warns(UserWarning, match="written"):
            optimizer.step()
        gradient = np.concatenate([p.grad.numpy().ravel() for p in model.parameters()])
        np.testing.assert_allclose(team.replica, start - np.float32(0.5) * gradient, atol=1e-6)
        optimizer.close()


def test_a_projection_and_half_precision_keep_the_copy() -> None:
    def clamp(model: nn.Module) -> None:
        for parameter in model.parameters():
            parameter.clamp_(-1, 1)

    for model, words, error in (
        (autoencoder(), {"project": clamp}, "copies in the training loop 0.59"),
        (autoencoder().to(torch.bfloat16), {}, "copies in the training loop 0.20"),
    ):
        with LiveServer("bsp") as server, pytest.raises(ConfigError, match=error):
            joined(server, model, **words)


def test_buffers_travel_as_ever() -> None:
    def normalised() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(600, 40), nn.BatchNorm1d(40), nn.Linear(40, 600))

    whole = Trained("bsp?codec=raw", None, normalised)
    small = Trained("bsp?codec=raw", whole.said / 1e6 - 0.1, normalised)
    assert small.vectors == whole.vectors - 1
    np.testing.assert_allclose(whole.replicas[0], small.replicas[0], atol=1e-5)
    np.testing.assert_array_equal(small.replicas[0], small.replicas[1])


def test_own_frames_take_a_part_of_a_vector() -> None:
    layout = Layout.from_shapes([("weight", (40, 600))])
    policy = parse_policy("rowcast")
    sizes = [
        {part.name: part.size for part in plan(layout, policy, LOOP, limit_mb=limit, keeps_state=False).parts}
        for limit in (None, 0.35)
    ]
    assert sizes[0]["expected parameters"] == 4 * layout.elements
    assert sizes[1]["own frames at most"] == 4 * layout.elements // KEPT_SHARE
