"""Slots on the real nodes: who transfers, what a cut does to it, and what a worker that waits is told."""

from __future__ import annotations

from unittest.mock import Mock, patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rowcast.config import LinkSettings, ServerSettings
from rowcast.drivers.sockets import Server
from rowcast.drivers.sockets.connection import Connection
from rowcast.drivers.virtual import Device, Simulation
from rowcast.errors import RemoteProtocolError
from rowcast.links import Trace
from rowcast.rows import Layout
from rowcast.session import Link
from rowcast.sync import parse_policy
from rowcast.sync.flown import SLOTS, FlownScheduler
from rowcast.testing import VirtualTeam
from rowcast.training import ServerNode, WorkerNode, WorkerState
from rowcast.training.member import MemberState
from rowcast.training.rules.slotted import HIGHEST_BPS
from rowcast.wire import Ask, Grant, Heartbeat, PushEnd
from teams import LAYOUT, Books, events, finished, links, noise, outages, replicas_agree, worker

SMALL_FRAMES = LinkSettings(frame_min_bytes=64, window_min_bytes=256, frame_s=0.001)

#: Four rows of three elements: few bytes, so that every one of them can be the last.
TINY = Layout.from_shapes([("weight", (3, 3)), ("bias", (3,))], small_tensor=1)


#: 64 kbit in the raw codec.
BIG = Layout.from_shapes([("weight", (200, 10))], small_tensor=1)


def team_of(policy, scripts, layout=LAYOUT, **more):
    """A team in which nobody ever transfers without a slot, and never more than two at once."""
    team = VirtualTeam(layout, policy, scripts, link_settings=SMALL_FRAMES, **more)
    serve = team.serve

    def watched():
        serve()
        scheduler = team.server.rule.slots._scheduler
        active = {request.worker for request in scheduler.active}
        assert len(active) <= SLOTS
        members = team.server.members
        pulling = {name for name, member in members.items() if member.state is MemberState.PULLING and member.link}
        pushing = {
            name for name, one in team.workers.items() if one.connected and one.node.state is WorkerState.PUSHING
        }
        living = {name for name in pushing if team.workers[name].node.client.welcomed and members[name].link}
        assert pulling | living <= active
        waiting = {request.worker for request in scheduler.waiting}
        assert not waiting & active
        assert active or not waiting
        assert all(members[name].state in (MemberState.COMPUTING, MemberState.QUEUED) for name in waiting)

    team.serve = watched
    return team


def slots_of(team, name, direction):
    return [
        record
        for record in events(team, "server", "slot")
        if (record["peer"], record["direction"]) == (name, direction)
    ]


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_never_more_than_two_transfer_and_nobody_without_a_slot(data):
    names = [f"robot{i}" for i in range(data.draw(st.integers(3, 5)))]
    scripts = [
        worker(
            name,
            iterations=data.draw(st.integers(1, 8)),
            compute_s=data.draw(st.sampled_from([0.01, 0.1, 0.4])),
            rate_bps=data.draw(links()),
            delay_s=data.draw(st.sampled_from([0.0, 0.05])),
            weight=data.draw(st.sampled_from([None, 0.2, 0.7])),
        )
        for name in names
    ]
    lag = data.draw(st.sampled_from([0, 1, 2, 8]))
    limit = data.draw(st.sampled_from([0.3, 10.0]))
    team = team_of(
        f"flown:{lag}", scripts, server_settings=ServerSettings(expected_workers=len(names), absence_limit_s=limit)
    )
    books = Books(team)
    for time, name, down_s in data.draw(outages(names)):
        team.at(time, lambda name=name, down_s=down_s: team.cut(name, down_s))
    if data.draw(st.booleans()):
        strike_at = data.draw(st.floats(1.0, 3.0))
        # A team that is not complete would wait for it for ever.
        team.at(strike_at, lambda: books.kill("robot2") if team.server.gate.opened else None)
    finished(team)
    books.check()
    if limit > 3:  # who is given up may come back when the others have gone
        replicas_agree(team)


