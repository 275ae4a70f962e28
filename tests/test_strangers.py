"""Who has not proved anything: rogue servers that answer a worker, first comers who tell a server of a huge model."""

from __future__ import annotations

import contextlib
import logging
import re
import select
import socket
import threading
import time
import tracemalloc
from dataclasses import replace
from functools import partial
from unittest import mock

import numpy as np
import pytest

from live import IMPATIENT, LAYOUT, LIMIT_S, LiveServer, Robot, eventually, open_to_anybody, start_of
from rowcast.config import ServerSettings, WorkerSettings
from rowcast.drivers.sockets import Endpoint, Security, Team
from rowcast.drivers.sockets.connection import Connection
from rowcast.errors import AuthenticationFailed, LayoutMismatch, LinkLost, RemoteProtocolError, ServerUnavailable
from rowcast.rows import Layout
from rowcast.rows.outline import ROW_BYTES, Outline
from rowcast.session import JoinRequest, Link
from rowcast.session.tables import table_parts
from rowcast.sync import parse_policy
from rowcast.testing import VirtualTeam
from rowcast.training import ServerNode, WorkerNode, WorkerState
from rowcast.wire import (
    Challenge,
    Computed,
    FrameEncoder,
    Go,
    Heartbeat,
    Hello,
    LayoutTable,
    Leave,
    Proof,
    Refusal,
    Rows,
    Start,
    StateEnd,
    Waiting,
    Welcome,
    encode,
    frames,
)
from teams import events, finished, worker

SECRET = b"the team's secret"
POLICIES = ["bsp", "rog:4", "rowcast"]

#: Names 2**24 rows in 72 bytes.
HUGE_TABLE = b'{"small_tensor":1,"max_row":65536,"tensors":[["weight",[16777216,1]]]}'
OTHER = Layout.from_shapes([("weight", (200, 64)), ("bias", (51,))]).to_table()
CHALLENGE = Challenge(b"s" * 16, b"n" * 16, True)


def table(content):
    return [*table_parts(content)]


def of_version(version, *messages):
    with mock.patch.object(frames, "PROTOCOL_VERSION", version):
        return b"".join(map(encode, messages))


#: What a server without the secret may say: before it has heard anything, and behind the worker's hello.
ROGUES = {
    "another version": (of_version(9, Challenge(b"s" * 16, b"n" * 16, True)), []),
    **{
        f"refusal {code}": ([Refusal(code, "go \x1b[31maway")], [])
        for code in ("protocol", "version", "secret", "layout", "name", "model", "zzz" * 300)
    },
    "no secret": ([Challenge(b"s" * 16, b"n" * 16, False)], []),
    "two challenges": ([CHALLENGE, CHALLENGE], []),
    "goodbye": ([Leave("the show is over")], []),
    "waiting": ([Waiting(0, "w" * 3000)] * 500, []),
    "heartbeats": ([Heartbeat()] * 5000, []),
    "welcome at once": ([Welcome("seed", b"", "bsp", 0, 1, 0, 0, b"")], []),
    "proof at once": ([Proof(b"p" * 32)], []),
    "start": ([Start(1, 1, 1)], []),
    "rows": ([Rows(1, 0, 1, True, False, np.arange(3), np.zeros(12, dtype=np.uint8))], []),
    "long": ([LayoutTable(b"x" * 100_000, 0)], []),
    "not ours": (b"HTTP/1.1 400 Bad Request\r\n\r\n", []),
    "nothing": ([], []),
    "another layout": ([CHALLENGE], [*table(OTHER), Refusal("layout", "another layout")]),
    "16 M rows": ([CHALLENGE], [*table(HUGE_TABLE), Refusal("layout", "another layout")]),
    "wrong proof": ([CHALLENGE], [Proof(b"p" * 32)]),
    "no proof": ([CHALLENGE], [Welcome("seed", b"", "bsp", 0, 1, 0, 0, b"")]),
    "refused politely": ([CHALLENGE], [Refusal("secret", "give both the same secret")]),
    "refused by name": ([CHALLENGE], [Refusal("name", "a worker of that name is connected")]),
    "taken in": ([CHALLENGE], [Proof(b""), Welcome("resume", b"", "bsp", 0, 1, 9, 9, b""), Go(1, 1.0, 0.0, 0, 1, 1)]),
}


def wire_bytes(*said):
    """Bytes of what is said on one connection, part by part: its frames are counted."""
    encoder = FrameEncoder()
    return [part if isinstance(part, bytes) else b"".join(map(encoder.encode, part)) for part in said]


