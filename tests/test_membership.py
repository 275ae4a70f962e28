"""Who joins, leaves, dies, returns and is waited for, told as stories on the virtual team."""

from __future__ import annotations

import numpy as np
import pytest

from rowcast.codecs import codec_by_name
from rowcast.config import LinkSettings, ServerSettings, WorkerSettings
from rowcast.errors import AuthenticationFailed, LayoutMismatch, LinkLost, RemoteProtocolError
from rowcast.links import Trace
from rowcast.rows import Layout
from rowcast.session import JoinRequest, Link
from rowcast.sync import VersionTable, parse_policy
from rowcast.testing import VirtualTeam
from rowcast.training import ServerNode, WorkerNode, WorkerState
from rowcast.training.member import Member, MemberState
from rowcast.wire import Cancel, Heartbeat, Proof, PushEnd, Refusal, Rows, Welcome
from teams import LAYOUT, Books, events, finished, noise, replicas_agree, start_of, worker

SMALL_FRAMES = LinkSettings(frame_min_bytes=64, window_min_bytes=256, frame_s=0.001)


def team_of(policy, scripts, **more):
    return VirtualTeam(LAYOUT, policy, scripts, link_settings=SMALL_FRAMES, **more)


def joins(team):
    return {record["peer"]: record["how"] for record in events(team, "server", "join")}


# -- coming ----------------------------------------------------------------------------------------------------


def test_equal_parameters_start_at_once_and_nothing_is_sent_twice():
    team = team_of("bsp", [worker("robot0", rate_bps=1e7), worker("robot1", rate_bps=1e4)])
    team.run(0.5)
    assert joins(team) == {"robot0": "seed", "robot1": "equal"}
    assert team.server.members["robot1"].owed.sent_frames == 0
    finished(team)
    replicas_agree(team)


def test_other_parameters_are_replaced_by_the_team_s():
    other = np.ones(LAYOUT.elements, dtype=np.float32)
    team = team_of("bsp", [worker("robot0"), worker("robot1", initial=other)])
    finished(team)
    assert joins(team) == {"robot0": "seed", "robot1": "receive"}
    replicas_agree(team)


def test_the_first_iteration_begins_at_the_same_parameters_whoever_comes_first():
    team = team_of(
        "bsp?codec=raw", [worker("robot0", iterations=3)], server_settings=ServerSettings(expected_workers=2)
    )
    team.at(2.0, lambda: team.start(worker("robot1", iterations=3)))
    team.run(1.9)
    assert team.workers["robot0"].node.state is WorkerState.JOINING
    assert np.array_equal(team.server.parameters, start_of())
    finished(team)
    assert joins(team)["robot1"] == "equal"
    assert [record["iteration"] for record in events(team, "robot1", "step")] == [1, 2, 3]
    replicas_agree(team)


@pytest.mark.parametrize("policy", ["bsp", "ssp:3", "asp", "flown:2", "rog:4"])
def test_a_late_joiner_receives_the_parameters_and_starts_with_the_slowest(policy):
    team = team_of(policy, [worker("robot0", iterations=20), worker("robot1", iterations=20, compute_s=0.2)])
    books = Books(team)
    at_joining = []
    team.at(1.0, lambda: at_joining.append(min(one.node.iteration for one in team.workers.values())))
    team.at(1.0, lambda: team.start(worker("robot2", iterations=4, initial=LAYOUT.zeros())))
    books.check_at(0.9, 1.005, 1.05, 1.1, 1.5)
    finished(team)
    books.check()
    replicas_agree(team)
    assert joins(team)["robot2"] == "receive"
    assert events(team, "robot2", "step")[0]["iteration"] >= at_joining[0]


