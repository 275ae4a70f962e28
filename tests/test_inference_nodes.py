"""Robots and a server in virtual time, whatever the link does: one outcome for each input, right, and in time."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random

import numpy as np
import pytest

from inferences import (
    MIDDLE,
    OFFLOAD,
    ONE,
    TWO,
    World,
    costs_of,
    image_of,
    model_of,
    plan_of,
    planning_of,
    robot_of,
    same,
    server_of,
    truth,
)
from rowcast.drivers.virtual.profiled import ProfileEngine
from rowcast.energy import PowerStates
from rowcast.errors import ConfigError, DeadlineMissed, LinkLost, RowcastError, ServerBusy, ServerUnavailable
from rowcast.inference import Planning
from rowcast.links import Trace
from rowcast.planning import Always, Decision, LateStart, TensorCosts, local
from rowcast.session import Link

MODEL = model_of()
COSTS = costs_of(MODEL)
LOCAL_S = COSTS.profile.local_s
#: Where operators are, and in how many slabs.
PLANS = [(on, slabs) for on in (OFFLOAD, ONE, TWO) for slabs in (1, 3, 12)] + [(MIDDLE, 1)]
POWER = PowerStates()


def outage(start_s, end_s, rate_bps=8e6):
    """A link that carries nothing for a while."""
    return Trace([0.0, start_s, end_s], [rate_bps, 0.0, rate_bps], "outage", loop=False, duration_s=math.inf)


def world_of(on=OFFLOAD, slabs=1, costs=COSTS, **options):
    return World(MODEL, costs, plan_of(costs, on, slabs), **options)


# -- the answer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("on", "slabs"), PLANS, ids=[f"{min(on)}-{slabs}" for on, slabs in PLANS])
@pytest.mark.parametrize("coded", [False, True], ids=["raw", "coded"])
def test_every_plan_gives_the_answer_of_the_undivided_model(on, slabs, coded):
    """Several tensors cross, rows stream, and the robot goes on with what came back."""
    rest = frozenset(range(1, len(MODEL.graph)))
    codecs = (TensorCosts("deflate", 0.6, ops=frozenset({0})), TensorCosts("half", 0.5, ops=rest))
    costs = costs_of(MODEL, rate_bps=1e6, tensors=codecs if coded else ())
    plan = plan_of(costs, on, slabs)
    assert bool(plan.up_codecs) == coded
    world = World(MODEL, costs, plan)
    robot = world.add()
    for number in range(3):
        world.at(0.1 + number, world.ask)
    world.run(5.0)
    outcomes = world.check()
    assert {outcome.by for outcome in outcomes.values()} == {"server" if on is OFFLOAD else "both"}
    assert all(outcome.spent.up_bytes > 0 and outcome.spent.down_bytes > 0 for outcome in outcomes.values())
    assert robot.engine.held == world.engine.held == set()
    assert world.simulation.server.answered == 3


# -- random schedules --------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Script:
    """What happens in a random run."""

    world: World
    settings: dict


def scripted(seed):
    """Robots with random plans, settings and inputs; cuts, outages, restarts of the server; over after 5 s."""
    chance = random.Random(seed)
    costs = costs_of(MODEL, rate_bps=chance.choice((3e5, 1e6, 8e6)), floor_s=chance.choice((0.0, 0.001)))
    world = World(
        MODEL,
        costs,
        None,
        seed=seed,
        requests_per_robot=chance.randint(1, 4),
        queue_limit=chance.choice((1, 2, 64)),
        batch_limit=chance.choice((1, 2, 8)),
    )
    settings = {}
    for number in range(chance.randint(1, 3)):
        name = f"robot{number}"
        world.plan = plan_of(costs, *chance.choice(PLANS))
        own = settings[name] = {
            "fallback": chance.choice(("model", "none")),
            "newest_only": chance.random() < 0.5,
            "in_flight": chance.randint(1, 3),
            "deadline_s": chance.choice((None, chance.uniform(LOCAL_S, 0.4))),
        }
        edges = sorted(chance.uniform(0.2, 5.0) for _ in range(4))
        rate = costs.link.up_bps
        trace = Trace(
            [0.0, *edges], [rate, 0.0, rate, rate * chance.random(), rate], "link", loop=False, duration_s=math.inf
        )
        world.add(name, trace, **own)
        now, period_s = 0.0, chance.choice((0.02, 0.1, 0.3))
        for _ in range(15):
            now += chance.uniform(0.1, 1.9) * period_s
            world.at(now, world.ask, name)
        for _ in range(chance.randint(0, 3)):
            world.at(chance.uniform(0, 5), world.simulation.cut, name, chance.uniform(0.01, 0.8))
    for _ in range(chance.randint(0, 2)):
        world.at(chance.uniform(0, 5), world.restart)
    return Script(world, settings)


def settle(script):
    """Run it to its end, and compare what every outcome must be."""
    script.world.run(20.0)
    for name, settings in script.settings.items():
        for outcome in script.world.check(name).values():
            check_outcome(outcome, settings)
        robot = script.world.simulation.robots[name]
        node = robot.node
        assert robot.engine.held == set() and not node.active and not node.waiting
        assert not node._exchanges.all() and node._own.inference is None
    server = script.world.simulation.server
    assert all(not robot.tasks and not robot.out for robot in server.robots.values())
    assert script.world.engine.held == set()


def check_outcome(outcome, settings):
    deadline_at, error = outcome.deadline_at, outcome.error
    assert outcome.joules <= POWER.overlap_w * outcome.latency_s + 1e-9
    assert not outcome.superseded or settings["newest_only"]
    if settings["fallback"] == "model":
        assert error is None
    elif isinstance(error, DeadlineMissed):
        assert outcome.done_at == pytest.approx(deadline_at, abs=1e-9)
        assert outcome.missed
    else:
        assert error is None or isinstance(error, ServerBusy)
        if deadline_at is not None:
            assert outcome.done_at <= deadline_at + 1e-9
    if outcome.by == "robot":
        assert settings["fallback"] == "model"


@pytest.mark.parametrize("block", range(4))
def test_every_input_has_one_outcome_whatever_happens(block):
    for seed in range(12 * block, 12 * block + 12):
        try:
            settle(scripted(seed))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def test_the_same_seed_gives_the_same_journals():
    for seed in (3, 7, 11):
        runs = [scripted(seed) for _ in range(2)]
        for run in runs:
            run.world.run(20.0)
        first, second = ({name: journal.records for name, journal in run.world.journals.items()} for run in runs)
        assert first == second
        assert any(record["event"] == "inference" for record in first["robot0"])


# -- deadlines ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_flight", [1, 2, 3])
@pytest.mark.parametrize("period_s", [0.033, 0.1])
def test_with_the_fallback_no_answer_is_late(in_flight, period_s):
    """The robot has time for all that may be under way, and for the one that waits: then it keeps every deadline."""
    deadline_s = (in_flight + 1) * LOCAL_S
    late = answers = 0
    for seed in range(6):
        chance = random.Random(seed)
        edges = sorted(chance.uniform(0, 6) for _ in range(6))
        trace = Trace([0.0, *edges], [8e6, 0, 8e6, 1e5, 8e6, 0, 8e6], "link", loop=False, duration_s=math.inf)
        world = world_of(slabs=3, seed=seed, engine=ProfileEngine)
        world.add(trace=trace, deadline_s=deadline_s, in_flight=in_flight)
        world.at(chance.uniform(0, 6), world.simulation.cut, "robot", 0.5)
        world.at(chance.uniform(0, 6), world.restart)
        now = 0.05
        while now < 6:
            world.at(now, world.ask)
            now += chance.uniform(0.0, 2.0) * period_s
        world.run(20.0)
        outcomes = world.check().values()
        late += sum(outcome.missed for outcome in outcomes)
        answers += sum(outcome.by != "" for outcome in outcomes)
        assert {outcome.by for outcome in outcomes} >= {"robot", "server"}
    assert late == 0 and answers > 150


def test_inputs_that_all_must_be_answered_are_begun_one_after_the_other():
    """Four inputs at once in an outage, each with the same deadline of four times what one takes."""
    world = world_of()
    world.add(trace=outage(0.05, 10.0), newest_only=False, in_flight=4, deadline_s=4 * LOCAL_S)
    for _ in range(4):
        world.at(0.1, world.ask)
    world.run(20.0)
    outcomes = world.check().values()
    assert [outcome.by for outcome in outcomes] == ["robot"] * 4
    assert [outcome.latency_s / LOCAL_S for outcome in outcomes] == pytest.approx([1, 2, 3, 4])
    assert not any(outcome.missed for outcome in outcomes)


def test_what_is_late_is_asked_of_the_server_all_the_same():
    """Everything is late, in order and with a queue: the server is asked all the same, and the faster answer counts."""
    world = world_of(costs=costs_of(MODEL, server_s=0.03))
    robot = world.add(newest_only=False, deadline_s=0.1)
    for _ in range(40):
        world.at(0.1, world.ask)
    world.run(5.0)
    assert [outcome.by for outcome in world.check().values()].count("server") > 35
    assert max(outcome.latency_s for outcome in robot.outcomes) < 40 * 0.04


def test_the_robot_begins_late_and_is_stopped_by_the_servers_answer():
    deadline_s = 0.2
    for up, by in ((outage(0.05, 10.0), "robot"), (Trace.constant(1e6), "server")):
        world = world_of()
        robot = world.add(trace=up, deadline_s=deadline_s)
        world.at(0.1, world.ask)
        world.run(5.0)
        outcome = world.check()[1]
        assert outcome.by == by
        if by == "robot":
            assert outcome.latency_s == pytest.approx(deadline_s) and not outcome.missed
            assert robot.processor.busy_s == pytest.approx(LOCAL_S)
        else:
            assert robot.processor.busy_s == 0.0
    # It is in the middle of its own when the answer comes.
    world = world_of()
    robot = world.add(trace=outage(0.05, 0.1 + deadline_s - LOCAL_S / 2), deadline_s=deadline_s)
    world.at(0.1, world.ask)
    world.run(5.0)
    outcome = world.check()[1]
    assert outcome.by == "server" and deadline_s - LOCAL_S / 2 < outcome.latency_s < deadline_s
    assert 0.4 * LOCAL_S < robot.processor.busy_s < 0.9 * LOCAL_S
    assert outcome.spent.robot_s == pytest.approx(robot.processor.busy_s)


def test_energy_is_counted_by_state_and_below_both_at_once():
    """Nothing arrives until the deadline: the link is busy all the time, the robot computes at the end."""
    deadline_s = 0.2
    world = world_of()
    world.add(trace=outage(0.1002, 10.0), deadline_s=deadline_s)
    world.at(0.1, world.ask)
    world.run(5.0)
    outcome = world.check()[1]
    assert outcome.spent.sending_s == pytest.approx(deadline_s, rel=0.05)
    expected = (
        POWER.stall_w * deadline_s
        + (POWER.compute_w - POWER.stall_w) * LOCAL_S
        + (POWER.communicate_w - POWER.stall_w) * deadline_s
    )
    assert outcome.joules == pytest.approx(expected, rel=0.01)
    both = COSTS.joules(deadline_s, deadline_s, deadline_s)
    assert outcome.joules < 0.6 * both


def test_without_fallback_the_deadline_is_missed_once_and_at_the_deadline():
    world = world_of()
    robot = world.add(trace=outage(0.05, 1.0), deadline_s=0.15, fallback="none")
    world.at(0.1, world.ask)
    world.at(2.0, world.ask)
    world.run(5.0)
    first, second = world.check().values()
    assert isinstance(first.error, DeadlineMissed) and "no answer within 0.15 s" in str(first.error)
    assert first.latency_s == pytest.approx(0.15) and first.missed and first.joules > 0
    assert second.by == "server" and not second.missed
    assert robot.engine.held == world.engine.held == set()


def test_without_link_and_fallback_the_deadline_is_missed_too():
    world = world_of()
    world.add(deadline_s=0.15, fallback="none")
    world.at(0.1, world.simulation.cut, "robot", 1.0)
    world.at(0.2, world.ask)
    world.run(5.0)
    outcome = world.check()[1]
    assert isinstance(outcome.error, DeadlineMissed) and outcome.latency_s == pytest.approx(0.15)


def test_without_deadline_and_fallback_it_is_asked_again_after_a_cut():
    for lose in ("cut", "restart"):
        world = world_of(ONE, 3)
        world.add(fallback="none")
        world.at(0.1, world.ask)
        if lose == "cut":
            world.at(0.105, world.simulation.cut, "robot", 0.5)
        else:
            world.at(0.105, world.restart)
        world.run(5.0)
        outcome = world.check()[1]
        assert outcome.by == "both" and outcome.done_at > (0.6 if lose == "cut" else 0.15)
        requests = {record["number"] for record in world.journals["server"].records if record["event"] == "answer"}
        assert requests == {1, 2}


def test_after_a_cut_the_robot_answers_at_once():
    world = world_of()
    world.add(trace=Trace.constant(1e4), deadline_s=0.5)
    world.at(0.2, world.ask)
    world.at(0.25, world.simulation.cut, "robot", 1.0)
    world.run(5.0)
    outcome = world.check()[1]
    assert outcome.by == "robot" and outcome.done_at == pytest.approx(0.25 + LOCAL_S)


def test_a_deadline_that_the_robot_cannot_keep_is_refused():
    robot = robot_of("robot", MODEL, planning_of(COSTS, plan_of(COSTS)))
    with pytest.raises(ConfigError, match=r"expected at least 0\.05 s, which the robot takes .* got 0\.04 s"):
        robot.ask(0.0, None, 0.04)
    lone = robot_of("robot", MODEL, planning_of(COSTS, plan_of(COSTS)), fallback="none")
    assert lone.ask(0.0, None, 0.04) == 1


def test_a_probe_is_computed_at_both_ends():
    """Without a fallback, too: the robot is expected to be faster, and the server is asked to learn the rate."""
    for fallback in ("model", "none"):
        world = world_of()
        planning = Planning(Always(Decision(world.plan, 0.0, probe=True)), local(COSTS), LOCAL_S)
        world.add(trace=Trace.constant(1e4), planning=planning, fallback=fallback)
        world.at(0.2, world.ask)  # on such a link the introductions take a tenth of a second
        world.run(5.0)
        outcome = world.check()[1]
        assert outcome.by == "robot" and outcome.latency_s == pytest.approx(LOCAL_S)
        assert outcome.spent.up_bytes > 0


# -- newest only -------------------------------------------------------------------------------------------------------


def mean_age_s(outcomes, until_s):
    """How old the input of the newest answer is, on average from the first answer on."""
    answers = sorted((one.done_at, one.asked_at) for one in outcomes if one.by)
    newest, total = -math.inf, 0.0
    for (done, asked), (following, _) in itertools.pairwise([*answers, (until_s, 0.0)]):
        newest = max(newest, asked)
        total += (following - newest) ** 2 / 2 - (done - newest) ** 2 / 2
    return total / (until_s - answers[0][0])


def test_of_inputs_that_wait_only_the_newest_is_answered_and_none_piles_up():
    """30 inputs a second, outages: without the newest-only rule the age of the newest answer grows and grows."""
    ages = {}
    for newest_only in (True, False):
        world = world_of(costs=costs_of(MODEL, rate_bps=4e5), engine=ProfileEngine)
        edges = [1.0, 2.5, 5.0, 6.0]
        trace = Trace([0.0, *edges], [4e5, 0, 4e5, 0, 4e5], "link", loop=False, duration_s=math.inf)
        robot = world.add(trace=trace, newest_only=newest_only, deadline_s=0.12 if newest_only else None)
        most = 0

        def ask(world=world, robot=robot):
            nonlocal most
            world.ask()
            most = max(most, len(robot.node.waiting))

        for number in range(300):
            world.at(0.05 + number / 30, ask)
        world.run(10.05)
        ages[newest_only] = mean_age_s(robot.outcomes, 10.0)
        assert (most <= 1) == newest_only
        if newest_only:
            assert not any(outcome.missed for outcome in robot.outcomes)
    assert ages[True] <= 0.25
    assert ages[False] > 4 * ages[True]


def test_a_superseded_input_is_neither_missed_nor_answered():
    world = world_of(costs=costs_of(MODEL, rate_bps=1e5))
    world.add()
    for number in range(3):
        world.at(0.1 + number / 1000, world.ask)
    world.run(2.0)
    first, second, third = (world.check()[ticket] for ticket in (1, 2, 3))
    assert (first.by, second.by, third.by) == ("server", "", "server")
    assert second.superseded and not second.missed and second.error is None and second.value is None


# -- the end -----------------------------------------------------------------------------------------------------------


def test_who_has_left_or_given_up_answers_nothing():
    world = world_of()
    robot = world.add()
    world.at(0.1, world.ask)
    world.at(0.101, lambda: (robot.node.leave(0.101, "enough"), world.simulation.attend(robot)))
    world.at(0.2, world.ask)
    world.run(5.0)
    first, second = world.check().values()
    assert isinstance(first.error, LinkLost) and "enough" in str(first.error)
    assert isinstance(second.error, LinkLost) and second.latency_s == 0.0
    assert not world.simulation.server.robots


def test_without_a_server_and_fallback_the_robot_gives_up_after_a_while():
    node = robot_of("robot", MODEL, planning_of(COSTS, plan_of(COSTS)), fallback="none", connect_limit_s=5.0)
    node.ask(0.0, image_of(MODEL))
    now = 0.0
    while node.failure is None:
        node.connecting(now, "nowhere:1")
        node.connect_failed(now, "connection refused")
        now = max(now, node.connect_at or now) + 0.01
        assert now < 6.0
    assert isinstance(node.failure, ServerUnavailable)
    assert [outcome.error for outcome in node.outcomes] == [node.failure]
    assert node.ask(now, image_of(MODEL)) == 2
    assert node.outcomes[-1].error is node.failure and not node.waiting


def test_an_inference_can_be_given_up():
    world = world_of(ONE, 3)
    robot = world.add(trace=outage(0.1005, 1.0), newest_only=False, fallback="none")
    why = RowcastError("nobody waits any more")
    for number in range(3):
        world.at(0.1 + number / 100, world.ask)
    world.at(0.5, lambda: [robot.node.give_up(0.5, ticket, why) for ticket in (1, 3)])
    world.run(5.0)
    first, second, third = (world.check()[ticket] for ticket in (1, 2, 3))
    assert first.error is third.error is why and second.by == "both"
    assert robot.engine.held == world.engine.held == set()


def test_an_engine_that_fails_costs_the_answer_only_where_there_is_no_other():
    """The robot's part of the plan fails; the whole model does not."""
    for fallback in ("model", "none"):
        world = world_of(TWO, 1)
        robot = world.add(fallback=fallback)
        run = robot.engine.run

        def failing(works, run=run):
            if any(isinstance(work.key, int) for work in works):
                raise RowcastError("computing failed")
            return run(works)

        robot.engine.run = failing
        world.at(0.1, world.ask)
        world.run(2.0)
        outcome = world.check()[1]
        if fallback == "model":
            assert outcome.by == "robot" and outcome.error is None
        else:
            assert str(outcome.error) == "computing failed"