class Rogue:
    """Answers at a port of this machine and plays one of :data:`ROGUES` on each connection, over and over.

    Args:
        kinds: what it plays; nothing: all of them.
        tls: inside TLS with a certificate of its own; or in the clear.

    Attributes:
        real: port of the real server; while it is set, connections go there.
        played: kinds played so far.
    """

    def __init__(self, *kinds, tls=True):
        self._context = open_to_anybody() if tls else None
        self.kinds = kinds or tuple(ROGUES)
        self.real = None
        self.played = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, name="rogue")

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(LIMIT_S)
        self._listener.close()

    def wait(self, times=1):
        """Until each kind was played so often again."""
        wanted = len(self.played) + times * len(self.kinds)
        eventually(lambda: len(self.played) >= wanted)

    def _serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(LIMIT_S)
                self._answer(connection) if self.real is None else self._relay(connection)

    def _answer(self, connection):
        if self._context is None:
            self._play(connection)
            return
        with self._context.wrap_socket(connection, server_side=True) as secured:
            self._play(secured)

    def _play(self, connection):
        kind = self.kinds[len(self.played) % len(self.kinds)]
        self.played.append(kind)
        first, second = wire_bytes(*ROGUES[kind])
        connection.sendall(first)
        if second and connection.recv(1 << 16):
            connection.sendall(second)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass

    def _relay(self, connection):
        with socket.create_connection(("127.0.0.1", self.real), LIMIT_S) as server:
            ends = {connection: server, server: connection}
            while True:
                for one in select.select(list(ends), [], [], LIMIT_S)[0]:
                    data = one.recv(1 << 16)
                    if not data:
                        return
                    ends[one].sendall(data)


def rogue_of(kind):
    return Rogue("wrong proof", tls=False) if kind == "in the clear" else Rogue(kind)


# -- a worker and a rogue server ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "tls"), [*((policy, True) for policy in POLICIES), ("bsp", False)])
def test_a_rogue_server_ends_nobody(policy, tls):
    """At the first joining and in the middle of training: a worker survives all it says, and nothing is lost."""
    with LiveServer(policy, expected_workers=2, absence_limit_s=60.0, secret=SECRET) as server, Rogue(tls=tls) as rogue:
        hasty = replace(IMPATIENT, reconnect_first_s=0.01, reconnect_cap_s=0.05)
        endpoint = Endpoint("127.0.0.1", rogue.port, Security(SECRET))
        robot = Robot(endpoint, "robot", steps=6, update=3, pause_at=3, settings=hasty)
        other = Robot(server, "other", steps=6, update=5)
        rogue.wait()
        rogue.real = server.port
        assert robot.at_pause.wait(LIMIT_S), robot.error
        rogue.real = None
        assert server.cut("robot")
        rogue.wait()
        rogue.real = server.port
        robot.go_on.set()
        for one in (robot, other):
            one.done()
            np.testing.assert_array_equal(one.team.replica, server.node.parameters)
            assert server.node.frames_applied[one.team.name] == one.team.node.outbox.sent_frames
        if policy != "rowcast":  # which has momentum, and lets what is old count less
            moved = start_of() - server.node.parameters
            np.testing.assert_allclose(moved, robot.computed + other.computed, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("in the clear", "expected TLS, got a server that speaks without"),
        ("another version", "expected protocol version"),
        ("refused politely", "give both the same secret"),
        ("no secret", "this server has none"),
        ("no proof", "Welcome before its proof"),
        ("16 M rows", "LayoutTable before its proof"),
        ("wrong proof", "its proof does not fit the secret, or somebody stands in between"),
    ],
)
def test_a_worker_ends_by_its_own_limit_and_names_the_cause(kind, said, caplog):
    settings = WorkerSettings(join_limit_s=0.5, reconnect_first_s=0.01, reconnect_cap_s=0.05)
    with caplog.at_level(logging.WARNING, "rowcast"), rogue_of(kind) as rogue:
        team = Team(Endpoint("127.0.0.1", rogue.port, security=Security(SECRET)), name="robot", settings=settings)
        begun = time.monotonic()
        with pytest.raises(AuthenticationFailed, match=rf"did not prove that it knows.*{said}.*for 0\.5 s"):
            team.start(LAYOUT, start_of())
        assert time.monotonic() - begun > 0.25
        assert len(rogue.played) > 2
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "trying again" in line]) == 1, lines
    assert said in lines[0] and "trying again" in lines[0]


