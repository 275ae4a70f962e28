"""A server and its standby in processes, on real sockets, while workers train: one of them leads, nothing is lost."""

from __future__ import annotations

import signal
import time

import numpy as np
import pytest

from live import IMPATIENT, LAYOUT, LIMIT_S, Robot, eventually, start_of
from rowcast.drivers.sockets import Endpoint
from standby_processes import START_S, pair

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
