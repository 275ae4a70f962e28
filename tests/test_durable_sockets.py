"""A server process that is killed and started again, on real sockets, while workers train."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from contextlib import contextmanager

import numpy as np
import pytest

from live import IMPATIENT, LAYOUT, LIMIT_S, Robot, eventually, python, start_of
from rowcast.drivers.sockets import Endpoint

#: Sums of whole numbers are exact with these.
POLICIES = {"bsp": "bsp?codec=raw", "rowcast": "rowcast:8?codec=raw&auto_lr=off&refine=off&adapt=off"}
START_S = 3 * LIMIT_S  # a process imports what it needs first


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


class ServerProcess:
    """``rowcast serve`` with a state, again and again on one port."""

    def __init__(self, folder, policy, workers):
        self.port = free_port()
        self.journal = folder / "server.jsonl"
        self._arguments = ["-m", "rowcast", "serve", "--port", self.port, "--policy", policy, "--workers", workers]
        self._arguments += ["--state", folder / "state", "--journal", self.journal, "--quiet", "--set", "gather_s=0"]
        self.process = None

    def start(self):
        self.process = python(*self._arguments, stderr=subprocess.STDOUT)
        for line in self.process.stdout:
            if "listening" in line:
                return
        raise AssertionError(f"it ended with {self.process.wait()}")

    def end(self, number=signal.SIGKILL):
        self.process.send_signal(number)
        self.process.communicate(timeout=START_S)

    def events(self, kind):
        """Of all lives of the server."""
        records = map(json.loads, self.journal.read_text("utf-8").splitlines())
        return [record for record in records if record["event"] == kind]


@contextmanager
def served(tmp_path, policy, workers):
    server = ServerProcess(tmp_path, policy, workers)
    server.start()
    try:
        yield server
    finally:
        server.end()


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_nothing_is_lost_or_doubled_when_the_server_is_killed(policy, tmp_path):
    with served(tmp_path, POLICIES[policy], 2) as server:
        endpoint = Endpoint("127.0.0.1", server.port)
        robots = [Robot(endpoint, f"robot{k}", steps=40, update=k + 1, pause_at=12, link=4e6) for k in range(2)]
        eventually(lambda: max(robot.iteration for robot in robots) >= 5)
        server.end()
        server.start()
        for robot in robots:
            assert robot.at_pause.wait(LIMIT_S), robot.error
        server.end()  # a second time, while they compute
        for robot in robots:
            robot.go_on_to(None)
        server.start()
        for robot in robots:
            robot.done(START_S)
        total = sum(robot.computed for robot in robots)
        for robot in robots:
            np.testing.assert_array_equal(robot.team.replica, start_of(LAYOUT) - total)
            joins = [record["how"] for record in robot.team.journal.records if record["event"] == "join"]
            assert len(joins) == 1, "it resumed its session each time"
        found = server.events("restarted")
        assert [record["members"] for record in found] == [2, 2] and not any(one["forgotten"] for one in found)


def test_a_server_that_was_stopped_goes_on_where_it_was(tmp_path):
    """SIGTERM: workers wait for its return."""
    with served(tmp_path, POLICIES["bsp"], 1) as server:
        robot = Robot(Endpoint("127.0.0.1", server.port), "robot0", steps=8, pause_at=4, settings=IMPATIENT)
        assert robot.at_pause.wait(LIMIT_S), robot.error
        server.end(signal.SIGTERM)
        assert len(list((tmp_path / "state").glob("snapshot-*"))) == 1
        assert not list((tmp_path / "state").glob("log-*"))
        robot.go_on_to(None)
        server.start()
        robot.done(START_S)
        np.testing.assert_array_equal(robot.team.replica, start_of(LAYOUT) - robot.computed)
        (found,) = server.events("restarted")
        assert found["inputs"] == 0 and found["members"] == 1
