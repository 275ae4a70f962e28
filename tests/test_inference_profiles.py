"""Nodes in virtual time with a profile as their engine take what planners predict."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from inferences import World, costs_of, model_of, plan_of
from rowcast.codecs.tensors import TensorType
from rowcast.drivers.virtual.profiled import ProfileEngine
from rowcast.graphs import Barrier, Graph, Identity, Op, Profile
from rowcast.inference import ModelSpec, Piece, Planning, Work
from rowcast.inference.model import whole
from rowcast.inference.work import PIECE_BYTES
from rowcast.links import Trace
from rowcast.planning import (
    Always,
    ByRate,
    CostModel,
    Decision,
    LinkCosts,
    TensorCosts,
    local,
    replay,
    replay_newest,
    streamed_plan,
)
from test_planning_replay import chooser, random_link
from test_planning_streamed import cuts, random_costs

UINT8 = np.dtype(np.uint8)
CODEC = TensorCosts("deflate", 0.5, encode_s_per_byte=4e-8, decode_s_per_byte=2e-8, server_speed=2.0)


def random_model(seed, coded):
    """A random model with tensors so large that headers do not count; inputs cost nothing."""
    plain = random_costs(seed)
    tensors = [TensorType(UINT8, (1, op.rows, max(1, 5 * op.bytes // op.rows)), 1) for op in plain.graph.ops]
    ops = [dataclasses.replace(op, bytes=kind.nbytes) for op, kind in zip(plain.graph.ops, tensors, strict=True)]
    graph = Graph(ops, plain.graph.outputs)
    robot_s = np.array(plain.profile.robot_s)
    robot_s[list(graph.inputs)] = 0.0
    profile = dataclasses.replace(plain.profile, robot_s=robot_s)
    link = dataclasses.replace(plain.link, goodput=0.944, frame_s=0.0)
    return ModelSpec(graph, tuple(tensors)), CostModel(graph, profile, link, tensors=(CODEC,) if coded else ())


def latency_of(model, costs, plan):
    world = World(model, costs, plan, engine=ProfileEngine)
    world.add()
    world.at(0.1, world.ask, "robot", {})
    world.run(30.0)
    outcome = world.check()[1]
    assert outcome.by == plan.where
    return outcome


def ratios(coded, slabs, seeds=range(14), *, steps=False):
    """Latency in virtual time over what was predicted, for all cuts of random models.

    Tensors that travel together wait for half of a round trip once; the planner counts it for each.
    """
    found = []
    for seed in seeds:
        model, costs = random_model(seed, coded)
        if not steps:
            profile = dataclasses.replace(costs.profile, robot_step_s=0.0, server_step_s=0.0)
            costs = dataclasses.replace(costs, profile=profile)
        for on_server in cuts(model.graph):
            plan = plan_of(costs, on_server, slabs)
            if not plan.on_server:
                continue
            together = (len(plan.up) + len(plan.down) - 2) * costs.link.message_s
            found.append(latency_of(model, costs, plan).latency_s / (plan.latency_s - together))
    return np.array(found)


@pytest.mark.parametrize("slabs", [1, 2, 5])
def test_plans_of_tensors_as_they_are_take_what_is_predicted(slabs):
    found = ratios(False, slabs)
    assert len(found) > 90
    assert found.min() > 0.99 and found.max() < 1.015


@pytest.mark.parametrize("slabs", [2, 5])
def test_streamed_plans_of_coded_tensors_take_what_is_predicted(slabs):
    """Pieces of a slab are sent as soon as they are coded, so some take a little less."""
    found = ratios(True, slabs)
    assert found.min() > 0.96 and found.max() < 1.015


@pytest.mark.parametrize("slabs", [2, 5])
def test_slabs_that_wait_are_computed_together_and_take_fewer_steps_than_predicted(slabs):
    found = ratios(False, slabs, steps=True)
    assert found.max() < 1.015 and np.median(found) > 0.99 and (slabs == 2 or found.min() < 0.99)


def test_serial_plans_of_coded_tensors_take_a_little_longer():
    """The planner has a tensor coded, carried and decoded at the same time, in pieces; a node decodes the whole."""
    found = ratios(True, 1)
    assert found.min() > 0.99 and found.max() < 1.08


def test_energy_and_seconds_are_those_of_the_plan():
    for seed in range(6):
        model, costs = random_model(seed, coded=False)
        for on_server in cuts(model.graph)[1:]:
            plan = plan_of(costs, on_server)
            outcome = latency_of(model, costs, plan)
            assert outcome.spent.robot_s == pytest.approx(plan.robot_s)
            assert outcome.spent.server_s == pytest.approx(plan.server_s)
            assert outcome.spent.up_bytes == pytest.approx(plan.up_bytes, rel=0.03)
            assert outcome.joules == pytest.approx(plan.energy_j, rel=0.03)


def test_a_replay_without_nodes_comes_to_the_same():
    """An inference each second over a link that changes: each takes what the planner's own replay says."""
    model, costs = random_model(3, coded=False)
    plan = streamed_plan(costs, costs.mask(cuts(model.graph)[2]), 4)
    trace = Trace([0.0, 0.7, 2.2, 4.0], [8e6, 2e6, 20e6, 5e6], "steps", loop=True, duration_s=5.0)
    inputs_s = [0.5 + number for number in range(8)]
    expected = replay(costs, trace, Always(Decision.of(plan)), inputs_s)
    world = World(model, costs, plan, engine=ProfileEngine)
    world.add(trace=trace, down=trace.scaled(2.0))
    for time in inputs_s:
        world.at(time, world.ask, "robot", {})
    world.run(20.0)
    latency_s = [outcome.latency_s for outcome in world.check().values()]
    together = (len(plan.up) + len(plan.down) - 2) * costs.link.message_s
    assert latency_s == pytest.approx((expected.latency_s - together).tolist(), rel=0.02)


