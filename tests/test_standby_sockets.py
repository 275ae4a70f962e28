"""A server and its standby in processes, on real sockets, while workers train: one of them leads, nothing is lost."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
import time

import numpy as np
import pytest

from live import IMPATIENT, LAYOUT, LIMIT_S, Robot, eventually, start_of
from relay import Relay
from rowcast.cli.exits import ExitCode
from rowcast.drivers.sockets import Endpoint
from standby_processes import START_S, ServerProcess, pair

#: Sums of whole numbers are exact with these.
POLICIES = {"bsp": "bsp?codec=raw", "rowcast": "rowcast:8?codec=raw&auto_lr=off&refine=off&adapt=off"}

pytestmark = pytest.mark.system


def robots_at(server, count=2, steps=40, **options):
    options.setdefault("link", 4e6)
    endpoint = Endpoint("127.0.0.1", server.port)
    return [Robot(endpoint, f"robot{k}", steps=steps, update=k + 1, **options) for k in range(count)]


def audit(robots):
    """Nothing is lost, nothing doubled, and nobody had to join anew."""
    for robot in robots:
        robot.done(START_S)
    total = sum(robot.computed for robot in robots)
    for robot in robots:
        np.testing.assert_array_equal(robot.team.replica, start_of(LAYOUT) - total)
        joins = [record["how"] for record in robot.team.journal.records if record["event"] == "join"]
        assert len(joins) == 1, "it resumed its session"


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_the_standby_takes_over_when_the_server_is_killed(policy, tmp_path):
    with pair(tmp_path, POLICIES[policy], 2) as (first, second):
        robots = robots_at(first, pause_at=30)
        eventually(lambda: max(robot.iteration for robot in robots) >= 5)
        first.end()
        begun = time.monotonic()
        second.says("took over")
        assert time.monotonic() - begun < 10.0
        for robot in robots:
            assert robot.at_pause.wait(LIMIT_S), robot.error
            robot.go_on_to(None)
        audit(robots)
        (event,) = second.events("took over")
        assert event["seconds"] < 10.0 and event["term"] == 3


def test_a_server_that_was_frozen_steps_down(tmp_path):
    """SIGSTOP: the standby leads meanwhile; nothing that the old one says counts, and it ends by itself."""
    with pair(tmp_path, POLICIES["bsp"], 2) as (first, second):
        settings = dataclasses.replace(IMPATIENT, silence_limit_s=2.0)
        robots = robots_at(first, pause_at=20, settings=settings, link=None)
        eventually(lambda: max(robot.iteration for robot in robots) >= 3)
        first.send(signal.SIGSTOP)
        second.says("took over")
        for robot in robots:
            assert robot.at_pause.wait(LIMIT_S), robot.error
        first.send(signal.SIGCONT)
        line = first.says("steps down")
        assert "the other server leads in term 3" in line
        assert first.code() == ExitCode.STEPPED_DOWN
        assert first.events("stepped down")
        for robot in robots:
            robot.go_on_to(None)
        audit(robots)


def test_the_server_goes_on_alone_and_its_standby_comes_back(tmp_path):
    with pair(tmp_path, POLICIES["rowcast"], 2) as (first, second):
        robots = robots_at(first, steps=60, pause_at=40)
        eventually(lambda: max(robot.iteration for robot in robots) >= 3)
        second.end()
        first.says("goes on alone")
        (alone,) = first.events("alone")
        assert alone["term"] == 3 and alone["seconds"] < 3.0
        for robot in robots:
            assert robot.at_pause.wait(LIMIT_S), robot.error
        second.start("has all that")
        first.says("from term 4 on both have it")
        for robot in robots:
            robot.go_on_to(50)
        for robot in robots:
            assert robot.at_pause.wait(LIMIT_S), robot.error
        first.end()  # what came back may lead
        second.says("took over")
        for robot in robots:
            robot.go_on_to(None)
        audit(robots)


def test_a_standby_that_was_left_behind_never_leads(tmp_path):
    with pair(tmp_path, POLICIES["bsp"], 2) as (first, second):
        robots = robots_at(first, pause_at=20, link=None)
        eventually(lambda: max(robot.iteration for robot in robots) >= 3)
        second.send(signal.SIGSTOP)
        first.says("goes on alone")
        for robot in robots:
            assert robot.at_pause.wait(LIMIT_S), robot.error
        first.end()
        second.send(signal.SIGCONT)
        second.says("asks the workers that come")
        first.start()  # it led alone: it goes on at once
        second.says("has all that")  # it follows again, with the log of who led alone in place of its own
        for robot in robots:
            robot.go_on_to(None)
        audit(robots)
        assert not second.events("took over")


def test_a_link_between_the_two_that_is_cut_leaves_one_that_serves(tmp_path):
    cut = threading.Event()

    def harm(way, connection, offset, data):
        return b"" if cut.is_set() else data

    with contextlib.ExitStack() as stack:
        first = ServerProcess(tmp_path, "first", POLICIES["bsp"], 2)
        second = ServerProcess(tmp_path, "second", POLICIES["bsp"], 2)
        for each in (first, second):
            stack.callback(each.end)
        first.start()
        relay = stack.enter_context(Relay(first.port, harm))
        second.options += ["--standby-of", f"127.0.0.1:{relay.port}"]
        second.start("has all that")
        robots = robots_at(first, pause_at=20, link=None)
        eventually(lambda: max(robot.iteration for robot in robots) >= 3)
        cut.set()
        first.says("goes on alone")
        for robot in robots:
            assert robot.at_pause.wait(LIMIT_S), robot.error
        assert not second.events("took over")
        cut.clear()
        second.says("has all that")
        for robot in robots:
            robot.go_on_to(None)
        audit(robots)
        assert not second.events("took over")


@pytest.mark.parametrize("what", ["secret", "policy", "team", "itself", "no log"])
def test_a_standby_that_does_not_fit_is_refused_in_one_line(what, tmp_path):
    secrets = [tmp_path / "one.secret", tmp_path / "other.secret"]
    for number, path in enumerate(secrets):
        path.write_text(f"{number} sixteen bytes and more of it")
        path.chmod(0o600)
    first = ServerProcess(tmp_path, "first", "bsp", 1, "--secret-file", secrets[0])
    policy, secret = ("ssp:2" if what == "policy" else "bsp"), secrets[what == "secret"]
    second = ServerProcess(tmp_path, "second", policy, 1, "--secret-file", secret)
    if what == "team":  # its folder is that of a server of its own
        second.start().end()
    if what == "no log":
        second.options += ["--durability", "snapshot"]
    port = second.port if what == "itself" else first.port
    second.options += ["--standby-of", f"127.0.0.1:{port}"]
    try:
        first.start()
        second.start(None)
        assert second.code() == (ExitCode.REFUSED if what == "secret" else ExitCode.USAGE)
        expected = {
            "secret": "proof does not fit",
            "policy": "expected a standby of policy bsp, got one of ssp:2",
            "team": "that of another team",
            "itself": "got this one itself",
            "no log": "expected --durability log",
        }[what]
        second.says(expected, 0.1)
        assert not first.events("attached") if first.journal.exists() else True
    finally:
        first.end()
        second.end()
