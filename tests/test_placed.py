"""Vectors of a worker where its parameters are: the same bytes and the same bits as in host memory.

The operations are those of PyTorch, which run on every device: here on the processor, and on a GPU where there is one.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from live import LiveServer
from loops import run_team
from rowcast.codecs import Codec, codec_by_name, codec_for
from rowcast.config import WorkerSettings
from rowcast.delivery.placed import NotFinite
from rowcast.delivery.placed_residual import PlacedResidual
from rowcast.drivers.sockets import Team
from rowcast.drivers.virtual import VirtualWorker
from rowcast.errors import ConfigError, LocalProtocolError, NonFiniteGradient
from rowcast.optim import Optimizer, shared_model
from rowcast.optim import tensors as tensors_module
from rowcast.optim.device import DeviceHome, home_for
from rowcast.optim.device import chosen as chosen_module
from rowcast.optim.device.view import DeviceView
from rowcast.optim.tensors import fetched, from_host_, rounded, to_host, to_host_together
from rowcast.rows import Layout
from rowcast.rows.kernels import row_abs_sums
from rowcast.rows.scattered import accumulate_all
from rowcast.testing import ScriptedWorker, VirtualTeam
from rowcast.training import WorkerNode

WITHOUT_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU here")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, WITHOUT_GPU])]
CODES = ("onebit", "raw", "half", "topk16", "elements")

#: Rows of all lengths up to 130, which leave every rest behind blocks of 32 and of 8, and longer ones.
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
    """All rows, some that lie one behind the other, some that do not, and one."""
    everything = np.arange(layout.rows, dtype=np.int64)
    yield everything
    yield everything[1 : layout.rows // 2]
    yield everything[::3]
    yield everything[-1:]


def codes(layout: Layout) -> list[Codec]:
    return [codec_for(layout, codec_by_name(name)) for name in CODES]


def same_bits(one: np.ndarray, other: np.ndarray) -> None:
    np.testing.assert_array_equal(one.view(np.uint32), other.view(np.uint32))


# -- rows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", [RAGGED, BUFFERS], ids=["ragged", "buffers"])
@pytest.mark.parametrize("group", [1 << 22, 500], ids=["whole", "in parts"])
def test_encoding_gives_the_bytes_of_the_host_and_leaves_the_same_bits(
    device: str, layout: Layout, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chosen_module, "GROUP_ELEMENTS", group)
    home = home_on(device)
    for codec, rows, consume in itertools.product(codes(layout), choices(layout), (True, False)):
        here = values_of(layout, 1)
        there = home.vector(layout, here)
        payload = codec.encode(layout, here, rows, consume=consume)
        np.testing.assert_array_equal(there.encode(codec, rows, consume=consume), payload, codec.name)
        same_bits(there[:], here)
        for sign in (1.0, -1.0):
            codec.add(layout, payload, rows, here, sign)
            there.add(codec, payload, rows, sign)
            same_bits(there[:], here)


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_not_a_number_is_encoded_as_on_the_host(device: str) -> None:
    codec, rows = codec_by_name("onebit"), np.arange(RAGGED.rows, dtype=np.int64)
    here = values_of(RAGGED, 2)
    here[::1000] = np.inf
    there = home_on(device).vector(RAGGED, here)
    payload = codec.encode(RAGGED, here.copy(), rows, consume=False)
    np.testing.assert_array_equal(there.encode(codec, rows, consume=False), payload)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CODES)
def test_a_part_of_a_payload_is_added(device: str, name: str) -> None:
    layout, codec = BUFFERS, codec_for(BUFFERS, codec_by_name(name))
    rows = np.arange(0, layout.rows, 2, dtype=np.int64)
    payload, here = codec.encode(layout, values_of(layout, 1), rows), values_of(layout, 2)
    there, whole = home_on(device).vector(layout, here), here.copy()
    codec.add(layout, payload, rows, whole, -1.0)
    only = np.arange(len(rows)) % 3 == 1
    for row in rows[only].tolist():
        part = slice(layout.offsets[row], layout.offsets[row + 1])
        here[part] = whole[part]
    there.add(codec, payload, rows, -1.0, only)
    same_bits(there[:], here)
    there.add(codec, payload, rows, -1.0, np.zeros(len(rows), dtype=np.bool_))
    same_bits(there[:], here)


@pytest.mark.parametrize("device", DEVICES)
def test_rows_are_measured_copied_and_replaced(device: str) -> None:
    home, here, other = home_on(device), values_of(RAGGED, 3), values_of(RAGGED, 4)
    there, second, sums = home.vector(RAGGED, here), home.vector(RAGGED, other), np.zeros(RAGGED.rows, np.float32)
    for rows in choices(RAGGED):
        row_abs_sums(here, RAGGED.offsets, sums)
        same_bits(there.sizes(rows), sums[rows])
        same_bits(there[int(RAGGED.offsets[rows[0]]) :], here[RAGGED.offsets[rows[0]] :])
        for row in rows.tolist():
            part = slice(RAGGED.offsets[row], RAGGED.offsets[row + 1])
            here[part] = other[part]
        there.take_rows(second, rows)
        same_bits(there[:], here)
        new = values_of(RAGGED, 8)
        there.replace(codec_by_name("raw").encode(RAGGED, new.copy(), rows), rows)
        for row in rows.tolist():
            part = slice(RAGGED.offsets[row], RAGGED.offsets[row + 1])
            here[part] = new[part] + np.float32(0.0)
        same_bits(there[:], here)
    there.load(other)
    same_bits(there[:], other)
    with pytest.raises(LocalProtocolError, match="expected a vector on"):
        there.take_rows(other, np.arange(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_tensors_come_together_and_values_go_without_anyone_waiting(device: str, dtype: torch.dtype) -> None:
    values = values_of(LAYOUT, 1)[:600].clip(-1e4, 1e4)
    values.setflags(write=False)
    tensors = [torch.zeros(shape, dtype=dtype, device=device) for shape in ((20, 30), (600,))]
    tensors.append(torch.zeros((30, 20), dtype=dtype, device=device).t())
    for tensor in tensors:
        from_host_(tensor, values, wait=False)
    expected = torch.tensor(values).to(dtype).float().numpy()
    for found in (*to_host_together(tensors), *(to_host(one) for one in tensors), rounded(values, dtype)):
        same_bits(found, expected)
    (copy,) = fetched(tensors[:1], torch.float32)
    tensors[0].zero_()
    same_bits(copy, expected.reshape(20, 30))


# -- updates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("of", ["array", "vector"])
def test_an_update_adds_the_same_bits(device: str, of: str) -> None:
    home, layout = home_on(device), BUFFERS
    origin, proposed, here = (values_of(layout, seed) for seed in (5, 6, 7))
    sources = [proposed[spec.start : spec.stop] for spec in layout.tensors]
    weights = np.linspace(0.1, 0.9, layout.rows).astype(np.float32)
    there = home.vector(layout, here)
    sums, computed = np.zeros((2, layout.rows), np.float32), np.ones((2, layout.rows))
    moved = accumulate_all(layout, here, origin, sources, weights, sums[0], computed[0])
    start = origin if of == "array" else home.vector(layout, origin)
    also = there.accumulate(sources, start, weights, sums[1], computed[1])
    same_bits(there[:], here)
    same_bits(sums[1], sums[0])
    np.testing.assert_allclose(computed[1], computed[0], rtol=1e-4)
    assert also == pytest.approx(moved, rel=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_source_that_is_not_finite_is_refused_and_nothing_is_added(device: str, bad: float) -> None:
    layout = BUFFERS
    proposed = values_of(layout, 6)
    proposed[layout.tensors[1].start + 3] = bad
    sources = [proposed[spec.start : spec.stop] for spec in layout.tensors]
    vector = home_on(device).vector(layout, values_of(layout, 7))
    sums, computed = np.zeros(layout.rows, np.float32), np.zeros(layout.rows)
    with pytest.raises(NotFinite) as caught:
        vector.accumulate(sources, values_of(layout, 5), np.ones(layout.rows, np.float32), sums, computed)
    assert caught.value.tensor == 1
    same_bits(vector[:], values_of(layout, 7))
    assert not computed.any() and not sums.any()


# -- teams in virtual time -----------------------------------------------------------------------------------------

LAYOUT = Layout.from_shapes([("weight", (60, 50)), ("bias", (60,)), ("mean", (20,))], buffers=1)


def gradient(seed: int) -> Callable[[int, np.ndarray], np.ndarray]:
    def compute(step: int, parameters: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(100 * seed + step).standard_normal(LAYOUT.elements)
        return (0.1 * (parameters - seed) + 0.01 * noise).astype(np.float32)

    return compute


def scripts(homes: list[DeviceHome | None], iterations: int = 8, **script) -> list[ScriptedWorker]:
    return [
        ScriptedWorker(f"w{k}", gradient(k), iterations, rate_bps=2e5, home=home, **script)
        for k, home in enumerate(homes)
    ]


def ended(team: VirtualTeam) -> VirtualTeam:
    team.run()
    assert team.finished and not team.failures
    return team


def run(policy: str, homes: list[DeviceHome | None], **script) -> VirtualTeam:
    return ended(VirtualTeam(LAYOUT, policy, scripts(homes, **script)))


def same_team(one: VirtualTeam, other: VirtualTeam) -> None:
    """The same bytes were sent at the same times, and all ended with the same bits."""
    assert one.server.parameters is not None and other.server.parameters is not None
    same_bits(one.server.parameters, other.server.parameters)
    assert np.abs(one.server.parameters).max() > 0.1
    assert one.now == other.now
    for name, worker in one.workers.items():
        same_bits(worker.node.replica, other.workers[name].node.replica)
        same_bits(worker.node.pending, other.workers[name].node.pending)
        assert worker.carried == other.workers[name].carried


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "policy", ["bsp", "bsp?codec=raw", "rog:4", "rowcast:4", "rowcast", "flown:2", "asp", "localsgd:2"]
)
def test_a_team_on_devices_sends_what_a_team_in_host_memory_sends(policy: str, device: str) -> None:
    other = run(policy, [None, home_on(device), home_on(device)])
    assert [worker.node.placed is not None for worker in other.workers.values()] == [False, True, True]
    assert other.imbalance() < 1e-5
    same_team(run(policy, [None] * 3), other)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("diloco:2", "has outer momentum"),
        ("sparseloco:2", "lets what is pending decay"),
        ("demo", "lets what is pending decay"),
        ("sparta?share=0.3", "draws rows at random"),
        ("powersgd:2", "sends factors of matrices"),
        ("twostep:4", "has the code 'elements'"),
        ("bsp?codec=half", "has the code 'half'"),
    ],
)
def test_policies_that_compute_on_the_host_do_so(policy: str, reason: str) -> None:
    other = run(policy, [home_on("cpu")] * 2)
    same_team(run(policy, [None, None]), other)
    for worker in other.workers.values():
        assert worker.node.placed is None
        told = [notice for notice in worker.node.notices if "host memory" in notice]
        assert len(told) == 1 and reason in told[0] and told[0].startswith(worker.node.name)


def test_a_cut_link_puts_rows_back_where_they_came_from() -> None:
    for policy in ("bsp", "rowcast:4"):
        ends = []
        for home in (None, home_on("cpu")):
            team = VirtualTeam(LAYOUT, policy, scripts([home] * 2))
            for name, direction, byte in (("w0", "up", 2500), ("w1", "down", 4000), ("w1", "up", 6000)):
                team.cut_after(name, direction, byte, 0.5)
            ends.append(ended(team))
        same_team(*ends)


def test_a_killed_worker_goes_on_from_vectors_that_were_kept() -> None:
    ends = []
    for home in (None, home_on("cpu")):
        team = VirtualTeam(LAYOUT, "rowcast:4", scripts([None, home], 10, pictures=lambda step: True))
        team.at(1.2, lambda team=team: team.kill("w1"))
        team.at(1.4, lambda team=team: team.restart("w1"))
        ends.append(ended(team))
        assert any("goes on where its process was killed" in notice for notice in team.workers["w1"].node.notices)
    assert ends[1].workers["w1"].node.placed is not None
    same_team(*ends)


@pytest.mark.parametrize("policy", ["bsp", "rowcast:4"])
@pytest.mark.parametrize("then", [None, "diloco:2"], ids=["the same policy", "a policy for the host"])
def test_a_server_that_lost_its_memory_is_given_the_parameters(policy: str, then: str | None) -> None:
    ends = []
    for home in (None, home_on("cpu")):
        team = VirtualTeam(LAYOUT, policy, scripts([home] * 2))
        team.at(0.5, lambda team=team: team.restart_server(then))
        ends.append(ended(team))
    same_team(*ends)
    assert [worker.node.placed is not None for worker in ends[1].workers.values()] == [then is None] * 2


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_to_links_and_workers_the_same_is_sent(seed: int) -> None:
    """Random cuts at any byte, and a robot that is killed and goes on: invariants 2, 5, 7 and 8 with either."""
    ends = []
    for homes in ([None] * 3, [home_on("cpu"), None, home_on("cpu")]):
        draw = np.random.default_rng(seed)
        # How far a step goes is summed in another order on a device: the bound on a step that is far too large, which
        # follows from it, differs in the last place.
        policy = ("bsp", "rowcast:4?trust=0", "rog:4", "rowcast?trust=0", "ssp:3", "flown:2")[seed % 6]
        team = VirtualTeam(LAYOUT, policy, scripts(homes, 10, pictures=lambda step: step % 2 == 0), seed=seed)
        for _ in range(8):
            way = ("up", "down")[int(draw.integers(2))]
            team.cut_after(f"w{draw.integers(3)}", way, int(draw.integers(200, 30_000)), float(draw.uniform(0.05, 0.8)))
        killed, at = f"w{draw.integers(3)}", float(draw.uniform(0.3, 1.5))
        team.at(at, lambda team=team, killed=killed: team.kill(killed))
        team.at(at + float(draw.uniform(0.1, 1.0)), lambda team=team, killed=killed: team.restart(killed))
        ends.append(ended(team))
    assert any(worker.node.placed is not None for worker in ends[1].workers.values())
    assert ends[1].imbalance() < 1e-5
    same_team(*ends)


def test_a_timing_only_layout_stays_in_host_memory() -> None:
    layout = Layout.from_shapes([("weight", (60, 50))]).timing_only()
    node = WorkerNode("w", layout, layout.zeros())
    node.holding.home = home_on("cpu")
    node.follow(VirtualTeam(layout, "bsp", []).server.policy)
    node.read_own_writes()
    assert node.placed is None and len(node.pending) == layout.elements


def test_what_only_the_host_does_is_refused_on_a_device() -> None:
    residual = PlacedResidual(LAYOUT, home_on("cpu").vector(LAYOUT, LAYOUT.zeros()))
    zeros, ones, books = LAYOUT.zeros(), np.ones(LAYOUT.rows, np.float32), np.zeros(LAYOUT.rows)
    with pytest.raises(LocalProtocolError, match="expected all tensors at once"):
        residual.accumulate(0, zeros, zeros, ones, books)
    with pytest.raises(LocalProtocolError, match="is not scaled"):
        residual.scale(3, 0.5, books)


# -- a device without memory ---------------------------------------------------------------------------------------


class Scarce:
    """In our part one operation of PyTorch finds no memory: the one with this number among those that take any.

    Attributes:
        count: how many there were.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.count = 0
        scarce = self

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                if not func._schema.is_mutable and not func.is_view:
                    scarce.count += 1
                    if scarce.count == number:
                        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore text")
                return func(*args, **(kwargs or {}))

        def watched(working: Callable) -> Callable:
            @contextlib.contextmanager
            def entered(*arguments) -> Iterator[None]:
                with working(*arguments), Mode():
                    yield

            return entered

        # Inside of whatever turns the error into what we do about it.
        monkeypatch.setattr(DeviceHome, "working", watched(WORKING[0]))
        monkeypatch.setattr(DeviceView, "_working", watched(WORKING[1]))


