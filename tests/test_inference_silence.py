"""A link that takes nothing is news to a robot, also where the rows have not begun to travel."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rowcast.codecs.tensors import TensorType
from rowcast.config import AskerSettings
from rowcast.drivers.virtual.inferences import InferenceSimulation
from rowcast.drivers.virtual.profiled import ProfileEngine
from rowcast.graphs import Graph, Identity, Op, Profile
from rowcast.inference import AnswererNode, AskerNode, ModelSpec, Planning
from rowcast.links import Trace
from rowcast.planning import ByRate, CostModel, LateStart, LinkCosts, RateEstimator, local, pipeline, plan_table, replay


def test_in_an_outage_the_robot_soon_computes_from_the_start() -> None:
    """Ten inputs a second: a few of the outage are answered at the deadline, the others as soon as the robot can.

    The outage begins while nothing travels, so that not even the message which announces the rows gets through. What
    the nodes come to is what the replay says.
    """
    graph = Graph([Op((), 30_000, Identity(100)), Op((0,), 400)], [1])
    profile = Profile(np.array([0, 0.05]), np.array([0, 0.005]), local_p99_s=0.06)
    link = LinkCosts.symmetric(20e6)
    costs = CostModel(graph, profile, dataclasses.replace(link, goodput=1.0))
    table, late = plan_table(pipeline, costs, 1e5, 1e9), LateStart.of(profile, 0.1)
    kinds = TensorType(np.dtype("uint8"), (1, 100, 100, 3), 1, 3), TensorType(np.dtype("float32"), (1, 100), 0)
    model = ModelSpec(graph, kinds)
    trace = Trace([0, 2.98, 5.98], [20e6, 0, 20e6], "outage", duration_s=10.0)
    inputs = [0.1 * k for k in range(1, 95)]
    simulation = InferenceSimulation(
        AnswererNode(model, forward_s=0.005), ProfileEngine(model, [0, 0.005]), goodput=1.0
    )
    chooser = ByRate(table, RateEstimator(20e6), late)
    node = AskerNode("robot", model, Planning(chooser, local(costs), 0.06), settings=AskerSettings(deadline_s=0.1))
    robot = simulation.add(node, ProfileEngine(model, [0, 0.05]), trace, trace, inputs)
    simulation.run(9.9)
    found = np.array([outcome.latency_s for outcome in robot.outcomes])
    assert len(found) == len(inputs) and found.max() < 0.1
    at_the_deadline = int((found > 0.08).sum())
    assert 1 <= at_the_deadline <= 4
    assert 20 <= int((np.abs(found - 0.05) < 1e-3).sum()) <= 34
    same = replay(costs, trace, ByRate(table, RateEstimator(20e6), late), inputs)
    assert found.mean() == pytest.approx(same.mean_s, rel=0.05)
