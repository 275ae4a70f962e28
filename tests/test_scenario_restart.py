"""A server that restarts, a Ctrl-C at a bad moment, an end that waits: on real sockets, with exact books."""

from __future__ import annotations

import _thread
import gc
import threading

import numpy as np
import pytest
import torch

import rowcast
from live import IMPATIENT, LAYOUT, LiveServer, Robot, eventually, propose, python, start_of
from rowcast.drivers.sockets import Endpoint, Team
from rowcast.errors import LayoutMismatch, LocalProtocolError, ParametersConflict
from rowcast.rows import Layout
from rowcast.training import WorkerState
from rowcast.training.member import MemberState

#: In whole numbers float32 sums are exact; an outer momentum would make them fractions.
POLICIES = ["bsp?codec=raw", "rog:4?codec=raw", "rowcast?codec=raw&auto_lr=off&refine=off&adapt=off"]

#: What a robot holds that never heard of the team.
FRESH = np.full(LAYOUT.elements, -7, dtype=np.float32)


def restart(policy, before, *, expected=3, gather_s=20.0):
    """A new server at the port of the old one; the team begins as soon as all that are expected have come."""
    return LiveServer(policy, port=before.port, expected_workers=expected, gather_s=gather_s)


def pause(robots, others=()):
    """Wait until everybody has paused and nothing is on its way; what each holds then, and what it has pending."""
    for robot in robots:
        assert robot.at_pause.wait(20), robot.error
    if robots[0].team.node.policy.streaming:  # rows go on travelling until everybody holds everything
        everything = start_of() - sum(robot.computed for robot in (*robots, *others))
        eventually(lambda: all(np.array_equal(robot.team.replica, everything) for robot in robots))
    eventually(lambda: all(robot.team.node.outbox.settled for robot in robots))
    for robot in robots:
        robot.computed[:] = 0  # from now on
    return {robot.name: (robot.team.replica.copy(), robot.team.node.pending.copy()) for robot in robots}


def goes_on_from(server, held, robots, others=()):
    """The team has gone on from what the seeder held: nothing of that, nothing pending, nothing new is lost or doubled.

    What only the old server knew is gone with it.
    """
    seeder = server.events("join", how="seed")[-1]["peer"]
    total = held[f"test-{seeder}"][0].astype(np.float64)
    total -= sum(pending for _, pending in held.values())
    total -= sum(robot.computed for robot in (*robots, *others))
    for robot in (*robots, *others):
        np.testing.assert_array_equal(robot.team.replica, total, err_msg=robot.name)


def all_equal(robots, start):
    """Nothing lost, nothing doubled: each replica is the start less everything that anybody computed."""
    total = sum(robot.computed for robot in robots)
    for robot in robots:
        np.testing.assert_array_equal(robot.team.replica, start - total, err_msg=robot.name)


@pytest.mark.parametrize("policy", POLICIES)
def test_training_survives_a_restart_although_a_fresh_robot_comes_first(policy):
    with LiveServer(policy, expected_workers=3) as first:
        robots = [Robot(first, f"robot{i}", steps=12, update=2 + i, pause_at=6) for i in range(3)]
        held = pause(robots)
    with restart(policy, first) as second:
        fresh = Robot(second, "fresh", steps=8, update=1, model=(LAYOUT, FRESH))
        for robot in robots:
            robot.go_on.set()
        for robot in (*robots, fresh):
            robot.done()
        assert {record["how"] for record in second.events("join", peer="fresh")} == {"receive"}
        assert fresh.team.iteration >= 8
        if not fresh.team.node.policy.streaming:  # there a robot computes on while the server is away
            assert robots[0].team.iteration == 12, "the count goes on"
        goes_on_from(second, held, robots, [fresh])


@pytest.mark.parametrize("policy", POLICIES)
def test_training_survives_a_robot_of_another_model_that_comes_first(policy):
    """It waits like any robot that has not trained, and is told that its model is another one."""
    with LiveServer(policy, expected_workers=3) as first:
        robots = [Robot(first, f"robot{i}", steps=10, update=2 + i, pause_at=5) for i in range(3)]
        held = pause(robots)
    with restart(policy, first) as second:
        layout = Layout.from_shapes([("other", (30, 20))])
        stranger = Robot(second, "stranger", steps=3, model=(layout, start_of(layout)))
        for robot in robots:
            robot.go_on.set()
        for robot in robots:
            robot.done()
        with pytest.raises(LayoutMismatch, match="other"):
            stranger.done()
        goes_on_from(second, held, robots)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_others_go_on_when_one_had_finished_before_the_restart(policy):
    with LiveServer(policy, expected_workers=3) as first:
        early = Robot(first, "early", steps=3, update=1, wait=False)
        robots = [Robot(first, f"robot{i}", steps=10, update=2 + i, pause_at=5) for i in range(2)]
        early.done()
        held = pause(robots, [early])
    with restart(policy, first, gather_s=1.0) as second:
        for robot in robots:
            robot.go_on.set()
        for robot in robots:
            robot.done()
        goes_on_from(second, held, robots)