WORKING = DeviceHome.working, DeviceView._working


@pytest.mark.parametrize("name", ["onebit", "raw"])
def test_whatever_finds_no_memory_goes_on_in_host_memory_and_nothing_is_done_twice(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chosen_module, "GROUP_ELEMENTS", 500)
    layout, rows, codec = BUFFERS, np.arange(BUFFERS.rows, dtype=np.int64), codec_for(BUFFERS, codec_by_name(name))
    weights, proposed = np.full(layout.rows, 0.25, np.float32), values_of(layout, 3)
    sources = [proposed[spec.start : spec.stop] for spec in layout.tensors]

    def work() -> list[np.ndarray]:
        home = home_on("cpu")
        one, two = (home.vector(layout, values_of(layout, seed)) for seed in (1, 2))
        sums, computed = np.zeros(layout.rows, np.float32), np.zeros(layout.rows)
        one.accumulate(sources, two, weights, sums, computed)
        payload = one.encode(codec, rows)
        two.add(codec, payload, rows, -1.0, rows % 3 == 0)
        two.take_rows(one, rows[::5])
        return [payload, one[:], two[:], two.sizes(rows), sums, computed, np.array([len(home.full)])]

    expected = work()
    scarce = Scarce(monkeypatch, 0)
    work()
    assert scarce.count > 100
    for number in range(1, scarce.count + 1):
        Scarce(monkeypatch, number)
        found = work()
        assert found[-1] > 0
        for here, there in zip(expected[:-1], found[:-1], strict=True):
            np.testing.assert_array_equal(here.view(np.uint8), there.view(np.uint8), f"operation {number}")