def test_one_worker_alone_never_waits():
    team = team_of("flown:2", [worker("robot0", iterations=10)])
    finished(team)
    given_slots = events(team, "server", "slot")
    assert [record["direction"] for record in given_slots] == ["push", "pull"] * 10
    assert [record["iteration"] for record in given_slots] == [n for n in range(1, 11) for _ in range(2)]
    assert all(record["waited_s"] == 0 for record in given_slots)
    assert given_slots[0]["limit_s"] is None
    assert all(record["limit_s"] > 0 for record in given_slots[1:])
    assert all(record["stall_s"] == 0 for record in events(team, "robot0", "step"))


def slow(name, **more):
    """A worker whose link is quick for a second (the joining) and then takes two seconds for a model."""
    rate = Trace(np.array([0.0, 1.0]), np.array([1e6, 3.2e4]), "slow", duration_s=1e4)
    more.setdefault("iterations", 3)
    return worker(name, rate_bps=rate, layout=BIG, **more)


def slow_start(**more):
    """Three workers with slow links that ask for a slot one after the other, from second 1 on: robot2 waits."""
    return team_of("flown:2?codec=raw", [slow(f"robot{i}", compute_s=1.1 + i / 100) for i in range(3)], BIG, **more)


def test_who_waits_for_a_slot_stalls_and_does_not_communicate():
    team = slow_start()
    finished(team)
    assert max(record["waited_s"] for record in events(team, "server", "slot")) > 1
    for name in team.workers:
        waited_s = [
            push["waited_s"] + pull["waited_s"]
            for push, pull in zip(slots_of(team, name, "push"), slots_of(team, name, "pull"), strict=True)
        ]
        steps = events(team, name, "step")
        assert [record["stall_s"] for record in steps] == pytest.approx(waited_s, abs=1e-5)
    held = [record for record in events(team, "server", "gate") if record["held_s"] > 0]
    assert held
    assert all(record["peer"] in team.workers for record in held)


@pytest.mark.parametrize("how", ["cut", "kill", "leave"])
def test_a_cut_a_kill_and_a_goodbye_free_the_slot_at_once(how):
    team = slow_start()
    team.run(2.0)
    assert [record["peer"] for record in events(team, "server", "slot")] == ["robot0", "robot1"]
    assert team.workers["robot2"].node.state is WorkerState.ASKING
    books = Books(team)
    act = {
        "cut": lambda: team.cut("robot0", 0.5),
        "kill": lambda: books.kill("robot0"),
        "leave": lambda: team.leave("robot0"),
    }
    team.at(2.0, act[how])
    team.run(2.4)
    last = events(team, "server", "slot")[2]
    assert (last["peer"], last["iteration"]) == ("robot2", 1)
    # A goodbye has to come over the link, behind the frame that is on it.
    assert 2.0 <= last["t"] <= (2.4 if how == "leave" else 2.0)
    finished(team)


def test_after_a_cut_the_worker_asks_again_and_the_rest_of_the_push_waits():
    team = slow_start()
    team.at(2.0, lambda: team.cut("robot0", 0.1))
    team.run(2.3)
    node = team.workers["robot0"].node
    assert node.state is WorkerState.ASKING
    sent = node.outbox.sent_frames
    assert sent > 0
    asked = next(request for request in team.server.rule.slots._scheduler.waiting if request.worker == "robot0")
    assert asked.since > 2.1
    team.run(asked.since + 0.5)
    assert node.state is WorkerState.ASKING
    assert node.outbox.sent_frames == sent
    finished(team)
    assert [record["iteration"] for record in slots_of(team, "robot0", "push")] == [1, 1, 2, 3]
    assert [record["iteration"] for record in events(team, "robot0", "step")] == [1, 2, 3]
    replicas_agree(team)