def test_nobody_there_any_longer_is_not_blamed_on_the_secret():
    settings = WorkerSettings(join_limit_s=1.0, reconnect_first_s=0.02, reconnect_cap_s=0.1)
    with Rogue("goodbye") as rogue:
        team = Team(Endpoint("127.0.0.1", rogue.port, security=Security(SECRET)), name="robot", settings=settings)
        ended = []

        def join():
            try:
                team.start(LAYOUT, start_of())
            except Exception as error:
                ended.append(error)

        thread = threading.Thread(target=join)
        thread.start()
        eventually(lambda: len(rogue.played) > 2)
    thread.join(LIMIT_S)
    assert isinstance(ended[0], ServerUnavailable) and "nobody listens" in str(ended[0])


def test_a_refusal_behind_a_proof_ends_a_worker_at_once():
    with LiveServer(secret=SECRET) as server:
        first = Robot(server, "first", steps=3, pause_at=1)
        assert first.at_pause.wait(LIMIT_S)
        other = Layout.from_shapes([("weight", (200, 64)), ("bias", (51,))])
        second = Team(Endpoint("127.0.0.1", server.port, security=Security(SECRET)), name="second", settings=IMPATIENT)
        with pytest.raises(LayoutMismatch, match=re.escape("'bias' (51,) where the team has 'bias' (50,)")):
            second.start(other, other.zeros())
        settings = WorkerSettings(join_limit_s=0.5)
        third = Team(Endpoint("127.0.0.1", server.port, security=Security(SECRET)), name="first", settings=settings)
        with pytest.raises(RemoteProtocolError, match="'first' is connected; choose another --name"):
            third.start(LAYOUT, start_of())
        first.go_on.set()
        first.done()


def hear(node, link, now, said):
    """Give a node what arrives, in the pieces in which a connection reads; returns what ended the connection."""
    if not isinstance(said, bytes):
        encoder = vars(link).setdefault("heard_from", FrameEncoder())  # goes on counting with the next call
        said = b"".join(map(encoder.encode, said))
    data = memoryview(said)
    receive = node.receive if isinstance(node, WorkerNode) else partial(node.receive, link=link)
    try:
        for start in range(0, len(data), 4096):
            for message in link.decoder.feed(data[start : start + 4096]):
                receive(now, message=message)
    except (RemoteProtocolError, LinkLost) as error:
        return error
    return None


@pytest.mark.parametrize("kind", ROGUES)
def test_what_a_rogue_server_says_costs_no_memory(kind):
    node = WorkerNode("robot", LAYOUT, start_of(), request=JoinRequest(SECRET))
    first, second = wire_bytes(*ROGUES[kind])
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        link = Link("server")
        node.link_up(0.0, link)
        if hear(node, link, 0.0, first) is None:
            while node.poll(0.0) is not None:
                pass
            hear(node, link, 0.0, second)
        node.link_down(0.0, "over")
        assert tracemalloc.get_traced_memory()[1] - before < 64 << 10
    finally:
        tracemalloc.stop()
    assert node.failure is None
    assert node.state is WorkerState.JOINING and not node.joined
    assert len(node.notices) <= 1
    assert all(len(notice) < 600 and notice.isprintable() for notice in node.notices), node.notices


def test_a_connection_reads_little_from_who_has_proved_nothing():
    connection = Connection(mock.Mock())
    connection.link = Link("server")
    assert len(connection.get_buffer(-1)) <= 1 << 14
    connection.link.decoder.trusted = True
    assert len(connection.get_buffer(-1)) >= 1 << 18


def test_a_byte_now_and_then_is_no_proof():
    settings = WorkerSettings(silence_limit_s=10.0)
    node = WorkerNode("robot", LAYOUT, start_of(), request=JoinRequest(SECRET), settings=settings)
    link = Link("server")
    node.link_up(5.0, link)
    for second, byte in enumerate(encode(CHALLENGE)[:9]):
        assert hear(node, link, 5.0 + second, bytes([byte])) is None
        node.heard(5.0 + second)
        node.on_timer(5.0 + second)
    assert node.next_wake() == 15.0
    with pytest.raises(LinkLost, match=r"did not prove.*no proof came for 10 s"):
        node.on_timer(15.0)


def test_the_user_hears_of_it_now_and_then():
    node = WorkerNode("robot", LAYOUT, start_of(), request=JoinRequest(SECRET))
    for second in range(3600):
        link = Link("10.0.0.1:7117")
        node.link_up(float(second), link)
        assert isinstance(hear(node, link, float(second), [Refusal("secret", str(second))]), LinkLost)
        node.link_down(float(second), "over")
    assert "10.0.0.1:7117 did not prove that it knows the shared secret" in node.notices[0]
    assert 40 <= len(node.notices) <= 70