def test_when_the_seeder_dies_the_next_one_seeds():
    team = team_of(
        "bsp",
        [worker("robot0", rate_bps=1e4, iterations=3)],
        server_settings=ServerSettings(expected_workers=1, absence_limit_s=1.0),
    )
    team.at(0.25, lambda: team.start(worker("robot1", initial=LAYOUT.zeros())))
    team.at(0.4, lambda: team.kill("robot0"))
    team.run(0.39)
    assert joins(team) == {"robot0": "seed"}
    assert "robot1" not in team.server.members
    assert team.workers["robot1"].node.awaited == "the first worker, which is sending the parameters"
    assert not team.workers["robot1"].node.notices  # every start has such a moment: said when it lasts
    finished(team)
    assert joins(team) == {"robot0": "seed", "robot1": "seed"}
    assert events(team, "server", "leave")[0]["cause"] == "went away before the start"
    replicas_agree(team)


def test_a_seeder_that_comes_back_too_late_receives_like_anybody_else():
    team = team_of(
        "bsp",
        [worker("robot0", rate_bps=1e4)],
        server_settings=ServerSettings(expected_workers=1, absence_limit_s=0.3),
    )
    team.at(0.25, lambda: team.start(worker("robot1", iterations=40, initial=LAYOUT.zeros())))
    team.at(0.4, lambda: team.cut("robot0", 1.0))
    finished(team)
    assert [(record["peer"], record["how"]) for record in events(team, "server", "join")][:3] == [
        ("robot0", "seed"),
        ("robot1", "seed"),
        ("robot0", "receive"),
    ]
    replicas_agree(team)


def test_a_seeder_that_restarts_does_not_wait_for_its_own_ghost():
    script = worker("robot0", rate_bps=1e4, iterations=2)
    team = team_of("bsp", [script])
    team.at(0.25, lambda: team.kill("robot0"))
    team.at(0.3, lambda: team.start(script))
    finished(team, until=9.0)


def test_who_waits_long_for_the_seeder_is_not_taken_for_silent():
    fading = Trace(np.array([0.0, 0.2, 60.0]), np.array([2e4, 400.0, 1e5]), "fading", duration_s=1e4)
    team = team_of("bsp", [worker("robot0", rate_bps=fading)], server_settings=ServerSettings(expected_workers=2))
    team.at(0.2, lambda: team.start(worker("robot1")))
    team.run(60.0)
    seeded = next(record["t"] for record in events(team, "server", "join") if record["peer"] == "robot1")
    assert seeded > 0.2 + team.server.settings.silence_limit_s
    assert not [record for record in events(team, "server", "link_down") if record["peer"] == "robot1"]
    finished(team)


def test_a_lost_welcome_changes_only_the_time():
    """The worker knows no server yet, but the server knows its session: it keeps its place."""
    for byte in range(50, 140, 6):
        team = team_of("bsp", [worker("robot0", iterations=2, rate_bps=1e7), worker("robot1", iterations=2)])
        team.cut_after("robot1", "down", byte, 0.5)
        finished(team)
        assert {record["cause"] for record in events(team, "server", "leave")} == {"finished"}
        replicas_agree(team)


def test_a_newcomer_starts_where_the_gate_has_let_others_pass():
    """All rows of an iteration may be here before the message that ends it."""
    server = ServerNode(parse_policy("bsp"), settings=ServerSettings(expected_workers=2))
    gate, members = server.gate, server.members
    gate.versions = VersionTable(3)
    for name in ("robot0", "robot1"):
        members[name] = Member(name, b"", None, None, MemberState.COMPUTING)
        gate.admit(members[name])
    for name in members:
        gate.versions.advance(name, np.arange(3), 1)
    members["robot0"].iteration = 1
    assert members["robot1"].iteration == 0
    members["robot2"] = Member("robot2", b"", None, None, MemberState.READY)
    gate.admit(members["robot2"])
    assert members["robot2"].iteration == 1
    assert gate.versions.oldest() == 1


