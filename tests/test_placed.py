"""Vectors of a worker where its parameters are: the same bytes and the same bits as in host memory.

The kernels are those of PyTorch, which run on every device: here on the processor, and on a GPU where there is one.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator, Sequence

import numba
import numpy as np
import pytest
import torch
from torch import nn

from live import LiveServer
from rowcast.codecs import Codec, codec_by_name, codec_for
from rowcast.config import ServerSettings, WorkerSettings
from rowcast.delivery.placed import HostVector, NotFinite, OutOfRoom, Vectors
from rowcast.drivers.sockets import Team
from rowcast.drivers.virtual import Device, Simulation, VirtualWorker
from rowcast.errors import ConfigError, LocalProtocolError, NonFiniteGradient
from rowcast.links import Trace
from rowcast.optim import Optimizer, shared_model
from rowcast.optim.device import DeviceHome, DeviceVector, home_for
from rowcast.optim.device.plain import Plain
from rowcast.rows import Layout
from rowcast.rows.lanes import size_of
from rowcast.sync import parse_policy
from rowcast.testing import ScriptedWorker, VirtualTeam
from rowcast.training import ServerNode
from test_without_numba import in_order

WITHOUT_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU here")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, WITHOUT_GPU])]
CODES = ("onebit", "raw", "half", "topk16", "elements")

#: Rows of all lengths up to 130, which leave every rest behind blocks of 32 and of 4, and longer ones.
RAGGED = Layout.from_shapes(
    [(f"row of {n}", (n,)) for n in range(1, 131)]
    + [("matrix", (40, 515)), ("long", (3, 4608)), ("longest", (40_001,))]
)
BUFFERS = Layout.from_shapes([("weight", (30, 40)), ("bias", (40,)), ("mean", (33,)), ("spread", (33,))], buffers=2)


def home_on(device: str) -> DeviceHome:
    return DeviceHome(torch.device(device))


def values_of(layout: Layout, seed: int) -> np.ndarray:
    """Ordinary numbers, with zeros of both signs and very small and large ones among them."""
    random = np.random.default_rng(seed)
    values = random.standard_normal(layout.elements).astype(np.float32)
    values *= np.float32(10.0) ** random.integers(-6, 6, layout.elements).astype(np.float32)
    values[::7], values[3::11], values[5::13] = 0.0, -0.0, 1e-42
    return values


def choices(layout: Layout) -> Iterator[np.ndarray]:
    """All rows, some that lie one behind the other, and some that do not."""
    everything = np.arange(layout.rows, dtype=np.int64)
    yield everything
    yield everything[1 : layout.rows // 2]
    yield everything[::3]
    yield everything[-1:]


def codes(layout: Layout) -> list[Codec]:
    return [codec_for(layout, codec_by_name(name)) for name in CODES]


def same_bits(one: np.ndarray, other: np.ndarray) -> None:
    np.testing.assert_array_equal(one.view(np.uint32), other.view(np.uint32))


# -- the order of a sum --------------------------------------------------------------------------------------------


@numba.njit(fastmath={"reassoc", "nsz"})
def in_a_kernel(row):
    return size_of(row)


def test_a_sum_that_is_on_the_wire_has_one_order_on_every_machine() -> None:
    differs = 0
    for length in (*range(1, 200), 1000, 4608, 65_536):
        row = values_of(Layout.from_shapes([("row", (length,))]), length)
        expected = in_order(np.abs(row))
        assert in_a_kernel(row) == size_of(row) == expected, length
        differs += np.float32(np.sum(np.abs(row, dtype=np.float64))) != expected
    assert differs > 20, "the numbers do not tell one order from another"


# -- codecs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", [RAGGED, BUFFERS], ids=["ragged", "buffers"])
def test_encoding_gives_the_bytes_of_the_host_and_leaves_the_same_bits(device: str, layout: Layout) -> None:
    home = home_on(device)
    for codec, rows, consume in itertools.product(codes(layout), choices(layout), (True, False)):
        here, vectors = values_of(layout, 1), Vectors(layout, home, pytest.fail)
        there = vectors.place(here.copy())
        payload = codec.encode(layout, here, rows, consume=consume)
        np.testing.assert_array_equal(there.encode(codec, rows, consume=consume), payload, codec.name)
        same_bits(there.values(), here)
        for sign in (1.0, -1.0):
            codec.add(layout, payload, rows, here, sign)
            there.add(codec, payload, rows, sign)
            same_bits(there.values(), here)


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_not_a_number_is_encoded_as_on_the_host(device: str) -> None:
    codec, rows = codec_by_name("onebit"), np.arange(RAGGED.rows, dtype=np.int64)
    here = values_of(RAGGED, 2)
    here[::1000] = np.inf
    there = home_on(device).vector(RAGGED, here)
    payload = codec.encode(RAGGED, here.copy(), rows, consume=False)
    np.testing.assert_array_equal(there.encode(codec, rows, consume=False), payload)


@pytest.mark.parametrize("device", DEVICES)
def test_rows_are_measured_copied_and_replaced(device: str) -> None:
    home, here, other = home_on(device), values_of(RAGGED, 3), values_of(RAGGED, 4)
    there, second, host = home.vector(RAGGED, here), home.vector(RAGGED, other), HostVector(RAGGED, here.copy())
    for rows in choices(RAGGED):
        sums, expected = np.full(RAGGED.rows, 7, np.float32), np.full(RAGGED.rows, 7, np.float32)
        there.some_abs_sums(rows, sums)
        host.some_abs_sums(rows, expected)
        np.testing.assert_allclose(sums, expected, rtol=1e-4)
        same_bits(there.gather(rows), host.gather(rows))
        there.scatter(rows, -host.gather(rows))
        host.scatter(rows, -host.gather(rows))
        same_bits(there.values(), host.values())
        there.take_rows(second, rows)
        host.take_rows(HostVector(RAGGED, other), rows)
        same_bits(there.values(), host.values())
        payload = codec_by_name("raw").encode(RAGGED, values_of(RAGGED, 8), rows)
        there.replace(payload, rows)
        host.replace(payload, rows)
        same_bits(there.values(), host.values())
    sums, expected = np.zeros(RAGGED.rows, np.float32), np.zeros(RAGGED.rows, np.float32)
    there.abs_sums(sums)
    host.abs_sums(expected)
    np.testing.assert_allclose(sums, expected, rtol=1e-4)
    there.load(here)
    same_bits(there.values(), here)
    with pytest.raises(LocalProtocolError, match="expected a vector on"):
        there.take_rows(host, np.arange(1))


# -- updates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_an_update_adds_the_same_bits(device: str) -> None:
    home, layout = home_on(device), BUFFERS
    origin, proposed = values_of(layout, 5), values_of(layout, 6)
    sources = [proposed[spec.start : spec.stop] for spec in layout.tensors]
    weights = np.linspace(0.1, 0.9, layout.rows).astype(np.float32)
    ends = []
    for vector in (HostVector(layout, values_of(layout, 7)), home.vector(layout, values_of(layout, 7))):
        sums, computed, moved = np.zeros(layout.rows, np.float32), np.ones(layout.rows), 0.0
        for start in (origin, home.vector(layout, origin)):
            moved += vector.accumulate(sources, start, weights, sums, computed)
        ends.append((vector.values(), sums, computed, moved))
    same_bits(ends[1][0], ends[0][0])
    np.testing.assert_allclose(ends[1][1], ends[0][1], rtol=1e-5)
    np.testing.assert_allclose(ends[1][2], ends[0][2], rtol=1e-4)
    assert ends[1][3] == pytest.approx(ends[0][3], rel=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_source_that_is_not_finite_is_refused_and_nothing_is_added(device: str, bad: float) -> None:
    layout, home = BUFFERS, home_on(device)
    proposed = values_of(layout, 6)
    proposed[layout.tensors[1].start + 3] = bad
    sources = [proposed[spec.start : spec.stop] for spec in layout.tensors]
    for vector in (HostVector(layout, values_of(layout, 7)), home.vector(layout, values_of(layout, 7))):
        sums, computed = np.zeros(layout.rows, np.float32), np.zeros(layout.rows)
        with pytest.raises(NotFinite) as caught:
            vector.accumulate(sources, values_of(layout, 5), np.ones(layout.rows, np.float32), sums, computed)
        assert caught.value.tensor == 1
        same_bits(vector.values(), values_of(layout, 7))
        assert not computed.any()


# -- a device without memory ---------------------------------------------------------------------------------------


class Scarce(Plain):
    """Kernels that run out of memory after so many calls."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def _count(self) -> None:
        self.calls -= 1
        if self.calls < 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore text")

    def abs_sums(self, *arguments, **options):
        self._count()
        return super().abs_sums(*arguments, **options)

    def accumulate(self, *arguments, **options):
        self._count()
        return super().accumulate(*arguments, **options)

    def encode(self, *arguments, **options):
        self._count()
        return super().encode(*arguments, **options)

    def add(self, *arguments, **options):
        self._count()
        return super().add(*arguments, **options)

    def spread(self, *arguments, **options):
        self._count()
        return super().spread(*arguments, **options)