@pytest.mark.parametrize("policy", POLICIES)
def test_finish_waits_for_a_worker_that_has_joined_and_not_begun(policy):
    """A newcomer has been let in and is sent the parameters, slowly, until all others wait for their end."""
    with LiveServer(policy, expected_workers=1) as server:
        first = Robot(server, "first", steps=4, update=3, pause_at=2)
        assert first.at_pause.wait(20)
        late = Robot(server, "late", steps=3, update=5, model=(LAYOUT, FRESH), link=1e5)
        eventually(lambda: server.events("join", peer="late"))
        assert server.member("late", "state") is MemberState.RECEIVING
        first.go_on.set()
        eventually(lambda: first.team.node.state is WorkerState.FINISHING)
        assert server.member("late", "state") is MemberState.RECEIVING
        late.link.lift()
        first.done()
        late.done()
        all_equal([first, late], start_of())


# -- an interrupted constructor ----------------------------------------------------------------------------------------


def interrupt_when(ready):
    """Ctrl-C for the main thread as soon as ``ready()``."""

    def watch():
        eventually(ready)
        _thread.interrupt_main()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def network_threads(name):
    return [thread for thread in threading.enumerate() if thread.name == f"rowcast-{name}"]


def held_by(server, name, other):
    """Whether the gate holds a worker for another one: it waits, and not only for what is on its way."""

    def look(node):
        member = node.members.get(name)
        return (
            member is not None
            and member.state is MemberState.WAITING
            and node.gate.reason(0.0, member, 0.0).startswith(f"{other} (")
        )

    return server.ask(look)


@pytest.mark.parametrize("policy", POLICIES)
def test_an_interrupted_joining_leaves_nothing_behind_and_may_be_tried_again(policy):
    model = torch.nn.Linear(8, 4)
    with LiveServer(policy, expected_workers=2) as server:
        team = Team(Endpoint("127.0.0.1", server.port), name="me", settings=IMPATIENT)
        inner = torch.optim.SGD(model.parameters(), lr=0.1)
        watching = interrupt_when(
            lambda: server.member("me", "state") and server.member("me", "state").value == "ready"
        )
        with pytest.raises(KeyboardInterrupt):
            rowcast.Optimizer(inner, model, team)
        watching.join()
        assert not network_threads("me")
        eventually(lambda: server.ask(lambda node: "me" not in node.members))
        layout = Layout.from_shapes([("weight", (4, 8)), ("bias", (4,))])
        other = Robot(server, "other", steps=2, model=(layout, start_of(layout)))
        with rowcast.Optimizer(inner, model, team) as optimizer:  # the same team
            for _ in range(2):
                optimizer.zero_grad()
                model(torch.ones(1, 8)).sum().backward()
                optimizer.step()
        other.done()


def test_whatever_ends_a_joining_ends_its_network_thread(monkeypatch):
    def broken(*_):
        raise MemoryError("no room")

    model = torch.nn.Linear(8, 4)
    with LiveServer("rog:4") as server:
        for place in ("Optimizer._take_view",):
            team = Team(Endpoint("127.0.0.1", server.port), name="me", settings=IMPATIENT)
            inner = torch.optim.SGD(model.parameters(), lr=0.1)
            with monkeypatch.context() as patch:
                patch.setattr(f"rowcast.optim.optimizer.{place}", broken)
                with pytest.raises(MemoryError):
                    rowcast.Optimizer(inner, model, team)
            assert not network_threads("me")
            eventually(lambda: server.ask(lambda node: "me" not in node.members))


