"""Relays on real sockets: processes that are killed and started again while workers train."""

from __future__ import annotations

import json
import signal
import subprocess

import numpy as np
import pytest

from live import LAYOUT, LIMIT_S, Robot, eventually, python, start_of
from rowcast.drivers.sockets import Endpoint
from test_durable_sockets import free_port

pytestmark = pytest.mark.system
#: Sums of whole numbers are exact with it.
POLICY = "rowcast:8?codec=raw&auto_lr=off&refine=off&adapt=off"
START_S = 3 * LIMIT_S


class Process:
    """A server or a relay with a log, again and again on one port."""

    def __init__(self, folder, name, workers, above=None):
        self.name, self.port = name, free_port()
        self.journal, self.log = folder / f"{name}.jsonl", folder / f"{name}-log"
        common = ["--policy", POLICY, "--workers", workers, "--journal", self.journal, "--quiet"]
        common += ["--set", "gather_s=0", "--set", "absence_limit_s=300"]  # however long a process takes to start
        if above is None:
            self.arguments = ["serve", "--port", self.port, "--state", self.log, *common]
        else:
            listen = ["--listen", f"127.0.0.1:{self.port}", "--log", self.log, "--name", name]
            self.arguments = ["relay", "--connect", f"127.0.0.1:{above.port}", *listen, *common]
        self.process = None

    @property
    def endpoint(self):
        return Endpoint("127.0.0.1", self.port)

    def begin(self):
        self.process = python("-m", "rowcast", *self.arguments, stderr=subprocess.STDOUT)

    def start(self):
        self.begin()
        self.wait()

    def wait(self):
        for line in self.process.stdout:
            if "listening" in line:
                return
        raise AssertionError(f"{self.name} ended with {self.process.wait()}")

    def kill(self, number=signal.SIGKILL):
        self.process.send_signal(number)
        self.process.communicate(timeout=START_S)

    def events(self, kind):
        records = map(json.loads, self.journal.read_text("utf-8").splitlines())
        return [record for record in records if record["event"] == kind]


def begin(*processes):
    for process in processes:
        process.begin()
    for process in processes:
        process.wait()


@pytest.fixture
def tree(tmp_path):
    """A root and two relays that expect four workers each."""
    root = Process(tmp_path, "root", 2)
    relays = [Process(tmp_path, f"relay-{k}", 4, root) for k in range(2)]
    begin(root, *relays)
    yield root, relays
    for process in (root, *relays):
        process.kill()


def test_nothing_is_lost_or_doubled_when_relays_and_root_are_killed_twice(tree):
    root, relays = tree
    robots = [
        Robot(relays[k // 4].endpoint, f"robot{k}", steps=60, update=k + 1, pause_at=20, link=6e6) for k in range(8)
    ]
    eventually(lambda: min(robot.iteration for robot in robots) >= 3)
    for process in (relays[0], root, relays[1]):
        process.kill()
        process.start()
    for robot in robots:
        assert robot.at_pause.wait(START_S), robot.error
    for process in (root, relays[1], relays[0]):  # a second time, while they compute
        process.kill()
    for robot in robots:
        robot.go_on_to(None)
    begin(relays[0], relays[1], root)
    for robot in robots:
        robot.done(2 * START_S)
    total = sum(robot.computed for robot in robots)
    for robot in robots:
        np.testing.assert_array_equal(robot.team.replica, start_of(LAYOUT) - total)
    for relay in relays:
        assert relay.process.wait(START_S) == 0, "it ends when all below have finished"
        assert [one["members"] for one in relay.events("restarted")] == [4, 4]
        assert not any(one["forgotten"] for one in relay.events("restarted"))
    assert {one["peer"] for one in root.events("drained")} == {"relay-0", "relay-1"}