@pytest.mark.parametrize("calls", range(6))
def test_without_memory_vectors_go_to_the_host_at_once_and_nothing_is_done_twice(calls: int) -> None:
    layout, told = BUFFERS, []
    vectors = Vectors(layout, DeviceHome(torch.device("cpu"), Scarce(calls)), told.append)
    here, other = HostVector(layout, values_of(layout, 1)), HostVector(layout, values_of(layout, 2))
    there, second = (vectors.place(vector.values().copy()) for vector in (here, other))
    rows, codec = np.arange(layout.rows, dtype=np.int64), codec_for(layout, codec_by_name("onebit"))
    for _ in range(2):
        payload = here.encode(codec, rows)
        np.testing.assert_array_equal(there.encode(codec, rows), payload)
        other.add(codec, payload, rows, -1.0)
        second.add(codec, payload, rows, -1.0)
        sums, expected = np.zeros(layout.rows, np.float32), np.zeros(layout.rows, np.float32)
        here.abs_sums(expected)
        there.abs_sums(sums)
        np.testing.assert_allclose(sums, expected, rtol=1e-4)
    same_bits(there.values(), here.values())
    same_bits(second.values(), other.values())
    assert vectors.home is None or calls > 5
    if vectors.home is None:
        assert len(told) == 1 and "in host memory from now on, not on cpu: out of memory (CUDA out of memory" in told[0]
        assert "More text" not in told[0]