def test_a_lost_grant_is_asked_for_again():
    team = team_of("flown:2", [worker("robot0", iterations=2, delay_s=0.1), worker("robot1", iterations=2)])

    def lose():
        assert team.workers["robot0"].node.state is WorkerState.ASKING
        assert team.server.rule.slots.pushes(team.server.members["robot0"])
        team.cut("robot0", 0.2)
        assert not team.server.rule.slots.pushes(team.server.members["robot0"])

    team.run(0.05)
    while not slots_of(team, "robot0", "push"):
        team.run(team.now + 0.01)
    team.at(team.now + 0.05, lose)
    finished(team)
    assert [record["iteration"] for record in slots_of(team, "robot0", "push")] == [1, 1, 2]
    assert [record["iteration"] for record in events(team, "robot0", "step")] == [1, 2]
    replicas_agree(team)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_cut_at_any_byte_changes_only_the_time(direction):
    def run(byte):
        scripts = [
            worker(
                f"robot{i}",
                iterations=2,
                gradient=noise(i, TINY),
                weight=0.5,
                compute_s=0.02,
                delay_s=0.002,
                layout=TINY,
            )
            for i in range(3)
        ]
        team = team_of("flown:2?codec=raw", scripts, TINY)
        books = Books(team)
        if byte is not None:
            team.cut_after("robot0", direction, byte, 0.2)
            team.at(0.05, books.check)
            team.at(0.21, books.check)
        finished(team)
        books.check()
        replicas_agree(team, atol=1e-5)
        return team

    calm = run(None)
    for byte in range(0, calm.workers["robot0"].carried[direction], 3):
        # The updates do not depend on the parameters: the sum is the same whatever happened.
        np.testing.assert_allclose(
            run(byte).server.parameters, calm.server.parameters, rtol=0, atol=1e-5, err_msg=f"byte {byte}"
        )


def test_who_counts_more_goes_first():
    """robot2 and robot3 wait for the same slot; robot3 asked later."""
    weights = [0.1, 0.1, 0.1, 0.6]
    scripts = [slow(f"robot{i}", compute_s=1.1 + i / 100, weight=weight) for i, weight in enumerate(weights)]
    team = team_of("flown:50?codec=raw", scripts, BIG)
    finished(team)
    pushes = [record["peer"] for record in events(team, "server", "slot") if record["direction"] == "push"]
    assert pushes[:3] == ["robot0", "robot1", "robot3"]


def test_draining_needs_no_slot():
    team = slow_start()
    quick = worker("robot3", iterations=1, compute_s=0.1, layout=BIG)
    team.at(0.5, lambda: team.start(quick))
    # Finished its only step before the others ask, and drains while both slots are taken.
    team.run(2.5)
    assert len(team.server.rule.slots._scheduler.active) == SLOTS
    one = team.workers["robot3"]
    assert one.node.state is WorkerState.FINISHING
    assert team.server.members["robot3"].state is MemberState.DRAINING
    one.node.pending[:] = 1  # something is left to be delivered
    one.node._drain(team.now)
    before = one.node.outbox.sent_frames
    team.attend(one)
    team.run(3.0)
    assert one.node.outbox.sent_frames > before
    assert team.server.members["robot3"].inbox.received > before


def test_who_waits_with_its_pull_is_told_for_whom():
    team = slow_start(server_settings=ServerSettings(expected_workers=3, patience_s=0.3, absence_limit_s=100.0))
    finished(team)
    told = events(team, "server", "waiting")
    assert told
    assert all(record["for"].startswith("a slot: robot") for record in told)
    assert all("transferring" in record["for"] for record in told)
    first = told[0]
    assert first["waited_s"] == pytest.approx(0.3, abs=0.01)
    team = slow_start(server_settings=ServerSettings(expected_workers=3, patience_s=0.3, absence_limit_s=100.0))
    team.run(first["t"])
    [line] = [line for line in team.server.status(team.now) if line.name == first["peer"]]
    assert (line.state, line.waited_s) == ("queued", pytest.approx(0.3, abs=0.01))


# -- what is refused -------------------------------------------------------------------------------------------


def refused(team, name, message, match):
    with pytest.raises(RemoteProtocolError, match=match):
        team.server.receive(team.now, team.server.members[name].link, message)


def test_what_the_server_refuses():
    team = VirtualTeam(LAYOUT, "asp", [worker("robot0", compute_s=5.0)])
    team.run(1.0)
    refused(team, "robot0", Ask(1, 1.0, 1e6), "goes with the policy asp, got Ask")
    team = slow_start()
    team.run(1.0)
    for weight in (0.0, -1.0):
        refused(team, "robot0", Ask(1, weight, 1e6), "a weight above 0")
    for iteration in (2, 1 << 40):
        refused(team, "robot0", Ask(iteration, 1.0, 1e6), "expected iteration 0 or 1 of robot0")
    refused(team, "robot0", PushEnd(1, 0.1, 0.1, 1e6, False), "a request for a slot before a push")
    while team.server.members["robot0"].state not in (MemberState.QUEUED, MemberState.PULLING):
        team.run(team.now + 0.05)
    refused(team, "robot0", Ask(2, 1.0, 1e6), "no request for a slot while")