@pytest.mark.parametrize("policy", ["bsp", "rowcast:4"])
def test_a_device_that_runs_out_of_memory_in_a_team_changes_nothing(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = run(policy, [None, None])
    scarce = Scarce(monkeypatch, 0)
    run(policy, [None, home_on("cpu")])
    for number in np.linspace(1, scarce.count, 12).astype(int).tolist():
        home = home_on("cpu")
        Scarce(monkeypatch, number)
        other = run(policy, [None, home])
        same_team(one, other)
        node = other.workers["w1"].node
        (told,) = [notice for notice in node.notices if "host memory" in notice]
        assert home.full in told and "not on cpu: out of memory (CUDA out of memory. Tried" in told
        assert "More text" not in told and node.placed is None and not isinstance(node.residual, PlacedResidual)


# -- the optimizer -------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """A batch norm, a weight that is transposed in memory, and one of half precision."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(40, 30), nn.BatchNorm1d(30), nn.Linear(30, 3)
        self.turned = nn.Parameter(torch.randn(30, 40).t())
        self.small = nn.Parameter(torch.randn(40).to(torch.bfloat16))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.first(features) + (features * self.small.float()) @ self.turned)
        return self.last(torch.tanh(hidden))


def features_of(step: int, device: torch.device) -> torch.Tensor:
    return torch.randn(8, 40, generator=torch.Generator().manual_seed(step)).to(device)


