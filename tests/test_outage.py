"""A robot whose link is cut while it waits at the gate computes on, on every engine that drives a node."""

from __future__ import annotations

import random

import numpy as np
import pytest

from live import LIMIT_S, LiveServer, Robot, eventually
from rowcast.config import ServerSettings, WorkerSettings
from rowcast.drivers.virtual import Device, Simulation
from rowcast.links import Trace
from rowcast.rows import Layout
from rowcast.sync import parse_policy
from rowcast.testing import ScriptedWorker, VirtualTeam
from rowcast.training import ServerNode, WorkerNode, WorkerState

POLICY = "rowcast:3?codec=raw&ahead=7"
AHEAD = 7
#: The other robot stays in this iteration; the slack lets go who has finished three more, and one is computed then.
HELD_AT = 5
WAITS_AT = HELD_AT + 3 + 1
LAYOUT = Layout.from_shapes([("weight", (24, 2)), ("bias", (14,))])
#: Once it is lost, the link is not tried again while the test runs.
AWAY = WorkerSettings(join_limit_s=LIMIT_S, reconnect_first_s=60.0, reconnect_cap_s=60.0)


def over_sockets():
    with LiveServer(POLICY, expected_workers=2) as server:
        other = Robot(server, "other", steps=100, pause_at=HELD_AT)
        robot = Robot(server, "robot", steps=100, settings=AWAY)
        assert other.at_pause.wait(LIMIT_S)
        eventually(lambda: robot.iteration == WAITS_AT and robot.team.node.state is WorkerState.WAITING)
        eventually(lambda: server.cut("robot"))
        eventually(lambda: robot.iteration == WAITS_AT + AHEAD and robot.team.node.state is WorkerState.WAITING)
        robot.team.leave()
        other.team.leave()
        other.go_on.set()
        for one in (robot, other):
            one.join(LIMIT_S)
            assert not one.is_alive()


def in_the_simulation():
    entropy = random.Random(0).randbytes
    server = ServerNode(
        parse_policy(POLICY), settings=ServerSettings(expected_workers=2, gather_s=0.0), entropy=entropy
    )
    simulation = Simulation(server)
    layout, trace = LAYOUT.timing_only(), Trace.constant(1e6)
    computing = {"robot": 0.1, "other": [0.1] * HELD_AT + [60.0]}
    for name, compute_s in computing.items():
        node = WorkerNode(name, layout, layout.zeros(), settings=AWAY, entropy=entropy)
        simulation.add_timing_only(node, Device(compute_s), trace, trace)
    node = simulation.robots["robot"].node
    simulation.run(1.5)
    assert (node.iteration, node.state) == (WAITS_AT, WorkerState.WAITING)
    simulation.cut("robot", 60.0)
    simulation.run(3.0)
    assert (node.iteration, node.state) == (WAITS_AT + AHEAD, WorkerState.WAITING)


def in_the_scripted_team():
    scripts = [
        ScriptedWorker(name, lambda count, seen: np.ones_like(seen), 100, initial=LAYOUT.zeros())
        for name in ("robot", "other")
    ]
    team = VirtualTeam(LAYOUT, POLICY, scripts, worker_settings=AWAY)
    other, node = team.workers["other"], team.workers["robot"].node
    while other.computed < HELD_AT - 1:
        team.run(team.now + 0.01)
    other.script.compute_s = 60.0
    team.run(team.now + 1.5)
    assert (node.iteration, node.state) == (WAITS_AT, WorkerState.WAITING)
    team.cut("robot", 60.0)
    team.run(team.now + 3.0)
    assert (node.iteration, node.state) == (WAITS_AT + AHEAD, WorkerState.WAITING)


@pytest.mark.parametrize("engine", [over_sockets, in_the_simulation, in_the_scripted_team])
def test_who_loses_the_link_at_the_gate_computes_on(engine):
    engine()