def test_the_first_quota_of_a_newcomer_is_waited_for_before_the_others_are_told_to_stop():
    server = ServerNode(parse_policy("rog:4"), settings=ServerSettings(expected_workers=2))
    gate, members = server.gate, server.members
    gate.versions = VersionTable(3)
    for name in ("robot0", "robot1", "late"):
        members[name] = Member(name, b"", None, None, MemberState.COMPUTING)
        gate.admit(members[name])
    for name in ("robot0", "robot1"):
        gate.quota_arrived(members[name], 1)
    assert gate.superfluous() == []
    gate.quota_arrived(members["late"], 1)
    assert gate.superfluous() == list(members.values())
    assert gate.superfluous() == [], "once for an iteration"


# -- who may not come in ---------------------------------------------------------------------------------------


def test_a_name_is_taken_as_long_as_its_owner_is_connected():
    team = team_of("asp", [worker("robot0", iterations=20)])
    first = team.workers["robot0"]
    team.at(0.5, lambda: team.start(worker("robot0", iterations=2, seed=7)))
    team.run(1.5)
    refusals = [record for record in events(team, "server", "error") if record["error"] == "refused: name"]
    assert refusals
    assert "robot0" in refusals[0]["message"]
    assert first.node.state is not WorkerState.JOINING
    team.run(60)
    assert first.node.state is WorkerState.DONE
    assert team.workers["robot0"].node.state is WorkerState.DONE


@pytest.mark.parametrize(("secret", "worker_secret"), [(b"one", b"two"), (b"one", b"")])
def test_a_wrong_secret_is_refused(secret, worker_secret):
    """The refusal proves nothing, so it ends nothing before join_limit_s; the user is told what is wrong."""
    team = team_of("bsp", [worker("robot0", secret=worker_secret)], secret=secret)
    node = team.workers["robot0"].node
    team.run(25)
    assert "robot0" not in team.failures
    assert node.state is WorkerState.JOINING and not node.joined
    assert "did not prove that it knows the shared secret" in node.unproven
    assert "the worker's proof does not fit the server's shared secret; give both the same" in node.unproven
    assert 3 <= len(node.notices) <= 8, node.notices
    assert team.server.members == {}
    assert events(team, "server", "error")[0]["error"] == "refused: secret"
    team.run(60)
    assert isinstance(team.failures["robot0"], AuthenticationFailed)


def test_the_right_secret_opens():
    team = team_of("rog:2", [worker(name, secret=b"word") for name in ("robot0", "robot1")], secret=b"word")
    finished(team)
    replicas_agree(team)


def test_a_secret_on_one_side_only_is_named():
    team = VirtualTeam(LAYOUT, "bsp", [worker("robot0", secret=b"word")])
    team.run(25)
    assert "robot0" not in team.failures
    assert "the worker has a shared secret and this server has none" in team.workers["robot0"].node.unproven
    team = VirtualTeam(LAYOUT, "bsp", [worker("robot0")], secret=b"word")
    team.run(60)
    assert isinstance(team.failures["robot0"], AuthenticationFailed)
    assert "the server has a shared secret and this worker has none" in str(team.failures["robot0"])


def test_a_server_that_does_not_know_the_secret_is_found_out():
    node = WorkerNode("robot0", LAYOUT, LAYOUT.zeros(), request=JoinRequest(b"word"))
    team = VirtualTeam(LAYOUT, "bsp", [], secret=b"other")
    link, far = Link("server"), Link("robot0")
    node.link_up(0.0, link)
    team.server.link_up(0.0, far)
    node.receive(0.0, team.server.poll(0.0, far))
    node.poll(0.0)
    with pytest.raises(LinkLost, match=r"server at server did not prove.*its proof does not fit"):
        node.receive(0.0, Proof(b"\0" * 32))
    with pytest.raises(LinkLost, match="Welcome before its proof"):
        node.receive(0.0, Welcome("equal", b"", "bsp", 0, 1, 0, 0, b""))
    assert node.failure is None
    assert not node.joined


