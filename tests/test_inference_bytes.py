"""Inferences over links that carry bytes: cut, damaged or robbed at each of them, the answer is there, and equal."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from inferences import MIDDLE, OFFLOAD, TWO, ByteSimulation, World, costs_of, model_of, plan_of
from rowcast.links import Trace

MODEL = model_of()
COSTS = costs_of(MODEL, rate_bps=1e6)
#: Plans with one tensor, with several in slabs, and with a robot that goes on behind the server.
PLANS = {"offload": (OFFLOAD, 1), "two in slabs": (TWO, 3), "in the middle": (MIDDLE, 1)}
DIRECTIONS = ("up", "down")
SETTINGS = {"model": {"fallback": "model", "deadline_s": 0.3}, "none": {"fallback": "none", "newest_only": False}}


@functools.cache
def planned(plan):
    return plan_of(COSTS, *PLANS[plan])


def world_of(plan, fallback="model", secret=None):
    """A robot that asks twice, its link cut soon after the first time, so that there is a return."""
    world = World(MODEL, COSTS, planned(plan), kind=ByteSimulation, secret=secret)
    world.add(secret=secret, **SETTINGS[fallback])
    for time in (0.1, 0.5):
        world.at(time, world.ask)
    return world


@functools.cache
def marks(plan):
    """Bytes that an undisturbed session carries, by direction: before the first inference, and at its end."""
    world = world_of(plan)
    robot = world.simulation.robots["robot"]
    world.run(0.099)
    before = robot.up.carried, robot.down.carried
    world.run(0.499)
    assert world.simulation.robots["robot"].outcomes[0].by in ("server", "both")
    return dict(zip(DIRECTIONS, zip(before, (robot.up.carried, robot.down.carried), strict=True), strict=True))


def settle(world):
    """Go on until both inputs have their outcome and the link stands, and a little longer."""
    robot, clock = world.simulation.robots["robot"], world.simulation.clock
    while clock.next < 60.0 and not (len(robot.outcomes) == 2 and robot.node.served):
        clock.step()
    world.run(clock.now + 0.5)


def finish(world, what):
    """Both inputs have the right answer, and nothing is left."""
    try:
        settle(world)
        outcomes = world.check()
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    robot = world.simulation.robots["robot"]
    assert all(outcome.error is None and outcome.by for outcome in outcomes.values()), (what, outcomes)
    assert not any(outcome.missed for outcome in outcomes.values()), what
    assert robot.engine.held == world.engine.held == set(), what
    assert robot.node.failure is None and robot.node.served, what
    return outcomes


def broken(plan, fallback, harm, *arguments):
    """A session with some harm done to one direction of its link."""
    world = world_of(plan, fallback)
    direction, *rest = arguments
    robot = world.simulation.robots["robot"]
    pipe = {"up": robot.up, "down": robot.down}[direction]
    getattr(pipe, harm).append(tuple(rest))
    return finish(world, f"{plan}, {fallback}, {harm}, {arguments}")


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_cut_at_every_byte_of_an_inference_leaves_the_robots_own_answer(plan, direction):
    begin, end = marks(plan)[direction]
    step = 1 if plan == "offload" else 29
    by = set()
    for byte in range(begin, end, step):
        outcomes = broken(plan, "model", "cuts", direction, byte, 5.0)
        # Its last bytes are acknowledgements and heartbeats: without them the answer is there all the same.
        by.add(outcomes[1].by)
        assert outcomes[2].by == "robot" and outcomes[2].spent.up_bytes == 0
        assert outcomes[1].latency_s <= 0.3 + 1e-9
    assert "robot" in by


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_without_fallback_a_cut_at_any_byte_is_made_good_by_asking_again(direction):
    for plan in PLANS:
        begin, end = marks(plan)[direction]
        for byte in range(begin, end, 53):
            outcomes = broken(plan, "none", "cuts", direction, byte, 0.3)
            assert {outcome.by for outcome in outcomes.values()} <= {"server", "both"}


@pytest.mark.parametrize("fallback", SETTINGS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_damaged_byte_costs_an_answer_of_the_server_at_most(direction, fallback):
    random = np.random.default_rng(0)
    for plan in PLANS:
        end = marks(plan)[direction][1]
        for byte in random.integers(0, end, 16).tolist():
            broken(plan, fallback, "harm", direction, byte, byte + 1, 1 << int(random.integers(8)))
        for byte in random.integers(0, end, 8).tolist():
            broken(plan, fallback, "harm", direction, byte, byte + int(random.integers(1, 200)), 0)


def test_a_handshake_with_a_secret_may_be_cut_anywhere():
    world = world_of("offload", secret=b"the right secret")
    world.run(0.099)
    robot = world.simulation.robots["robot"]
    lengths = {"up": robot.up.carried, "down": robot.down.carried}
    assert robot.node.served
    for direction in DIRECTIONS:
        for byte in range(0, lengths[direction], 5):
            world = world_of("offload", secret=b"the right secret")
            one = world.simulation.robots["robot"]
            {"up": one.up, "down": one.down}[direction].cuts.append((byte, 0.05))
            outcomes = finish(world, f"{direction}, byte {byte}")
            assert outcomes[2].by == "server"


def test_a_half_open_connection_is_noticed_and_made_anew():
    world = world_of("offload")
    robot = world.simulation.robots["robot"]
    world.at(0.105, lambda: setattr(robot.connection, "frozen", True))
    world.at(20.0, world.ask)
    world.run(40.0)
    outcomes = world.check()
    assert [outcomes[ticket].by for ticket in (1, 2, 3)] == ["robot", "robot", "server"]
    causes = [record["cause"] for record in world.journals["robot"].records if record["event"] == "link_down"]
    assert causes == ["nothing came from the server for 5 s"]


def test_a_server_that_dies_at_any_moment_is_not_missed():
    world = world_of("two in slabs")
    world.run(0.3)
    latency_s = world.simulation.robots["robot"].outcomes[0].latency_s
    for moment in np.linspace(0.1, 0.1 + latency_s, 25).tolist():
        for fallback in SETTINGS:
            world = world_of("two in slabs", fallback)
            world.at(moment, world.restart)
            finish(world, f"{fallback}, {moment}")


def test_rows_overtake_nothing_and_are_overtaken_by_what_is_urgent():
    """A drop goes out behind the frame that is on its way, and before those that were to follow."""
    model = model_of(200)
    costs = costs_of(model, rate_bps=8e6)
    world = World(model, costs, plan_of(costs, OFFLOAD, 8), kind=ByteSimulation)
    world.add(trace=Trace.constant(1e6), deadline_s=0.15)
    world.at(0.1, world.ask)
    world.run(5.0)
    outcome = world.check()[1]
    (dropped,) = [record for record in world.journals["server"].records if record["event"] == "answer"]
    assert outcome.by == "robot" and dropped["dropped"]
    image = model.tensor(0).nbytes
    assert 0 < dropped["bytes"] < image / 2
    assert outcome.spent.up_bytes < image / 2