def test_an_optimizer_that_is_dropped_without_close_leaves_the_team(caplog):
    """A cell of a notebook that runs again drops the optimizer of the run before."""
    model = torch.nn.Linear(8, 4)
    with LiveServer("rog:4") as server, caplog.at_level("WARNING", logger="rowcast"):
        team = Team(Endpoint("127.0.0.1", server.port), name="me", settings=IMPATIENT)
        optimizer = rowcast.Optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, team)
        assert server.member("me", "session")
        del optimizer
        gc.collect()
        eventually(lambda: server.ask(lambda node: "me" not in node.members))
        eventually(lambda: not network_threads("me"))
        assert any("without close()" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    "policy",
    [
        "bsp?codec=raw",
        "rog:2?codec=raw",
        "rowcast:2?codec=raw&auto_lr=off&elastic=off&refine=off&adapt=off",
    ],
)
def test_a_step_that_was_interrupted_may_be_tried_again(policy):
    """Ctrl-C while it waits at the gate: the exchange goes on, and the next step waits for its end."""
    with LiveServer(policy, expected_workers=2) as server:
        other = Robot(server, "other", steps=9, update=3, pause_at=0)
        team = Team(Endpoint("127.0.0.1", server.port), name="me", settings=IMPATIENT)
        team.start(LAYOUT, start_of())
        assert other.at_pause.wait(20), other.error
        computed = np.zeros(LAYOUT.elements)
        watching = interrupt_when(lambda: held_by(server, "me", "other"))
        with pytest.raises(KeyboardInterrupt):
            while True:
                propose(team, 2, computed)
                team.exchange()
        watching.join()
        done = team.iteration
        other.go_on_to(5)  # and no further: the end below has somebody to wait for
        propose(team, 2, computed)
        team.exchange()
        assert team.iteration == done + 1
        finishing = interrupt_when(lambda: team.node.state is WorkerState.FINISHING)
        with pytest.raises(KeyboardInterrupt):
            team.finish()
            finishing.join()
        finishing.join()
        assert team.node.state is WorkerState.FINISHING
        other.go_on.set()
        team.finish()
        other.done()
        np.testing.assert_array_equal(team.replica, start_of() - computed - other.computed)


# -- whose parameters --------------------------------------------------------------------------------------------------


def joined(server, name, value, **options):
    """A robot that joins with constant parameters and finishes at once."""
    team = Team(Endpoint("127.0.0.1", server.port), name=name, settings=IMPATIENT, **options)
    team.start(LAYOUT, np.full(LAYOUT.elements, value, dtype=np.float32))
    replica = team.replica.copy()
    team.finish()
    return replica


def test_one_line_on_both_sides_says_whose_parameters_are_used(caplog):
    with LiveServer("rog:4") as server, caplog.at_level("INFO", logger="rowcast"):
        joined(server, "one", 1.0)
        assert joined(server, "two", 2.0)[0] == 1.0
        assert joined(server, "three", 3.0, parameters="mine")[0] == 3.0
        assert joined(server, "four", 4.0, parameters="team")[0] == 3.0
        lines = [record.getMessage() for record in caplog.records]
    assert "one: its parameters are the team's, from iteration 0" in lines
    assert "the team's parameters are those of one, not trained in a team yet" in lines
    assert any(
        line.startswith("two: the team's parameters, which one brought, have replaced its own") for line in lines
    )
    assert "three: its parameters are the team's, from iteration 0" in lines
    assert any("begins anew: three brings other parameters" in line for line in lines)
    assert any(line.startswith("four: the team's parameters, which three brought") for line in lines)


def test_mine_is_an_error_where_others_train():
    with LiveServer("rog:4") as server:
        first = Robot(server, "first", steps=3, pause_at=1)
        assert first.at_pause.wait(20)
        with pytest.raises(ParametersConflict, match="which first brought and others train now"):
            joined(server, "second", 2.0, parameters="mine")
        first.go_on.set()
        first.done()


def test_an_unknown_wish_is_refused_at_once():
    with pytest.raises(rowcast.RowcastError, match="parameters: 'mime' is unknown; did you mean 'mine'"):
        rowcast.join("127.0.0.1:1", name="me", parameters="mime")


def test_a_team_serves_one_optimizer():
    with LiveServer("rog:4") as server:
        team = Team(Endpoint("127.0.0.1", server.port), name="me", settings=IMPATIENT)
        team.start(LAYOUT, start_of())
        with pytest.raises(LocalProtocolError, match="a team serves one optimizer"):
            team.start(LAYOUT, start_of())
        team.leave()


@pytest.mark.system
def test_serve_once_ends_when_all_workers_left_by_an_exception():
    words = ("serve", "--port=0", "--once", "--policy=rog:4", "--set", "gather_s=0", "--set", "absence_limit_s=0.5")
    server = python("-m", "rowcast", *words)
    port = int(server.stdout.readline().partition("127.0.0.1:")[2].partition(",")[0])
    team = Team(Endpoint("127.0.0.1", port), name="me", settings=IMPATIENT)
    team.start(LAYOUT, start_of())
    team.leave()
    out, err = server.communicate(timeout=20)
    assert server.returncode == 0, err
    assert "everybody is gone, and nobody had finished" in out
