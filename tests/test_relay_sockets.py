"""Relays on real sockets: processes that are killed and started again while workers train."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from live import LAYOUT, LIMIT_S, Robot, eventually, python, start_of
from nats_servers import NatsServer, needs_nats
from rowcast.cli.exits import ExitCode
from rowcast.drivers.sockets import Endpoint, Security
from test_durable_sockets import free_port

pytestmark = pytest.mark.system
#: Sums of whole numbers are exact with it.
POLICY = "rowcast:8?codec=raw&auto_lr=off&refine=off&adapt=off"
START_S = 3 * LIMIT_S


class Process:
    """A server or a relay with a log, again and again on one port."""

    def __init__(self, folder, name, workers, above=None, *, log=None, secret=None):
        self.name, self.port, self.started_s = name, free_port(), 0.0
        self.journal, self.log = folder / f"{name}.jsonl", log or folder / f"{name}-log"
        common = ["--policy", POLICY, "--workers", workers, "--journal", self.journal, "--quiet"]
        common += [] if secret is None else ["--secret-file", secret]
        self.security = Security() if secret is None else Security.of(secret)
        common += ["--set", "gather_s=0", "--set", "absence_limit_s=300"]  # however long a process takes to start
        if above is None:
            self.arguments = ["serve", "--port", self.port, "--state", self.log, *common]
        else:
            listen = ["--listen", f"127.0.0.1:{self.port}", "--log", self.log, "--name", name]
            self.arguments = ["relay", "--connect", f"127.0.0.1:{above.port}", *listen, *common]
        self.process = None

    @property
    def endpoint(self):
        return Endpoint("127.0.0.1", self.port, self.security)

    def begin(self):
        self.process = python("-m", "rowcast", *self.arguments, stderr=subprocess.STDOUT)

    def start(self):
        begun = time.monotonic()
        self.begin()
        self.wait()
        self.started_s = time.monotonic() - begun

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
    """A root and two relays that expect four workers each; they share a secret, so all is inside TLS."""
    secret = tmp_path / "team.secret"
    secret.write_text("a secret of more than sixteen bytes")
    secret.chmod(0o600)
    root = Process(tmp_path, "root", 2, secret=secret)
    relays = [Process(tmp_path, f"relay-{k}", 4, root, secret=secret) for k in range(2)]
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


@needs_nats
def test_a_relay_whose_machine_is_gone_for_good_is_taken_over_on_another_one(tmp_path):
    """Its log is in JetStream, its directory is removed; robots know the address of both machines."""
    with NatsServer(tmp_path / "nats") as nats:
        root = Process(tmp_path, "root", 1)
        machines = [tmp_path / "first", tmp_path / "second"]
        for machine in machines:
            machine.mkdir()
        log = f"nats://{nats.address}/hall"
        first, second = (Process(machine, "relay-0", 2, root, log=log) for machine in machines)
        try:
            root.start()
            first.start()
            endpoint = Endpoint("127.0.0.1", first.port, others=(("127.0.0.1", second.port),))
            robots = [Robot(endpoint, f"robot{k}", steps=80, update=k + 1) for k in range(2)]
            eventually(lambda: min(robot.iteration for robot in robots) >= 5)
            first.kill()
            shutil.rmtree(machines[0])
            second.start()
            for robot in robots:
                robot.done(2 * START_S)
            total = sum(robot.computed for robot in robots)
            for robot in robots:
                np.testing.assert_array_equal(robot.team.replica, start_of(LAYOUT) - total)
                joins = [one["how"] for one in robot.team.journal.records if one["event"] == "join"]
                assert joins[1:] in ([], ["equal"]) and len(joins) <= 2, "it resumed its session"
            assert [(one["members"], one["forgotten"]) for one in second.events("restarted")] == [(2, 0)]
            # What a process needs to be there at all, the first one has needed too.
            print(f"listening after {second.started_s:.2f} s, a new relay after {first.started_s:.2f} s")
            assert second.started_s < 2 * first.started_s + 6.0
        finally:
            for process in (root, first, second):
                if process.process is not None:
                    process.kill()


def refused(process) -> str:
    """The line with which a process ends that cannot be."""
    process.begin()
    output, _ = process.process.communicate(timeout=START_S)
    assert process.process.returncode == ExitCode.USAGE
    (line,) = [line for line in output.splitlines() if line.startswith("rowcast: ")]
    return line


def test_two_relays_with_one_log_and_a_log_of_another_are_refused(tmp_path):
    root = Process(tmp_path, "root", 1)
    first = Process(tmp_path, "relay-0", 1, root)
    other = Process(tmp_path, "relay-1", 1, root, log=first.log)
    try:
        first.start()  # it is there before its server
        assert "another process uses" in refused(other)
        first.kill(signal.SIGTERM)
        line = refused(other)
        assert "expected that of relay 'relay-1', got that of relay 'relay-0'; give another folder" in line
        assert "expected that of a server, got that of relay 'relay-0'" in refused(
            Process(tmp_path, "root", 1, log=first.log)
        )
        changed = Process(tmp_path, "relay-0", 1, root, log=first.log)
        changed.arguments[changed.arguments.index(POLICY)] = "rowcast:4"
        assert "and this server has rowcast:4; give that --policy, or another --state" in refused(changed)
    finally:
        if first.process.poll() is None:
            first.kill()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--policy", "bsp"], "relay: expected a policy that streams rows, as 'rowcast:8', got 'bsp'"),
        (["--connect", "127.0.0.1:7118"], "expected another server, got this relay itself; give another --listen"),
        (["--listen", "0.0.0.0:0"], "would let anybody in"),
        (["--log", "nats://192.0.2.1/x"], "--log nats://192.0.2.1:4222/x: the model would travel in the clear"),
        (["--team", "here"], "expected the certificate of this relay as well, got none"),
        (["--durability", "log"], "expected a folder for 'log', got none; give --log DIR"),
    ],
    ids=["policy", "itself", "listen", "clear", "team", "durability"],
)
def test_a_relay_that_cannot_be_says_so_in_one_line(arguments, line):
    """Nothing is started."""
    given = arguments if "--connect" in arguments else ["--connect", "127.0.0.1:7117", *arguments]
    ended = subprocess.run(
        [sys.executable, "-m", "rowcast", "relay", *given], capture_output=True, text=True, timeout=START_S
    )
    assert ended.returncode == ExitCode.USAGE, ended.stderr
    assert line in ended.stderr and ended.stderr.count("\n") == 1