@pytest.mark.parametrize("delay_s", [0.0, 0.05])
def test_another_layout_is_refused_with_the_first_tensor_that_differs(delay_s):
    team = team_of("bsp", [worker("robot0", iterations=30)])
    other = Layout.from_shapes([("weight", (24, 2)), ("bias", (15,)), ("scale", ())], small_tensor=1)
    stranger = VirtualTeam(other, "bsp", [])
    assert stranger.layout is other
    # The same team, but this worker's model has a longer bias.
    ours, team.layout = team.layout, other
    team.start(worker("robot1", layout=other, delay_s=delay_s))
    team.layout = ours
    team.run(2.0)
    failure = team.failures["robot1"]
    assert isinstance(failure, LayoutMismatch)
    assert "'bias' (15,)" in str(failure)
    assert "'bias' (14,)" in str(failure)
    team.run(100.0)
    assert team.finished
    assert team.failures.keys() == {"robot1"}


def test_a_policy_that_the_worker_does_not_know_is_an_error_of_the_server():
    team = team_of("bsp", [worker("robot0")])
    object.__setattr__(team.server.policy, "name", "quantum:4")
    team.run(5)
    assert isinstance(team.failures["robot0"], RemoteProtocolError)
    assert "quantum:4" in str(team.failures["robot0"])


# -- going -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["bsp", "ssp:2", "rog:4"])
def test_the_absent_leave_the_gate_and_come_back_to_it(policy):
    team = team_of(
        policy,
        [worker("robot0", iterations=60), worker("robot1", iterations=60)],
        server_settings=ServerSettings(expected_workers=2, absence_limit_s=2.0),
    )
    books = Books(team)
    books.check_at(1.0, 2.9, 3.5, 5.9, 6.5)
    team.at(1.0, lambda: team.cut("robot1", 5.0))
    counts = {}
    for time in (2.9, 3.1, 5.9):
        team.at(time, lambda time=time: counts.update({time: team.workers["robot0"].node.iteration}))
    finished(team)
    absent = events(team, "server", "absent")
    assert [(record["peer"], record["t"], record["members"]) for record in absent] == [("robot1", 3.0, 1)]
    assert counts[5.9] > counts[3.1] + 15
    assert counts[2.9] <= 15
    books.check()
    replicas_agree(team)
    back = next(record for record in events(team, "robot1", "step") if record["t"] > 6.0)
    assert back["iteration"] >= counts[5.9]  # it goes on where the slowest of the others is
    slack = team.server.policy.slack
    assert max(team.gaps) <= slack


def test_a_new_count_that_was_lost_with_the_link_is_told_again():
    """The absent one comes back, and its link is cut before it hears from where it counts now."""
    for cut_at in (6.01, 6.03, 6.05, 6.07):
        team = team_of(
            "rog:4",
            [worker("robot0", iterations=80), worker("robot1", iterations=80, delay_s=0.02)],
            server_settings=ServerSettings(expected_workers=2, absence_limit_s=2.0),
        )
        books = Books(team)
        team.at(1.0, lambda team=team: team.cut("robot1", 5.0))
        team.at(cut_at, lambda team=team: team.cut("robot1", 0.1))
        finished(team)
        books.check()
        replicas_agree(team)


def test_who_waits_is_told_for_whom_and_why():
    team = team_of(
        "bsp",
        [worker("robot0"), worker("robot1"), worker("robot2", compute_s=30.0, iterations=1)],
        server_settings=ServerSettings(expected_workers=3, patience_s=2.0, absence_limit_s=20.0),
        worker_settings=WorkerSettings(),
    )
    team.at(1.0, lambda: team.cut("robot1", 8.0))
    team.run(7.0)
    waiting = events(team, "server", "waiting")
    assert {record["peer"] for record in waiting} == {"robot0"}
    assert waiting[0]["waited_s"] == pytest.approx(2.0, abs=0.01)
    assert "robot2 (computing at iteration 1)" in waiting[0]["for"]
    assert any("robot2" in notice for notice in team.workers["robot0"].node.notices)
    team.run(500.0)
    assert team.finished


