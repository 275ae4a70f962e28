"""From a rate that was measured to a decision, and what becomes of decisions over a link that changes."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from rowcast.energy import PowerStates
from rowcast.errors import ConfigError, LocalProtocolError
from rowcast.graphs import Graph, Op, Profile
from rowcast.links import Trace
from rowcast.planning import (
    LATENCY,
    PLACES,
    Always,
    ByRate,
    CostModel,
    Decision,
    LateStart,
    LinkCosts,
    PlanTable,
    RateEstimator,
    course,
    data,
    follow,
    local,
    offload,
    pipeline,
    plan_table,
    replay,
    replay_newest,
    streamed,
    streamed_plan,
    tensor,
)
from test_planning_events import with_codecs
from test_planning_streamed import cuts, random_costs

# -- the course of a plan ------------------------------------------------------------------------------------


def test_over_a_constant_rate_a_course_takes_what_its_plan_predicts() -> None:
    """Random models with and without codecs: all cuts in one, two and five slabs, and what planners choose."""
    for seed in range(25):
        for plain in (random_costs(seed), with_codecs(seed)):
            costs = dataclasses.replace(plain, link=dataclasses.replace(plain.link, goodput=0.9))
            trace = Trace.constant(costs.link.up_bps)
            plans = [streamed_plan(costs, costs.mask(on), slabs) for slabs in (1, 2, 5) for on in cuts(costs.graph)]
            for plan in [*plans, pipeline(costs), streamed(costs), local(costs), data(costs)]:
                spans = follow(course(costs, plan), costs, trace, 3.0)
                assert max(span.there_s for span in spans) - 3.0 == pytest.approx(plan.latency_s), (seed, plan)
                for place, seconds in (("link up", plan.up_s), ("link down", plan.down_s), ("server", plan.server_s)):
                    own = [span for span in spans if PLACES[span.job.place] == place]
                    busy = sum(span.end_s - span.start_s for span in own)
                    tensors = {"link up": len(plan.up), "link down": len(plan.down)}.get(place, 0)
                    assert busy + tensors * costs.link.message_s == pytest.approx(seconds)


def test_a_transfer_follows_the_rate_of_the_moment() -> None:
    """100 kB: 40 kB in the first 40 ms, nothing in the next 100 ms, the rest in 60 ms; the server takes 5 ms."""
    costs = image()
    trace = Trace([0, 0.04, 0.14], [8e6, 0, 8e6], "hole", loop=False, duration_s=math.inf)
    spans = follow(course(costs, offload(costs)), costs, trace, 0.0)
    up = next(span for span in spans if PLACES[span.job.place] == "link up")
    assert (up.start_s, up.end_s) == (0.0, pytest.approx(0.2))
    assert spans[-1].there_s == pytest.approx(0.2 + 0.005)
    ends = Trace([0], [8e6], "short", loop=False, duration_s=0.05)
    assert follow(course(costs, offload(costs)), costs, ends, 0.0)[-1].there_s == math.inf


def test_a_batch_and_split_operators_have_no_course() -> None:
    costs = image()
    for plan in (data(costs, inputs=8), tensor(costs)):
        with pytest.raises(LocalProtocolError, match=f"one input, got {plan.method}"):
            course(costs, plan)


# -- the rate ------------------------------------------------------------------------------------------------


def test_a_constant_link_is_measured_exactly() -> None:
    rate = RateEstimator(1e6)
    assert rate.rate_bps(0.0) == 1e6 and rate.estimate(0.0).age_s == math.inf
    for step in range(1, 9):
        rate.delivered(step / 10, 10_000, 0.01)
        assert rate.rate_bps(step / 10) == pytest.approx(8e6)
    assert (rate.estimate(0.9).age_s, rate.estimate(0.9).spread) == pytest.approx((0.1, 0.0), abs=1e-6)


def test_the_estimate_predicts_seconds_and_the_newest_counts_most() -> None:
    """Equal bytes at 8 and 2 Mbit/s take 50 ms together, so a byte takes the mean of both: 3.2 Mbit/s."""
    rate = RateEstimator(1e6, half_life_s=1.0)
    rate.delivered(1.0, 10_000, 0.01)
    rate.delivered(1.0, 10_000, 0.04)
    assert rate.rate_bps(1.0) == pytest.approx(3.2e6)
    assert rate.estimate(1.0).spread == pytest.approx(0.6)
    rate.delivered(2.0, 10_000, 0.01)
    # Half of the 20 kB and 50 ms, and the new ones.
    assert rate.rate_bps(2.0) == pytest.approx(8 * 20_000 / 0.035)


def test_silence_on_the_way_is_news_and_a_collapse_is_believed_at_once() -> None:
    rate = RateEstimator(1e6)
    for step in range(20):
        rate.delivered(step / 10, 100_000, 0.05)
    rate.delivered(2.0, 0, 0.1)
    assert rate.rate_bps(2.0) < 12e6
    for step in range(1, 11):
        rate.delivered(2.0 + step / 10, 0, 0.1)
    assert rate.rate_bps(3.0) < 0.6e6
    dead = RateEstimator(1e6)
    dead.delivered(1.0, 0, 1.0)
    assert 0 < dead.rate_bps(1.0) < 1e4


def test_after_a_silence_the_link_is_hoped_to_be_what_it_usually_is() -> None:
    rate = RateEstimator(1e6)
    for step in range(100):
        rate.delivered(step / 10, 100_000, 0.05)  # 16 Mbit/s
    rate.delivered(10.5, 5_000, 0.5)  # 0.08 Mbit/s
    low = rate.rate_bps(10.6)
    assert low < 2e6
    hoped = [rate.rate_bps(10.5 + silent) for silent in (0.4, 1.0, 2.0, 4.0, 60.0)]
    assert hoped[0] == low and hoped == sorted(hoped) and hoped[2] > 4 * low
    assert 12e6 < hoped[-1] < 16e6
    assert rate.rate_bps(1e6) == pytest.approx(hoped[-1])
    high = RateEstimator(1e6)
    high.delivered(1.0, 100_000, 0.05)
    assert high.rate_bps(50.0) == pytest.approx(16e6), "what is usual never lowers it"


def test_a_probe_is_wanted_after_a_silence_and_not_twice() -> None:
    rate = RateEstimator(1e6)
    assert rate.wants_probe(0.0)
    rate.probed(0.0)
    assert not rate.wants_probe(0.4) and rate.wants_probe(0.6)
    rate.delivered(0.7, 10, 0.1)
    assert not rate.wants_probe(1.1) and rate.wants_probe(1.3)


def test_what_cannot_be_measured_is_refused() -> None:
    for wrong in ((0.0, 0.25), (1e6, 0.0), (float("nan"), 0.25), (float("inf"), 0.25)):
        with pytest.raises(ConfigError, match="expected a rate and a half-life above 0"):
            RateEstimator(*wrong)
    rate = RateEstimator(1e6)
    rate.delivered(1.0, 10, 0.1)
    for now, size, seconds in ((2.0, 10, 0.0), (2.0, -1, 0.1), (0.5, 10, 0.1)):
        with pytest.raises(LocalProtocolError, match="rate: "):
            rate.delivered(now, size, seconds)


# -- decisions -----------------------------------------------------------------------------------------------


def image(**profile: float) -> CostModel:
    """100 kB up, 5 ms on the server, 50 ms on the robot: from 17.8 Mbit/s on the server is faster."""
    graph = Graph([Op((), 100_000), Op((0,), 0)], [1])
    times = Profile(np.array([0, 0.05]), np.array([0, 0.005]), **profile)
    return CostModel(graph, times, LinkCosts(8e6, 8e6, 0.0, 1.0, 0.0), PowerStates(10.0, 3.0, 2.0))


def chooser(costs: CostModel, initial_bps: float, deadline_s: float | None = None) -> ByRate:
    table = plan_table(pipeline, costs, 1e6, 1e9)
    late = LateStart.of(costs.profile, deadline_s) if deadline_s else None
    return ByRate(table, RateEstimator(initial_bps), late, costs.link.goodput)


def test_the_plan_is_that_of_the_measured_rate() -> None:
    choose = chooser(image(local_p99_s=0.06), 50e6, deadline_s=0.1)
    assert choose.decide(0.0) == Decision(choose.table.plans[1], pytest.approx(0.04))
    choose.delivered(0.1, 10_000, 0.1)
    assert choose.decide(0.2) == Decision(choose.table.plans[0], 0.0)
    assert chooser(image(), 50e6).decide(0.0).local_start_s == math.inf


def test_the_link_is_tried_while_the_robot_computes() -> None:
    choose = chooser(image(), 1e6)
    first = choose.decide(0.0)
    assert first.probe and first.plan.where == "server" and first.local_start_s == 0.0
    assert [choose.decide(now).probe for now in (0.1, 0.4, 0.6, 0.7)] == [False, False, True, False]
    alone = dataclasses.replace(image(), profile=Profile(np.array([0, 1e-6]), np.array([0, 0.005])))
    assert not chooser(alone, 1e6).decide(0.0).probe, "no rate at which the server is of use"


def test_rates_are_those_of_tensors_and_the_table_is_by_those_of_the_link() -> None:
    costs = dataclasses.replace(image(), link=LinkCosts(8e6, 8e6, 0.0, 0.5, 0.0))
    choose = chooser(costs, 1e6)
    (threshold,) = choose.table.thresholds_bps
    for share, where in ((0.51, "server"), (0.49, "robot")):
        choose.rate = RateEstimator(threshold * share)
        choose.rate.probed(0.0)
        assert choose.decide(0.0).plan.where == where


# -- replays -------------------------------------------------------------------------------------------------


def test_each_answer_is_the_first_of_the_two() -> None:
    """20 Mbit/s: offloading takes 45 ms. From 1 s on nothing passes; a late start at 60 ms answers at 110 ms."""
    costs = image(local_p99_s=0.06)
    trace = Trace([0, 1, 2], [20e6, 0, 20e6], "hole", loop=False, duration_s=math.inf)
    late = Decision.of(offload(costs), LateStart.of(costs.profile, 0.12))
    found = replay(costs, trace, Always(late), [0.0, 0.98, 1.5, 1.92, 3.0])
    assert found.latency_s == pytest.approx([0.045, 0.11, 0.11, 0.11, 0.045])
    assert found.by_server.tolist() == [True, False, False, False, True]
    assert (found.late(0.12), found.late(0.1), found.probes) == (0, 3, 0)
    # In the outage: waiting, 50 ms of computation, and 110 ms of a link that is held open.
    assert found.energy_j == pytest.approx([2 * 0.045 + 0.04, *[2 * 0.11 + 8 * 0.05 + 0.11] * 3, 2 * 0.045 + 0.04])
    never = replay(costs, trace, Always(Decision.of(offload(costs))), [0.98])
    assert never.latency_s == pytest.approx([1.045])
    both = replay(costs, trace, Always(Decision(offload(costs), 0.0)), [0.0, 1.5])
    assert both.latency_s == pytest.approx([0.045, 0.05])
    assert replay(costs, trace, Always(Decision.of(local(costs))), [0.0]).up_s.tolist() == [0.0]


class Listening(Always):
    """Remembers what it is told."""

    heard: list[tuple[float, float, float, float]]

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision)
        object.__setattr__(self, "heard", [])
        object.__setattr__(self, "now", 0.0)

    def decide(self, now: float) -> Decision:
        object.__setattr__(self, "now", now)
        return super().decide(now)

    def delivered(self, now: float, size: float, seconds: float) -> None:
        self.heard.append((self.now, now, size, seconds))


def test_a_chooser_hears_what_has_passed_and_nothing_of_what_comes() -> None:
    """Inputs each 20 ms; 100 kB at 20 Mbit/s take 40 ms: each transfer is reported in parts as it goes on."""
    costs = dataclasses.replace(image(), link=LinkCosts(8e6, 8e6, 0.005, 1.0, 0.0))
    trace = Trace([0, 0.05], [20e6, 0], "falls", loop=False, duration_s=math.inf)
    choose = Listening(Decision(offload(costs), 0.0))
    replay(costs, trace, choose, [0.0, 0.02, 0.04, 0.06, 0.2])
    by_decision: dict[float, list[tuple[float, float, float]]] = {}
    for before, until, size, seconds in choose.heard:
        by_decision.setdefault(before, []).append((until, size, seconds))
    assert list(by_decision) == [0.0, 0.02, 0.04, 0.06]
    # Told at the decision at 20 ms: what was acknowledged by then left the robot until 15 ms.
    assert by_decision[0.0] == [pytest.approx((0.015, 37_500, 0.015))]
    assert by_decision[0.02] == [pytest.approx((0.035, 37_500, 0.015)), pytest.approx((0.035, 50_000, 0.02))]
    # Of the third transfer 25 kB arrived in 10 ms, and nothing in the 5 ms behind them.
    assert by_decision[0.04][-2] == pytest.approx((0.055, 25_000, 0.015))
    total = sum(size for _, _, size, _ in choose.heard)
    assert total == pytest.approx(100_000 + 75_000 + 25_000)


def test_of_inputs_that_wait_only_the_newest_is_answered() -> None:
    """20 inputs a second, 117 ms each: of those that come meanwhile the last one is next, and none waits longer."""
    costs = image()
    costs = dataclasses.replace(costs, profile=Profile(np.array([0, 0.117]), np.array([0, 1.0])))
    found = replay_newest(costs, Trace.constant(1e6), Always(Decision.of(local(costs))), np.arange(21) / 20)
    assert found.input_s == pytest.approx([0.0, 0.1, 0.2, 0.35, 0.45, 0.55, 0.7, 0.8, 0.9])
    waited = found.latency_s - 0.117
    assert (waited >= -1e-9).all() and (waited < 0.05).all()
    starts, ends = found.input_s + waited, found.input_s + found.latency_s
    assert (starts[1:] >= ends[:-1] - 1e-9).all(), "one at a time"


def test_the_age_of_the_newest_answer_is_a_mean_over_time() -> None:
    costs = image()
    found = replay(costs, Trace.constant(1e6), Always(Decision.of(local(costs))), [0.0, 0.1, 0.2])
    # Answers at 50, 150 and 250 ms, each 50 ms old when it comes and 150 ms when the next one does.
    assert found.mean_age_s(0.25) == pytest.approx(0.1)
    assert found.mean_age_s(0.35) == pytest.approx(0.1)
    with pytest.raises(LocalProtocolError, match="expected an answer before"):
        found.mean_age_s(0.01)


def random_link(seed: int, seconds: float) -> Trace:
    """Rates of 1 to 60 Mbit/s that change each half a second, with an outage of one to three seconds every ten."""
    random = np.random.default_rng(seed)
    times = np.arange(0, seconds, 0.5)
    walk = np.clip(np.exp(np.log(20e6) + np.cumsum(random.normal(0, 0.25, len(times)))), 1e6, 60e6)
    rates = np.where((times % 10 > 7) & (times % 10 < 8 + 2 * random.random()), 0.0, walk)
    return Trace(times, rates, f"random {seed}", duration_s=seconds)


class Knowing:
    """Knows the rate at the time of each input."""

    def __init__(self, table: PlanTable, trace: Trace, late: LateStart) -> None:
        self.table, self.trace, self.late = table, trace, late

    def decide(self, now: float) -> Decision:
        return Decision.of(self.table.at(self.trace.rate(now)), self.late)

    def delivered(self, now: float, size: float, seconds: float) -> None:
        """Needs nobody to tell it."""


def test_with_outages_no_answer_is_late_and_little_is_lost_by_not_knowing_the_rate() -> None:
    """Six random links of two minutes: against who knows the rate, who always sends, and who always does both."""
    costs = image(local_p99_s=0.055)
    choose_of = plan_table(pipeline, costs, 1e6, 1e9)
    late = LateStart.of(costs.profile, 0.08)
    inputs = np.arange(0, 120, 0.1)
    means = []
    for seed in range(6):
        trace = random_link(seed, 120.0)
        mine, knowing, both, sending = (
            replay(costs, trace, choose, inputs)
            for choose in (
                ByRate(choose_of, RateEstimator(10e6), late),
                Knowing(choose_of, trace, late),
                Always(Decision(offload(costs, LATENCY), 0.0)),
                Always(Decision.of(offload(costs))),
            )
        )
        assert mine.late(0.08) == 0 and sending.late(0.08) > 0
        assert mine.mean_j < both.mean_j
        assert 0 < mine.probes < 0.2 * len(inputs)
        means.append((mine.mean_s, knowing.mean_s))
    mine_s, knowing_s = np.mean(means, axis=0)
    assert mine_s <= 1.05 * knowing_s