def test_without_memory_from_the_start_vectors_are_made_in_host_memory() -> None:
    class Full(DeviceHome):
        def vector(self, layout: Layout, values: np.ndarray) -> DeviceVector:
            raise OutOfRoom("out of memory (none)")

    told: list[str] = []
    vectors = Vectors(BUFFERS, Full(torch.device("cpu")), told.append)
    placed = vectors.place(values_of(BUFFERS, 1))
    assert isinstance(placed.at, HostVector) and vectors.home is None and len(told) == 1
    same_bits(placed.values(), values_of(BUFFERS, 1))
    with pytest.raises(LocalProtocolError, match=f"expected {BUFFERS.elements} float32, got float64"):
        vectors.place(np.zeros(BUFFERS.elements))


# -- teams in virtual time -----------------------------------------------------------------------------------------

LAYOUT = Layout.from_shapes([("weight", (60, 50)), ("bias", (60,)), ("mean", (20,))], buffers=1)


def gradient(seed: int) -> Callable[[int, np.ndarray], np.ndarray]:
    def compute(step: int, parameters: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(100 * seed + step).standard_normal(LAYOUT.elements)
        return (0.1 * (parameters - seed) + 0.01 * noise).astype(np.float32)

    return compute


def run_team(policy: str, homes: list[DeviceHome | None], iterations: int = 8, **script) -> VirtualTeam:
    workers = [
        ScriptedWorker(f"w{k}", gradient(k), iterations, rate_bps=2e5, home=home, **script)
        for k, home in enumerate(homes)
    ]
    team = VirtualTeam(LAYOUT, policy, workers)
    team.run()
    assert team.finished and not team.failures
    return team


def replicas(team: VirtualTeam) -> list[np.ndarray]:
    parameters = team.server.parameters
    assert parameters is not None
    return [parameters, *(worker.node.replica for worker in team.workers.values())]


def agree(team: VirtualTeam) -> None:
    """All have the same parameters but for the order of sums, and nothing is lost or counted twice."""
    server, *others = replicas(team)
    for replica in others:
        np.testing.assert_allclose(replica, server, atol=1e-6)
    assert team.imbalance() < 1e-5
    assert np.abs(server).max() > 0.1


POLICIES = (
    "bsp",
    "bsp?codec=raw",
    "bsp?codec=half",
    "rog:4",
    "rowcast:4",
    "rowcast",
    "flown:2",
    "asp?codec=topk16",
    "twostep:4",
)


@pytest.mark.parametrize("policy", POLICIES)
def test_replicas_agree_wherever_they_lie(policy: str) -> None:
    team = run_team(policy, [None, home_on("cpu"), home_on("cpu")])
    agree(team)
    assert [worker.node.placing.held is None for worker in team.workers.values()] == [True, False, False]


@pytest.mark.parametrize("policy", ["bsp", "localsgd:2", "rowcast:1", "twostep:4"])
def test_a_team_on_devices_sends_what_a_team_in_host_memory_sends(policy: str) -> None:
    """Importance is measured in sums of another order: only where no order depends on it all bytes are the same."""
    one, other = (run_team(policy, [home, home]) for home in (None, home_on("cpu")))
    for here, there in zip(replicas(one), replicas(other), strict=True):
        same_bits(here, there)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("diloco:2", "has outer momentum"),
        ("sparseloco:2", "lets what is pending decay"),
        ("sparta?share=0.3", "draws rows at random"),
        ("powersgd:2", "sends factors of matrices"),
    ],
)
def test_policies_that_compute_on_the_host_take_the_vectors_there(policy: str, reason: str) -> None:
    one, other = (run_team(policy, [home, home]) for home in (None, home_on("cpu")))
    for here, there in zip(replicas(one), replicas(other), strict=True):
        same_bits(here, there)
    for worker in other.workers.values():
        assert worker.node.placing.held is None
        told = [notice for notice in worker.node.notices if "host memory" in notice]
        assert len(told) == 1 and reason in told[0] and told[0].startswith(worker.node.name)


