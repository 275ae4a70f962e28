"""Streamed plans against a simulation in plain loops, and what they may never do; tables of plans; late start."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest

from rowcast.errors import ConfigError
from rowcast.graphs import Barrier, Graph, Identity, Op, Profile, Resize, RowRule, RunningSum, Window
from rowcast.planning import (
    ENERGY,
    LATENCY,
    CostModel,
    LateStart,
    LinkCosts,
    Objective,
    PlanTable,
    offload,
    pipeline,
    plan_table,
    streamed,
    streamed_plan,
)

LINK = LinkCosts(8e6, 16e6, message_s=0.0005, goodput=1.0, frame_s=0.0001)


def random_costs(seed: int, floors: bool = True) -> CostModel:
    """A random model of images: windows, resizes, skips, scales for each channel, a head behind a mean or a barrier."""
    random = np.random.default_rng(seed)
    rows = int(random.integers(6, 40))
    ops = [Op((), int(random.integers(1000, 20_000)), Identity(rows))]
    while len(ops) < random.integers(5, 14):
        last = len(ops) - 1
        rows = ops[last].rows
        rules: list[RowRule] = [Identity(rows), Window(rows, 3, padding=1), Resize(rows, rows + 3, "bilinear")]
        if rows > 6:
            rules.append(Window(rows, 3, 2, 1))
        kind = random.random()
        size = int(random.integers(500, 20_000))
        if kind < 0.15:  # a scale for each channel
            ops.append(Op((last,), 100, RunningSum(rows)))
            ops.append(Op((last, last + 1), size, Identity(rows)))
        elif kind < 0.35 and last:  # a skip to a tensor of the same height
            same = [index for index in range(last) if ops[index].rows == rows]
            ops.append(Op((last, *same[:1]), size, Identity(rows)))
        else:
            ops.append(Op((last,), size, rules[int(random.integers(len(rules)))]))
    rows, last = ops[-1].rows, len(ops) - 1
    if random.random() < 0.6:
        ops.append(Op((last,), 400, Barrier(rows) if random.random() < 0.5 else RunningSum(rows)))
    robot, server = random.uniform(0, 0.02, len(ops)), random.uniform(0, 0.01, len(ops))
    profile = Profile(robot, server, 1e-3, 5e-4, 0.0, 3e-4, 2e-4) if floors else Profile(robot, server)
    return CostModel(Graph(ops, [len(ops) - 1]), profile, LINK)


def simulated(costs: CostModel, on_server: set[int], slabs: int) -> float:
    """When the answer is on the robot (s), one operator, tensor and slab after the other."""
    graph, link = costs.graph, costs.link
    up, down = costs.crossings(costs.mask(on_server))
    have = [0] * len(graph)
    work = [0.0] * len(graph)
    first_frame: set[int] = set()
    clock = {"robot": 0.0, "up": 0.0, "server": 0.0, "down": 0.0}
    answered = 0.0
    for slab in range(1, slabs + 1):
        spent = {"robot": 0.0, "server": 0.0}
        busy = {"up": 0.0, "down": 0.0}
        for index, op in enumerate(graph.ops):
            if op.inputs:
                heights = {source: graph.ops[source].rows for source in graph.reads[index]}
                whole = all(have[s] == n for s, n in heights.items() if n != op.rule.rows)
                same = [have[s] for s, n in heights.items() if n == op.rule.rows]
                there = min(same, default=op.rule.rows) if whole else 0
                rows = max(n for n in range(op.rows + 1) if op.rule.need(0, n)[1] <= there)
            else:
                there = rows = int(np.ceil(op.rows * slab / slabs))
            done = there / op.rule.rows if isinstance(op.rule, RunningSum) else rows / op.rows
            side = "server" if index in on_server else "robot"
            seconds = float((costs.profile.robot_s if side == "robot" else costs.profile.server_s)[index])
            floor = costs.profile.robot_floor_s if side == "robot" else costs.profile.server_floor_s
            step = costs.profile.robot_step_s if side == "robot" else costs.profile.server_step_s
            if done > work[index]:
                spent[side] += max(seconds * (done - work[index]), min(seconds, floor))
                spent[side] += step if seconds and done - work[index] < 1 else 0.0
            if rows > have[index]:
                for way, crosses, rate in (("up", up, link.up_bps), ("down", down, link.down_bps)):
                    if crosses[index]:
                        busy[way] += op.bytes * (rows - have[index]) / op.rows * 8 / rate
                        busy[way] += link.frame_s if index in first_frame else 0.0
                        first_frame.add(index)
            have[index], work[index] = rows, done
        clock["robot"] += spent["robot"]
        if busy["up"]:
            clock["up"] = max(clock["up"], clock["robot"]) + busy["up"]
            clock["server"] = max(clock["server"], clock["up"] + link.message_s * int(up.sum()))
        clock["server"] += spent["server"]
        if busy["down"]:
            clock["down"] = max(clock["down"], clock["server"]) + busy["down"]
            answered = clock["down"] + link.message_s * int(down.sum())
    return max(clock["robot"], clock["server"], answered)


def cuts(graph: Graph) -> list[set[int]]:
    return [set(range(max(cut, 1), len(graph))) for cut in range(len(graph) + 1)]


@pytest.mark.parametrize("block", range(3))
def test_a_streamed_plan_takes_what_a_simulation_in_plain_loops_takes(block: int) -> None:
    """30 random models, all cuts, several numbers of slabs; the planner finds the best of them, or the serial plan."""
    chosen = 0
    for seed in range(10 * block, 10 * block + 10):
        costs = random_costs(seed)
        best = pipeline(costs).latency_s
        for slabs in (1, 2, 5):
            for on_server in cuts(costs.graph):
                plan = streamed_plan(costs, costs.mask(on_server), slabs)
                assert plan.latency_s == pytest.approx(simulated(costs, on_server, slabs)), (seed, slabs, on_server)
                best = min(best, plan.latency_s)
        plan = streamed(costs, slabs=(1, 2, 5))
        assert plan.latency_s == pytest.approx(best)
        chosen += plan.slabs > 1
    assert chosen >= 1


def test_one_slab_is_the_serial_plan() -> None:
    for seed in range(20):
        costs = random_costs(seed)
        for on_server in cuts(costs.graph):
            mask = costs.mask(on_server)
            serial, one = costs.plan("streamed", mask), streamed_plan(costs, mask, 1)
            assert dataclasses.astuple(one)[4:11] == pytest.approx(dataclasses.astuple(serial)[4:11])
            assert (one.up, one.down, one.up_bytes, one.slabs) == (serial.up, serial.down, serial.up_bytes, 1)


def test_streaming_is_never_chosen_where_it_would_lose() -> None:
    for seed in range(40):
        costs = random_costs(seed)
        for objective in (LATENCY, ENERGY, Objective(1.0, 0.2)):
            serial, plan = pipeline(costs, objective), streamed(costs, objective)
            assert objective.of(plan) <= objective.of(serial)
            if plan.slabs == 1:
                assert plan == dataclasses.replace(serial, method="streamed")
            else:
                assert objective.of(plan) < objective.of(serial)


def test_no_plan_beats_the_busiest_of_robot_link_and_server() -> None:
    for seed in range(20):
        plan = streamed(random_costs(seed, floors=False))
        assert plan.latency_s >= max(plan.robot_s, plan.up_s, plan.server_s, plan.down_s) - 1e-12


def convolutions(last: RowRule, floor_s: float = 0.0) -> CostModel:
    """An image of 64 rows that takes 64 ms up, four convolutions that take 64 ms on the server, one answer."""
    ops = [Op((), 64_000, Identity(64))]
    ops += [Op((index,), 640_000, Window(64, 3, padding=1)) for index in range(4)]
    ops.append(Op((4,), 0, last))
    server = np.array([0.0, 0.016, 0.016, 0.016, 0.016, 0.0])
    profile = Profile(server * 100, server, floor_s, floor_s)
    return CostModel(Graph(ops, [5]), profile, LinkCosts(8e6, 8e6, 0.0, 1.0, 0.0))


def test_computation_behind_the_transfer_is_hidden_by_it() -> None:
    """Transfer and computation 64 ms each: with 16 slabs the server ends soon after the last row."""
    costs = convolutions(RunningSum(64))
    plan = streamed(costs, slabs=(16,))
    assert (plan.slabs, plan.where) == (16, "server")
    # After 60 rows convolutions 1 to 4 have computed 59, 58, 57 and 56 rows; 5 to 8 of 64 are left for the end.
    assert plan.latency_s == pytest.approx(0.064 + 0.016 * (5 + 6 + 7 + 8) / 64)
    assert pipeline(costs).latency_s == pytest.approx(0.128)
    assert plan.latency_s / pipeline(costs).latency_s < 0.75


def test_kernel_floors_make_many_slabs_slow() -> None:
    """Each slab costs each operator its floor: where that is the whole time, streaming gains nothing."""
    floors = {floor: streamed(convolutions(RunningSum(64), floor), slabs=(2, 4, 16)) for floor in (0, 0.004, 0.016)}
    assert [plan.slabs for plan in floors.values()] == [16, 4, 1]
    assert floors[0.016] == dataclasses.replace(pipeline(convolutions(RunningSum(64))), method="streamed")


def test_a_barrier_waits_for_the_last_row() -> None:
    """A server that computes everything behind a barrier is idle until the image is there."""
    ops = [Op((), 64_000, Identity(64)), Op((0,), 100, Barrier(64))]
    costs = CostModel(Graph(ops, [1]), Profile(np.array([0, 1.0]), np.array([0, 0.05])), convolutions(Barrier(64)).link)
    assert streamed(costs).slabs == 1
    summing = Graph([ops[0], Op((0,), 100, RunningSum(64))], [1])
    better = streamed(dataclasses.replace(costs, graph=summing), slabs=(16,))
    assert better.latency_s == pytest.approx(0.064 + 0.05 / 16 + 0.0001)


def test_what_cannot_be_streamed_is_refused() -> None:
    costs = random_costs(0)
    with pytest.raises(ConfigError, match="expected 1 slab or more, got 0"):
        streamed_plan(costs, costs.mask(range(1, len(costs.graph))), 0)
    graph = Graph([Op((), 8, Identity(8)), Op((0,), 8, Identity(8)), Op((1,), 8, Identity(8))], [2])
    three = CostModel(graph, Profile(np.zeros(3), np.zeros(3)), LINK)
    with pytest.raises(ConfigError, match="use a serial plan"):
        streamed_plan(three, three.mask([1]), 2)


# -- tables of plans -----------------------------------------------------------------------------------------


def test_the_rate_at_which_offloading_begins_to_pay_is_found() -> None:
    """25 kB against 20 ms of computation here and none there: from 10 Mbit/s on it is faster to send."""
    graph = Graph([Op((), 25_000), Op((0,), 0)], [1])
    profile = Profile(np.array([0.0, 0.020]), np.zeros(2))
    costs = CostModel(graph, profile, LinkCosts(1e6, 1e6, 0.0, 1.0))
    table = plan_table(pipeline, costs, 1e6, 100e6)
    assert [plan.where for plan in table.plans] == ["robot", "server"]
    assert table.thresholds_bps == pytest.approx((10e6,), rel=1e-3)
    assert table.at(9e6).where == table.at(1.0).where == "robot"
    assert table.at(11e6).where == table.at(1e12).where == "server"
    assert len(plan_table(offload, costs, 1e6, 100e6).plans) == 1


def test_a_table_says_what_its_planner_says() -> None:
    for seed in range(8):
        costs = random_costs(seed)
        planner = partial(streamed, slabs=(2, 4))
        table = plan_table(planner, costs, 1e6, 200e6)
        assert list(table.from_bps) == sorted(table.from_bps)
        for rate in np.geomspace(1.1e6, 190e6, 23):
            priced = planner(costs.at_rate(rate))
            used = streamed_plan(costs.at_rate(rate), costs.mask(table.at(rate).on_server), table.at(rate).slabs)
            assert used.latency_s <= priced.latency_s * 1.02, (seed, rate)


def test_a_table_of_impossible_rates_is_refused() -> None:
    costs = random_costs(0)
    for low, high, steps in ((0, 1e6, 8), (2e6, 1e6, 8), (1e6, float("inf"), 8), (1e6, 2e6, 1)):
        with pytest.raises(ConfigError, match="expected 0 < low < high"):
            plan_table(pipeline, costs, low, high, steps)
    assert PlanTable((1e6,), (offload(costs),)).thresholds_bps == ()


# -- late start ----------------------------------------------------------------------------------------------


def test_the_robot_begins_so_that_its_own_answer_keeps_the_deadline() -> None:
    late = LateStart.of(Profile(np.array([0.05, 0.03]), np.zeros(2), local_p99_s=0.09), deadline_s=0.12)
    assert late.start_s == pytest.approx(0.03)
    remote = np.array([0.01, 0.03, 0.05, 0.12, 4.0, np.inf])
    assert late.latency_s(remote) == pytest.approx([0.01, 0.03, 0.05, 0.12, 0.12, 0.12])
    assert late.computing_s(remote) == pytest.approx([0.0, 0.0, 0.02, 0.09, 0.09, 0.09])


def test_without_a_deadline_the_robot_waits_as_long_as_it_would_have_taken() -> None:
    late = LateStart.without_deadline(Profile(np.array([0.05, 0.03]), np.zeros(2), local_p99_s=0.09))
    assert (late.start_s, late.deadline_s) == pytest.approx((0.09, 0.18))
    assert late.latency_s(np.array([0.08, 0.17, np.inf])) == pytest.approx([0.08, 0.17, 0.18])


def test_a_deadline_that_the_robot_cannot_keep_alone_is_refused() -> None:
    slow = Profile(np.array([0.1]), np.zeros(1), local_p99_s=0.13)
    with pytest.raises(ConfigError, match=r"expected at least 0\.13 s.*got 0\.12 s.*allow more time or"):
        LateStart.of(slow, 0.12)
    assert LateStart.of(slow, 0.13).start_s == 0.0
    with pytest.raises(ConfigError):
        LateStart.of(slow, float("nan"))
