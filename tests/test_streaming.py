"""Policies that stream: nothing waits for a phase, nobody waits for a robot in an outage, and the bound holds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from rowcast.codecs import codec_by_name
from rowcast.config import LinkSettings, ServerSettings, WorkerSettings
from rowcast.delivery.outbox import Outbox
from rowcast.delivery.residual import Residual
from rowcast.delivery.snapshot import Snapshot
from rowcast.delivery.transfer import Request
from rowcast.delivery.window import Window
from rowcast.errors import ConfigError, RemoteProtocolError
from rowcast.links import Trace
from rowcast.rows import Layout
from rowcast.sync import SlackTuner, UsualInterval, parse_policy
from rowcast.testing import VirtualTeam
from rowcast.training import WorkerState
from rowcast.training.member import MemberState
from rowcast.training.worker_loop import shared_part
from rowcast.wire import Computed, Horizon, PushEnd, Rows, Start
from teams import LAYOUT, Books, events, finished, replicas_agree, worker

#: One whole model in either direction takes 0.1 s at 24 kbit/s: 63 float32 and some headers.
SMALL_FRAMES = LinkSettings(frame_min_bytes=64, window_min_bytes=512, frame_s=0.05, window_s=0.1)
MODEL_BPS = 8 * 4 * LAYOUT.elements * 1.6 / 0.1


def team_of(policy, rates, *, iterations=30, compute_s=0.2, **more):
    scripts = [
        worker(f"robot{i}", iterations=iterations, rate_bps=rate, compute_s=compute_s) for i, rate in enumerate(rates)
    ]
    more.setdefault("link_settings", SMALL_FRAMES)
    # A silent link is not given up in these tests, unless they say so.
    more.setdefault("server_settings", ServerSettings(expected_workers=len(rates), silence_limit_s=100.0))
    more.setdefault("worker_settings", WorkerSettings(silence_limit_s=100.0))
    return VirtualTeam(LAYOUT, policy, scripts, **more)


def steps(team, name):
    return events(team, name, "step")


def outage(begin_s, end_s, rate_bps=MODEL_BPS):
    """A link that carries nothing for a while; nobody is told."""
    return Trace(
        np.array([0.0, begin_s, end_s]), np.array([rate_bps, 0.0, rate_bps]), "outage", loop=False, duration_s=np.inf
    )


# -- nothing waits for a phase ---------------------------------------------------------------------------------


def test_rows_travel_while_the_next_gradient_is_computed():
    """Push and pull take as long as the gradient: with phases a step takes both, streamed it takes one."""
    took = {}
    for policy in ("bsp?codec=raw", "rowcast:4?codec=raw"):
        team = team_of(policy, [MODEL_BPS] * 2)
        finished(team)
        ends = [record["t"] for record in steps(team, "robot0")]
        took[policy] = (ends[-1] - ends[4]) / (len(ends) - 5)
    assert took["rowcast:4?codec=raw"] == pytest.approx(0.2, rel=0.02)
    assert took["bsp?codec=raw"] > 1.8 * took["rowcast:4?codec=raw"]


def test_rows_are_chosen_when_they_can_be_sent_and_not_while_the_training_loop_waits():
    team = team_of("rowcast:4?ahead=30", [MODEL_BPS] * 2)
    node, chosen, exchanging = team.workers["robot0"].node, [], []
    begin, exchange = node.outbox.begin, node.exchange

    def note_begin(now, request):
        chosen.append((now, request.iteration, bool(exchanging)))
        return begin(now, request)

    def note_exchange(now):
        exchanging.append(now)
        exchange(now)
        exchanging.pop()

    node.outbox.begin, node.exchange = note_begin, note_exchange
    team.at(2.0, lambda: team.cut("robot0", 3.0))
    finished(team)
    replicas_agree(team)
    assert {iteration for now, iteration, _ in chosen if now < 2.0} >= set(range(1, 9))
    assert not any(within for _, _, within in chosen)
    assert not [now for now, _, _ in chosen if 2.0 < now < 5.0]
    gone = [record for record in steps(team, "robot0") if 2.2 < record["t"] < 5.0]
    assert len(gone) > 10
    assert not any(record["push_rows"] or record["push_bytes"] for record in gone)  # nothing is booked twice


def test_a_step_says_that_rows_travelled_during_the_computation():
    team = team_of("rowcast:4", [MODEL_BPS] * 2)
    finished(team)
    middle = steps(team, "robot0")[5:-5]
    assert all(record["overlap_s"] == record["compute_s"] for record in middle)
    assert all(record["communicate_s"] == 0 for record in middle)
    assert all(record["push_share"] <= 1 for record in middle)  # what is refined was counted before
    assert sum(record["push_rows"] for record in middle) >= 0.8 * LAYOUT.rows * len(middle)


def test_a_step_that_waits_has_one_push():
    """The link of a robot that is held at the gate is idle, and refines: that is booked with the next iteration."""
    team = team_of("rowcast:2?elastic=off", [10 * MODEL_BPS, MODEL_BPS / 20], iterations=12)
    finished(team)
    held = steps(team, "robot0")
    assert sum(record["stall_s"] > 0.1 for record in held) >= 3
    assert all(record["push_share"] <= 1 for record in held)
    assert max(record["push_bytes"] for record in held) > 2 * codec_by_name("onebit").row_bytes(LAYOUT).sum()


def test_what_could_wait_is_in_nobodys_way():
    """One frame at a time, however much the link seemed to carry: the next iteration is not to wait behind it."""
    layout = Layout.from_shapes([("weight", (400, 20))])
    vector = np.random.default_rng(0).standard_normal(layout.elements).astype(np.float32)
    frames = LinkSettings(frame_max_bytes=1024, window_min_bytes=1 << 20)
    outbox = Outbox(Residual(layout, vector), Window(frames), Snapshot(layout, vector, settles=False))
    outbox.link_ready()
    policy = parse_policy("rowcast:4")
    outbox.begin(0.0, Request(1, policy.row_codec, policy.choose_push))
    while (frame := outbox.next_frame(0.0)) is not None or not outbox.settled:
        if frame is None:
            outbox.acknowledged(0.0, outbox.sent_frames)
    assert len(outbox.begin(0.0, Request(2, policy.row_codec, policy.choose_push)).order) == layout.rows
    assert [outbox.next_frame(0.0) is not None for _ in range(2)] == [True, True]
    outbox.acknowledged(0.0, outbox.sent_frames)

    refining = outbox.begin(0.0, Request(2, codec_by_name("half"), policy.choose_refinement, refine=True))
    for _ in range(3):
        assert outbox.next_frame(0.0) is not None and outbox.next_frame(0.0) is None
        outbox.acknowledged(0.0, outbox.sent_frames)
    assert (refining.rows, refining.size > 0) == (0, True)


def test_a_slow_link_is_waited_for_as_the_slack_says():
    """A tenth of the rate it takes: every step waits, and nobody is further ahead than allowed."""
    team = team_of("rowcast:2?codec=raw&elastic=off", [MODEL_BPS, MODEL_BPS / 20], iterations=12)
    finished(team)
    replicas_agree(team)
    assert sum(record["stall_s"] for record in steps(team, "robot0")) > 5.0
    assert max(team.gaps) <= 2
    assert max(team.pull_ages) <= 2


def test_a_worker_alone_never_waits():
    team = team_of("rowcast:1?codec=raw", [1e5], iterations=20)
    finished(team)
    assert sum(record["stall_s"] for record in steps(team, "robot0")) == pytest.approx(0, abs=0.2)


# -- a slack that adapts ---------------------------------------------------------------------------------------


def begin_at(slack, kept=SlackTuner.__init__):
    def begin(self, first, most=0):
        kept(self, first, most)
        self.slack = slack

    return begin


def test_stalls_raise_the_slack_and_the_journal_says_why(monkeypatch):
    """A link that carries a third of what it takes, and a slack that is too small for it."""
    rates = [MODEL_BPS, MODEL_BPS / 3]
    text = "rowcast:8?codec=raw&adapt=off&elastic=off&refine=off"
    monkeypatch.setattr(SlackTuner, "__init__", begin_at(4))
    teams = {auto: team_of(f"{text}&auto={auto}", rates, iterations=100) for auto in ("on", "off")}
    for team in teams.values():
        finished(team)
        replicas_agree(team)
    changes = events(teams["on"], "server", "slack")
    assert events(teams["off"], "server", "slack") == []
    assert changes[0]["why"] == "stall" and changes[0]["before"] == 4 and changes[0]["slack"] == 8
    assert changes[0]["stall_share"] > 0.01
    assert [record["before"] for record in changes[1:]] == [record["slack"] for record in changes[:-1]]
    assert all(2 <= record["slack"] <= 8 for record in changes)
    assert max(teams["on"].gaps) <= 8


def test_stalls_raise_the_slack_beyond_that_of_its_name_and_the_bound_with_it(monkeypatch):
    """The link of one robot carries a model in twenty gradients, of which a slack of four is over too soon."""
    monkeypatch.setattr(SlackTuner, "__init__", begin_at(4))
    rates = [MODEL_BPS, MODEL_BPS / 40]
    text = "rowcast:4?codec=raw&adapt=off&elastic=off&refine=off&auto=on"
    gaps = {}
    for most in (0, 24):
        team = team_of(f"{text}&most_slack={most}", rates, iterations=200)
        books = Books(team)
        books.check_at(10.0, 40.0)
        finished(team)
        books.check()
        replicas_agree(team)
        changes = events(team, "server", "slack")
        assert all(record["slack"] <= max(most, 4) for record in changes)
        gaps[most] = max(team.gaps)
    assert max(record["slack"] for record in changes) == 24
    assert gaps[0] <= 4 < gaps[24] <= 24


@pytest.mark.parametrize("looks", [True, False])
def test_the_slack_is_raised_while_robots_wait_and_not_when_the_wait_is_over(looks, monkeypatch):
    """A link carries nothing for six seconds, which are thirty iterations."""
    monkeypatch.setattr(SlackTuner, "__init__", begin_at(4))
    if not looks:
        monkeypatch.setattr(SlackTuner, "look_at", lambda self, members: math.inf)
    rates = [MODEL_BPS, MODEL_BPS, outage(6.0, 12.0)]
    team = team_of("rowcast:4?codec=raw&adapt=off&elastic=off&auto=on&most_slack=32", rates, iterations=100)
    books = Books(team)
    books.check_at(7.0, 9.0, 11.9)
    finished(team)
    books.check()
    replicas_agree(team)
    raised = [record["t"] for record in events(team, "server", "slack") if record["why"] == "stall"]
    stall_s = sum(record["stall_s"] for name in ("robot0", "robot1") for record in steps(team, name)) / 2
    if looks:
        assert len([at for at in raised if 6.5 < at < 11.5]) >= 3
        assert stall_s < 2.5
    else:
        assert not [at for at in raised if 7.5 < at < 11.5]
        assert stall_s > 3.5


def test_nothing_is_decided_when_nobody_counts():
    """All others have finished, and the last is in an outage."""
    tuner = SlackTuner(16)
    assert tuner.look(0.0, 0, 4) is None
    tuner.computed(1.0, 1.0)
    assert tuner.look(10.0, 100, 0) is None


def test_updates_that_become_small_lower_the_slack():
    def gradient(step, parameters):
        return np.full(LAYOUT.elements, 1.0 if step < 40 else 0.1, dtype=np.float32)

    scripts = [worker(f"robot{i}", iterations=120, rate_bps=1e6, compute_s=0.2, gradient=gradient) for i in range(2)]
    team = VirtualTeam(LAYOUT, "rowcast:12?auto=on&auto_lr=off", scripts, link_settings=SMALL_FRAMES)
    finished(team)
    replicas_agree(team)
    changes = events(team, "server", "slack")
    # A tenth of the size, the square root of it of the slack.
    assert changes[-1]["slack"] == 4 and changes[-1]["progress"] == pytest.approx(0.1, abs=1e-4)
    assert {record["why"] for record in changes} == {"progress"}
    horizon = team.workers["robot0"].node.rule.told
    assert horizon is not None and horizon.slack == 4


@pytest.mark.parametrize("seed", range(4))
def test_nobody_starts_beyond_the_slack_that_was_told(seed, monkeypatch):
    """The slack is another every second iteration, links are cut: whoever starts is no further than he was told."""
    monkeypatch.setattr(SlackTuner, "WINDOW", 2)
    monkeypatch.setattr(SlackTuner, "STALL", 0.0)
    monkeypatch.setattr(SlackTuner, "__init__", begin_at(3))
    scripts = [worker(f"robot{i}", iterations=40, rate_bps=MODEL_BPS / (1 + i), compute_s=0.1) for i in range(3)]
    team = VirtualTeam(
        LAYOUT, "rowcast:9?auto=on&elastic=off&codec=raw", scripts, link_settings=SMALL_FRAMES, seed=seed
    )
    starts = []
    for one in team.workers.values():
        node = one.node

        def compute(now, node=node, kept=node.compute):
            told = node.rule.told
            starts.append((node.iteration - told.horizon, told.slack))
            kept(now)

        node.compute = compute
    for k in range(3):
        team.at(2.0 + 3 * k + seed, lambda k=k: team.cut(f"robot{k}", 0.7))
    books = Books(team)
    books.check_at(1.0, 3.3, 6.1, 9.0)
    finished(team)
    books.check()
    replicas_agree(team)
    assert len({slack for _, slack in starts}) > 2
    assert all(ahead <= slack for ahead, slack in starts)


# -- outages ---------------------------------------------------------------------------------------------------


def test_nobody_waits_for_a_robot_in_an_outage_and_nothing_is_lost():
    team = team_of("rowcast:4", [1e5, 1e5, outage(8.0, 24.0, 1e5)], iterations=150)
    books = Books(team)
    books.check_at(7.9, 12.0, 23.9, 24.5, 27.0, 31.0)
    finished(team)
    books.check()
    replicas_agree(team)
    absent, back = events(team, "server", "absent"), events(team, "server", "return")
    assert [record["peer"] for record in absent] == ["robot2"]
    assert [record["peer"] for record in back] == ["robot2"]
    # Its usual interval is a step of 0.2 s; four iterations of slack and the grace later it does not count.
    assert 8.0 < absent[0]["t"] < 8.0 + 4 * 0.2 + UsualInterval.GRACE_S + 1.0
    assert 24.0 < back[0]["t"] < 31.0
    stalled = sum(record["stall_s"] for record in steps(team, "robot0"))
    assert stalled < UsualInterval.GRACE_S + 0.5


def test_a_robot_in_an_outage_keeps_its_share_until_it_is_given_up():
    team = team_of("rowcast:4", [1e5, 1e5, outage(8.0, 1e6, 1e5)], iterations=400)
    team.run(20.0)
    assert len(team.server.versions) == 2
    assert [team.workers[f"robot{i}"].node.members for i in range(3)] == [3, 3, 3]
    team.kill("robot2")
    team.run(120.0)
    assert [team.workers[f"robot{i}"].node.members for i in range(2)] == [2, 2]


def test_without_elasticity_everybody_waits_for_it():
    team = team_of("rowcast:4?elastic=off", [1e5, 1e5, outage(8.0, 24.0, 1e5)], iterations=150)
    finished(team)
    assert events(team, "server", "absent") == []
    assert sum(record["stall_s"] for record in steps(team, "robot0")) > 11.0


def test_a_robot_in_an_outage_computes_on_for_so_many_iterations_that_count_in_full():
    """What it has pending in the end is all that it has computed since then, times the averaging weight."""
    team = team_of("rowcast:4?ahead=6&codec=raw&auto_lr=off", [1e5, 1e5, outage(8.0, 24.0, 1e5)], iterations=150)
    one = team.workers["robot2"]
    one.script.gradient = lambda index, parameters: np.full(LAYOUT.elements, 0.75, dtype=np.float32)
    node = one.node
    team.run(23.0)
    assert node.state is WorkerState.WAITING
    told = node.rule.told
    assert node.iteration - told.horizon == 4 + 6 + 1
    unsent = np.repeat(node.iteration - node.residual.stamps, LAYOUT.lengths)
    assert unsent.min() >= 6
    assert node.pending == pytest.approx(unsent * 0.75 / 3)
    finished(team)
    replicas_agree(team)


def test_a_robot_in_an_outage_computes_up_to_the_slack_and_ahead():
    """Its last start is exactly so old: the bound is reached and not passed."""
    team = team_of("rowcast:4?ahead=6", [1e5, 1e5, outage(8.0, 24.0, 1e5)], iterations=150)
    finished(team)
    assert max(team.gaps) <= 4 and max(team.pull_ages) <= 4
    assert max(team.outage_ages) == 4 + 6


def test_a_robot_whose_link_is_gone_does_not_hold_the_others_until_the_absence_limit():
    team = team_of("rowcast:4", [1e5] * 3, iterations=120)
    team.at(6.0, lambda: team.cut("robot1", 8.0))
    finished(team)
    replicas_agree(team)
    assert sum(record["stall_s"] for record in steps(team, "robot0")) < UsualInterval.GRACE_S + 0.5


def test_a_robot_whose_count_differs_is_cut_while_it_delivers_the_rest():
    """After an absence the server counts its iterations otherwise than it does itself."""
    team = team_of("rowcast:4?ahead=32", [1e5, outage(3.0, 11.0, 1e5)], iterations=400, compute_s=0.1)
    team.workers["robot1"].script.iterations = 100
    cuts = []

    def look():
        member = team.server.members["robot1"]
        if member.state is MemberState.DRAINING:
            cuts.append(team.server.rule.streamed(member).shift)
            team.cut("robot1", 0.3)
        else:
            team.at(team.now + 0.05, look)

    team.at(1.0, look)
    finished(team)
    assert cuts[0] > 0
    replicas_agree(team)


def test_after_a_cut_the_newest_gradient_is_told_again_as_it_was():
    """The next one is under way, and nobody knows yet what it takes."""
    team = team_of("rowcast:4", [1e5, 1e5], iterations=40, compute_s=0.5)
    told = []
    receive = team.server.receive

    def note(now, link, message):
        if isinstance(message, Computed):
            told.append((now, message))
        receive(now, link, message)

    team.server.receive = note
    team.at(5.2, lambda: team.cut("robot0", 0.2))
    finished(team)
    assert any(5.3 < now < 5.5 for now, _ in told)
    assert [message.compute_s for _, message in told] == pytest.approx([0.5] * len(told))
    assert not any(message.skipped for _, message in told)


@pytest.mark.parametrize("at_s", [1.0, 1.3, 2.0])
@pytest.mark.parametrize(("first", "then"), [("bsp", "rowcast:4"), ("rowcast:4", "bsp"), ("flown:2", "rowcast:4")])
def test_a_server_that_comes_back_with_another_kind_of_policy_is_followed(first, then, at_s):
    team = team_of(f"{first}?codec=raw", [2e4, 2e4], iterations=20, compute_s=0.1)
    team.at(at_s, lambda: team.restart_server(f"{then}?codec=raw"))
    finished(team)
    replicas_agree(team)


def test_who_counts_again_begins_where_neither_side_waits_for_what_the_other_has_yet_to_compute():
    """Rows of a robot with a poor link are old; whose rows are fresh is not taken to be as far behind as they are."""
    team = team_of("rowcast:12?adapt=off&refine=off", [1e5, 6e3, outage(8.0, 14.0, 1e5)], iterations=150)
    gate, rule, found = team.server.gate, team.server.rule, []
    readmit = gate.readmit

    def note(member, iteration, versions):
        left = iteration - rule.horizon_of(member), gate.newest() - int(versions.min())
        found.append((gate.newest() - rule.floor.lowest, gate.newest() - iteration, *left))
        readmit(member, iteration, versions)

    gate.readmit = note
    books = Books(team)
    books.check_at(15.0, 18.0)
    finished(team)
    books.check()
    replicas_agree(team)
    lag, behind, beyond_its_horizon, behind_the_newest = found[0]
    assert lag >= 6  # of the oldest row of all
    assert abs(beyond_its_horizon - behind_the_newest) <= 1
    assert behind < lag


def test_a_link_that_comes_and_goes_is_believed_later_each_time():
    times = [0.0]
    rates = [1e5]
    for k in range(3):
        times += [8.0 + 16 * k, 14.0 + 16 * k]
        rates += [0.0, 1e5]
    flapping = Trace(np.array(times), np.array(rates), "flapping", loop=False, duration_s=np.inf)
    team = team_of("rowcast:4", [1e5, 1e5, flapping], iterations=320)
    finished(team)
    replicas_agree(team)
    back = [record["t"] for record in events(team, "server", "return")]
    waits = [at - max(end for end in times[2::2] if end < at) for at in back]
    assert len(back) == 3
    assert waits[0] < 5.0
    assert waits[0] < waits[1] < waits[2]


def test_who_finishes_while_it_connects_does_not_connect_a_second_time():
    """It computes on without a link, so it may get there; two connections would be of the same worker."""
    team = team_of("rowcast:4", [1e5, 1e5])
    team.run(2.0)
    node = team.workers["robot0"].node
    node.link_down(team.now, "cut")
    assert node.connect_at is not None
    node.connecting(team.now, "there")
    assert node.connect_at is None
    assert node.state is WorkerState.COMPUTING
    node.finish(team.now)
    assert node.connect_at is None
    node.connect_failed(team.now, "nobody there")
    assert node.connect_at is not None


def test_absences_of_the_last_five_minutes_count():
    team = team_of("rowcast:4", [1e5, 1e5])
    team.run(2.0)
    outages, member = team.server.rule.outages, team.server.members["robot1"]
    streamed = team.server.rule.streamed(member)
    assert streamed.step_s == pytest.approx(0.2)
    proofs_s = []
    for left_at in (100.0, 400.0, 700.0, 1000.5):
        outages.left(left_at, member, streamed)
        proofs_s.append(outages.proof_s(streamed))
    assert proofs_s == pytest.approx([0.2, 0.4, 0.8, 0.2])


@pytest.mark.parametrize(("step_s", "first_s"), [(0.001, 0.1), (0.15, 0.15), (2.18, 2.0), (40.0, 2.0)])
def test_for_how_long_a_robot_must_have_caught_up_follows_its_iterations(step_s, first_s):
    """It computes on for so many iterations, not for so long; and a link takes its time to show what it is."""
    team = team_of("rowcast:4", [1e5, 1e5])
    team.run(2.0)
    outages, member = team.server.rule.outages, team.server.members["robot1"]
    streamed = team.server.rule.streamed(member)
    streamed.step_s = step_s
    proofs_s = []
    for absences in (1, 2, 3, 10_000):  # a link that has flapped for a day
        streamed.absences = absences
        proofs_s.append(outages.proof_s(streamed))
    assert proofs_s == pytest.approx([first_s, 2 * first_s, 4 * first_s, 30 * first_s])


def test_where_nobody_counts_the_first_that_has_caught_up_counts_at_once():
    """There is nobody whom it could hold up; and as long as nobody counts no horizon advances."""
    team = team_of("rowcast:4", [1e5, 1e5], iterations=200)
    team.run(5.0)
    rule = team.server.rule
    for name in ("robot0", "robot1"):
        member = team.server.members[name]
        rule.streamed(member).absences = 10_000
        rule.team.departures.leave_gate(team.now, member, 1.0)
    assert not len(team.server.versions)
    finished(team)
    back = events(team, "server", "return")
    assert back[0]["t"] < 5.5
    assert back[0]["members"] == 1
    assert back[1]["t"] > 6.0  # who comes second proves itself to the first: 30 iterations of 0.2 s
    replicas_agree(team)


def test_a_robot_that_has_caught_up_counts_again_though_nothing_else_happens():
    team = team_of("rowcast:4", [1e5, 1e5], iterations=400)
    team.run(5.0)
    rule, member = team.server.rule, team.server.members["robot1"]
    rule.team.departures.leave_gate(team.now, member, 1.0)
    streamed = rule.streamed(member)
    streamed.steady_since = team.now
    member.woken_at = streamed.choose_at = team.now  # what was due has been done
    assert rule.wake_at(member) == team.now + 0.2  # one iteration


def test_a_robot_goes_on_when_its_oldest_row_becomes_newer():
    """All rows but one arrive, again and again: whoever waits for that one waits as long as if nothing came."""
    team = team_of("rowcast:4", [1e5, 1e5], iterations=400)
    team.run(5.0)
    member = team.server.members["robot1"]
    streamed = team.server.rule.streamed(member)
    streamed.versions[:] = streamed.oldest = newest = streamed.own
    since = streamed.interval.since
    rows = np.arange(LAYOUT.rows, dtype=np.int64)

    def arrive(now, rows):
        message = Rows(0, newest + 1, codec_by_name("onebit").wire_id, False, False, rows, b"")
        team.server.rule.arriving(now, member, message)

    for now in (5.1, 5.2):
        arrive(now, rows[1:])
        assert (streamed.oldest, streamed.interval.since) == (newest, since)
    arrive(5.3, rows[:1])
    assert (streamed.oldest, streamed.interval.since) == (newest + 1, 5.3)


def test_a_return_is_no_jump():
    """What comes in at once after an outage is bounded: the parameters of the others move on as usual."""
    team = team_of("rowcast:4?codec=raw", [1e5, 1e5, outage(8.0, 24.0, 1e5)], iterations=170)
    seen = []

    def look():
        seen.append((team.now, team.workers["robot0"].node.replica.copy()))
        if team.now < 32.0:
            team.at(team.now + 0.2, look)

    team.at(4.0, look)
    finished(team)
    moved = np.array([np.abs(b - a).max() for (_, a), (_, b) in itertools.pairwise(seen)])
    at = np.array([time for time, _ in seen[1:]])
    usual = moved[at < 8.0].max()
    assert moved[at > 24.0].max() < 12 * usual


def lowest_after_an_outage(policy):
    """How low the parameters come after an outage of a robot that wants them at -1; the others want them at 0.

    Each step goes a quarter of the way to where its robot wants them.
    """
    team = team_of(policy, [1e5, 1e5, outage(16.0, 32.0, 1e5)], iterations=300)
    for name, goal in (("robot0", 0.0), ("robot1", 0.0), ("robot2", -1.0)):
        team.workers[name].script.gradient = lambda index, parameters, goal=goal: 0.25 * (parameters - goal)
    lows = []

    def look():
        lows.append(float(team.server.parameters.min()))
        if team.now < 40.0:
            team.at(team.now + 0.1, look)

    team.at(32.0, look)
    team.run(15.9)
    assert team.server.parameters == pytest.approx(np.full(LAYOUT.elements, -1 / 3), abs=0.1)
    finished(team)
    replicas_agree(team)
    return min(lows)


def test_what_is_computed_in_an_outage_goes_no_further_than_its_robot_wants():
    """Each of its gradients knows those before it, although they have not been sent."""
    blind, own, team = (
        lowest_after_an_outage(f"rowcast:16?auto_lr=off&anticipate={what}") for what in ("off", "own", "team")
    )
    assert blind < -1.0 < own < team


def test_a_gradient_is_computed_beyond_the_replica_by_what_is_pending():
    team = team_of("rowcast:4?codec=raw", [1e4, 1e4], iterations=60)  # the code leaves nothing
    team.run(5.0)
    node = team.workers["robot0"].node
    assert node.pending.any()
    assert node.anticipated is not None
    vector, times = node.anticipated
    # Without momentum the other one is expected to have a third of the same.
    assert vector is node.pending and times == pytest.approx(np.full(LAYOUT.rows, 1 + 1 / 3))
    node.inner_momentum = 0.9
    assert node.anticipated[1] == pytest.approx(np.full(LAYOUT.rows, 1 + 1.9 / 2.1))
    finished(team)
    assert node.anticipated is None
    for what, expected in (("off", None), ("own", [1.0] * LAYOUT.rows)):
        team = team_of(f"rowcast:4?anticipate={what}", [1e4, 1e4], iterations=60)
        team.run(5.0)
        found = team.workers["robot0"].node.anticipated
        assert (None if found is None else found[1].tolist()) == expected


def test_what_the_code_has_left_of_a_row_is_expected_of_nobody_else():
    """The others have the same gradients in the mean, and remainders of their own: those count once."""
    team = team_of("rowcast:4?refine=off", [1e4, 1e4], iterations=60)
    team.run(5.0)
    node = team.workers["robot0"].node
    _, times = node.anticipated
    fresh = node.residual.fresh()
    assert times.dtype == np.float32 and times.shape == (LAYOUT.rows,)
    assert times == pytest.approx(1.0 + shared_part(0.0) * fresh)
    assert ((times > 1.0) & (times < 4 / 3)).any() and times.min() >= 1.0 and times.max() <= 1.334


# -- what is usual ---------------------------------------------------------------------------------------------


def test_what_is_usual_is_learnt():
    one = UsualInterval(0.0)
    assert one.overdue_at() == UsualInterval.UNKNOWN_S
    for k in range(1, 21):
        assert (one.limit_s == UsualInterval.UNKNOWN_S) == (k <= 8)  # eight are enough
        one.advanced(k * 3.0)
    assert one.limit_s == pytest.approx(3.0 + UsualInterval.GRACE_S)
    assert one.overdue_at() == pytest.approx(60.0 + 3.0 + UsualInterval.GRACE_S)
    one.advanced(160.0)  # one long silence in twenty is not usual
    assert one.limit_s == pytest.approx(3.0 + UsualInterval.GRACE_S)
    for k in range(UsualInterval.MEMORY):
        one.advanced(160.0 + k)
    assert one.limit_s == pytest.approx(1.0 + 1.0)  # as much again, where that is less than the grace


# -- the policy, and peers that do not keep to it --------------------------------------------------------------


@pytest.mark.parametrize("slack", [1, 2, 3, 4, 8, 20, 39])
def test_both_directions_share_the_slack(slack):
    policy = parse_policy(f"rowcast:{slack}")
    assert policy.push_bound + policy.pull_bound - 1 <= slack
    assert policy.share == pytest.approx(1 / (policy.push_bound + 1))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("rowcast:0", "slack of 1 or more"),
        ("rowcast:4?ahead=-1", "ahead >= 0"),
        ("rog:4?elastic=on", "'rowcast' only"),
        ("rog:4?ahead=3", "'rowcast' only"),
        ("rowcast:4?elastic=yes", "elastic: expected 'on' or 'off', got 'yes'"),
        ("rowcast:4?anticipate=teem", "unknown anticipate 'teem'; did you mean 'team'"),
        ("rog:4?anticipate=own", "'rowcast' only"),
    ],
)
def test_settings_that_make_no_sense_are_refused(text, why):
    with pytest.raises(ConfigError, match=why):
        parse_policy(text)


@pytest.mark.parametrize("iteration", [0, 1 << 40])
def test_an_iteration_that_cannot_be_is_refused(iteration):
    team = team_of("rowcast:4", [1e5, 1e5])
    team.run(3.0)
    link = team.workers["robot0"].link
    with pytest.raises(RemoteProtocolError, match="expected iteration"):
        team.server.receive(team.now, link.server_link, Computed(iteration, 0.1, 1e6, 1.0, False))


def test_messages_of_the_other_kind_of_policy_are_refused():
    team = team_of("bsp", [1e5, 1e5])
    team.run(3.0)
    link = team.workers["robot0"].link
    with pytest.raises(RemoteProtocolError, match="goes with the policy bsp, got Computed"):
        team.server.receive(team.now, link.server_link, Computed(1, 0.1, 1e6, 1.0, False))
    with pytest.raises(RemoteProtocolError, match="goes with the policy bsp, got Horizon"):
        team.workers["robot0"].node.receive(team.now, Horizon(1, 1, 4, 2, 1, True))


def test_a_horizon_that_nobody_can_count_to_is_refused():
    """It ended the worker: its stamps are int32."""
    team = team_of("rowcast:4", [1e5, 1e5])
    team.run(3.0)
    node = team.workers["robot0"].node
    for horizon, newest in ((2**31, 0), (0, 2**63)):
        with pytest.raises(RemoteProtocolError, match="expected an iteration up to"):
            node.receive(team.now, Horizon(horizon, newest, 4, 2, 1, True))


def test_what_cannot_be_is_refused_where_rows_are_streamed():
    team = team_of("rowcast:4", [1e5, 1e5])
    team.run(3.0)
    link = team.workers["robot0"].link
    iteration = team.workers["robot0"].node.iteration
    with pytest.raises(RemoteProtocolError, match="0 s or more"):
        team.server.receive(team.now, link.server_link, Computed(iteration, -0.1, 1e6, 1.0, False))
    with pytest.raises(RemoteProtocolError, match="goes with the policy rowcast:4, got PushEnd"):
        team.server.receive(team.now, link.server_link, PushEnd(iteration, 0.1, 0.1, 1e5, False))


@pytest.mark.parametrize("slack", [0, 5, 1 << 30])
def test_a_slack_beyond_that_of_the_policy_is_refused(slack):
    team = team_of("rowcast:4?auto=on", [1e5, 1e5])
    team.run(3.0)
    with pytest.raises(RemoteProtocolError, match=r"slack in 1 \.\. 4"):
        team.workers["robot0"].node.receive(team.now, Horizon(1, 1, slack, 2, 1, True))


def test_a_newcomer_goes_on_only_when_it_was_told_how_fresh_its_parameters_are():
    """It counts from the slowest's iteration, of which not all rows are at the server yet."""
    scripts = [worker(f"robot{i}", iterations=i // 2 + 1, rate_bps=2e4, compute_s=0.01) for i in range(3)]
    settings = ServerSettings(expected_workers=1, absence_limit_s=0.3)
    team = VirtualTeam(LAYOUT, "rowcast:1?codec=raw", scripts, server_settings=settings, link_settings=SMALL_FRAMES)
    finished(team)
    replicas_agree(team)
    assert max(team.gaps) <= 1


@pytest.mark.parametrize("after_s", [0.1, 0.2, 0.25, 0.3, 0.35])
def test_a_newcomer_starts_no_further_ahead_than_the_slack(after_s):
    """The only other one has finished two iterations of which not a row has arrived, and waits."""
    script = worker("robot0", iterations=4, rate_bps=2e4, compute_s=0.01)
    settings = ServerSettings(expected_workers=1, absence_limit_s=0.3)
    team = VirtualTeam(LAYOUT, "rowcast:1?codec=raw", [script], server_settings=settings, link_settings=SMALL_FRAMES)
    begun = []
    node = team.workers["robot0"].node
    begin = node.read_own_writes

    def started():
        begin()
        begun.append(team.now)
        team.at(team.now + after_s, lambda: team.start(worker("robot9", iterations=2, rate_bps=2e4, compute_s=0.01)))

    node.read_own_writes = started
    finished(team)
    replicas_agree(team)
    assert len(begun) == 1 and events(team, "robot9", "step")
    assert max(team.gaps) <= 1


@pytest.mark.parametrize("joins_s", [1.96, 1.97, 1.98, 1.99])
def test_the_first_iteration_of_a_newcomer_is_no_older_than_the_slack(joins_s):
    """It counts from the slowest's iteration, and what it is given lacks more than two: it waits for rows."""
    team = team_of("rowcast:2?ahead=1", [9e3, 27e3], iterations=60, compute_s=0.1)
    team.at(joins_s, lambda: team.start(worker("robot9", iterations=30, rate_bps=1e5, compute_s=0.1)))
    team.run(4.0)
    assert len(steps(team, "robot9")) > 2
    assert max(team.gaps) <= 2 and max(team.pull_ages) <= 2 and not team.outage_ages


def test_a_newcomer_that_is_cut_before_its_first_horizon_does_not_compute_meanwhile():
    """Nobody has told it how old its parameters are: an outage is no reason to begin."""
    team = team_of("rowcast:4?ahead=3", [8e3, 8e3], iterations=60, compute_s=0.1)
    seen, started = [], []

    def join():
        team.start(worker("robot9", iterations=30, rate_bps=1e5, compute_s=0.1))
        node = team.workers["robot9"].node
        receive, compute = node.receive, node.compute

        def start(now):
            started.append(node.beyond)
            compute(now)

        def cut(now, message):
            receive(now, message)
            if isinstance(message, Start) and not seen:
                seen.append(node.iteration)
                team.at(now, lambda: team.cut("robot9", 3.0))
                team.at(now + 2.9, lambda: seen.append((node.state, node.iteration)))

        node.receive, node.compute = cut, start

    team.at(2.0, join)
    team.run(9.0)
    assert seen[1] == (WorkerState.JOINING, seen[0])
    assert len(steps(team, "robot9")) > 2
    assert max(team.gaps) <= 4 and max(team.pull_ages) <= 4
    assert started and not any(started)  # the others, on links that carry next to nothing, may be taken to be absent


def test_a_newcomer_to_an_emptied_gate_does_not_take_back_what_an_absent_robot_holds():
    """One has finished and the other is in an outage: nobody counts, and the floor must not fall."""
    team = team_of("rowcast:4?ahead=0", [MODEL_BPS, outage(3.0, 7.0)], iterations=40, compute_s=0.1)
    team.workers["robot1"].script.iterations = 200
    lowest = []
    for time in np.arange(2.0, 16.0, 0.1):
        team.at(float(time), lambda: lowest.append(team.server.rule.floor.lowest))
    team.at(7.3, lambda: team.start(worker("robot9", iterations=30, rate_bps=MODEL_BPS, compute_s=0.1)))
    team.run(60)
    assert lowest == sorted(lowest) and lowest[-1] > 100