def test_a_device_that_runs_out_of_memory_in_a_team_changes_nothing() -> None:
    one = run_team("bsp", [None, None])
    scarce = DeviceHome(torch.device("cpu"), Scarce(12))
    other = run_team("bsp", [None, scarce])
    for here, there in zip(replicas(one), replicas(other), strict=True):
        same_bits(here, there)
    node = other.workers["w1"].node
    assert node.placing.held is None
    assert sum("out of memory" in notice for notice in node.notices) == 1


def test_a_cut_link_puts_rows_back_where_they_came_from() -> None:
    workers = [ScriptedWorker(f"w{k}", gradient(k), 8, rate_bps=2e5, home=home_on("cpu")) for k in range(2)]
    for policy in ("bsp", "rowcast:4"):
        team = VirtualTeam(LAYOUT, policy, workers)
        for name, direction, byte in (("w0", "up", 2500), ("w1", "down", 4000), ("w1", "up", 6000)):
            team.cut_after(name, direction, byte, 0.5)
        team.run()
        assert team.finished
        agree(team)


def test_a_killed_worker_goes_on_from_vectors_that_were_kept() -> None:
    team = VirtualTeam(
        LAYOUT,
        "rowcast:4",
        [
            ScriptedWorker("w0", gradient(0), 10, rate_bps=2e5),
            ScriptedWorker("w1", gradient(1), 10, rate_bps=2e5, home=home_on("cpu"), pictures=lambda step: True),
        ],
    )
    team.at(1.2, lambda: team.kill("w1"))
    team.at(1.4, lambda: team.restart("w1"))
    team.run()
    assert team.finished and team.workers["w1"].node.placing.held is not None
    assert any("goes on where its process was killed" in notice for notice in team.workers["w1"].node.notices)
    agree(team)


