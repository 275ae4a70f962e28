"""What a robot is told: about its parameters, its server, its link, and what it waits for in the end."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest

from live import IMPATIENT, LAYOUT, LIMIT_S, LiveServer, Robot, eventually, propose, start_of
from rowcast.config import WorkerSettings
from rowcast.drivers.sockets import Endpoint, Shaper, Team
from rowcast.errors import ConfigError, LinkLost
from rowcast.links import Trace

POLICIES = ("bsp?codec=raw", "rog:4?codec=raw", "rowcast?codec=raw")


def says(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "rowcast"]


@pytest.fixture(autouse=True)
def all_is_logged(caplog):
    caplog.set_level(logging.INFO, "rowcast")


# -- parameters to begin with ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_parameters_that_are_not_finite_are_reported_by_name(bad):
    """The team waits for good ones; who is given the team's parameters may have brought anything."""
    broken = start_of()
    broken[-1] = bad
    with LiveServer("rog:4") as server:
        with pytest.raises(ConfigError, match="parameter 'bias': expected finite numbers"):
            Team(Endpoint("127.0.0.1", server.port), name="broken", settings=IMPATIENT).start(LAYOUT, broken)
        good = Team(Endpoint("127.0.0.1", server.port), name="good", settings=IMPATIENT)
        good.start(LAYOUT, start_of())
        late = Team(Endpoint("127.0.0.1", server.port), name="late", settings=IMPATIENT)
        late.start(LAYOUT, broken)
        np.testing.assert_array_equal(late.replica, start_of())
        for team in (late, good):
            team.finish(wait=False)


# -- joining -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_a_normal_start_says_nothing_of_waiting(policy, caplog):
    settings = WorkerSettings(patience_s=LIMIT_S)
    with LiveServer(policy, expected_workers=3, patience_s=LIMIT_S) as server:
        for robot in [Robot(server, f"robot-{index}", steps=2, settings=settings) for index in range(3)]:
            robot.done()
    assert [text for text in says(caplog) if "waiting" in text] == []


def test_who_waits_long_for_the_parameters_is_told_so(caplog):
    slow = Trace.constant(1e6)  # 0.4 s for the parameters
    settings = dataclasses.replace(IMPATIENT, patience_s=0.1)
    with LiveServer("rog:4") as server, Shaper("127.0.0.1", server.port, up=slow, down=slow) as link:
        link.begin()
        first = Robot(Endpoint(*link.address), "first", steps=1)
        eventually(lambda: server.member("first", "link") is not None)
        second = Robot(server, "second", steps=1, settings=settings)
        eventually(lambda: "second: waiting for the first worker, which is sending the parameters" in says(caplog))
        link.lift()
        first.done()
        second.done()


# -- a link that was lost ----------------------------------------------------------------------------------------------


def about_the_link(caplog):
    return [text for text in says(caplog) if "link to the server" in text]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_link_that_is_back_is_said_to_be(policy, caplog):
    with LiveServer(policy) as server:
        robot = Robot(server, "robot", steps=3, pause_at=1)
        assert robot.at_pause.wait(LIMIT_S)
        assert server.cut("robot")
        eventually(lambda: server.events("resume"))
        robot.go_on.set()
        robot.done()
    lost, back = about_the_link(caplog)
    assert lost.endswith("; reconnecting") and "link to the server is back, after" in back


@pytest.mark.parametrize("policy", POLICIES)
def test_a_link_to_a_new_server_is_said_to_be_back_once(policy, caplog):
    with LiveServer(policy) as server:
        port = server.port
        robot = Robot(server, "robot", steps=3, pause_at=1)
        assert robot.at_pause.wait(LIMIT_S)
    eventually(lambda: about_the_link(caplog))
    with LiveServer(policy, port=port) as server:
        eventually(lambda: server.events("join"))
        robot.go_on.set()
        robot.done()
    lost, back = about_the_link(caplog)
    assert lost.endswith("; reconnecting") and "link to the server is back, after" in back


# -- the end without a server ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_a_finished_robot_does_not_wait_an_hour_for_a_server_that_is_gone(policy, caplog):
    settings = dataclasses.replace(IMPATIENT, finish_limit_s=0.4, patience_s=0.1)
    assert WorkerSettings().finish_limit_s < WorkerSettings().reconnect_limit_s
    with LiveServer(policy) as server:
        team = Team(Endpoint("127.0.0.1", server.port), name="robot", settings=settings)
        team.start(LAYOUT, start_of())
    propose(team, 1)
    with pytest.raises(LinkLost, match=r"robot: had finished.* 0.4 s.*201 of 201 rows.* is lost.*finish_limit_s"):
        team.finish()
    (said,) = {text for text in says(caplog) if "finished, and waiting for the server" in text}
    assert "201 of 201 rows" in said and "at most 0.4 s" in said


@pytest.mark.parametrize("policy", POLICIES)
def test_a_finished_robot_delivers_to_a_server_that_is_back(policy):
    with LiveServer(policy) as server:
        port = server.port
        team = Team(Endpoint("127.0.0.1", port), name="robot", settings=IMPATIENT)
        team.start(LAYOUT, start_of())
    propose(team, 1)
    with LiveServer(policy, port=port) as server:
        team.finish()
        np.testing.assert_array_equal(team.replica, server.ask(lambda node: node.parameters.copy()))
        assert (team.replica < start_of()).all()