def test_a_worker_without_a_secret_lays_no_other_layout_out():
    """It behaves as ever, and compares names and shapes, which is all that it needs to tell the difference."""
    node = WorkerNode("robot", LAYOUT, start_of())
    link = Link("server")
    tracemalloc.start()
    try:
        node.link_up(0.0, link)
        assert hear(node, link, 0.0, [Challenge(b"s" * 16, b"n" * 16, False), *table(HUGE_TABLE)]) is None
        assert tracemalloc.get_traced_memory()[1] < 256 << 10
    finally:
        tracemalloc.stop()
    assert isinstance(node.failure, LayoutMismatch)
    assert "(16777216, 1)" in str(node.failure)


def test_a_worker_reads_no_table_much_longer_than_its_own():
    node = WorkerNode("robot", LAYOUT, start_of())
    link = Link("server")
    node.link_up(0.0, link)
    big = Layout.from_shapes([(f"{'n' * 90}{index}", (2,)) for index in range(2000)])
    assert hear(node, link, 0.0, [Challenge(b"s" * 16, b"n" * 16, False), *table(big.to_table())]) is None
    assert node.failure is None
    assert hear(node, link, 0.0, [Refusal("layout", "its model has another layout than the team's")]) is None
    assert isinstance(node.failure, LayoutMismatch)


# -- a server and a first comer ----------------------------------------------------------------------------------------


def welcomed(server, layout_digest=b"d" * 16, name="first"):
    """A link on which a first comer was let in and asked to seed."""
    link = Link("stranger")
    server.link_up(0.0, link)
    server.receive(0.0, link, Hello(name, b"1" * 16, b"", b"", layout_digest, b"", b"", False, 0, 0))
    said = []
    while (message := server.poll(0.0, link)) is not None:
        said.append(message)
    assert said[-1].how == "seed"
    return link


def many_rows(rows, width=1):
    """A table, frames of 1024 rows of ones, and the end."""
    layout = Layout.from_shapes([("weight", (rows, width))], small_tensor=1)
    messages = [*table(layout.to_table())]
    for number, start in enumerate(range(0, rows, 1024), start=1):
        chosen = np.arange(start, min(start + 1024, rows))
        payload = np.ones(width * len(chosen), dtype=np.float32).view(np.uint8)
        messages.append(Rows(number, 0, 1, True, False, chosen, payload))
    return messages, StateEnd()


@pytest.mark.parametrize("policy", [*POLICIES, "flown:2", "rowcast:3?pulls=common"])
def test_a_table_of_many_rows_costs_no_memory(policy):
    server = ServerNode(parse_policy(policy))
    link = welcomed(server)
    tracemalloc.start()
    try:
        assert hear(server, link, 0.0, table(HUGE_TABLE)) is None
        # Nor does it help to name many rows without content, or to say that these were all.
        for said in (
            Rows(1, 0, 0, False, False, np.arange(100), np.zeros(0, dtype=np.uint8)),
            Rows(1, 0, 1, False, False, np.arange(100), np.zeros(400, dtype=np.uint8)),
            Rows(2, 0, 1, True, False, np.arange(100), np.zeros(400, dtype=np.uint8)),
            StateEnd(),
        ):
            assert isinstance(hear(server, link, 0.0, [said]), RemoteProtocolError)
        for number in range(1, 50):
            part = Rows(number, 0, 1, True, False, np.arange(100), np.zeros(400, dtype=np.uint8))
            assert hear(server, link, 0.0, [part]) is None
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert server.layout is None


@pytest.mark.parametrize("policy", [*POLICIES, "rowcast:3?pulls=common"])
@pytest.mark.parametrize(("width", "early"), [(1, 0.9), (64, 0.02)])
def test_memory_follows_what_was_sent(policy, width, early):
    """The model is laid out when a sixteenth of what its rows take has come; nothing of it is lost."""
    rows = 1 << 17
    server = ServerNode(parse_policy(policy))
    link = welcomed(server)
    messages, end = many_rows(rows, width)
    laid_out = None
    tracemalloc.start()
    try:
        for place, message in enumerate(messages):
            server.receive(0.0, link, message)
            while server.poll(0.0, link) is not None:
                pass
            if laid_out is None and server.layout is not None:
                laid_out = place / len(messages)
        assert tracemalloc.get_traced_memory()[1] < ROW_BYTES * rows + 4 * 4 * width * rows
    finally:
        tracemalloc.stop()
    assert early / 2 < laid_out <= early * 1.2
    server.receive(0.0, link, end)
    assert server.parameters.sum() == rows * width
    assert server.frames_applied == {"first": len(messages) - 1}