class Logged(ByRate):
    """Remembers what it has decided."""

    def __init__(self, chooser):
        super().__init__(chooser.table, chooser.rate, chooser.late, chooser._goodput)
        self.decisions = []

    def decide(self, now):
        decision = super().decide(now)
        self.decisions.append((decision.plan.where, decision.probe))
        return decision


@pytest.mark.parametrize("newest", [False, True])
def test_what_the_link_tells_leads_to_the_decisions_of_a_replay(newest):
    """A rate that changes, outages, late start, probes: the node hears of its link what the replay has told to it."""
    model = model_of(100)
    costs = costs_of(model, robot_s=0.087)
    deadline_s, period_s = 0.2, 1 / 30 if newest else 0.25
    inputs_s = np.arange(0.5, 40.0, period_s).tolist()
    for seed in (1, 2):
        trace = random_link(seed, 60.0)
        choosers = [Logged(chooser(costs, 8e6, deadline_s)) for _ in range(2)]
        expected = (replay_newest if newest else replay)(costs, trace, choosers[0], inputs_s)
        world = World(model, costs, None, engine=ProfileEngine)
        planning = Planning(choosers[1], local(costs), costs.profile.sustained_s)
        world.add(trace=trace, down=trace, planning=planning, deadline_s=deadline_s)
        for time in inputs_s:
            world.at(time, world.ask, "robot", {})
        world.run(60.0)
        outcomes = world.check().values()
        answers = [outcome for outcome in outcomes if outcome.by]
        assert not any(outcome.missed for outcome in outcomes) and expected.late(deadline_s) == 0
        mean_s = np.mean([outcome.latency_s for outcome in answers])
        mean_j = np.mean([outcome.joules for outcome in answers])
        # A node begins so early that the input that waits would be in time, too; a replay does not know of one.
        assert 0.8 < mean_s / expected.mean_s < 1.02
        assert 0.9 < mean_j / expected.mean_j < (1.12 if newest else 1.02)
        by_server = np.mean([outcome.by != "robot" for outcome in answers])
        assert by_server == pytest.approx(expected.by_server.mean(), abs=0.02)
        assert sum(probe for _, probe in choosers[1].decisions) == pytest.approx(expected.probes, abs=3)
        if not newest:
            assert choosers[1].decisions == choosers[0].decisions


def test_an_operator_of_one_row_may_have_a_tensor_of_many():
    """It is made whole, and travels in pieces."""
    rows = 4 * PIECE_BYTES // 1000
    graph = Graph([Op((), 8000, Identity(8)), Op((0,), rows * 1000, Barrier(8)), Op((1,), 10, Barrier(1))], [2])
    tensors = (TensorType(UINT8, (8, 1000)), TensorType(UINT8, (rows, 1000)), TensorType(UINT8, (1, 10)))
    model = ModelSpec(graph, tensors)
    costs = CostModel(graph, Profile([0.0, 0.01, 0.01], [0.0, 0.001, 0.001]), LinkCosts.symmetric(8e6))
    outcome = latency_of(model, costs, plan_of(costs, {2}))
    assert outcome.latency_s == pytest.approx(plan_of(costs, {2}).latency_s, rel=0.02)
    engine = ProfileEngine(model, [0.0, 0.01, 0.01])
    (made,), seconds = engine.run([Work("key", whole(graph), [Piece(0, 0, 4)])])
    assert not made.complete and seconds == 0.0
    (made,), seconds = engine.run([Work("key", whole(graph), [Piece(0, 4, 8)])])
    assert made.complete and seconds == pytest.approx(0.02)


def test_the_least_that_an_operator_takes_is_paid_for_each_slab():
    graph = Graph([Op((), 800, Identity(8)), Op((0,), 800, Identity(8))], [1])
    model = ModelSpec(graph, (TensorType(UINT8, (8, 100)),) * 2)
    engine = ProfileEngine(model, [0.0, 0.01], floor_s=0.004)
    took = []
    for start in range(0, 8, 2):
        (made,), seconds = engine.run([Work(1, whole(graph), [Piece(0, start, start + 2)])])
        took.append(seconds)
        assert made.complete == (start == 6)
    assert took == pytest.approx([0.004] * 4)
    assert engine.run([Work(2, whole(graph), [Piece(0, 0, 8)])])[1] == pytest.approx(0.01)
    engine.run([Work(3, whole(graph), [Piece(0, 0, 2)])])
    engine.forget(3)
    assert not engine._runs