def test_a_timing_only_layout_stays_in_host_memory() -> None:
    from rowcast.training import WorkerNode

    layout = Layout.from_shapes([("weight", (60, 50))]).timing_only()
    node = WorkerNode("w", layout, layout.zeros())
    node.placing.begin(home_on("cpu"))
    assert node.placing.held is None and len(node.pending) == layout.elements


# -- the optimizer -------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """A batch norm, a weight that is transposed in memory, and one of half precision."""

    def __init__(self, half: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(40, 30), nn.BatchNorm1d(30), nn.Linear(30, 3)
        self.turned = nn.Parameter(torch.randn(30, 40).t())
        self.small = nn.Parameter(torch.randn(40).to(torch.bfloat16 if half else torch.float32))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.first(features) + (features * self.small.float()) @ self.turned)
        return self.last(torch.tanh(hidden))


def train(policy: str, home: DeviceHome | None, steps: int = 6, model: nn.Module | None = None, **options) -> nn.Module:
    """Train alone with a server over sockets; the model."""
    model = model or Net()
    device = "cpu" if home is None else home.device
    model.to(device)
    with LiveServer(policy) as server:
        team = Team(server.endpoint, name="robot-0")
        team.home = home
        inner = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        with Optimizer(inner, model, team, **options) as optimizer:
            for step in range(steps):
                features = torch.randn(8, 40, generator=torch.Generator().manual_seed(step)).to(device)
                optimizer.zero_grad()
                model(features).square().mean().backward()
                optimizer.step()
                assert (team.placed is None) == (home is None)
            with optimizer.evaluating():
                pass
            features = torch.zeros(8, 40, device=device)
            optimizer.zero_grad()
            model(features).square().mean().backward()
            optimizer.step()
    return model


def equal_models(one: nn.Module, other: nn.Module) -> None:
    for (name, here), there in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(here, there.to(here.device)), name


@pytest.mark.parametrize("policy", ["bsp", "bsp?codec=raw", "localsgd:2"])
def test_an_optimizer_trains_the_same_model_wherever_vectors_lie(policy: str) -> None:
    equal_models(train(policy, None), train(policy, home_on("cpu")))


def test_an_optimizer_trains_ahead_of_the_replica_on_a_device() -> None:
    """Where rows are streamed timing decides what has arrived: the model learns, and ends as the server has it."""
    before = Net().state_dict()
    after = train("rowcast:2", home_on("cpu"), steps=12).state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def clamp(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.clamp_(-0.1, 0.1)


def test_a_projection_holds_on_a_device() -> None:
    models = [train("bsp?codec=raw", home, project=clamp) for home in (None, home_on("cpu"))]
    equal_models(*models)
    assert max(float(parameter.detach().abs().max()) for parameter in models[1].parameters()) <= 0.1001


def test_what_is_written_by_hand_is_noticed_on_a_device_and_does_not_travel() -> None:
    ends = []
    for home in (None, home_on("cpu")):
        model = nn.Linear(40, 30)
        with torch.no_grad():
            model.weight.fill_(0.5)
            model.bias.fill_(0.25)
        with LiveServer("bsp?codec=raw") as server:
            team = Team(server.endpoint, name="robot-0")
            team.home = home
            with Optimizer(torch.optim.SGD(model.parameters(), lr=0.5), model, team) as optimizer:
                for step in range(3):
                    if step == 1:
                        with torch.no_grad():
                            model.weight[3, 4] = 7.0
                    optimizer.zero_grad()
                    model(torch.ones(2, 40)).sum().backward()
                    with pytest.warns(UserWarning, match="'weight'") if step == 1 else contextlib.nullcontext():
                        optimizer.step()
        ends.append(model)
    equal_models(*ends)
    assert float(ends[1].weight.detach()[3, 4]) == float(ends[1].weight.detach()[0, 0])


@pytest.mark.parametrize("where", ["gradient", "proposal"])
def test_a_step_that_is_not_finite_is_refused_on_a_device(where: str) -> None:
    model = nn.Linear(40, 30)
    with LiveServer("bsp?codec=raw") as server:
        team = Team(server.endpoint, name="robot-0")
        team.home = home_on("cpu")
        inner = torch.optim.SGD(model.parameters(), lr=1.0 if where == "gradient" else 1e38)
        with Optimizer(inner, model, team) as optimizer:
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, 1e3)
            if where == "gradient":
                model.bias.grad[3] = float("nan")
            before = team.replica.copy()
            with pytest.raises(NonFiniteGradient, match="bias" if where == "gradient" else "weight"):
                optimizer.step()
            np.testing.assert_array_equal(team.replica, before)
            assert torch.isfinite(model.weight).all() and optimizer.skipped_steps == 1