def train(policy: str, home: Callable[[], DeviceHome] | None, **options) -> list[nn.Module]:
    """Two robots train in virtual time, the second with its vectors in a home; their models."""
    models: list[nn.Module] = []

    def loop(index: int, team: VirtualWorker) -> None:
        team.home = None if home is None or index == 0 else home()
        device = torch.device("cpu") if team.home is None else team.home.device  # type: ignore[attr-defined]
        model = Net().to(device)
        inner = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        with Optimizer(inner, model, team, **options) as optimizer:
            for step in range(5):
                optimizer.zero_grad()
                model(features_of(2 * step + index, device)).square().mean().backward()
                optimizer.step()
            with optimizer.evaluating():
                model(features_of(1, device))
        models.append(model)

    run_team(policy, 2, loop, rate_bps=2e5)
    return models


def equal_models(one: nn.Module, other: nn.Module) -> None:
    for (name, here), there in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(here, there.to(here.device)), name


POLICIES = [
    "bsp",
    "bsp?codec=raw",
    "localsgd:2",
    "rowcast:4",
    "rowcast",
    "rog:4",
    "diloco:2",
    "powersgd:2",
    "twostep:4",
]


@pytest.mark.parametrize("policy", [*POLICIES, "sparta?share=0.3"])
def test_an_optimizer_trains_the_same_model_wherever_vectors_lie(policy: str) -> None:
    for one, other in zip(train(policy, None), train(policy, lambda: home_on("cpu")), strict=True):
        equal_models(one, other)
        assert not torch.equal(one.state_dict()["turned"], Net().state_dict()["turned"])


