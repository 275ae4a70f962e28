"""The socket driver end to end: real TCP on ephemeral ports, real threads, a real process that is killed."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

import numpy as np
import pytest
import torch

from live import LAYOUT, LIMIT_S, LiveServer, Robot, eventually, propose, start_of, worker_process
from rowcast.config import LinkSettings, WorkerSettings
from rowcast.drivers.sockets import Endpoint, Security, Server, Shaper, Team
from rowcast.errors import (
    AuthenticationFailed,
    ConfigError,
    LayoutMismatch,
    LinkLost,
    NonFiniteGradient,
    RemoteProtocolError,
    ServerUnavailable,
)
from rowcast.links import Trace
from rowcast.optim import Optimizer
from rowcast.rows import Layout
from rowcast.sync import parse_policy
from rowcast.training import ServerNode

FAST = Trace.constant(1e9)


def assert_agree(server, *robots):
    """Invariants 2 and 5, exactly: everything here is a whole number."""
    moved = start_of() - server.node.parameters
    for robot in robots:
        np.testing.assert_array_equal(robot.team.replica, server.node.parameters)
    return moved


def mid_push(server, name, iteration):
    """Whether the server has some rows of this push and not all."""

    def look(node):
        member = node.members.get(name)
        return member and member.iteration == iteration - 1 and 0 < member.push_rows < LAYOUT.rows * 3 // 4

    return server.ask(look)


# -- training together -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy", ["bsp?codec=raw", "ssp:2", "asp", "flown:2", "powersgd:1", "rog:4", "rog:4?codec=half"]
)
def test_two_workers_train_and_agree(policy):
    with LiveServer(policy, expected_workers=2) as server:
        robots = [Robot(server, f"robot-{index}", steps=6, update=index + 1) for index in range(2)]
        for robot in robots:
            robot.done()
        moved = start_of() - server.node.parameters
        computed = sum(robot.computed for robot in robots)
        np.testing.assert_allclose(moved, computed, atol=1e-3)
        for robot in robots:
            np.testing.assert_allclose(robot.team.replica, server.node.parameters, atol=1e-3)
            sent = robot.team.node.outbox.sent_frames
            assert server.node.frames_applied[robot.team.name] == sent
        assert not server.node.members


def test_team_is_usable_after_its_end():
    with LiveServer() as server:
        robot = Robot(server, "robot-0", steps=1).done()
        with robot.team.hold(), robot.team.still():
            assert robot.team.replica is not None
        robot.team.finish()
        robot.team.leave()
        robot.team.report(loss=1.0)


def test_nothing_happens_while_a_team_is_still():
    with LiveServer() as server:
        robot = Robot(server, "robot-0", steps=2, pause_at=1)
        assert robot.at_pause.wait(LIMIT_S)
        happened = threading.Event()
        with robot.team.still():
            robot.team._network.loop.call_soon_threadsafe(happened.set)
            assert not happened.wait(0.1)
        assert happened.wait(LIMIT_S)
        robot.go_on.set()
        robot.done()


def test_finish_gives_up_when_time_is_over():
    """Also while heartbeats keep coming."""
    with LiveServer(expected_workers=2, heartbeat_s=0.05) as server:
        slow = Robot(server, "slow", steps=1, pause_at=0)
        team = Team(Endpoint("127.0.0.1", server.port), name="early")
        team.start(LAYOUT, start_of())
        begun = time.monotonic()
        with pytest.raises(LinkLost, match=r"longer than 0\.5 s"):
            team.finish(timeout_s=0.5)
        assert time.monotonic() - begun < 5
        slow.go_on.set()
        slow.done()


# -- what breaks -------------------------------------------------------------------------------------------------------


def test_worker_killed_in_the_middle_of_a_push():
    """The others go on, it returns as a new life, everybody agrees, and every row is accounted for."""
    with LiveServer(expected_workers=2, absence_limit_s=0.3) as server:
        survivor = Robot(server, "survivor", steps=40, update=1, pause_at=20)
        victim = worker_process(server.port, "victim", steps=40, update=1000, rate_mbps=0.6)
        try:
            eventually(lambda: mid_push(server, "victim", 2))
            os.kill(victim.pid, signal.SIGKILL)
        finally:
            victim.kill()
            victim.communicate()
        # Bytes that were already in the relay's or the kernel's hands do not come any more: the relay died with it.
        eventually(lambda: server.events("absent", peer="victim"))
        arrived = server.ask(lambda node: node.members["victim"].push_rows)
        assert 0 < arrived < LAYOUT.rows
        eventually(lambda: survivor.iteration == 20)
        again = Robot(server, "victim", steps=40, update=1)
        eventually(lambda: server.events("leave", peer="victim", cause="started afresh"))
        eventually(lambda: server.member("victim", "gated"))
        survivor.go_on.set()
        survivor.done()
        again.done()
        moved = assert_agree(server, survivor, again)
    rest = moved - survivor.computed - again.computed
    # Of its first life one whole push is there, and of the second push whole rows: each row once or not at all.
    per_row = rest[LAYOUT.offsets[:-1]]
    np.testing.assert_array_equal(rest, np.repeat(per_row, LAYOUT.lengths))
    assert sorted(set(per_row)) == [1000.0, 2000.0]
    assert np.count_nonzero(per_row == 2000.0) == arrived


def test_connection_cut_in_the_middle_of_pushes():
    """Each cut loses what was on its way, and the worker sends it again; nothing is lost, nothing comes twice."""
    with (
        LiveServer(expected_workers=2) as server,
        Shaper("127.0.0.1", server.port, up=Trace.constant(1e6), down=FAST) as link,
    ):
        other = Robot(server, "other", steps=4, update=1)
        robot = Robot(Endpoint(*link.address), "robot", steps=4, update=10, pause_at=0)
        eventually(lambda: server.events("join", peer="robot"))
        link.begin()
        robot.go_on.set()
        for iteration in (2, 3, 4):
            eventually(lambda iteration=iteration: mid_push(server, "robot", iteration))
            assert server.cut("robot")
        link.lift()
        other.done()
        robot.done()
        moved = assert_agree(server, robot, other)
        np.testing.assert_array_equal(moved, robot.computed + other.computed)
        assert len(server.events("resume", peer="robot")) == 3
        assert server.node.frames_applied["robot"] == robot.team.node.outbox.sent_frames
        restored = [record["restored"] for record in robot.team.journal.records if record["event"] == "resume"]
        assert sum(restored) > 0  # the cuts did hit frames on their way


def test_garbage_closes_its_connection_only():
    with LiveServer(expected_workers=1) as server:
        robot = Robot(server, "robot", steps=10, pause_at=5)
        eventually(lambda: robot.iteration == 5)
        generator = np.random.default_rng(0)
        for size in (1, 64, 5000):
            with socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S) as sock:
                sock.sendall(b"GET / HTTP/1.1\r\n\r\n" + generator.bytes(size))
                while sock.recv(4096):
                    pass
        robot.go_on.set()
        robot.done()
        assert len(server.events("link_up", peer="robot")) == 1
        moved = assert_agree(server, robot)
        np.testing.assert_array_equal(moved, robot.computed)
        assert len(server.events("error", error="RemoteProtocolError")) == 1
    # Of what strangers repeat the journal has the first, and the number of the others.
    assert sum(record["count"] for record in server.events("repeated", error="RemoteProtocolError")) == 2


def test_server_stops_and_returns():
    """Workers reconnect, bring the parameters along, and go on."""
    with LiveServer(expected_workers=2) as server:
        port = server.port
        robots = [Robot(server, f"robot-{index}", steps=12, update=1, pause_at=6) for index in range(2)]
        eventually(lambda: all(robot.iteration == 6 for robot in robots))
    for robot in robots:
        robot.go_on.set()
    with LiveServer(expected_workers=2, port=port, gather_s=LIMIT_S) as second:
        for robot in robots:
            robot.done()
        for robot in robots:
            np.testing.assert_array_equal(robot.team.replica, second.node.parameters)
        assert len(second.events("leave", cause="finished")) == 2


def test_leaving_is_quick_on_a_link_that_does_not_move():
    dead = Trace.constant(0.0)
    with LiveServer() as server, Shaper("127.0.0.1", server.port, up=dead, down=dead) as link:
        robot = Robot(Endpoint(*link.address), "robot", steps=1000)
        eventually(lambda: robot.iteration > 2)
        link.begin()
        begun = time.monotonic()
        robot.team.leave()
        assert time.monotonic() - begun < 10
        robot.join(LIMIT_S)


def test_leaving_is_quick_while_nobody_answers():
    settings = WorkerSettings(reconnect_first_s=30.0, reconnect_cap_s=60.0)
    with LiveServer() as server:
        robot = Robot(server, "robot", steps=10**6, settings=settings)
        eventually(lambda: robot.iteration > 2)
    eventually(lambda: robot.team._network.connection is None)
    begun = time.monotonic()
    robot.team.leave()
    assert time.monotonic() - begun < 10
    robot.join(LIMIT_S)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"), [(b"s" * 16, b"t" * 16), (None, b"t" * 16), (b"s" * 16, None)], ids=["wrong", "none", "extra"]
)
def test_wrong_secret(ours, theirs):
    with LiveServer(secret=theirs) as server:
        team = Team(
            Endpoint("127.0.0.1", server.port, security=Security(ours)),
            name="robot",
            settings=WorkerSettings(join_limit_s=2.0),
        )
        with pytest.raises(AuthenticationFailed, match=r"secret.*ive both the same --secret-file"):
            team.start(LAYOUT, start_of())
        assert not server.ask(lambda node: dict(node.members))


def test_right_secret():
    with LiveServer(secret=b"t" * 16) as server:
        Robot(server, "robot", steps=2).done()


def test_wrong_layout_names_the_tensor():
    with LiveServer() as server:
        first = Team(Endpoint("127.0.0.1", server.port), name="first")
        first.start(LAYOUT, start_of())
        other = Layout.from_shapes([("weight", (200, 64)), ("bias", (51,))])
        second = Team(Endpoint("127.0.0.1", server.port), name="second")
        with pytest.raises(LayoutMismatch, match="bias"):
            second.start(other, other.zeros())
        propose(first, 1)
        first.exchange()
        first.finish()


def test_name_clash():
    with LiveServer() as server:
        first = Team(Endpoint("127.0.0.1", server.port), name="robot")
        first.start(LAYOUT, start_of())
        second = Team(Endpoint("127.0.0.1", server.port), name="robot", settings=WorkerSettings(join_limit_s=0.5))
        with pytest.raises(RemoteProtocolError, match="'robot' is connected; choose another --name"):
            second.start(LAYOUT, start_of())
        first.finish()


def test_server_not_there():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    team = Team(Endpoint("127.0.0.1", port), name="robot", settings=WorkerSettings(join_limit_s=1.0))
    begun = time.monotonic()
    with pytest.raises(ServerUnavailable, match=f"127.0.0.1:{port} within 1 s.*refused.*rowcast serve"):
        team.start(LAYOUT, start_of())
    assert time.monotonic() - begun < 5


def test_port_in_use():
    with LiveServer() as server, pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1:{server.port}"):
        LiveServer(port=server.port).__enter__()


def test_open_network_needs_a_secret():
    node = ServerNode(parse_policy("bsp"))
    with LiveServer() as server:

        async def listen():
            await Server(node, "0.0.0.0", 0).start()

        with pytest.raises(ConfigError, match=r"without a shared secret.*--secret-file"):
            server.call(listen())
    with pytest.raises(ConfigError, match=r"192.0.2.1 without a shared secret.*--secret-file"):
        Team(Endpoint("192.0.2.1"), name="robot")


def test_unknown_congestion_control():
    link_settings = LinkSettings(congestion_control="warp")
    with LiveServer() as server:

        async def listen():
            await Server(ServerNode(parse_policy("bsp")), "127.0.0.1", 0, link_settings=link_settings).start()

        with pytest.raises(ConfigError, match="refuses 'warp'"):
            server.call(listen())
        team = Team(Endpoint("127.0.0.1", server.port), name="robot", link_settings=link_settings)
        with pytest.raises(ConfigError, match="refuses 'warp'"):
            team.start(LAYOUT, start_of())


def test_nan_gradient_is_refused_by_name_and_the_team_goes_on():
    with LiveServer("rog:4?codec=raw", expected_workers=2) as server:
        other = _Trainer(server, "other", bad_step=None)
        sick = _Trainer(server, "sick", bad_step=2)
        other.done()
        sick.done()
        assert len(sick.refused) == 1 and "'weight'" in str(sick.refused[0])
        assert other.refused == []
        assert torch.equal(sick.model.weight, other.model.weight)
        assert torch.isfinite(sick.model.weight).all()


class _Trainer(Robot):
    """A worker with a PyTorch model."""

    def __init__(self, server, name, *, bad_step):
        self.bad_step, self.refused = bad_step, []
        self.model = torch.nn.Linear(8, 4)
        with torch.no_grad():
            self.model.weight.fill_(1.0)
            self.model.bias.zero_()
        super().__init__(server, name, steps=5)

    def run(self):
        try:
            optimizer = Optimizer(torch.optim.SGD(self.model.parameters(), lr=0.5), self.model, self.team)
            for step in range(self.steps):
                for parameter in self.model.parameters():
                    parameter.grad = torch.ones_like(parameter)
                if step == self.bad_step:
                    self.model.weight.grad[1, 2] = float("nan")
                try:
                    optimizer.step()
                except NonFiniteGradient as error:
                    self.refused.append(error)
            optimizer.close()
        except BaseException as error:
            self.error = error


# -- what is said ------------------------------------------------------------------------------------------------------


def test_a_long_wait_names_the_blocker(caplog):
    with LiveServer(expected_workers=2, patience_s=0.1) as server, caplog.at_level("WARNING", logger="rowcast"):
        lazy = Robot(server, "lazy", steps=1, pause_at=0)
        keen = Robot(server, "keen", steps=1)
        eventually(lambda: any("keen: waiting for lazy (computing" in text for text in caplog.messages))
        lazy.go_on.set()
        lazy.done()
        keen.done()


def test_a_missing_worker_is_named(caplog):
    with LiveServer(expected_workers=2, patience_s=0.1) as server, caplog.at_level("WARNING", logger="rowcast"):
        keen = Robot(server, "keen", steps=1)
        eventually(lambda: any("1 of 2 workers have joined" in text for text in caplog.messages))
        Robot(server, "late", steps=1).done()
        keen.done()


def test_waiting_for_the_server_is_said(caplog):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    settings = WorkerSettings(join_limit_s=1.5, patience_s=0.1, reconnect_first_s=0.05, reconnect_cap_s=0.05)
    team = Team(Endpoint("127.0.0.1", port), name="robot", settings=settings)
    with caplog.at_level("WARNING", logger="rowcast"), pytest.raises(ServerUnavailable):
        team.start(LAYOUT, start_of())
    assert f"robot: waiting for the server at 127.0.0.1:{port}: connection refused: nobody listens there" in "\n".join(
        caplog.messages
    )


def test_congestion_control_is_recorded():
    with LiveServer() as server:
        Robot(server, "robot", steps=1, link_settings=LinkSettings(congestion_control="reno")).done()
        assert server.events("link_up", peer="robot")[0]["congestion_control"]