def test_a_part_that_nobody_waits_for_is_stopped():
    """The robot's own answer is there while its part of the plan is in the middle: the engine is told to stop."""
    costs = costs_of(MODEL, robot_s=1.0)
    world = World(MODEL, costs, plan_of(costs, TWO))
    planning = dataclasses.replace(planning_of(costs, world.plan), local_s=0.01)
    robot = world.add(planning=planning, fallback="none", deadline_s=0.05)
    part_s = world.plan.robot_s
    assert part_s > 0.1
    world.at(0.1, world.ask)
    world.at(0.2, world.ask)
    world.run(5.0)
    first, second = world.check().values()
    assert isinstance(first.error, DeadlineMissed) and isinstance(second.error, DeadlineMissed)
    assert robot.processor.busy_s == pytest.approx(0.1)
    assert first.spent.robot_s == pytest.approx(0.05) and robot.engine.held == set()


def test_values_are_those_of_a_plain_computation():
    """What all of these tests compare with: one operator by hand, and an answer that depends on every row."""
    inputs = image_of(MODEL)
    answer = truth(MODEL, inputs)
    for row in range(12):
        changed = {0: inputs[0].copy()}
        changed[0][0, row] ^= 1
        assert not same(truth(MODEL, changed), answer)
    assert [array.dtype for array in answer] == [np.float32] * 2


def test_a_server_tells_how_long_it_takes():
    node = robot_of("robot", MODEL, planning_of(COSTS, plan_of(COSTS)))
    server = server_of(MODEL, forward_s=0.25)
    ends = Link("server"), Link("robot")
    node.link_up(0.0, ends[0])
    server.link_up(0.0, ends[1])
    for _ in range(3):
        while (message := server.poll(0.0, ends[1])) is not None:
            node.receive(0.0, message)
        while (message := node.poll(0.0)) is not None:
            server.receive(0.0, ends[1], message)
    assert node.served and node.forward_s == 0.25
    assert LateStart.of(COSTS.profile, 1.0).start_s == 1.0 - LOCAL_S