def clamp(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.clamp_(-0.1, 0.1)


@pytest.mark.parametrize("policy", ["bsp", "rowcast:4"])
def test_a_projection_holds_on_a_device(policy: str) -> None:
    for one, other in zip(
        *(train(policy, home, project=clamp) for home in (None, lambda: home_on("cpu"))), strict=True
    ):
        equal_models(one, other)
        assert max(float(parameter.detach().abs().max()) for parameter in other.parameters()) <= 0.1001


@pytest.mark.parametrize("policy", ["bsp", "rowcast:4"])
@pytest.mark.parametrize("options", [{}, {"project": clamp}], ids=["free", "projected"])
def test_an_optimizer_goes_on_in_host_memory_when_the_device_is_full(
    policy: str, options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, scarce = train(policy, None, **options), Scarce(monkeypatch, 0)
    train(policy, lambda: home_on("cpu"), **options)
    # The first ones are at joining, where vectors and view go to the device one by one.
    for number in sorted({*range(1, 11), *np.linspace(1, scarce.count, 6).astype(int).tolist()}):
        found = Scarce(monkeypatch, number)
        for one, other in zip(expected, train(policy, lambda: home_on("cpu"), **options), strict=True):
            equal_models(one, other)
        assert found.count >= number


@pytest.mark.parametrize("home", [None, lambda: home_on("cpu")], ids=["host", "device"])
def test_what_is_written_by_hand_is_noticed_and_does_not_travel(home: Callable[[], DeviceHome] | None) -> None:
    def loop(index: int, team: VirtualWorker) -> None:
        team.home = None if home is None else home()
        model = nn.Linear(40, 30)
        with torch.no_grad():
            model.weight.fill_(0.5)
            model.bias.fill_(0.25)
        with Optimizer(torch.optim.SGD(model.parameters(), lr=0.5), model, team) as optimizer:
            for step in range(3):
                if step == 1:
                    with torch.no_grad():
                        model.weight[3, 4] = 7.0
                optimizer.zero_grad()
                model(torch.ones(2, 40)).sum().backward()
                with pytest.warns(UserWarning, match="'weight'") if step == 1 else contextlib.nullcontext():
                    optimizer.step()
        assert (model.weight == model.weight[0, 0]).all() and model.weight[0, 0] == 0.5 - 3 * 0.5 * 2

    run_team("bsp?codec=raw", 1, loop)


@pytest.mark.parametrize("where", ["gradient", "proposal"])
def test_a_step_that_is_not_finite_is_refused_on_a_device(where: str) -> None:
    def loop(index: int, team: VirtualWorker) -> None:
        team.home = home_on("cpu")
        model = nn.Linear(40, 30)
        inner = torch.optim.SGD(model.parameters(), lr=1.0 if where == "gradient" else 1e38)
        with Optimizer(inner, model, team) as optimizer:
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, 1e3)
            if where == "gradient":
                model.bias.grad[3] = float("nan")
            before = team.replica
            with pytest.raises(NonFiniteGradient, match="bias" if where == "gradient" else "weight"):
                optimizer.step()
            np.testing.assert_array_equal(team.replica, before)
            assert torch.isfinite(model.weight).all() and optimizer.skipped_steps == 1

    run_team("bsp?codec=raw", 1, loop)


def test_a_closure_computes_from_what_has_arrived() -> None:
    ends: list[nn.Module] = []

    def loop(index: int, team: VirtualWorker, home: DeviceHome | None) -> None:
        team.home = home
        torch.manual_seed(0)
        model = nn.Linear(40, 1)
        with Optimizer(torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=3), model, team) as optimizer:

            def loss() -> torch.Tensor:
                model.zero_grad()
                value = (model(features_of(index, torch.device("cpu"))) - 1).square().mean()
                value.backward()
                return value

            losses = [float(optimizer.step(loss).detach()) for _ in range(3)]
        assert losses[-1] < losses[0]
        ends.append(model)

    for home in (None, home_on("cpu")):
        run_team("bsp?codec=raw", 2, lambda index, team, home=home: loop(index, team, home if index else None))
    equal_models(ends[0], ends[2])
    equal_models(ends[1], ends[3])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("policy", ["bsp", "rowcast:2"])
