"""Models with very many tensors, and faults of our own on the network thread: the caller hears of them."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc

import numpy as np
import pytest
import torch

import rowcast
from live import IMPATIENT, LAYOUT, LIMIT_S, LiveServer, Robot, eventually, start_of
from rowcast.config import ServerSettings, WorkerSettings
from rowcast.drivers.sockets import Endpoint, Security, Team
from rowcast.drivers.sockets.connection import Connection
from rowcast.errors import ConfigError, LayoutMismatch, LocalProtocolError, RemoteProtocolError
from rowcast.rows import Layout
from rowcast.rows.outline import MOST_TABLE_BYTES, MOST_TENSORS, Outline
from rowcast.session import Link
from rowcast.session.tables import PART_BYTES, TableParts, table_parts
from rowcast.session.texts import shorten
from rowcast.sync import VersionTable, parse_policy
from rowcast.testing import VirtualTeam
from rowcast.training import ServerNode, WorkerNode
from rowcast.training.gate import MOST_NAMED
from rowcast.training.member import Member, MemberState
from rowcast.wire import Heartbeat, LayoutTable, Rows, Waiting, encode
from rowcast.wire.frames import MAX_CONTROL_BYTES
from teams import events, finished, replicas_agree, worker

POLICIES = ["bsp", "rog:4", "rowcast"]

#: 9,000 tensors with names of 150 characters: a table of 1.4 MB.
DEEP = [(f"encoder.{'stage.' * 22}block_{index:05d}.weight", (3,)) for index in range(9000)]
DEEP_LAYOUT = Layout.from_shapes(DEEP)


class _Deep(torch.nn.Module):
    """A model of so many tensors."""

    def __init__(self, names):
        super().__init__()
        for name, shape in names:
            self.register_parameter(name.replace(".", "_"), torch.nn.Parameter(torch.ones(shape)))


class _Trainer(threading.Thread):
    """A worker with that model and a PyTorch optimizer."""

    def __init__(self, port, name, *, steps, names=DEEP, secret=None):
        super().__init__(name=f"test-{name}", daemon=True)
        self.team = Team(Endpoint("127.0.0.1", port, security=Security(secret)), name=name, settings=IMPATIENT)
        self.model, self.steps, self.error = _Deep(names), steps, None
        self.go_on, self.joined = threading.Event(), threading.Event()
        self.start()

    def run(self):
        try:
            inner = torch.optim.SGD(self.model.parameters(), lr=1.0)
            with rowcast.Optimizer(inner, self.model, self.team) as optimizer:
                self.joined.set()
                assert self.go_on.wait(LIMIT_S)
                for _ in range(self.steps):
                    optimizer.zero_grad()
                    first = next(self.model.parameters())
                    first.sum().backward()
                    optimizer.step()
        except BaseException as error:
            self.error = error
            self.joined.set()

    def done(self):
        self.go_on.set()
        self.join(LIMIT_S)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self


# -- very many tensors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_nine_thousand_tensors_with_long_names(policy):
    """One worker seeds, one joins later with the same layout, one comes with another one."""
    assert len(DEEP_LAYOUT.to_table()) > 10 * MAX_CONTROL_BYTES
    secret = b"the team's secret"
    with LiveServer(policy, secret=secret) as server:
        first = _Trainer(server.port, "first", steps=2, secret=secret)
        assert first.joined.wait(LIMIT_S) and first.error is None, first.error
        names = [(spec.name, spec.shape) for spec in first.team.node.layout.tensors]
        second, other = (
            Team(Endpoint("127.0.0.1", server.port, security=Security(secret)), name=name, settings=IMPATIENT)
            for name in ("second", "other")
        )
        layout = Layout.from_shapes([*names[:-1], (names[-1][0], (4,))])
        with pytest.raises(LayoutMismatch, match=r"block_08999_weight' \(4,\) where the team has '.*' \(3,\)"):
            other.start(layout, layout.zeros())
        second.start(Layout.from_shapes(names), DEEP_LAYOUT.zeros())
        first.go_on.set()
        second.finish()
        first.done()
        for team in (first.team, second):
            np.testing.assert_array_equal(team.replica, server.node.parameters)
        assert server.node.frames_applied["first"] == first.team.node.outbox.sent_frames
        assert not server.events("error", error="RemoteProtocolError")


@pytest.mark.parametrize("byte", [40_000, 1_400_000])
def test_a_table_that_is_cut_is_told_again(byte):
    scripts = [worker(f"robot{index}", layout=DEEP_LAYOUT, iterations=2, rate_bps=1e7) for index in range(2)]
    team = VirtualTeam(DEEP_LAYOUT, "rog:4", scripts)
    team.cut_after("robot0", "up", byte, 0.1)
    finished(team)
    assert len(events(team, "robot0", "link_down")) >= 1
    replicas_agree(team)


def test_pieces_make_one_table():
    content = DEEP_LAYOUT.to_table()
    parts = [*table_parts(content)]
    assert max(len(encode(part)) for part in parts) < PART_BYTES + 100
    whole = TableParts(len(content))
    assert [whole.add(part) for part in parts] == [None] * (len(parts) - 1) + [content]
    assert [whole.add(part) for part in parts][-1] == content
    endless = LayoutTable(b"x", (1 << 64) - 1)
    for bad in (LayoutTable(b"", parts[0].left), LayoutTable(parts[1].part, 5), parts[0], endless):
        whole = TableParts(len(content))
        whole.add(parts[0])
        with pytest.raises(RemoteProtocolError, match="expected the next piece"):
            whole.add(bad)
    with pytest.raises(RemoteProtocolError, match="expected at most"):
        TableParts(len(content) - 1).add(parts[0])


@pytest.mark.parametrize("timing", [False, True])
def test_an_outline_counts_what_the_layout_has(timing):
    shapes = [("a", (7, 300)), ("b", ()), ('quote"\\', (5, 70_000)), ("ü\udc80", (2, 3, 4)), ("c", (1001,))]
    layout = Layout.from_shapes(shapes)
    layout = layout.timing_only() if timing else layout
    outline = Outline.read(layout.to_table())
    assert (outline.rows, outline.digest, outline.is_timing_only) == (layout.rows, layout.digest, timing)
    assert outline.elements == int(layout.lengths.sum())
    assert outline.tensors == tuple((spec.name, spec.shape) for spec in layout.tensors)
    layout.check_equal(outline, ours="a", theirs="b")
    assert Layout.from_outline(outline).digest == layout.digest


@pytest.mark.parametrize(
    "tensors",
    ["[]," * 300_000, "[" * 900_000, '["a",[' + "1," * 500_000, '["' + "\\\\" * 500_000, '["a",[1]],' * 100_000],
    ids=["empty", "nested", "many sizes", "long name", "many tensors"],
)
def test_a_table_that_would_become_many_objects_is_found_out_early(tensors, monkeypatch):
    monkeypatch.setattr("rowcast.rows.outline.MOST_TENSORS", 10_000)
    table = b'{"small_tensor":1,"max_row":9,"tensors":[' + tensors.encode() + b"]}"
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError, match="layout table"):
            Outline.read(table)
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


def test_a_model_that_no_server_would_take_is_refused_where_it_is_made():
    with pytest.raises(ConfigError, match=f"more than {MOST_TENSORS} tensors"):
        Layout.from_shapes((str(index), (1,)) for index in range(MOST_TENSORS + 1))
    with pytest.raises(ConfigError, match="shorter names"):
        Layout.from_shapes([("n" * MOST_TABLE_BYTES, (1,))]).to_table()


# -- other messages that could grow ------------------------------------------------------------------------------------


def test_the_rate_travels_however_many_figures_there_are():
    """With slots the server reads it from the heartbeat; names that are too long stay in the worker's journal."""
    team = VirtualTeam(LAYOUT, "asp", [worker("robot0", layout=LAYOUT, iterations=100)])
    team.run(1.0)
    node = team.workers["robot0"].node
    node.report(team.now, {f"m{'x' * 60}{index}": 1.0 for index in range(200)} | {"y" * (1 << 20): 1.0})
    team.run(4.0)
    assert not team.failures and len(events(team, "robot0", "link_up")) == 1
    metrics = team.server.members["robot0"].metrics
    assert metrics["rate_bps"] > 0 and f"m{'x' * 60}0" in metrics
    assert len(encode(Heartbeat(node.metrics))) < MAX_CONTROL_BYTES // 8