def test_a_closure_computes_from_what_has_arrived() -> None:
    ends = []
    for home in (None, home_on("cpu")):
        model = nn.Linear(40, 1)
        with torch.no_grad():
            model.weight.fill_(0.1)
            model.bias.zero_()
        with LiveServer("bsp?codec=raw") as server:
            team = Team(server.endpoint, name="robot-0")
            team.home = home
            inner = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=3)
            with Optimizer(inner, model, team) as optimizer:
                features = torch.randn(16, 40, generator=torch.Generator().manual_seed(1))

                def loss(model: nn.Module = model, features: torch.Tensor = features) -> torch.Tensor:
                    model.zero_grad()
                    value = (model(features) - 1).square().mean()
                    value.backward()
                    return value

                losses = [float(optimizer.step(loss).detach()) for _ in range(3)]
        ends.append(model)
        assert losses[-1] < losses[0]
    equal_models(*ends)


@pytest.mark.parametrize("calls", [0, 1, 2, 5, 9, 14])
def test_an_optimizer_goes_on_in_host_memory_when_the_device_is_full(calls: int, caplog) -> None:
    home = DeviceHome(torch.device("cpu"), Scarce(calls))
    model = Net()
    with LiveServer("bsp") as server:
        team = Team(server.endpoint, name="robot-0")
        team.home = home
        with Optimizer(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), model, team) as optimizer:
            for step in range(7):
                features = torch.randn(8, 40, generator=torch.Generator().manual_seed(step))
                optimizer.zero_grad()
                model(features if step < 6 else torch.zeros(8, 40)).square().mean().backward()
                optimizer.step()
        assert team.placed is None
    equal_models(train("bsp", None), model)
    assert sum("out of memory" in record.message for record in caplog.records) == 1


def test_a_view_without_memory_takes_everything_to_the_host(monkeypatch, caplog) -> None:
    from rowcast.optim.device import view as module

    copy, calls = torch._foreach_copy_, itertools.count()

    def scarce(*arguments):
        if next(calls) == 7:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return copy(*arguments)

    monkeypatch.setattr(module.torch, "_foreach_copy_", scarce)
    home, model = home_on("cpu"), Net()
    with LiveServer("bsp") as server:
        team = Team(server.endpoint, name="robot-0")
        team.home = home
        with Optimizer(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), model, team) as optimizer:
            for step in range(7):
                features = torch.randn(8, 40, generator=torch.Generator().manual_seed(step))
                optimizer.zero_grad()
                model(features if step < 6 else torch.zeros(8, 40)).square().mean().backward()
                optimizer.step()
        assert team.placed is None
    monkeypatch.undo()
    equal_models(train("bsp", None), model)
    assert sum("out of memory" in record.message for record in caplog.records) == 1


