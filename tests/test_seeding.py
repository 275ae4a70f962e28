"""Whose parameters the team trains: after a restart of the server, at a late joining, and on request (virtual team)."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from rowcast.config import ServerSettings, WorkerSettings
from rowcast.errors import LayoutMismatch, LinkLost, ParametersConflict
from rowcast.links import Trace
from rowcast.rows import Layout
from rowcast.session.seeding import Seeding, Verdict
from rowcast.testing import VirtualTeam
from rowcast.training import WorkerState
from rowcast.wire import Hello
from teams import LAYOUT, events, finished, replicas_agree, worker

POLICIES = ["bsp", "rog:4", "rowcast"]
OTHER = np.full(LAYOUT.elements, 50.0, dtype=np.float32)


def trained_team(policy, iterations=60, **settings):
    """Three robots in the middle of their training, and the time."""
    scripts = [worker(f"robot{i}", iterations=iterations, compute_s=0.1 + 0.01 * i, rate_bps=1e6) for i in range(3)]
    settings = ServerSettings(expected_workers=settings.pop("expected_workers", 3), **settings)
    team = VirtualTeam(LAYOUT, policy, scripts, server_settings=settings)
    team.run(3.0)
    return team


def joins(team, since=0.0):
    return [(r["peer"], r["how"]) for r in events(team, "server", "join") if r["t"] >= since]


def first_seed(team, since):
    return next(peer for peer, how in joins(team, since) if how == "seed")


# -- the server restarts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expected", [1, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_an_untrained_robot_that_comes_first_does_not_seed(policy, expected):
    team = trained_team(policy, expected_workers=expected)
    before = {name: one.node.iteration for name, one in team.workers.items()}
    assert min(before.values()) > 5
    team.at(3.0, team.restart_server)
    team.at(3.01, lambda: team.start(worker("fresh", iterations=3, initial=OTHER.copy())))
    finished(team)
    replicas_agree(team)
    seeder = first_seed(team, 3.0)
    assert seeder != "fresh"
    if expected == 3:  # else the first that has trained is enough, whichever comes back first
        # a robot that is at the gate has finished an iteration whose exchange is not over
        assert before[seeder] >= max(before.values()) - 1
    started = events(team, "fresh", "step")
    assert started[0]["iteration"] > min(before.values()), "the team goes on counting where it was"
    assert ("fresh", "receive") in joins(team, 3.0)


def test_a_fresh_robot_does_not_seed_because_the_link_of_who_has_trained_was_cut_again():
    """Found by the random faults: the trained one had been chosen, and went away before all was sent."""
    team = trained_team("bsp", expected_workers=1, absence_limit_s=0.3)
    for name in ("robot1", "robot2"):
        team.kill(name)
    team.workers["robot0"].script.rate_bps = 2e4
    team.restart_server()
    team.at(3.01, lambda: team.start(worker("fresh", iterations=3, initial=OTHER.copy())))
    while not joins(team, 3.0):
        team.run(team.now + 0.02)
    assert first_seed(team, 3.0) == "robot0" and team.server.parameters is None
    team.cut("robot0", 1.0)
    finished(team)
    assert [peer for peer, how in joins(team, 3.0) if how == "seed"] == ["robot0", "robot0"]
    replicas_agree(team)


def test_who_has_trained_most_brings_the_parameters():
    seeding = Seeding(b"l" * 16, 6.0)
    hello = Hello("a", b"s" * 16, b"", b"", b"", b"", b"", False, 0, 0)
    fresh, few, many = hello, *(msgspec.structs.replace(hello, training=b"t" * 16, trained=n) for n in (48, 51))
    mine = msgspec.structs.replace(hello, wish="mine")
    assert sorted([many, fresh, mine, few], key=seeding.rank, reverse=True) == [mine, many, few, fresh]


def test_the_gate_does_not_wait_for_who_had_finished_before_the_restart():
    for policy in POLICIES:
        scripts = [worker(f"robot{i}", iterations=5 if i == 2 else 40) for i in range(3)]
        for script in scripts:
            script.compute_s = 0.1
        team = VirtualTeam(LAYOUT, policy, scripts)
        team.workers["robot2"].node._finish_wait = False

        def finish_alone(team=team):
            node = team.workers["robot2"].node
            if node.state is WorkerState.FINISHING:
                node._finish_wait = False

        team.at(0.0, finish_alone)
        begin = team.workers["robot2"].node.finish
        team.workers["robot2"].node.finish = lambda now, wait=True, begin=begin: begin(now, wait=False)
        team.run(2.0)
        assert team.workers["robot2"].node.state is WorkerState.DONE, policy
        team.restart_server()
        finished(team, until=60.0)
        assert {team.workers[f"robot{i}"].node.state for i in range(2)} == {WorkerState.DONE}
        assert np.array_equal(
            np.round(team.workers["robot0"].node.replica, 3), np.round(team.workers["robot1"].node.replica, 3)
        )


@pytest.mark.parametrize("policy", POLICIES)
def test_a_robot_of_another_model_that_comes_first_does_not_end_who_has_trained(policy):
    """It may even have seeded: the team has not begun, so nothing is lost."""
    other = Layout.from_shapes([("other", (7, 3))], small_tensor=1)
    for gather_s in (6.0, 0.0):
        team = trained_team(policy, gather_s=gather_s)
        team.restart_server()
        team.layout, mine = other, team.layout  # start() makes nodes of the team's layout
        team.start(worker("stranger", layout=other, initial=other.zeros(), iterations=3))
        team.layout = mine
        team.run(4.0)
        team.run(100.0)
        assert isinstance(team.failures.pop("stranger"), LayoutMismatch)
        team.workers.pop("stranger")
        finished(team)
        replicas_agree(team)


@pytest.mark.parametrize("policy", POLICIES)
def test_who_has_trained_keeps_that_where_the_team_has_begun_with_other_parameters(policy):
    """The team began without it, with an untrained model: it is told, and goes on looking with all that it has."""
    cut = Trace(np.array([0.0, 2.9, 30.0]), np.array([1e6, 0.0, 1e6]), "away", duration_s=1e5)
    scripts = [worker("robot0", iterations=40, rate_bps=cut)]
    team = VirtualTeam(LAYOUT, policy, scripts, worker_settings=WorkerSettings(silence_limit_s=2.0))
    team.run(3.0)
    node = team.workers["robot0"].node
    trained = node.iteration
    held = node.replica.copy()
    assert trained > 5
    team.restart_server()
    team.at(10.0, lambda: team.start(worker("fresh", iterations=10_000, initial=OTHER.copy())))
    team.run(60.0)
    assert first_seed(team, 3.0) == "fresh"
    assert node.failure is None and node.turned_away
    assert "would overwrite" in node.turned_away and "parameters='team'" in node.turned_away
    assert np.array_equal(node.replica, held) and node.iteration >= trained
    assert [r["peer"] for r in events(team, "server", "error") if r["error"] == "refused: parameters"] == ["robot0"]


@pytest.mark.parametrize("policy", POLICIES)
def test_who_is_refused_takes_nobody_s_place(policy):
    """A program with another model under the name of a robot whose link is down: that one goes on where it was."""
    team = trained_team(policy, absence_limit_s=30.0)
    away = team.workers["robot1"]
    session = team.server.members["robot1"].session
    team.cut("robot1", 3.0)
    other = Layout.from_shapes([("other", (7, 3))], small_tensor=1)
    team.layout, mine = other, team.layout
    team.start(worker("robot1", layout=other, initial=other.zeros(), iterations=3))
    team.layout = mine
    team.run(4.0)
    assert isinstance(team.failures.pop("robot1"), LayoutMismatch)
    assert team.server.members["robot1"].session == session
    team.workers["robot1"] = away
    finished(team)
    replicas_agree(team)
    assert [r["peer"] for r in events(team, "server", "leave") if r["cause"] != "finished"] == []


# -- on request ------------------------------------------------------------------------------------------------------


def wishing(team, name, wish, **more):
    """A robot joins with a wish."""
    team.start(worker(name, **more))
    team.workers[name].node.client._wish = wish
    return team.workers[name].node


@pytest.mark.parametrize("policy", POLICIES)
def test_mine_replaces_what_a_server_kept_when_nobody_is_there(policy):
    team = VirtualTeam(LAYOUT, policy, [worker("robot0", iterations=5)])
    finished(team)
    kept = team.server.parameters.copy()
    node = wishing(team, "robot1", "mine", initial=OTHER.copy(), iterations=0)
    finished(team)
    assert np.array_equal(node.replica, OTHER) and np.array_equal(team.server.parameters, OTHER)
    assert not np.array_equal(kept, OTHER)
    assert any("begins anew: robot1 brings other parameters" in line for line in team.server.notices)
    assert any("its parameters are the team's" in line for line in node.notices)


@pytest.mark.parametrize("policy", POLICIES)
def test_without_a_wish_a_newcomer_takes_what_the_server_kept_and_is_told(policy):
    team = VirtualTeam(LAYOUT, policy, [worker("robot0", iterations=5)])
    finished(team)
    kept = team.server.parameters.copy()
    node = wishing(team, "robot1", "", initial=OTHER.copy(), iterations=0)
    finished(team)
    assert np.array_equal(node.replica, kept)
    assert any("which robot0 brought, have replaced its own" in line for line in node.notices)


def test_mine_is_refused_where_others_train():
    team = trained_team("bsp")
    node = wishing(team, "late", "mine", initial=OTHER.copy(), iterations=1)
    team.run(4.0)
    assert isinstance(node.failure, ParametersConflict)
    assert "others train now" in str(node.failure)
    del team.failures["late"], team.workers["late"]
    finished(team)
    replicas_agree(team)


def test_two_that_want_theirs_are_an_error():
    team = VirtualTeam(LAYOUT, "bsp", [], server_settings=ServerSettings(expected_workers=2))
    first = wishing(team, "robot0", "mine", iterations=2)
    second = wishing(team, "robot1", "mine", initial=OTHER.copy(), iterations=2)
    team.run(5.0)
    assert first.failure is None
    assert isinstance(second.failure, ParametersConflict) and "robot0 and robot1" in str(second.failure)


def test_mine_goes_before_what_others_have_not_begun_to_train():
    team = VirtualTeam(
        LAYOUT, "bsp", [worker("robot0", iterations=2)], server_settings=ServerSettings(expected_workers=2)
    )
    team.run(1.0)
    wishing(team, "robot1", "mine", initial=OTHER.copy(), iterations=2)
    team.run(1.1)  # the other one has not come back yet
    assert np.array_equal(team.server.parameters, OTHER)
    finished(team)
    replicas_agree(team)
    assert ("robot0", "receive") in joins(team, 1.0)


def test_team_gives_up_its_own_training():
    team = trained_team("rog:4", gather_s=0.0, expected_workers=1)
    for name in ("robot1", "robot2"):
        team.kill(name)
    node = team.workers["robot0"].node
    team.restart_server()
    team.start(worker("fresh", iterations=60, initial=OTHER.copy()))
    node.client._wish = "team"
    finished(team)
    assert first_seed(team, 3.0) == "fresh"
    assert ("robot0", "receive") in joins(team, 3.0)
    replicas_agree(team)


def test_a_wish_that_does_not_exist_is_refused():
    team = VirtualTeam(LAYOUT, "bsp", [])
    node = wishing(team, "robot0", "yours")
    team.run(2.0)
    assert not team.server.members
    assert node.failure is None or isinstance(node.failure, LinkLost) or "wish" in str(node.failure)


def test_a_server_that_nobody_visits_begins_anew():
    settings = ServerSettings(expected_workers=1, fresh_after_s=60.0)
    team = VirtualTeam(LAYOUT, "bsp", [worker("robot0", iterations=5)], server_settings=settings)
    team.run(0.3)
    assert team.server._admission.fresh_at() is None, "somebody is there"
    finished(team)
    fresh_at = team.server._admission.fresh_at()
    assert fresh_at == pytest.approx(events(team, "server", "leave")[-1]["t"] + 60.0, abs=1e-3)
    team.server.on_timer(fresh_at - 0.1)
    assert team.server.parameters is not None and team.server.next_wake() <= fresh_at
    team.server.on_timer(fresh_at)
    assert team.server.parameters is None and team.server.layout is None and not team.server.gate.opened
    assert any("begins anew: no worker was there for 60 s" in line for line in team.server.notices)
    team.start(worker("late", iterations=1, initial=OTHER.copy()))
    finished(team)
    assert joins(team)[-1] == ("late", "seed")


# -- the end waits for who has joined --------------------------------------------------------------------------------


#: Good enough to introduce oneself in no time, then hardly anything passes.
FADING = Trace(np.array([0.0, 0.116, 6.0]), np.array([2e5, 500.0, 1e6]), "fading", duration_s=1e5)


@pytest.mark.parametrize("policy", POLICIES)
def test_who_finishes_waits_for_a_worker_that_is_still_receiving_the_parameters(policy):
    """It has joined, and will compute: its work must be in every replica at the end."""
    scripts = [worker(f"robot{i}", iterations=6, compute_s=0.05, rate_bps=1e7) for i in range(2)]
    settings = ServerSettings(expected_workers=2)
    team = VirtualTeam(LAYOUT, policy, scripts, server_settings=settings)
    team.at(0.1, lambda: team.start(worker("late", iterations=3, initial=OTHER.copy(), rate_bps=FADING)))
    team.run(2.0)
    assert all(team.workers[f"robot{i}"].node.iteration == 6 for i in range(2))
    assert not team.workers["late"].node.joined
    assert all(team.workers[f"robot{i}"].node.state is WorkerState.FINISHING for i in range(2))
    finished(team)
    replicas_agree(team)
    assert len(events(team, "late", "step")) == 3


@pytest.mark.parametrize("policy", POLICIES)
def test_who_finishes_does_not_wait_for_a_newcomer_that_went_away(policy):
    scripts = [worker(f"robot{i}", iterations=6, compute_s=0.05, rate_bps=1e7) for i in range(2)]
    team = VirtualTeam(LAYOUT, policy, scripts, server_settings=ServerSettings(expected_workers=2, absence_limit_s=3.0))
    team.at(0.1, lambda: team.start(worker("late", iterations=3, initial=OTHER.copy(), rate_bps=FADING)))
    team.at(0.5, lambda: team.kill("late"))
    finished(team, until=20.0)
    replicas_agree(team)


def test_verdicts():
    seeding = Seeding(b"l" * 16, 6.0)
    fresh = Hello("a", b"s" * 16, b"", b"", b"", b"", b"", False, 0, 0)
    seeding.listen(10.0)
    assert seeding.judge(15.9, fresh, begun=False, others=False) is Verdict.WAIT
    assert seeding.judge(16.0, fresh, begun=False, others=False) is Verdict.SEED
    seeding.complete()
    assert seeding.judge(11.0, fresh, begun=False, others=False) is Verdict.SEED
    assert seeding.chosen(fresh).training != b""
    trained = msgspec.structs.replace(fresh, training=b"t" * 16, trained=4)
    assert seeding.judge(20.0, trained, begun=False, others=True) is Verdict.SEED
    with pytest.raises(ParametersConflict, match="4 iterations"):
        seeding.judge(20.0, trained, begun=True, others=True)
    same = msgspec.structs.replace(fresh, training=seeding.provenance.training, trained=4)
    assert seeding.judge(20.0, same, begun=True, others=True) is Verdict.JOIN