def test_who_waits_for_a_lost_link_is_told_how_long():
    team = team_of(
        "bsp",
        [worker("robot0", iterations=20), worker("robot1", iterations=20)],
        server_settings=ServerSettings(expected_workers=2, patience_s=2.0, absence_limit_s=20.0),
    )
    team.at(0.5, lambda: team.cut("robot1", 8.0))
    team.run(4.0)
    reason = events(team, "server", "waiting")[0]["for"]
    assert reason.startswith("robot1 (link lost 2 s ago, given up in 1")
    assert team.workers["robot0"].node.notices[-1] == f"robot0: waiting for {reason}"
    finished(team)


def test_who_waits_for_the_team_is_told_how_many_are_missing():
    team = team_of("bsp", [worker("robot0")], server_settings=ServerSettings(expected_workers=3, patience_s=1.0))
    team.run(5.0)
    assert events(team, "server", "waiting")[0]["for"] == "the team: 1 of 3 workers have joined"


def test_a_half_open_link_is_found_by_its_silence():
    team = team_of(
        "ssp:2",
        [worker("robot0", iterations=40), worker("robot1", iterations=40)],
        server_settings=ServerSettings(expected_workers=2, silence_limit_s=3.0, absence_limit_s=30.0),
        worker_settings=WorkerSettings(silence_limit_s=4.0),
    )
    books = Books(team)
    team.at(1.0, lambda: team.freeze("robot1"))
    books.check_at(2.0, 3.9, 4.2, 5.0)
    finished(team)
    books.check()
    replicas_agree(team)
    down = [record for record in events(team, "server", "link_down") if record["peer"] == "robot1"]
    assert down[0]["cause"] == "silent for 3 s"
    assert 3.9 < down[0]["t"] < 4.1


def test_the_worker_finds_a_silent_server_too():
    team = team_of(
        "asp",
        [worker("robot0", iterations=200)],
        server_settings=ServerSettings(silence_limit_s=3000.0),
        worker_settings=WorkerSettings(silence_limit_s=4.0),
    )
    team.at(1.0, lambda: team.freeze("robot0"))
    finished(team)
    down = events(team, "robot0", "link_down")
    assert down[0]["cause"] == "nothing came from the server for 4 s"
    assert 4.9 < down[0]["t"] < 5.1
    replicas_agree(team)


def test_a_slow_transfer_that_makes_progress_is_not_silent():
    team = team_of(
        "bsp",
        [worker("robot0", rate_bps=600.0, iterations=2)],
        server_settings=ServerSettings(silence_limit_s=4.0),
        worker_settings=WorkerSettings(silence_limit_s=4.0),
    )
    finished(team)
    causes = [record["cause"] for record in events(team, "server", "link_down")]
    assert not any("silent" in cause for cause in causes)


def test_a_stranger_that_says_nothing_is_shown_the_door():
    team = team_of("bsp", [], server_settings=ServerSettings(handshake_limit_s=2.0, heartbeat_s=5.0))
    link = Link("scanner")
    team.server.link_up(0.0, link)
    assert team.server.next_wake() == 2.0
    assert team.server.on_timer(1.9) == []
    [(dead, cause)] = team.server.on_timer(2.0)
    assert dead is link
    assert "no hello" in cause


def test_a_lost_farewell_is_said_again_and_the_worker_stays_finished():
    calm = team_of("bsp", [worker("robot0", iterations=2)])
    finished(calm)
    for byte in range(1, 60, 3):
        team = team_of("bsp", [worker("robot0", iterations=2)])
        team.cut_after("robot0", "down", calm.workers["robot0"].carried["down"] - byte, 0.3)
        finished(team)
        replicas_agree(team)
        # Had it gone back to computing, the script would have ended it again.
        assert len(events(team, "robot0", "step")) == 2
        assert len(events(team, "robot0", "end")) == 1