@pytest.mark.parametrize("policy", [*POLICIES, "rowcast:3?pulls=common"])
@pytest.mark.parametrize("byte", [400, 500_000])
def test_a_model_of_many_rows_is_seeded_over_a_link_that_is_cut(policy, byte):
    layout = Layout.from_shapes([("weight", (70_000, 2)), ("bias", (3,))])
    first = np.arange(layout.elements, dtype=np.float32) % 1000
    scripts = [
        worker("robot0", layout=layout, initial=first, iterations=2, rate_bps=1e7),
        worker("robot1", layout=layout, initial=first + 1, iterations=2, rate_bps=1e8),
    ]
    team = VirtualTeam(layout, policy, scripts)
    team.cut_after("robot0", "up", byte, 0.2)
    finished(team)
    assert events(team, "robot0", "link_down")[0]["cause"] == "cut"
    one, two = (team.workers[script.name].node.replica for script in scripts)
    assert np.abs(one - two).max() < 1e-2 and np.abs(one - first).max() < 2


def test_a_table_is_told_once():
    server = ServerNode(parse_policy("bsp"))
    link = welcomed(server)
    assert hear(server, link, 0.0, table(LAYOUT.to_table())) is None
    assert hear(server, link, 0.0, table(LAYOUT.to_table())) is None
    assert isinstance(hear(server, link, 0.0, table(OTHER)), RemoteProtocolError)


def test_a_server_says_how_large_a_model_may_be():
    """The worker ends with the name of the setting; who waits behind it comes in."""
    needed = Outline.read(LAYOUT.to_table()).cost_bytes
    assert needed == 4 * LAYOUT.elements + ROW_BYTES * LAYOUT.rows
    with LiveServer(model_limit_bytes=needed, secret=SECRET) as server:
        large = Layout.from_shapes([("weight", (200, 64)), ("bias", (51,))])
        team = Team(Endpoint("127.0.0.1", server.port, security=Security(SECRET)), name="large", settings=IMPATIENT)
        with pytest.raises(RemoteProtocolError, match=rf"{needed + 4} bytes.* takes {needed}; raise model_limit"):
            team.start(large, large.zeros())
        assert not server.ask(lambda node: dict(node.members))
        Robot(server, "fits", steps=2).done()


def test_who_waits_behind_a_model_that_is_too_large_comes_in():
    server = ServerNode(parse_policy("bsp"), settings=ServerSettings(model_limit_bytes=1 << 20))
    large, fits = welcomed(server), Link("next")
    server.link_up(0.0, fits)
    server.receive(0.0, fits, Hello("next", b"2" * 16, b"", b"", b"e" * 16, b"", b"", False, 0, 0))
    tracemalloc.start()
    try:
        assert hear(server, large, 0.0, table(HUGE_TABLE)) is None
        assert tracemalloc.get_traced_memory()[1] < 1 << 18
    finally:
        tracemalloc.stop()
    refusal = server.poll(0.0, large)
    assert refusal.code == "model" and "model_limit_bytes" in refusal.text and large.closing
    said = [type(message) for message in iter(lambda: server.poll(0.0, fits), None)]
    assert said == [Challenge, Waiting, Welcome]


@pytest.mark.parametrize(
    "said",
    [
        [Hello("n" * 3000, b"1" * 16, b"2" * 16, b"3" * 32, b"4" * 16, b"5" * 16, b"", False, 0, 0)],
        [Hello("robot", b"1" * 16, b"2" * 16, b"3" * 32, b"4" * 16, b"5" * 16, b"", True, 9, 9)] * 500,
        table(HUGE_TABLE),
        [LayoutTable(b"x" * 100_000, 0)],
        [Heartbeat({"m" * 3000: 1.0})] * 500,
        [Leave("c" * 4000)],
        [Computed(1, 1.0, 1.0, 1.0, False)],
        [Rows(1, 0, 1, True, False, np.arange(3), np.zeros(12, dtype=np.uint8))],
    ],
    ids=["long hello", "hellos", "table", "long", "heartbeats", "leave", "computed", "rows"],
)
def test_a_worker_without_the_secret_costs_a_server_no_memory(said):
    server = ServerNode(parse_policy("bsp"), secret=SECRET)
    [data] = wire_bytes(said)
    tracemalloc.start()
    try:
        link = Link("stranger")
        server.link_up(0.0, link)
        error = hear(server, link, 0.0, data)
        if isinstance(error, RemoteProtocolError):
            server.blame(0.0, link, error)
        while server.poll(0.0, link) is not None:
            pass
        server.link_down(0.0, link, "over")
        assert tracemalloc.get_traced_memory()[1] < 64 << 10
    finally:
        tracemalloc.stop()
    assert not server.members and server.layout is None
