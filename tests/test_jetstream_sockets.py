"""Servers in processes whose log is in NATS JetStream: one dies with its machine, another one has its place."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import signal
import time

import numpy as np
import pytest

from live import IMPATIENT, LAYOUT, Robot, eventually, start_of
from nats_servers import NatsServer, nats_cluster, needs_nats
from rowcast.cli.exits import ExitCode
from rowcast.drivers.sockets import Endpoint
from standby_processes import START_S, ServerProcess

#: Sums of whole numbers are exact with these.
POLICIES = {"bsp": "bsp?codec=raw", "rowcast": "rowcast:8?codec=raw&auto_lr=off&refine=off&adapt=off"}

pytestmark = [pytest.mark.system, needs_nats]


class LoggedServer(ServerProcess):
    """``rowcast serve`` with a log in JetStream; its machine is a folder, which has nothing but its journal."""

    def __init__(self, folder, name, policy, workers, place, *options):
        machine = folder / name
        machine.mkdir()
        super().__init__(machine, name, policy, workers, *options)
        self.machine, self.started_s = machine, 0.0
        self._arguments[self._arguments.index("--state") + 1] = place

    def start(self, until="listening"):
        """Start it; :attr:`started_s` is how long it took until it has said so."""
        begun = time.monotonic()
        super().start(until)
        self.started_s = time.monotonic() - begun
        return self

    def gone(self):
        """The process is killed, and its machine is gone for good."""
        self.end(signal.SIGKILL)
        shutil.rmtree(self.machine)

    def journaled(self, event):
        records = map(json.loads, self.journal.read_text("utf-8").splitlines())
        return [record for record in records if record["event"] == event]


@contextlib.contextmanager
def two_machines(tmp_path, policy, place, workers=2):
    servers = [LoggedServer(tmp_path, name, policy, workers, place) for name in ("first", "second")]
    try:
        servers[0].start()
        yield servers
    finally:
        for server in servers:
            server.end()


def robots_at(servers, steps=40, **options):
    first, *others = (("127.0.0.1", server.port) for server in servers)
    endpoint = Endpoint(*first, others=tuple(others))
    return [Robot(endpoint, f"robot{k}", steps=steps, update=k + 1, **options) for k in range(2)]


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
def test_another_machine_takes_over_within_seconds_when_the_first_is_gone_for_good(policy, tmp_path):
    with (
        NatsServer(tmp_path / "nats") as nats,
        two_machines(tmp_path, POLICIES[policy], f"nats://{nats.address}/team") as (first, second),
    ):
        robots = robots_at((first, second), steps=80)
        eventually(lambda: max(robot.iteration for robot in robots) >= 5)
        first.gone()
        second.start()
        audit(robots)
        (back,) = second.journaled("restarted")
        assert back["members"] == 2 and back["forgotten"] == 0
        # What a process needs to be there at all, the first one has needed too.
        print(f"{policy}: listening after {second.started_s:.2f} s, a new team after {first.started_s:.2f} s")
        assert second.started_s < 2 * first.started_s + 6.0


def test_a_server_that_was_frozen_says_nothing_more_and_ends(tmp_path):
    """SIGSTOP for longer than a lease: the log is another one's, and nothing that the old one has in mind counts."""
    with (
        NatsServer(tmp_path / "nats") as nats,
        two_machines(tmp_path, POLICIES["bsp"], f"nats://{nats.address}/team") as (first, second),
    ):
        settings = dataclasses.replace(IMPATIENT, silence_limit_s=2.0)
        robots = robots_at((first, second), steps=60, pause_at=30, settings=settings)
        eventually(lambda: max(robot.iteration for robot in robots) >= 3)
        first.send(signal.SIGSTOP)
        second.start()
        for robot in robots:
            assert robot.at_pause.wait(START_S), robot.error
        first.send(signal.SIGCONT)
        assert "another process took it over" in first.says("took it over")
        assert first.code() == ExitCode.STEPPED_DOWN
        for robot in robots:
            robot.go_on_to(None)
        audit(robots)


def test_a_second_server_is_refused_and_the_first_goes_on(tmp_path):
    with (
        NatsServer(tmp_path / "nats") as nats,
        two_machines(tmp_path, POLICIES["bsp"], f"nats://{nats.address}/team") as (first, second),
    ):
        robots = robots_at((first, second), pause_at=20)
        for robot in robots:
            assert robot.at_pause.wait(START_S), robot.error
        second.start(until="another process uses it")
        assert second.code() == ExitCode.USAGE
        assert first.process.poll() is None
        for robot in robots:
            robot.go_on_to(None)
        audit(robots)


def test_while_jetstream_is_away_nothing_is_told_and_then_all_goes_on(tmp_path):
    with (
        NatsServer(tmp_path / "nats") as nats,
        two_machines(tmp_path, POLICIES["bsp"], f"nats://{nats.address}/team") as (first, _),
    ):
        robots = robots_at((first,), steps=40)
        eventually(lambda: max(robot.iteration for robot in robots) >= 5)
        nats.kill()
        first.says("the state cannot be written")
        reached = [robot.iteration for robot in robots]
        assert max(reached) < 40
        nats.start()
        first.says("the state is written again")
        audit(robots)
        assert [record["error"] for record in first.journaled("error")] == ["state"]


def test_a_server_ends_when_jetstream_does_not_come_back(tmp_path):
    with NatsServer(tmp_path / "nats") as nats:
        place = f"nats://{nats.address}/team"
        server = LoggedServer(tmp_path, "first", "bsp", 2, place, "--set", "log_away_s=1")
        try:
            server.start()
            nats.kill()
            line = server.says("nothing could be stored for")
            assert "start this server again once JetStream is back" in line
            assert server.code() == ExitCode.LINK
        finally:
            server.end()


def test_the_machine_of_the_leader_of_jetstream_goes_with_the_server(tmp_path):
    """Three nats-servers; one of them, and the server, are killed at once."""
    nodes = nats_cluster(tmp_path)
    try:
        place = f"nats://{','.join(one.address for one in nodes)}/team?replicas=3"
        with two_machines(tmp_path, POLICIES["bsp"], place) as (first, second):
            robots = robots_at((first, second), steps=60)
            eventually(lambda: max(robot.iteration for robot in robots) >= 5, START_S)
            nodes[0].process.send_signal(signal.SIGKILL)
            first.gone()
            second.start()
            audit(robots)
            print(f"cluster: listening after {second.started_s:.2f} s, a new team after {first.started_s:.2f} s")
    finally:
        for node in nodes:
            node.kill()