# -- the server dies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["bsp", "ssp:2?codec=raw", "rog:4"])
@pytest.mark.parametrize("at", [0.02, 0.35, 0.36, 0.7])
def test_a_new_server_takes_over_what_the_workers_hold(policy, at):
    team = team_of(policy, [worker(f"robot{i}", iterations=12, rate_bps=1e5) for i in range(3)])
    team.at(at, team.restart_server)
    finished(team)
    replicas_agree(team)
    lives = {record["how"] for record in events(team, "server", "join") if record["t"] > at}
    assert "seed" in lives
    assert all(len(events(team, f"robot{i}", "step")) == 12 for i in range(3))
    assert max(team.gaps) <= team.server.policy.slack


@pytest.mark.parametrize("policy", ["bsp", "rog:4"])
def test_a_new_server_counts_on_from_the_iteration_that_is_exchanged(policy):
    """The link is so slow that the iteration is always on its way."""
    team = team_of(policy, [worker("robot0", iterations=8, rate_bps=1e4, compute_s=0.01)])
    exchanging = []

    def restart():
        exchanging.append(team.workers["robot0"].node.exchanging)
        team.restart_server()

    team.at(1.5, restart)
    finished(team)
    assert exchanging == [True]
    assert [record["iteration"] for record in events(team, "robot0", "step")] == list(range(1, 9))


def test_two_deaths_of_the_server_in_a_row_leave_nobody_behind():
    for gap in (0.51, 0.52, 0.55, 0.6):
        team = team_of("bsp", [worker(f"robot{i}", iterations=12, rate_bps=3e4) for i in range(2)])
        team.at(1.0, team.restart_server)
        team.at(1.0 + gap, team.restart_server)
        finished(team)
        replicas_agree(team)
        assert all(len(events(team, f"robot{i}", "step")) == 12 for i in range(2))


def test_what_was_pending_when_the_server_died_is_delivered_to_the_next():
    """A worker that seeds does not forget what it computed and could not deliver."""
    team = team_of("asp?codec=raw", [worker("robot0", iterations=3, rate_bps=1e5, compute_s=1.0)])
    books = Books(team)
    team.at(1.02, team.restart_server)
    team.at(1.02, lambda: setattr(books, "initial", team.workers["robot0"].node.replica.astype(np.float64)))
    finished(team)
    books.check()


# -- iterations without a contribution, and speculation --------------------------------------------------------


@pytest.mark.parametrize("policy", ["bsp", "rog:1", "rog:4"])
def test_a_skipped_iteration_blocks_nobody(policy):
    def never(n, x):
        return np.zeros_like(x)

    team = team_of(policy, [worker("robot0", iterations=12), worker("robot1", iterations=12, gradient=never)])
    finished(team, until=20.0)
    assert len(events(team, "robot1", "step")) == 12
    assert team.workers["robot1"].node.residual.vector.any() == np.False_
    replicas_agree(team)


@pytest.mark.parametrize("policy", ["bsp?codec=raw", "rog:4"])
def test_the_server_books_of_each_push_what_the_worker_books(policy):
    team = team_of(policy, [worker("robot0", iterations=5), worker("robot1", iterations=8, compute_s=0.3)])
    finished(team)
    for name in ("robot0", "robot1"):
        pushes = [record for record in events(team, "server", "push") if record["peer"] == name]
        steps = events(team, name, "step")
        assert [record["rows"] for record in pushes] == [record["push_rows"] for record in steps]
        assert [record["bytes"] for record in pushes] == [record["push_bytes"] for record in steps]
        assert all(0 < record["rows"] <= LAYOUT.rows and record["zero_rows"] == 0 for record in pushes)


def test_an_exchange_without_an_update_is_booked_as_skipped():
    team = team_of("bsp", [worker("robot0", iterations=30), worker("robot1", iterations=30)])

    def skip():
        one = team.workers["robot1"]
        assert one.node.state is WorkerState.COMPUTING
        one.node.exchange(team.now)
        team.attend(one)

    team.at(0.05, skip)
    finished(team)
    steps = events(team, "robot1", "step")
    assert [record["skipped"] for record in steps[:3]] == [True, False, False]
    replicas_agree(team)


