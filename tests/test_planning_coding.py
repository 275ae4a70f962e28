"""Plans whose tensors travel coded: what they cost, that the best is found, and no codec is used where it loses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rowcast.codecs.tensors import TensorType
from rowcast.energy import PowerStates
from rowcast.errors import ConfigError
from rowcast.graphs import Graph, Identity, Op, Profile
from rowcast.planning import (
    ENERGY,
    LATENCY,
    PLANNERS,
    CostModel,
    LinkCosts,
    TensorCosts,
    carried,
    chain,
    data,
    heavy_load,
    offload,
    pipeline,
    plan_table,
    streamed,
    tensor,
)
from test_planning import OBJECTIVES, all_splits, random_costs, small


def coded(seed: int) -> CostModel:
    """A random graph whose tensors have rows, with two codecs for some of them each."""
    plain, random = random_costs(seed), np.random.default_rng(1000 + seed)
    rows = random.integers(1, 12, len(plain.graph))
    ops = [
        op if op.in_place is not None else dataclasses.replace(op, rule=Identity(int(n)))
        for op, n in zip(plain.graph.ops, rows, strict=True)
    ]
    codecs = tuple(
        TensorCosts(
            name,
            ratio,
            float(random.uniform(0, 4e-8)),
            float(random.uniform(0, 4e-8)),
            float(random.uniform(1, 4)),
            frozenset(np.flatnonzero(random.random(len(ops)) < 0.7).tolist()),
        )
        for name, ratio in (("deflate", 0.6), ("int8", 0.25))
    )
    return dataclasses.replace(plain, graph=Graph(ops, plain.graph.outputs), tensors=codecs)


def ways(costs: CostModel, index: int, up: bool) -> dict[str, tuple[float, float]]:
    """Seconds and joules of each way in which a tensor can travel, from the words of the rule alone."""
    link, power, op = costs.link, costs.power, costs.graph.ops[index]
    byte_s = 8 / ((link.up_bps if up else link.down_bps) * link.goodput)
    seconds = link.message_s + op.bytes * byte_s
    found = {"raw": (seconds, seconds * power.communicate_w)}
    for codec in costs.tensors:
        if codec.ops is not None and index not in codec.ops:
            continue
        pieces = min(8, max(1, op.rows))
        encode, decode = op.bytes * codec.encode_s_per_byte, op.bytes * codec.decode_s_per_byte
        robot, server = (encode, decode / codec.server_speed) if up else (decode, encode / codec.server_speed)
        travel = op.bytes * codec.ratio * byte_s + (pieces - 1) * link.frame_s
        stages = sorted((robot, travel, server))
        # The first piece goes through all stages, the others follow at the pace of the slowest.
        seconds = link.message_s + sum(stages) / pieces + (pieces - 1) * stages[-1] / pieces
        above = robot * (power.compute_w - power.stall_w)
        above += (link.message_s + travel) * (power.communicate_w - power.stall_w)
        found[codec.codec] = seconds, seconds * power.stall_w + above
    return found


@pytest.mark.parametrize("block", range(2))
def test_the_minimum_cut_is_the_best_of_all_splits_and_codecs(block: int) -> None:
    used: set[str] = set()
    for seed in range(30 * block, 30 * block + 30):
        costs = coded(seed)
        graph, power = costs.graph, costs.power
        for objective in OBJECTIVES:

            def worth(seconds: float, joules: float, of=objective) -> float:
                return of.latency * seconds + of.energy * joules

            best = float("inf")
            for chosen in all_splits(graph):
                value = 0.0
                for index in range(len(graph)):
                    there = index in chosen
                    took = float((costs.profile.server_s if there else costs.profile.robot_s)[index])
                    value += worth(took, took * (power.stall_w if there else power.compute_w))
                    wanted = [(reader in chosen) != there for reader in graph.consumers[index]]
                    if any(wanted) or (there and index in graph.outputs):
                        value += min(worth(*way) for way in ways(costs, index, not there).values())
                best = min(best, value)
            plan = pipeline(costs, objective)
            assert objective.of(plan) == pytest.approx(best, abs=1e-7), (seed, objective)
            used |= {*plan.up_codecs, *plan.down_codecs}
            for index, name in zip(plan.up, plan.up_codecs, strict=bool(plan.up_codecs)):
                values = {way: worth(*cost) for way, cost in ways(costs, index, True).items()}
                assert values[name] == min(values.values())
            assert plan.exact == ("int8" not in (*plan.up_codecs, *plan.down_codecs))
            assert objective.of(plan) <= objective.of(chain(costs, objective)) + 1e-7
    assert used == {"raw", "deflate", "int8"}, "the graphs are too easy"


def image(rate_bps: float, encode_s_per_byte: float = 1e-8, **more: float) -> CostModel:
    """100 kB of an image in 100 rows, 80 ms on the robot, 5 ms on the server; a lossless code takes off 40 %."""
    ops = [Op((), 100_000, Identity(100)), Op((0,), 100)]
    profile = Profile(np.array([0, 0.08]), np.array([0, 0.005]))
    deflate = TensorCosts("deflate", 0.6, encode_s_per_byte, 5e-9, ops=frozenset({0}), **more)
    link = LinkCosts(rate_bps, rate_bps, 0.0, 1.0, 0.0)
    return CostModel(Graph(ops, [1]), profile, link, PowerStates(10.0, 3.0, 2.0), (deflate,))


def test_a_coded_image_is_coded_while_it_travels() -> None:
    plan = pipeline(image(16e6, server_speed=5.0))
    # 30 ms of link, 1 ms of coding and 0.1 ms of decoding, all but an eighth of which is hidden by the link.
    assert plan.latency_s == pytest.approx(0.030 + (0.001 + 0.0001) / 8 + 0.005 + 0.00005)
    assert (plan.up_codecs, plan.down_codecs, plan.up_bytes, plan.exact) == (("deflate",), (), 60_000, True)
    assert (plan.where, plan.coding_s, plan.robot_s) == ("server", pytest.approx(0.001), pytest.approx(0.001))
    assert plan.server_s == pytest.approx(0.0051)
    assert plan.energy_j == pytest.approx(2 * plan.latency_s + 8 * 0.001 + 1 * (0.030 + 0.00005))


def test_no_codec_where_the_link_is_faster_than_the_coding() -> None:
    """100 kB take 1.6 ms at 500 Mbit/s, and 1 ms to encode: 60 % of the bytes are no gain from there on."""
    assert pipeline(image(100e6)).up_codecs == ("deflate",)
    for method, planner in PLANNERS.items():
        plan = planner(image(2000e6), LATENCY)
        assert plan.up_codecs == (), method
        assert plan == planner(dataclasses.replace(image(2000e6), tensors=()), LATENCY), method


def test_a_codec_can_be_worth_its_seconds_and_not_its_joules() -> None:
    """Coding draws 10 W, the radio 3 W: the same code saves time and costs energy."""
    costs = image(40e6, encode_s_per_byte=1e-7)
    assert offload(costs, LATENCY).up_codecs == ("deflate",)
    assert offload(costs, ENERGY).up_codecs == ()


@pytest.mark.parametrize("method", sorted(PLANNERS))
def test_every_planner_prices_coded_tensors(method: str) -> None:
    """A code without any cost makes a slow link faster for everybody but who sends nothing."""
    costs = small([0, 50, 50], [0, 5, 5], [90_000, 60_000, 50_000])
    free = dataclasses.replace(costs, tensors=(TensorCosts("half", 0.5),))
    planner = PLANNERS[method]
    plain, plan = planner(costs, LATENCY), planner(free, LATENCY)
    if method == "local":
        assert plan == plain
        return
    assert not plan.exact
    if method == "heavy load":
        assert plan.interval_s < plain.interval_s
    else:
        assert plan.latency_s < plain.latency_s
    assert len(plan.up_codecs) == len(plan.up) and len(plan.down_codecs) == len(plan.down)
    assert {*plan.up_codecs, *plan.down_codecs} == {"half"}


def test_an_all_reduce_of_coded_halves_and_a_batch() -> None:
    costs = small([0, 30, 10], [0, 10, 10], [9000, 4000, 1000], message_s=0.001)
    half = TensorCosts("half", 0.5, 1e-8, 3e-8, 2.0, frozenset({1}))
    plan = tensor(dataclasses.replace(costs, tensors=(half,)))
    computed = 0.030 * 0.010 / 0.040 + 0.005
    assert plan.latency_s == pytest.approx(0.010 + computed + (0.002 + 0.002 + 4000 * 4e-8) + 0.003)
    assert (plan.up_codecs, plan.down_codecs) == (("raw", "half", "raw"), ("half", "raw"))
    assert (plan.up_bytes, plan.down_bytes, plan.exact) == (12_000, 3_000, False)
    assert (plan.robot_s, plan.coding_s) == (pytest.approx(computed + 1.6e-4), pytest.approx(1.6e-4))
    batch = data(image(16e6), inputs=10)
    assert batch.up_codecs == ("deflate",) and batch.up_bytes % 60_000 == 0
    assert heavy_load(image(16e6)).interval_s == pytest.approx(0.03005)


def test_the_kind_of_a_tensor_says_who_carries_it() -> None:
    kinds = [TensorType(np.dtype("uint8"), (1, 4, 4, 3)), None, TensorType(np.dtype("float32"), (1, 8, 2, 2))]
    assert carried("half", kinds) == {2} and carried("deflate", kinds) == carried("raw", kinds) == {0, 2}


def test_a_table_of_plans_changes_where_the_codec_does() -> None:
    table = plan_table(offload, image(16e6), 10e6, 2e9)
    assert [plan.up_codecs for plan in table.plans] == [("deflate",), ()]


def test_coding_beside_the_transfer_can_pay_where_it_does_not_before_it() -> None:
    """In a serial plan the code takes 65.1 ms where the plain image takes 64; with slabs of rows all of it overlaps."""
    ops = [Op((), 64_000, Identity(64)), Op((0,), 0, Identity(64))]
    graph, profile = Graph(ops, [1]), Profile(np.array([0, 1.0]), np.array([0, 0.05]))
    slow = TensorCosts("deflate", 0.5, 0.061 / 64_000, ops=frozenset({0}))
    costs = CostModel(graph, profile, LinkCosts(8e6, 8e6, 0.0, 1.0, 0.0), tensors=(slow,))
    assert (pipeline(costs).up_codecs, pipeline(costs).latency_s) == ((), pytest.approx(0.064 + 0.05))
    plan = streamed(costs, slabs=(16,))
    assert (plan.slabs, plan.up_codecs) == (16, ("deflate",))
    assert plan.latency_s == pytest.approx(0.061 + (0.032 + 0.05) / 16)
    assert streamed(dataclasses.replace(costs, tensors=()), slabs=(16,)).latency_s == pytest.approx(0.064 + 0.05 / 16)


def test_wrong_costs_of_tensors_are_refused() -> None:
    with pytest.raises(ConfigError, match="deflat"):
        TensorCosts("deflat", 0.5)
    with pytest.raises(ConfigError, match="ratio: expected a number above 0, got 0"):
        TensorCosts("half", 0)
    with pytest.raises(ConfigError, match="server_speed: expected a number above 0, got inf"):
        TensorCosts("half", 0.5, server_speed=float("inf"))
    with pytest.raises(ConfigError, match="encode_s_per_byte: expected 0 s or more, got nan"):
        TensorCosts("half", 0.5, float("nan"))
    with pytest.raises(ConfigError, match=r"codec half: ops: expected operators in 0 \.\. 1, got 7"):
        dataclasses.replace(image(8e6), tensors=(TensorCosts("half", 0.5, ops=frozenset({0, 7})),))