def test_who_is_waited_for_is_named_up_to_a_few():
    server = ServerNode(parse_policy("bsp"), settings=ServerSettings(expected_workers=2))
    gate, members = server.gate, server.members
    gate.opened = True
    gate.versions = VersionTable(3)
    for index in range(500):
        name = f"robot{index}{'x' * 190}"
        members[name] = Member(name, b"", None, None, MemberState.COMPUTING)
        gate.admit(members[name])
    waiting = members[name]
    waiting.iteration = 1
    reason = gate.reason(5.0, waiting, 10.0)
    assert reason.count("robot") == MOST_NAMED and reason.endswith(f", and {500 - MOST_NAMED} more")
    assert len(encode(Waiting(1, reason))) < MAX_CONTROL_BYTES // 8


@pytest.mark.parametrize("text", ["x" * 2_000_000, "ü" * 500_000, "lone \udc80 surrogate", "", "short"])
def test_a_text_is_cut_where_it_is_made(text):
    cut = shorten(text)
    assert len(cut.encode()) <= 1000
    assert cut == text or len(text) > 1000 or "\\udc80" in cut
    node = WorkerNode("robot0", LAYOUT, start_of())
    link = Link("server")
    node.link_up(0.0, link)
    node.leave(0.0, text)
    assert len(encode(link.control.pop())) < 1100
    server = VirtualTeam(LAYOUT, "bsp", []).server
    server.link_up(0.0, far := Link("robot0"))
    server.blame(0.0, far, RemoteProtocolError(text))
    assert len(encode(far.control.pop())) < 1100
    assert len(server.journal.records[-1]["message"]) <= 1000
    server.link_up(0.0, far := Link("robot1"))
    server.farewell(far, text)
    assert len(encode(far.control.pop())) < 1100


