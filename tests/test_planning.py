"""Planners: layer splits against an exhaustive search, and against the shared bounds; costs, objectives, batches."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from rowcast.energy import PowerStates
from rowcast.errors import ConfigError, LocalProtocolError
from rowcast.graphs import Graph, Op, Profile
from rowcast.planning import (
    ENERGY,
    LATENCY,
    PLANNERS,
    CostModel,
    LinkCosts,
    Objective,
    Plan,
    chain,
    data,
    heavy_load,
    local,
    offload,
    overlap_bound_s,
    pipeline,
    streamed,
    tensor,
)


def reader() -> ModuleType:
    """``benchmarks/lopinfer.py``, which reads the shared measurements."""
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "lopinfer.py"
    spec = importlib.util.spec_from_file_location("lopinfer", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


LOPINFER = reader()
OBJECTIVES = (LATENCY, ENERGY, Objective(1.0, 0.3))
#: Times and rates of the random graphs, so that robot, link and server are all of the same order.
MBPS = 80.0


def random_costs(seed: int) -> CostModel:
    """A random graph of 4 to 9 operators: forks, in-place changes, several inputs and answers, joined operators."""
    random = np.random.default_rng(seed)
    count = int(random.integers(4, 10))
    inputs = int(random.integers(1, 3))
    ops: list[Op] = []
    for index in range(count):
        if index < inputs:
            ops.append(Op((), int(random.integers(0, 200_000))))
            continue
        near = [index - 1] if random.random() < 0.7 else []
        others = random.integers(0, index, random.integers(0 if near else 1, 3)).tolist()
        sources = tuple(dict.fromkeys([*near, *others]))
        if random.random() < 0.2:
            ops.append(Op(sources, ops[sources[0]].bytes, in_place=sources[0]))
        else:
            joined = bool(random.random() < 0.2 and ops[sources[0]].inputs)
            ops.append(Op(sources, int(random.integers(0, 200_000)), joined=joined))
    outputs = sorted({count - 1, int(random.integers(0, count))})
    robot, server = random.uniform(0, 0.02, count), random.uniform(0, 0.02, count)
    link = LinkCosts(MBPS * 1e6, float(random.uniform(20, 160)) * 1e6, message_s=float(random.uniform(0, 0.004)))
    return CostModel(Graph(ops, outputs), Profile(robot, server), link)


def priced_by_hand(costs: CostModel, on_server: tuple[int, ...]) -> tuple[float, float]:
    """Seconds and joules of a serial plan, from the words of the rule alone."""
    graph, link, power = costs.graph, costs.link, costs.power
    seconds = joules = 0.0
    for index, op in enumerate(graph.ops):
        here = index not in on_server
        took = float((costs.profile.robot_s if here else costs.profile.server_s)[index])
        seconds, joules = seconds + took, joules + took * (power.compute_w if here else power.stall_w)
        wanted = [reader in on_server for reader in graph.consumers[index]]
        wanted += [False] if index in graph.outputs else []
        if any(there == here for there in wanted):
            rate = link.up_bps if here else link.down_bps
            took = link.message_s + op.bytes * 8 / (rate * link.goodput)
            seconds, joules = seconds + took, joules + took * power.communicate_w
    return seconds, joules


def all_splits(graph: Graph) -> Iterator[tuple[int, ...]]:
    """Every choice of operators for the server that is allowed."""
    movable = [index for index, op in enumerate(graph.ops) if op.inputs]
    for size in range(len(movable) + 1):
        for chosen in itertools.combinations(movable, size):
            if all((i in chosen) == (op.inputs[0] in chosen) for i, op in enumerate(graph.ops) if op.joined):
                yield chosen


@pytest.mark.parametrize("block", range(4))
def test_the_minimum_cut_is_the_best_of_all_splits(block: int) -> None:
    """On 160 random graphs, each for latency, energy and both; the prediction is that of the rule."""
    inner = worse_chains = 0
    for seed in range(40 * block, 40 * block + 40):
        costs = random_costs(seed)
        splits = {chosen: priced_by_hand(costs, chosen) for chosen in all_splits(costs.graph)}
        for objective in OBJECTIVES:
            best = min(objective.latency * s + objective.energy * j for s, j in splits.values())
            plan = pipeline(costs, objective)
            assert objective.of(plan) == pytest.approx(best, abs=1e-7), (seed, objective)
            seconds, joules = splits[tuple(sorted(plan.on_server))]
            assert (plan.latency_s, plan.energy_j) == pytest.approx((seconds, joules))
            inner += plan.where == "both"
            worse_chains += objective.of(chain(costs, objective)) > best + 1e-7
    assert inner > 20 and worse_chains > 5, "the graphs are too easy"


def test_every_operator_of_a_chain_is_tried_as_the_place_to_cut() -> None:
    """On every random graph the scan is the best of the cuts of the order, for each objective, and under heavy load."""
    for seed in range(60):
        costs = random_costs(seed)
        graph = costs.graph
        allowed = set(all_splits(graph))
        cuts = [tuple(i for i in range(cut, len(graph)) if graph.ops[i].inputs) for cut in range(len(graph) + 1)]
        plans = [costs.plan("cut", costs.mask(cut)) for cut in cuts if cut in allowed]
        for objective in OBJECTIVES:
            assert objective.of(chain(costs, objective)) == pytest.approx(min(map(objective.of, plans)))
        assert heavy_load(costs).interval_s == pytest.approx(min(plan.interval_s for plan in plans))


def small(robot_ms: list[float], server_ms: list[float], sizes: list[int], **link: float) -> CostModel:
    """A chain; 8 Mbit/s, so that 1000 bytes take 1 ms."""
    ops = [Op((index - 1,) if index else (), size) for index, size in enumerate(sizes)]
    profile = Profile(np.array(robot_ms) / 1e3, np.array(server_ms) / 1e3)
    costs = {"up_bps": 8e6, "down_bps": 8e6, "message_s": 0.0, "goodput": 1.0, "frame_s": 0.0, **link}
    return CostModel(Graph(ops, [len(ops) - 1]), profile, LinkCosts(**costs), PowerStates(10.0, 3.0, 2.0))


def test_a_plan_predicts_time_energy_and_bytes() -> None:
    costs = small([0, 5, 40], [0, 1, 2], [9000, 3000, 1000], down_bps=4e6, message_s=0.001)
    plan = pipeline(costs)
    assert (plan.method, sorted(plan.on_server), plan.up, plan.down) == ("pipeline", [2], (1,), (2,))
    assert (plan.up_bytes, plan.down_bytes, plan.where, plan.exact) == (3000, 1000, "both", True)
    assert (plan.up_s, plan.down_s) == pytest.approx((0.004, 0.003))
    assert plan.latency_s == pytest.approx(0.005 + 0.004 + 0.002 + 0.003)
    assert plan.energy_j == pytest.approx(0.005 * 10 + 0.007 * 3 + 0.002 * 2)
    assert plan.interval_s == pytest.approx(0.007)


def test_local_and_offload_are_the_two_ends() -> None:
    costs = small([0, 5, 40], [0, 1, 2], [9000, 3000, 1000])
    here, there = local(costs), offload(costs)
    assert (here.where, here.up, here.down, here.latency_s) == ("robot", (), (), pytest.approx(0.045))
    assert here.energy_j == pytest.approx(0.45)
    assert (there.where, there.up, there.down) == ("server", (0,), (2,))
    assert there.latency_s == pytest.approx(0.009 + 0.003 + 0.001)


def test_equal_costs_stay_on_the_robot() -> None:
    costs = small([0, 5, 5], [0, 5, 5], [0, 0, 0])
    assert pipeline(costs).where == chain(costs).where == "robot"


def test_latency_and_energy_can_want_different_plans() -> None:
    """Offloading is slower than computing here, and cheaper: the weights decide."""
    costs = small([0, 20], [0, 1], [25_000, 100])
    assert pipeline(costs, LATENCY).where == "robot"
    assert pipeline(costs, ENERGY).where == "server"
    assert pipeline(costs, Objective(1.0, 0.001)).where == "robot"
    assert pipeline(costs, Objective(1.0, 1.0)).where == "server"


def test_heavy_load_relieves_the_busiest() -> None:
    """Serial latency is best offloaded; most answers a second come from both at work."""
    costs = small([0, 10, 30], [0, 8, 9], [5000, 5000, 100])
    assert sorted(pipeline(costs).on_server) == [1, 2]
    plan = heavy_load(costs)
    assert sorted(plan.on_server) == [2]
    assert plan.interval_s == pytest.approx(0.010)


def test_one_input_is_not_shared_by_data_parallelism_and_many_are() -> None:
    costs = small([0, 30], [0, 5], [9000, 1000])
    assert data(costs).latency_s == pytest.approx(min(local(costs).latency_s, offload(costs).latency_s))
    plan = data(costs, inputs=6)
    # One of six on the robot (30 ms); the server's five overlap: 15 ms, and 9 ms of the link for each further one.
    candidates = [max((6 - n) * 0.030, 0.015 + (n - 1) * 0.009 if n else 0) for n in range(7)]
    assert plan.latency_s == pytest.approx(min(candidates))
    remote = candidates.index(min(candidates))
    assert (plan.inputs, plan.up_bytes, plan.down_bytes) == (6, remote * 9000, remote * 1000)
    assert plan.energy_j == pytest.approx(2 * plan.latency_s + 8 * (6 - remote) * 0.030 + 1 * remote * 0.010)
    with pytest.raises(ConfigError, match="expected a batch of 1 input or more, got 0"):
        data(costs, inputs=0)


def test_tensor_parallelism_pays_for_every_operator() -> None:
    costs = small([0, 30, 0, 10], [0, 10, 0, 10], [9000, 4000, 0, 1000], message_s=0.001)
    plan = tensor(costs)
    computed = 0.030 * 0.010 / 0.040 + 0.010 * 0.010 / 0.020
    assert plan.latency_s == pytest.approx(0.010 + computed + 0.005 + 2 * 2 * 0.001)
    assert (plan.up_bytes, plan.down_bytes) == (14_000, 5_000)
    floors = dataclasses.replace(costs.profile, robot_floor_s=0.006, server_floor_s=0.009)
    slower = tensor(dataclasses.replace(costs, profile=floors))
    assert slower.latency_s - plan.latency_s == pytest.approx(0.009 + 0.009 - computed)


def test_every_planner_names_a_plan_that_is_exact() -> None:
    costs = random_costs(7)
    for name, planner in PLANNERS.items():
        plan = planner(costs, LATENCY)
        assert (plan.method, plan.exact) == (name, True)
    assert streamed(costs).latency_s <= pipeline(costs).latency_s


def test_an_objective_is_read_from_words() -> None:
    assert Objective.named("latency") == LATENCY and Objective.named("energy") == ENERGY
    assert Objective.named("latency+0.05*energy") == Objective(1.0, 0.05)
    for wrong in ("", "speed", "latency+energy", "latency+0.05*power", "0.05*energy", "latency+x*energy"):
        with pytest.raises(ConfigError, match="expected 'latency', 'energy' or"):
            Objective.named(wrong)
    for weights in ((0.0, 0.0), (-1.0, 1.0), (float("nan"), 1.0), (1.0, float("inf"))):
        with pytest.raises(ConfigError, match="expected weights of 0 or more"):
            Objective(*weights)


def test_what_cannot_be_is_refused() -> None:
    costs = small([0, 30], [0, 5], [9000, 1000])
    with pytest.raises(ConfigError, match="the graph has 2"):
        CostModel(costs.graph, Profile(np.zeros(3), np.zeros(3)), costs.link)
    with pytest.raises(ConfigError, match=r"up_bps: .*expected"):
        LinkCosts(0.0, 8e6)
    with pytest.raises(LocalProtocolError, match="operator 0 is an input, which is on the robot"):
        costs.mask([0])
    with pytest.raises(LocalProtocolError, match=r"expected operators in 0 \.\. 1, got 2"):
        costs.mask([2])
    joined = Graph([Op((), 1), Op((0,), 1), Op((1,), 1, joined=True)], [2])
    with pytest.raises(LocalProtocolError, match="operator 2 is computed where 1 is; move both"):
        CostModel(joined, Profile(np.zeros(3), np.zeros(3)), costs.link).mask([2])


def test_a_link_keeps_the_proportion_of_its_directions() -> None:
    link = LinkCosts(10e6, 40e6).at_rate(5e6)
    assert (link.up_bps, link.down_bps) == (5e6, 20e6)
    assert LinkCosts.symmetric(8e6, round_trip_s=0.01) == LinkCosts(8e6, 8e6, 0.005)


# -- the shared measurements ---------------------------------------------------------------------------------


def bounds(model: str) -> list[dict[str, str]]:
    """The shared lower bounds of a model, one row for each rate."""
    path = LOPINFER.ARTIFACT / "bounds_by_bandwidth.csv"
    if not path.exists():
        pytest.skip("the measurements of the LOPInfer artifact are not on this machine")
    with path.open(encoding="utf-8", newline="") as stream:
        return [row for row in csv.DictReader(stream) if row["model"] == model]


def at_rate(model: str, row: dict[str, str], planner: Callable[[CostModel], Plan]) -> float:
    """Milliseconds of a planner's plan at the rate of a row, without any overhead."""
    rate = float(row["bw_MBps"]) * 8e6
    graph, profile = LOPINFER.read_model(LOPINFER.ARTIFACT / "profiles" / f"{model}.csv")
    return 1e3 * planner(CostModel(graph, profile, LinkCosts(rate, rate, 0.0, 1.0, 0.0))).latency_s