def test_a_team_over_sockets_trains_with_its_vectors_on_a_device(policy: str, device: str) -> None:
    """Frames arrive in a thread of their own; the replica at the end is the server's but for the order of sums."""
    model = Net().to(device)
    with LiveServer(policy) as server:
        team = Team(server.endpoint, name="robot-0")
        team.home = home_on(device)
        with Optimizer(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), model, team) as optimizer:
            for step in range(8):
                optimizer.zero_grad()
                model(features_of(step, torch.device(device))).square().mean().backward()
                optimizer.step()
                assert team.placed is not None
        np.testing.assert_allclose(team.replica, server.node.parameters, rtol=1e-5, atol=1e-6)
    assert not torch.equal(model.state_dict()["turned"].cpu(), Net().state_dict()["turned"])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("policy", ["bsp", "rowcast:4"])
def test_a_step_waits_once_for_the_stream_of_the_training_loop(
    policy: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not once more for each tensor or buffer; for what the home has computed, its own stream is waited for."""
    waits: list[str] = []
    at_home = threading.local()

    def watched(name: str, function: Callable) -> Callable:
        def called(*arguments, **options):
            if threading.current_thread() is threading.main_thread() and not getattr(at_home, "inside", False):
                waits.append(name)
            return function(*arguments, **options)

        return called

    @contextlib.contextmanager
    def working(home: DeviceHome) -> Iterator[None]:
        with WORKING[0](home):
            at_home.inside = True
            try:
                yield
            finally:
                at_home.inside = False

    monkeypatch.setattr(DeviceHome, "working", working)
    model, on = Net().to(device), torch.device(device)
    with LiveServer(policy) as server:
        team = Team(server.endpoint, name="robot-0")
        team.home = home_on(device)
        with Optimizer(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), model, team) as optimizer:
            for step in range(5):
                optimizer.zero_grad()
                model(features_of(step, on)).square().mean().backward()
                with monkeypatch.context() as patch:
                    for name in ("tolist", "item", "cpu", "__bool__", "__float__"):
                        patch.setattr(torch.Tensor, name, watched(name, getattr(torch.Tensor, name)))
                    for name in ("to_host", "fetched"):
                        patch.setattr(tensors_module, name, watched(name, getattr(tensors_module, name)))
                    with waits_of_cuda(on) as more:
                        optimizer.step()
                assert (waits, [str(one.message) for one in more][1:]) == (["tolist"], [])
                waits.clear()


@contextlib.contextmanager
def waits_of_cuda(device: torch.device) -> Iterator[list[warnings.WarningMessage]]:
    """A warning for each operation that makes the host wait for a GPU."""
    if device.type != "cuda":
        yield []
        return
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_a_device_without_memory_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Scarce(monkeypatch, 150)
    model = Net()
    with LiveServer("bsp") as server:
        team = Team(server.endpoint, name="robot-0")
        team.home = home_on("cpu")
        with Optimizer(torch.optim.SGD(model.parameters(), lr=0.05), model, team) as optimizer:
            for step in range(4):
                optimizer.zero_grad()
                model(features_of(step, torch.device("cpu"))).square().mean().backward()
                optimizer.step()
            assert team.placed is None
    told = [record for record in caplog.records if "in host memory, not on cpu: out of memory" in record.message]
    assert [record.levelname for record in told] == ["WARNING"]


# -- which home ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vectors", ["host", "device"])
def test_vectors_lie_on_a_device_only_where_a_worker_asks_for_it(vectors: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def home(tensors: list[torch.Tensor]) -> DeviceHome:
        asked.append(len(tensors))
        return home_on("cpu")

    def step(team: Team | VirtualWorker) -> None:
        model = nn.Linear(40, 30)
        with Optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, team) as optimizer:
            model(torch.ones(2, 40)).sum().backward()
            optimizer.step()
            assert (team.home is not None, team.placed is not None) == (vectors == "device",) * 2

    monkeypatch.setattr(shared_model, "home_for", home)
    settings = WorkerSettings(vectors=vectors)
    with LiveServer("bsp") as server:
        step(Team(server.endpoint, name="robot-0", settings=settings))
    run_team("bsp", 1, lambda index, team: step(team), settings=settings)
    assert asked == ([2, 2] if vectors == "device" else [])


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"vectors: unknown vectors 'devices'; .*device"):
        WorkerSettings(vectors="devices")
    with pytest.raises(ConfigError, match=r"memory_mb: expected none with vectors = 'device', got 45: it bounds host"):
        WorkerSettings(vectors="device", memory_mb=45)


def test_parameters_that_are_not_all_on_one_gpu_are_refused() -> None:
    for devices, found in ((("cpu", "cpu"), "cpu"), (("meta", "cpu"), "cpu, meta"), (("meta",), "meta")):
        with pytest.raises(ConfigError, match=rf"expected all parameters .* on one CUDA device, got {found}; move the"):
            home_for([torch.zeros(2, device=device) for device in devices])


def test_who_asks_for_a_device_with_a_model_on_the_processor_is_told() -> None:
    model = nn.Linear(40, 30)
    with LiveServer("bsp") as server:
        team = Team(server.endpoint, name="robot-0", settings=WorkerSettings(vectors="device"))
        with pytest.raises(ConfigError, match="got cpu; move the model before the optimizer is made, or set vectors"):
            Optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, team)


@pytest.mark.cuda
@WITHOUT_GPU
def test_a_model_on_a_gpu_and_another_device_is_refused() -> None:
    gpu = torch.zeros(3, device="cuda")
    assert home_for([gpu]).name == "cuda:0"
    with pytest.raises(ConfigError, match="got cpu, cuda:0"):
        home_for([gpu, torch.zeros(2)])