# -- faults of our own -------------------------------------------------------------------------------------------------

PLACES = ["link_up", "heard", "receive", "poll", "next_wake", "on_timer", "link_down"]
SETTINGS = WorkerSettings(join_limit_s=LIMIT_S, reconnect_first_s=0.02, reconnect_cap_s=0.1, heartbeat_s=0.05)


class Fault:
    """Makes a method of a node fail while it is armed, and counts how often it did."""

    def __init__(self, monkeypatch, kind, place, error, *, when=lambda node, args: True):
        self.armed, self.times = threading.Event(), 0
        method = getattr(kind, place)

        def failing(node, *args, **options):
            if self.armed.is_set() and when(node, args):
                self.times += 1
                raise error
            return method(node, *args, **options)

        monkeypatch.setattr(kind, place, failing)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", [KeyError, OSError])
def test_a_fault_on_the_network_thread_ends_the_wait_of_the_caller(place, kind, monkeypatch, caplog):
    """In the middle of training, whatever it is and wherever it comes from; nothing is tried again."""
    error = kind("a fault of ours")
    fault = Fault(monkeypatch, WorkerNode, place, error)
    with LiveServer(expected_workers=2, heartbeat_s=0.05) as server:
        robot = Robot(server, "robot", steps=100, settings=SETTINGS)
        other = Robot(server, "other", steps=100, pause_at=2, settings=SETTINGS)
        assert other.at_pause.wait(LIMIT_S)
        eventually(lambda: robot.iteration == 3)
        other.team.leave()
        other.go_on.set()
        other.join(LIMIT_S)
        fault.armed.set()
        if place in ("link_up", "link_down"):
            eventually(lambda: server.cut("robot") or robot.error)
        robot.join(LIMIT_S)
        assert robot.error is error
        assert not robot.team._network.is_alive()
        assert fault.times < 10
        fault.armed.clear()
    assert [record.levelname for record in caplog.records].count("ERROR") == 1


@pytest.mark.parametrize("place", ["link_up", "receive", "poll", "next_wake"])
def test_a_fault_while_joining_ends_the_wait(place, monkeypatch):
    error = LocalProtocolError("a message that no peer would take")
    Fault(monkeypatch, WorkerNode, place, error).armed.set()
    with LiveServer() as server:
        robot = Robot(server, "robot", steps=1)
        robot.join(LIMIT_S)
        assert robot.error is error
        assert robot.team._network is None, "it has left, and may be started again"


def test_what_cannot_be_encoded_ends_the_wait():
    with LiveServer() as server:
        robot = Robot(server, "robot", steps=10**6)
        eventually(lambda: robot.iteration > 1)
        robot.team._network.run(lambda: robot.team.node.say(Waiting(0, "x" * MAX_CONTROL_BYTES)))
        with pytest.raises(LocalProtocolError, match="no peer would take it"):
            robot.done()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("place", ["receive", "poll"])