# -- which home ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "there"),
    [(None, False), (WorkerSettings(), False), (WorkerSettings(vectors="device"), True)],
    ids=["none", "host", "device"],
)
def test_vectors_lie_on_a_device_only_where_a_worker_asks_for_it(monkeypatch, settings, there: bool) -> None:
    asked: list[int] = []

    def home(tensors: Sequence[torch.Tensor]) -> DeviceHome:
        asked.append(len(tensors))
        return home_on("cpu")

    monkeypatch.setattr(shared_model, "home_for", home)
    model = nn.Linear(40, 30)
    with LiveServer("bsp") as server:
        team = Team(server.endpoint, name="robot-0", settings=settings)
        with Optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, team) as optimizer:
            model(torch.ones(2, 40)).sum().backward()
            optimizer.step()
            assert (team.home is not None, team.placed is not None) == (there, there)
    assert asked == ([2] if there else [])


@pytest.mark.parametrize("vectors", ["host", "device"])
def test_a_worker_of_a_simulation_asks_for_it_as_well(monkeypatch, vectors: str) -> None:
    monkeypatch.setattr(shared_model, "home_for", lambda tensors: home_on("cpu"))
    settings = ServerSettings(expected_workers=1, gather_s=0.0)
    server = ServerNode(parse_policy("bsp"), settings=settings, entropy=random.Random(2).randbytes)
    simulation, placed = Simulation(server), []
    link = Trace(np.array([0.0]), np.array([1e6]), "link", loop=True, duration_s=1.0)
    worker = VirtualWorker(
        simulation,
        "w",
        Device(0.1),
        (link, link),
        entropy=random.Random(1).randbytes,
        settings=WorkerSettings(vectors=vectors),
    )

    def train() -> None:
        model = nn.Linear(40, 30)
        with Optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, worker) as optimizer:
            model(torch.ones(2, 40)).sum().backward()
            optimizer.step()
            placed.append(worker.placed is not None)

    worker.train(train)
    simulation.run(60.0)
    assert placed == [vectors == "device"]


def test_another_place_than_host_and_device_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"vectors: unknown vectors 'devices'; .*device"):
        WorkerSettings(vectors="devices")


def test_vectors_lie_in_host_memory_but_for_parameters_on_one_gpu(caplog) -> None:
    assert home_for([torch.zeros(3), torch.zeros(2)]) is None
    assert home_for([torch.zeros(3), torch.zeros(2, device="meta")]) is None
    assert home_for([torch.zeros(2, device="meta")]) is None
    told = [record.message for record in caplog.records]
    assert [message.split("expected parameters on one CUDA device, ")[1] for message in told] == [
        f"got {found}; vectors in host memory" for found in ("cpu", "cpu, meta", "meta")
    ]


def test_who_asks_for_a_device_with_a_model_on_the_processor_is_told_and_trains(caplog) -> None:
    models = []
    for vectors in ("host", "device"):
        torch.manual_seed(0)
        model = nn.Linear(40, 30)
        with LiveServer("bsp") as server:
            team = Team(server.endpoint, name="robot-0", settings=WorkerSettings(vectors=vectors))
            with Optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, team) as optimizer:
                model(torch.ones(2, 40)).sum().backward()
                optimizer.step()
                assert team.home is None and team.placed is None
        models.append(model)
    equal_models(*models)
    assert sum("expected parameters on one CUDA device, got cpu" in each.message for each in caplog.records) == 1


@pytest.mark.cuda
@WITHOUT_GPU
def test_parameters_on_several_devices_are_shared_through_host_memory() -> None:
    gpu = torch.zeros(3, device="cuda")
    assert home_for([gpu, torch.zeros(2)]) is None
    home = home_for([gpu])
    assert home is not None and home.name == "cuda:0"
    model = Net()
    model.last.to("cuda")
    assert home_for(list(model.parameters())) is None


@pytest.mark.cuda
@WITHOUT_GPU
@pytest.mark.parametrize("policy", ["bsp", "rowcast:2"])
def test_a_model_on_a_gpu_trains_with_its_vectors_there(policy: str) -> None:
    home = DeviceHome(torch.device("cuda", torch.cuda.current_device()))
    model = train(policy, home, steps=10)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