def test_a_worker_takes_no_slot_that_it_did_not_ask_for():
    team = slow_start()
    team.run(1.0)
    node = team.workers["robot0"].node
    with pytest.raises(RemoteProtocolError, match="no slot while computing"):
        node.receive(team.now, Grant(1, 0.0))
    team.run(2.0)
    node = team.workers["robot2"].node
    with pytest.raises(RemoteProtocolError, match="no slot while asking"):
        node.receive(team.now, Grant(2, 0.0))


def test_no_rate_that_a_worker_reports_does_harm():
    team = slow_start()
    team.run(2.0)
    member = team.server.members["robot0"]
    with patch.object(FlownScheduler, "observe", autospec=True) as observe:
        for rate_bps in (1.7e308, -5.0):
            team.server.receive(team.now, member.link, Heartbeat({"rate_bps": rate_bps}))
        team.server.receive(team.now, member.link, Heartbeat({"accuracy": 0.5}))
        # What a worker says before anything has come from it was never measured.
        member.inbox.received = 0
        team.server.receive(team.now, member.link, Heartbeat({"rate_bps": 1e6}))
    assert [call.args[-1] for call in observe.call_args_list] == [HIGHEST_BPS, 0.0]


# -- the other driver in virtual time --------------------------------------------------------------------------


def test_slots_in_a_simulation():
    layout = Layout.from_shapes([("weight", (100, 400))]).timing_only()
    server = ServerNode(parse_policy("flown:2"), settings=ServerSettings(expected_workers=4), entropy=bytes)
    simulation = Simulation(server)
    for index, mbps in enumerate([1.0, 1.0, 0.2, 0.05]):
        node = WorkerNode(f"robot{index}", layout, layout.zeros(), entropy=bytes)
        trace = Trace.constant(mbps * 1e6)
        simulation.add_timing_only(node, Device(0.05), trace, trace)
    simulation.run(30.0)
    rounds = [robot.rounds for robot in simulation.robots.values()]
    assert min(rounds) > 5
    assert rounds[0] > rounds[3]
    active: set[str] = set()
    for record in server.journal.records:
        if record["event"] == "slot":
            active.add(record["peer"])
        elif record["event"] == "push":
            active.discard(record["peer"])
    assert {record["direction"] for record in server.journal.records if record["event"] == "slot"} == {"push", "pull"}
    assert len(server.rule.slots._scheduler.active) <= SLOTS


# -- the socket driver -----------------------------------------------------------------------------------------


def test_who_is_released_while_the_kernel_takes_bytes_is_sent_to_at_once():
    server = Server(ServerNode(parse_policy("flown:2")))
    released = Link("robot1")
    server._connections[released] = Mock()
    connection = Connection(server)
    # The end of somebody's pull is handed out: that frees a slot.
    with patch.object(connection, "pump", lambda: server.node.team.notifier.wake(released)):
        connection.write_on()
    server._connections[released].pump.assert_called_once_with()


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (WorkerState.ASKING, "waiting for a slot: the policy lets only a few workers transfer at once"),
        (WorkerState.PUSHING, "still pushing; the link gives about 2 Mbit/s"),
        (WorkerState.PULLING, "still pulling; the link gives about 2 Mbit/s"),
        (WorkerState.FINISHING, "finished, and waiting for the others to finish too"),
        (WorkerState.WAITING, None),  # at the gate: the server says for whom
    ],
)
def test_a_long_wait_is_said(state, text):
    node = WorkerNode("robot0", LAYOUT, LAYOUT.zeros())
    node.link_up(0.0, Link("server"))
    node.follow(parse_policy("flown:2"))
    node.welcomed_at, node.state = 1.0, state
    node.outbox.meter.sent(1.0, 250_000)
    node.outbox.meter.acknowledged(2.0, 250_000, 1.0)
    assert node.waits_for(5.0) == text