def test_a_fault_while_one_worker_is_served_is_of_no_concern_to_the_others(policy, place, monkeypatch, caplog):
    """Its connection ends, with one line; nothing is lost, and the server and the others go on."""

    def hits(node, args):
        member = node._admission.by_link.get(args[1])
        rows = place == "poll" or isinstance(args[2], Rows)
        return member is not None and member.name == "robot" and rows and fault.times < 5

    fault = Fault(monkeypatch, ServerNode, place, KeyError("a fault of ours"), when=hits)
    with LiveServer(policy, expected_workers=2) as server:
        robot = Robot(server, "robot", steps=6, update=3, pause_at=2)
        other = Robot(server, "other", steps=6, update=5)
        assert robot.at_pause.wait(LIMIT_S)
        fault.armed.set()
        robot.go_on.set()
        for one in (robot, other):
            one.done()
            np.testing.assert_array_equal(one.team.replica, server.node.parameters)
            assert server.node.frames_applied[one.team.name] == one.team.node.outbox.sent_frames
        assert fault.times == 5
        assert len(server.events("link_up", peer="other")) == 1
        if policy != "rowcast":
            moved = start_of() - server.node.parameters
            np.testing.assert_allclose(moved, robot.computed + other.computed, atol=1e-3)
    faults = [record for record in caplog.records if "a fault of the server while it served 127" in record.getMessage()]
    assert 0 < len(faults) <= 5
    assert [bool(record.exc_info) for record in faults] == [True] + [False] * (len(faults) - 1)
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_a_fault_in_the_server_s_timer_stops_nobody(monkeypatch, caplog):
    fault = Fault(monkeypatch, ServerNode, "on_timer", KeyError("a fault of ours"))
    monkeypatch.setattr("rowcast.drivers.sockets.server.FAULT_PAUSE_S", 0.05)
    with LiveServer(heartbeat_s=0.05) as server:
        robot = Robot(server, "robot", steps=4, pause_at=2)
        assert robot.at_pause.wait(LIMIT_S)
        fault.armed.set()
        eventually(lambda: fault.times > 2)
        fault.armed.clear()
        robot.go_on.set()
        robot.done()
    faults = [record for record in caplog.records if "while it served its timers" in record.getMessage()]
    assert [bool(record.exc_info) for record in faults] == [True] + [False] * (len(faults) - 1)


def test_a_connection_that_ends_when_the_kernel_takes_bytes_again_ends_once():
    """asyncio reports an end twice that is asked for while it says so; the second time it fails."""

    class Owner:
        said = [LayoutTable(b"x" * 100_000, 0)] * 40
        closed = 0

        def on_open(self, connection, sock):
            connection.link = Link("far")

        def next_message(self, connection):
            if self.said:
                return self.said.pop()
            connection.link.closing = True
            return None

        def position(self):
            return 0

        committed_to = position

        def on_closed(self, connection, cause):
            self.closed += 1

        def after_write(self):
            pass

    async def run():
        problems, owner = [], Owner()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: problems.append(context))
        server = await loop.create_server(lambda: Connection(owner), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        received = len(await reader.read())
        writer.close()
        server.close()
        await server.wait_closed()
        return problems, owner.closed, received

    problems, closed, received = asyncio.run(run())
    assert (problems, closed) == ([], 1)
    assert received > 40 * 100_000


@pytest.mark.parametrize("place", ["on_timer", "next_wake"])
def test_a_fault_that_concerns_nobody_in_particular_is_told_and_counted(place, monkeypatch, caplog):
    fault = Fault(monkeypatch, ServerNode, place, KeyError("a fault of ours"))
    monkeypatch.setattr("rowcast.drivers.sockets.server.FAULT_PAUSE_S", 0.02)
    with LiveServer(heartbeat_s=0.05) as server:
        robot = Robot(server, "robot", steps=40, pause_at=2)
        assert robot.at_pause.wait(LIMIT_S)
        fault.armed.set()
        eventually(lambda: fault.times > 20)  # heartbeats and time meanwhile
        robot.go_on.set()
        eventually(lambda: robot.iteration > 2)
        fault.armed.clear()
        robot.done()
        told = [record for record in caplog.records if "a fault of the server while it served" in record.getMessage()]
        assert [bool(record.exc_info) for record in told] == [True, False]  # the others were counted
        assert len(server.events("link_up", peer="robot")) == 1
        assert not [record for record in caplog.records if record.name == "asyncio"]
    counted = [record.getMessage() for record in caplog.records if "times more in" in record.getMessage()]
    assert [int(text.split()[0]) for text in counted] == [fault.times - 2]
