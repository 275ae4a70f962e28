"""What must always hold (docs/algorithms.md, section 11), on the virtual team: real nodes, scripted links, no sleeps.

Invariant 13, that only ``RemoteProtocolError`` comes out of a decoder, is in ``test_wire.py``.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from rowcast.config import LinkSettings, ServerSettings
from rowcast.links import Trace
from rowcast.rows import Layout
from rowcast.sync import parse_policy
from rowcast.testing import VirtualTeam
from teams import (
    LAYOUT,
    POLICIES,
    Books,
    events,
    finished,
    links,
    members,
    names_of,
    noise,
    outages,
    policies,
    quadratic,
    replicas_agree,
    start_of,
    worker,
)

#: Frames as small as the settings allow, so that a push of this small model takes several of them.
SMALL_FRAMES = LinkSettings(frame_min_bytes=64, window_min_bytes=256, frame_s=0.001)


def prove(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )


def team_of(policy, scripts, **more):
    more.setdefault("link_settings", SMALL_FRAMES)
    return VirtualTeam(LAYOUT, policy, scripts, **more)


def serial_sgd(gradients, iterations):
    """One process that computes the gradients of all workers at the same parameters and averages them."""
    x = start_of()
    for n in range(iterations):
        x = x - sum(gradient(n, x) for gradient in gradients) / len(gradients)
    return x


def bsp_team(iterations, rates, *, cuts=(), compute=None, duplicate=0.0):
    gradients = [quadratic(i, rate=0.3) for i in range(len(rates))]
    scripts = [
        worker(
            f"robot{i}",
            iterations=iterations,
            gradient=gradients[i],
            weight=1 / len(rates),
            rate_bps=rate,
            compute_s=0.1 if compute is None else compute[i],
            duplicate=duplicate,
        )
        for i, rate in enumerate(rates)
    ]
    team = team_of("bsp?codec=raw", scripts)
    for time, name, down_s in cuts:
        team.at(time, lambda name=name, down_s=down_s: team.cut(name, down_s))
    return team, gradients


# -- 1: slack 0 is serial SGD ----------------------------------------------------------------------------------


@prove(25)
@given(st.data())
def test_bsp_is_serial_sgd_on_the_union_batch(data):
    count, iterations = data.draw(st.integers(2, 4)), data.draw(st.integers(1, 8))
    rates = [data.draw(links()) for _ in range(count)]
    compute = [data.draw(st.sampled_from([0.001, 0.1, 0.5])) for _ in range(count)]
    cuts = data.draw(outages([f"robot{i}" for i in range(count)]))
    team, gradients = bsp_team(
        iterations, rates, cuts=cuts, compute=compute, duplicate=data.draw(st.sampled_from([0, 0.3]))
    )
    finished(team)
    expected = serial_sgd(gradients, iterations)
    np.testing.assert_allclose(team.server.parameters, expected, rtol=0, atol=1e-5)
    replicas_agree(team, atol=1e-5)


def test_a_fast_worker_does_not_hand_the_next_iteration_to_one_that_still_pulls():
    team, gradients = bsp_team(5, [1e7, 1e4, 2e4], compute=[0.001, 0.001, 0.2])
    finished(team)
    np.testing.assert_allclose(team.server.parameters, serial_sgd(gradients, 5), rtol=0, atol=1e-5)


def trace(times, rates, duration_s):
    return Trace(np.array(times), np.array(rates), "scripted", duration_s=duration_s)


def test_a_gradient_finished_between_hello_and_welcome_is_counted_once():
    """The hello told one iteration less than the worker has when the welcome comes."""
    slow = [trace([0.0, 0.05], [3e4, 2e5], 0.1), trace([0.0, 1.0], [3e4, 2e5], 2.05)]
    for time in (0.165, 0.17176, 0.175):
        team, gradients = bsp_team(2, [1e6, *slow, 1e6], cuts=[(time, "robot2", 0.0)], compute=[0.5, 0.1, 0.1, 0.5])
        finished(team)
        np.testing.assert_allclose(team.server.parameters, serial_sgd(gradients, 2), rtol=0, atol=1e-5)


def test_a_newcomer_is_not_owed_twice_what_is_kept_back_from_others():
    """With slack 0, what others must not see yet is in the parameters that a newcomer is sent."""
    scripts = [
        worker("robot0", iterations=2, compute_s=0.01, rate_bps=1e5),
        worker("robot1", iterations=1, compute_s=0.01, rate_bps=trace([0.0, 0.05], [1e5, 0.0], 0.1)),
        worker("robot2", iterations=3, compute_s=0.01, rate_bps=trace([0.0, 0.05], [0.0, 3e4], 0.1)),
    ]
    team = team_of("bsp?codec=raw", scripts, server_settings=ServerSettings(expected_workers=1))
    books = Books(team)
    team.at(1.0, lambda: team.start(worker("robot9", iterations=1, seed=5)))
    books.check_at(*np.arange(0.05, 2.0, 0.005))
    finished(team)
    books.check()


# -- 2, 3, 4, 5, 6: any policy, any weather --------------------------------------------------------------------


@prove(50)
@given(st.data())
def test_books_bounds_and_agreement_in_any_weather(data):
    scripts = data.draw(members())
    text = data.draw(policies())
    names = names_of(scripts)
    seed, duplicate = data.draw(st.integers(0, 9)), data.draw(st.sampled_from([0, 0.2]))
    team = team_of(text, [replace(script, duplicate=duplicate) for script in scripts], seed=seed)
    books = Books(team)
    for time, name, down_s in data.draw(outages(names)):
        team.at(time, lambda name=name, down_s=down_s: team.cut(name, down_s))
    books.check_at(*data.draw(st.lists(st.floats(0.0, 8.0), max_size=8)))
    finished(team)
    books.check()
    replicas_agree(team)
    policy = parse_policy(text)
    if policy.slack is not None:
        assert max(team.gaps, default=0) <= policy.slack
        assert max(team.push_ages, default=0) <= policy.slack
    if policy.streaming:
        assert max(team.pull_ages, default=0) <= policy.slack  # end to end
    else:
        assert max(team.push_ages, default=0) <= policy.pull_bound - 1
        assert max(team.pull_ages, default=0) <= policy.pull_bound - 1
    for script in scripts:
        # Each iteration ends once, whatever was cut. (A cut that swallows the farewell makes a worker join once more.)
        ended = [record["iteration"] for record in events(team, script.name, "step")]
        assert ended == list(range(1, script.iterations + 1))


@prove(10)
@given(st.data())
def test_in_an_outage_nobody_starts_beyond_the_slack_and_ahead(data):
    """What is left out of the bound above: a robot in an outage goes on, and so far only."""
    scripts = data.draw(members(count=2, iterations=12))
    text = data.draw(policies(["rowcast:1?ahead=2", "rowcast:3?ahead=1", "rowcast:2?ahead=3&pulls=common"]))
    team = team_of(text, scripts, seed=data.draw(st.integers(0, 9)))
    for time, name, down_s in data.draw(outages(names_of(scripts))):
        team.at(time, lambda name=name, down_s=down_s: team.cut(name, down_s))
    finished(team)
    policy = parse_policy(text)
    assert max(team.gaps, default=0) <= policy.slack
    assert max(team.outage_ages, default=0) <= policy.slack + policy.ahead


@prove(25)
@given(st.data())
def test_kills_restarts_joins_and_leaves_lose_nothing_else(data):
    """Invariant 8: a killed worker loses what it had not delivered, and nobody loses anything else."""
    scripts = data.draw(members(count=3))
    text = data.draw(policies())
    limit = data.draw(st.sampled_from([0.3, 2.0]))
    team = team_of(
        text,
        scripts,
        seed=data.draw(st.integers(0, 9)),
        server_settings=ServerSettings(expected_workers=data.draw(st.integers(1, 3)), absence_limit_s=limit),
    )
    books = Books(team)
    names = names_of(scripts)

    def strike(kind, name, down_s):
        one = team.workers[name]
        if one.killed or one.node.failure is not None:
            return
        if kind == "cut":
            team.cut(name, down_s)
        elif team.server.parameters is not None:
            books.kill(name)
            if kind == "kill and restart":
                team.at(team.now + down_s, lambda: team.start(one.script))

    kinds = st.sampled_from(["cut", "kill", "kill and restart"])
    strikes = st.lists(
        st.tuples(st.floats(0.0, 5.0), kinds, st.sampled_from(names[1:]), st.sampled_from([0.0, 0.1, 1.0, 4.0])),
        max_size=5,
    )
    for time, kind, name, down_s in data.draw(strikes):
        team.at(time, lambda kind=kind, name=name, down_s=down_s: strike(kind, name, down_s))
    late = worker("robot9", iterations=data.draw(st.integers(1, 4)), seed=5)
    team.at(data.draw(st.floats(0.5, 3.0)), lambda: team.start(late))
    books.check_at(*data.draw(st.lists(st.floats(0.0, 8.0), max_size=6)))
    finished(team)
    books.check()
    slack = parse_policy(text).slack
    if slack is not None:
        assert max(team.gaps, default=0) <= slack


@prove(15)
@given(policies(), st.integers(1, 40), st.booleans())
def test_who_leaves_takes_only_what_he_had_not_delivered(text, tenths, again):
    scripts = [worker("robot0", iterations=8), worker("robot1", iterations=8), worker("robot2", iterations=8)]
    team = team_of(text, scripts)
    books = Books(team)

    def leave():
        if team.server.parameters is None or team.workers["robot1"].node.state.value in ("done", "joining"):
            return
        team.leave("robot1")
        team.at(team.now + 0.05, gone)

    def gone():
        books.lost += team.undelivered("robot1")
        team.workers["robot1"].killed = True
        assert "robot1" not in team.server.members
        if again:
            team.start(scripts[1])

    team.at(tenths / 20, leave)
    team.at(5.0, books.check)
    finished(team)
    books.check()
    replicas_agree(team)


@pytest.mark.parametrize("part", range(4))
def test_every_present_worker_grows(part):
    """Invariant 6: with a positive long-run rate on every present link, every iteration count grows.

    Each part has other policies and other teams. The last outage is over after nine seconds.
    """

    @seed(part)
    @prove(5)
    @given(st.data())
    def grows(data):
        scripts = data.draw(members(iterations=120))
        team = team_of(data.draw(policies(POLICIES[part::4])), scripts)
        names = names_of(scripts)
        for time, name, down_s in data.draw(outages(names)):
            team.at(time, lambda name=name, down_s=down_s: team.cut(name, down_s))
        counts = []
        for time in (10.0, 20.0, 30.0):
            team.run(time)
            counts.append([team.workers[name].computed for name in names])
        assert all(n >= 120 or n > m for m, n in zip(counts[0], counts[1], strict=True))
        assert all(n >= 120 or n > m for m, n in zip(counts[1], counts[2], strict=True))

    grows()


# -- 7: a cut at any byte --------------------------------------------------------------------------------------


def steep(seed, layout):
    return quadratic(seed, layout, rate=0.3)


#: 4 rows of 3 elements: few bytes, so that every one of them can be the last.
TINY = Layout.from_shapes([("weight", (3, 3)), ("bias", (3,))], small_tensor=1)


def cut_anywhere(text, gradient, direction, byte, down_s=0.2):
    scripts = [
        worker(
            f"robot{i}",
            iterations=2,
            gradient=gradient(i, TINY),
            weight=0.5,
            compute_s=0.02,
            delay_s=0.002,
            layout=TINY,
        )
        for i in range(2)
    ]
    team = VirtualTeam(TINY, text, scripts, link_settings=SMALL_FRAMES)
    books = Books(team)
    if byte is not None:
        team.cut_after("robot0", direction, byte, down_s)
        team.at(0.05, books.check)
        team.at(0.21, books.check)
    finished(team)
    books.check()
    replicas_agree(team, atol=1e-5)
    return team


@pytest.mark.parametrize("direction", ["up", "down"])
def test_cutting_bsp_at_every_byte_changes_only_the_time(direction):
    calm = cut_anywhere("bsp?codec=raw", steep, direction, None)
    total = calm.workers["robot0"].carried[direction]
    assert total > 300
    for byte in range(total):
        team = cut_anywhere("bsp?codec=raw", steep, direction, byte)
        np.testing.assert_allclose(
            team.server.parameters, calm.server.parameters, rtol=0, atol=1e-6, err_msg=f"byte {byte}"
        )


@pytest.mark.parametrize("direction", ["up", "down"])
def test_cutting_rog_at_a_byte_keeps_the_books(direction):
    calm = cut_anywhere("rog:2?codec=onebit", noise, direction, None)
    for byte in range(0, calm.workers["robot0"].carried[direction], 3):
        team = cut_anywhere("rog:2?codec=onebit", noise, direction, byte)
        # The updates do not depend on the parameters: after draining, the sum is the same whatever happened.
        np.testing.assert_allclose(
            team.server.parameters, calm.server.parameters, rtol=0, atol=1e-5, err_msg=f"byte {byte}"
        )


@prove(20)
@given(st.data())
def test_several_cuts_at_random_bytes(data):
    team, gradients = bsp_team(4, [1e5, 3e5])
    cuts = st.tuples(
        st.sampled_from(["robot0", "robot1"]),
        st.sampled_from(["up", "down"]),
        st.integers(0, 4000),
        st.sampled_from([0.0, 0.1, 1.0]),
    )
    for cut in data.draw(st.lists(cuts, min_size=1, max_size=8)):
        team.cut_after(*cut)
    finished(team)
    np.testing.assert_allclose(team.server.parameters, serial_sgd(gradients, 4), rtol=0, atol=1e-5)


# -- 9, 10, 11, 12 ---------------------------------------------------------------------------------------------


@prove(15)
@given(st.data())
def test_a_learning_rate_schedule_keeps_agreement(data):
    """Invariant 9: each worker scales its own updates, differently in each iteration."""

    def scheduled(i, rates):
        step = quadratic(i, rate=1.0)
        return lambda n, x: np.float32(rates[n]) * step(n, x)

    schedule = st.lists(st.floats(1e-6, 0.5), min_size=8, max_size=8)
    scripts = [
        worker(f"robot{i}", iterations=8, gradient=scheduled(i, data.draw(schedule)), compute_s=pace, rate_bps=rate)
        for i, (pace, rate) in enumerate([(0.01, 1e6), (0.1, 5e4), (0.3, 2e5)])
    ]
    team = team_of(data.draw(policies()), scripts)
    books = Books(team)
    books.check_at(0.5, 1.0, 2.0)
    finished(team)
    books.check()
    replicas_agree(team)


@pytest.mark.parametrize("text", ["bsp", "ssp:1", "rog:1", "rog:2", "rog:8"])
@pytest.mark.parametrize("dead", [("weight",), ("bias", "scale"), ("weight", "bias", "scale")])
def test_a_parameter_without_a_gradient_blocks_nobody(text, dead):
    mask = np.ones(LAYOUT.elements, dtype=np.float32)
    for spec in LAYOUT.tensors:
        if spec.name in dead:
            mask[spec.start : spec.stop] = 0

    def masked(step):
        return lambda n, x: mask * step(n, x)

    scripts = [worker(f"robot{i}", iterations=12, gradient=masked(noise(i)), rate_bps=1e5) for i in range(3)]
    team = team_of(text, scripts)
    finished(team, until=60.0)
    replicas_agree(team)
    still = team.server.parameters[mask == 0]
    assert np.array_equal(still, start_of()[mask == 0])
    assert max(team.gaps) <= parse_policy(text).slack


@prove(10)
@given(st.data())
def test_ssp_is_rog_with_one_row_per_model(data):
    slack, codec = data.draw(st.integers(0, 6)), data.draw(st.sampled_from(["raw", "onebit"]))
    scripts = data.draw(members())
    cuts = data.draw(outages(names_of(scripts)))
    journals = []
    rog = f"rog:{slack}?granularity=model&share=1&codec={codec}"
    # The name travels in the welcome: f1, which nothing asks for here, makes both as long.
    ssp = f"ssp:{slack}?codec={codec}&f1=1.".ljust(len(rog), "0")
    for text in (ssp, rog):
        team = team_of(text, scripts)
        for time, name, down_s in cuts:
            team.at(time, lambda team=team, name=name, down_s=down_s: team.cut(name, down_s))
        finished(team)
        journals.append({name: journal.records for name, journal in team.journals.items()})
    assert journals[0] == journals[1]


def bytes_of(team):
    return "\n".join(
        json.dumps(record, separators=(",", ":"), allow_nan=False)
        for journal in team.journals.values()
        for record in journal.records
    ).encode()


@prove(10)
@given(st.data())
def test_the_same_seed_gives_the_same_journal(data):
    scripts, text, seed = data.draw(members()), data.draw(policies()), data.draw(st.integers(0, 99))
    cuts = data.draw(outages(names_of(scripts)))
    runs = []
    for _ in range(2):
        team = team_of(text, [replace(script, duplicate=0.1) for script in scripts], seed=seed)
        for time, name, down_s in cuts:
            team.at(time, lambda team=team, name=name, down_s=down_s: team.cut(name, down_s))
        finished(team)
        runs.append(bytes_of(team))
    assert runs[0] == runs[1]
    assert len(runs[0]) > 1000


# -- rates that come and go ------------------------------------------------------------------------------------


def test_a_long_fade_is_waited_for_and_then_over():
    fading = Trace(np.array([0.0, 1.0, 6.0]), np.array([1e6, 0.0, 1e6]), "fade", duration_s=1000.0)
    scripts = [worker("robot0", iterations=30, rate_bps=fading), worker("robot1", iterations=30)]
    team = team_of("rog:4", scripts)
    books = Books(team)
    books.check_at(0.5, 2.0, 5.0, 7.0)
    finished(team, until=60.0)
    replicas_agree(team)
    assert not events(team, "server", "absent")
    assert max(record["held_s"] for record in events(team, "server", "gate")) > 3