def test_nobody_sends_beyond_his_quota_once_all_quotas_are_there():
    """The fast worker has seconds of speculation left when the last quota arrives: Cancel ends its push."""
    big = Layout.from_shapes([("weight", (400, 50))], small_tensor=1)
    team = VirtualTeam(
        big,
        "rog:8?codec=raw",
        [
            worker("robot0", iterations=6, compute_s=2.0, rate_bps=1e6, layout=big),
            worker("robot1", iterations=6, compute_s=2.0, rate_bps=2e5, layout=big),
        ],
    )
    seen = []
    original = WorkerNode.receive

    def spy(node, now, message):
        transfer = node.outbox.transfer
        original(node, now, message)
        if isinstance(message, Cancel):
            seen.append((node.name, transfer is not None and transfer.cancelled))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WorkerNode, "receive", spy)
        finished(team)
    assert ("robot1", True) in seen or ("robot0", True) in seen
    replicas_agree(team, atol=1e-3)
    assert max(team.gaps) <= 8


# -- one bad member does not spoil the team --------------------------------------------------------------------


@pytest.mark.parametrize(
    "evil",
    [
        PushEnd(1 << 30, 0.1, 0.1, 1e6, False),
        PushEnd((1 << 64) - 1, 0.1, 0.1, 1e6, False),
        Rows(99, 1, 1, False, False, np.arange(3), np.zeros(24, dtype=np.uint8)),
        Rows(1, 1, 77, False, False, np.arange(3), np.zeros(24, dtype=np.uint8)),
        Welcome("equal", b"", "bsp", 0, 1, 0, 0, b""),
    ],
    ids=["far iteration", "huge iteration", "row gap", "unknown codec", "server's message"],
)
def test_a_member_that_misbehaves_is_told_and_shown_out(evil):
    team = team_of("asp", [worker("robot0", iterations=20), worker("robot1", iterations=20, compute_s=5.0)])
    team.run(1.0)
    member = team.server.members["robot1"]
    link = member.link
    with pytest.raises(RemoteProtocolError) as caught:
        team.server.receive(team.now, link, evil)
    team.server.blame(team.now, link, caught.value)
    team.server.blame(team.now, link, caught.value)
    assert [type(message) for message in link.control] == [Refusal]
    assert link.closing
    team.server.receive(team.now, link, Heartbeat())
    assert member.iteration == 0
    before = team.workers["robot0"].node.iteration
    team.run(1.5)
    assert team.workers["robot0"].node.iteration > before


def test_an_update_before_the_start_is_refused():
    scripts = [worker("robot0"), worker("robot1")]
    team = team_of("asp", scripts, server_settings=ServerSettings(expected_workers=3))
    team.run(1.0)
    member = team.server.members["robot1"]
    assert member.state is MemberState.READY
    before = team.server.parameters.copy()
    codec, rows = codec_by_name("raw"), np.arange(1)
    update = Rows(1, 1, codec.wire_id, False, False, rows, codec.encode(LAYOUT, np.ones_like(before), rows))
    with pytest.raises(RemoteProtocolError, match="expected no update before the start"):
        team.server.receive(team.now, member.link, update)
    np.testing.assert_array_equal(team.server.parameters, before)


def test_what_was_wrong_with_the_servers_messages_is_in_the_journal_of_the_worker():
    team = team_of("bsp", [worker("robot0", iterations=20)])
    team.run(0.3)
    assert team.workers["robot0"].node.blame(team.now, RemoteProtocolError("expected a, got b")) == "expected a, got b"
    (record,) = events(team, "robot0", "error")
    assert (record["peer"], record["error"], record["message"]) == (
        "server",
        "RemoteProtocolError",
        "expected a, got b",
    )


def test_the_balance_of_a_team_of_one_is_its_own():
    team = team_of("bsp?codec=onebit", [worker("robot0", iterations=5, gradient=noise(3))])
    books = Books(team)
    books.check_at(0.1, 0.15, 0.2, 0.3)
    finished(team)
    books.check()