@pytest.mark.parametrize("model", LOPINFER.MODELS)
def test_plans_at_every_rate_are_the_shared_bounds(model: str) -> None:
    """All three serial bounds, to the digit that they are rounded to.

    kapao's detector has branches: a cut of the graph that leaves a branch of it on the server saves up to 1.1 ms over
    the best single place.
    """
    rows = bounds(model)
    assert len(rows) == 29
    for row in rows:
        best = float(row["best_layer_cut_ms"])
        assert at_rate(model, row, local) == pytest.approx(float(row["local_ms"]), abs=0.051)
        assert at_rate(model, row, offload) == pytest.approx(float(row["all_offload_ms"]), abs=0.051)
        assert at_rate(model, row, chain) == pytest.approx(best, abs=0.051)
        cut = at_rate(model, row, pipeline)
        assert best - (1.1 if model == "kapao" else 0.051) <= cut <= best + 0.051


@pytest.mark.parametrize("model", LOPINFER.MODELS)
def test_the_bound_of_overlapping_work_is_the_shared_one(model: str) -> None:
    for row in bounds(model)[::4]:
        rate = float(row["bw_MBps"]) * 8e6
        graph, profile = LOPINFER.read_model(LOPINFER.ARTIFACT / "profiles" / f"{model}.csv")
        bound_s = overlap_bound_s(CostModel(graph, profile, LinkCosts(rate, rate, 0.0, 1.0, 0.0)))
        assert 1e3 * bound_s == pytest.approx(float(row["fractional_overlap_bound_ms"]), abs=0.11)


@pytest.mark.parametrize(("model", "expected"), [("VGG19_BN", 65.3), ("DenseNet121", 46.7), ("kapao", 204.9)])
def test_the_best_cut_at_10_megabytes_a_second(model: str, expected: float) -> None:
    (row,) = (row for row in bounds(model) if row["bw_MBps"] == "10")
    assert float(row["best_layer_cut_ms"]) == expected
    assert at_rate(model, row, pipeline) == pytest.approx(expected, abs=0.051)
