"""What one peer may cost a server with TLS: silence, a byte now and then, garbage, a flood, joins without end."""

from __future__ import annotations

import contextlib
import resource
import socket
import ssl

import numpy as np
import pytest

from live import IMPATIENT, LAYOUT, LIMIT_S, LiveServer, Robot, eventually, start_of
from rowcast.config import ServerSettings
from rowcast.drivers.sockets import Team, connection
from rowcast.drivers.sockets.tls import context_of, plain_refusal
from rowcast.errors import RemoteProtocolError
from rowcast.session import Link
from rowcast.sync import parse_policy
from rowcast.training import ServerNode
from rowcast.wire import Hello, LayoutTable, encode

SECRET = b"the team's secret of 32 letters."
FAST_TEAM = {"secret": SECRET, "expected_workers": 1}


def connect(live, source="127.0.0.9"):
    return socket.create_connection(("127.0.0.1", live.port), LIMIT_S, source_address=(source, 0))


def closed(sock):
    """What still comes until the other end closes."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(1 << 16):
            found += data
    return found


@pytest.fixture
def trains():
    """A team that trains before and behind what a test does to its server, and has lost nothing."""

    @contextlib.contextmanager
    def around(**settings):
        with LiveServer(**{**FAST_TEAM, **settings}) as live:
            robot = Robot(live, "robot", steps=6, update=2, pause_at=3)
            assert robot.at_pause.wait(LIMIT_S)
            yield live
            robot.go_on.set()
            robot.done()
            np.testing.assert_array_equal(robot.team.replica, live.node.parameters)
            np.testing.assert_array_equal(start_of() - live.node.parameters, robot.computed)
            assert len(live.events("link_up", peer="robot")) == 1

    return around


def test_a_peer_that_says_nothing(trains, monkeypatch):
    """One that never says a word is told that it must speak TLS; one that has begun is closed when its time is over."""
    monkeypatch.setattr(connection, "SPEAKS_FIRST_S", 0.1)
    with trains(handshake_limit_s=0.5) as live:
        with connect(live) as mute, connect(live) as begun:
            begun.sendall(b"\x16")
            assert closed(mute) == plain_refusal()
            assert closed(begun) == b""
        eventually(lambda: len(live.events("error")) == 2)
        kinds = {record["error"]: record["message"] for record in live.events("error")}
        assert "got nothing in 0.1 s" in kinds["TlsNeeded"] and "no hello within 0.5 s" in kinds["no hello"]


def test_a_byte_now_and_then(trains):
    """It makes progress, and has its time all the same: of the handshake, and of the introduction behind it."""
    client = ssl.MemoryBIO()
    half = context_of(server_side=False).wrap_bio(ssl.MemoryBIO(), client)
    with contextlib.suppress(ssl.SSLWantReadError):
        half.do_handshake()
    hello = client.read()
    half_a_hello = encode(Hello("slow", b"1" * 16, b"", b"", LAYOUT.digest, b"", b"", False, 0, 0))[:-1]
    with trains(handshake_limit_s=0.5) as live:
        with connect(live) as slow:
            sent = _drip(slow, hello)
        assert 1 < sent < len(hello)
        with connect(live) as sock, context_of(server_side=False).wrap_socket(sock) as inside:
            inside.settimeout(LIMIT_S)
            assert inside.recv(2) == b"RC"
            assert 1 < _drip(inside, half_a_hello) < len(half_a_hello)
        assert {record["error"] for record in live.events("error")} == {"no hello"}


def _drip(sock, data):
    """Send a byte whenever nothing has come for a while, until the other end closes; returns how many went."""
    sock.settimeout(0.03)
    for sent, byte in enumerate(data):
        try:
            sock.sendall(bytes([byte]))
            while sock.recv(4096):
                pass
            return sent
        except TimeoutError:
            continue
        except OSError:
            return sent
    return len(data)


@pytest.mark.parametrize(
    ("garbage", "said"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "expected TLS, got bytes b'GET / HT'"),
        (b"\x00" * 5000, "expected TLS, got bytes"),
        (b"\x16\x03\x01\x40\x00" + b"\xff" * 0x4000, "the TLS handshake failed"),
        (b"\x16\x02\x00\x00\x10" + b"x" * 16, "the TLS handshake failed"),
    ],
    ids=["http", "zeros", "no hello", "old"],
)
def test_garbage(trains, garbage, said):
    with trains() as live:
        with connect(live) as sock:
            with contextlib.suppress(OSError):
                sock.sendall(garbage)
            closed(sock)
        eventually(lambda: live.events("error"))
        assert said in live.events("error")[0]["message"]


def test_a_hello_of_tls_that_does_not_end(trains):
    """TLS allows 128 kB for it; before half of that is here the connection is closed."""
    piece = b"\x01\x01\xff\xf0" + b"\x03\x03" + bytes(16_378)
    with trains() as live:
        with connect(live) as sock:
            with contextlib.suppress(OSError):
                for start in range(8):
                    part = piece if start == 0 else bytes(len(piece))
                    sock.sendall(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part)
            closed(sock)
        eventually(lambda: live.events("error"))
        message = live.events("error")[0]["message"]
        assert "expected an introduction within 60000 bytes, got none in " in message
        assert int(message.split()[-1]) < 1 << 16


def test_five_hundred_connections_at_once_of_one_address(trains, monkeypatch):
    monkeypatch.setattr(connection, "SPEAKS_FIRST_S", 2 * LIMIT_S)  # none of them is sent away before all are there
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    try:
        with trains(strangers_per_address=100, handshake_limit_s=2 * LIMIT_S) as live:
            with contextlib.ExitStack() as stack:
                for _ in range(500):
                    stack.enter_context(connect(live))
                eventually(lambda: _strangers(live) == 100)
                team = Team(live.endpoint, name="second", settings=IMPATIENT)  # another address gets in meanwhile
                team.start(LAYOUT, start_of())
                team.leave()
            eventually(lambda: _strangers(live) == 0)
        (told,) = live.events("repeated", error="too many strangers")
        assert told["count"] == 399
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _strangers(live):
    return live.ask(lambda node: len(node._admission.newcomers.strangers()))


def hello(name, session):
    return Hello(name, session * 16, b"", b"", LAYOUT.digest, b"", b"", False, 0, 0)


def test_a_name_that_joins_again_and_again_is_told_to_come_later():
    node = ServerNode(parse_policy("bsp"), settings=ServerSettings(joins_per_minute=30))

    def join(now, name="robot"):
        link = Link("10.0.0.1:5", address="10.0.0.1")
        node.link_up(now, link)
        node.receive(now, link, hello(name, b"1"))
        said = [node.poll(now, link) for _ in range(2)][-1]
        node.link_down(now, link, "gone")
        return said

    assert all(type(join(10.0)).__name__ == "Welcome" for _ in range(30))
    refusal = join(10.5)
    assert refusal.code == "often" and "joins_per_minute" in refusal.text
    assert type(join(10.5, "another")).__name__ == "Waiting"  # it is none of its business
    assert type(join(12.5)).__name__ == "Welcome"  # one more every two seconds
    assert join(12.6).code == "often"


def test_a_robot_that_joins_too_often_tries_again_and_gets_in():
    with LiveServer(secret=SECRET, joins_per_minute=600) as live:
        live.ask(lambda node: [node._admission.newcomers._door.joined(_now(live), "robot") for _ in range(600)])
        Robot(live, "robot", steps=2, settings=IMPATIENT).done()
        assert live.events("error", error="refused: often")


def _now(live):
    return live.server._loop.time()


def test_a_member_that_reads_nothing_is_cut_off_inside_tls(trains):
    """What waits for it is bounded, in messages and in what the kernel has not taken."""
    with trains(absence_limit_s=0.2) as live:
        team = Team(live.endpoint, name="deaf", settings=IMPATIENT)
        team.start(LAYOUT, start_of())
        one = live.ask(lambda node: live.server._connections[node.members["deaf"].link])
        assert one._transport.get_write_buffer_limits() == (0, 0)

        def stuff(node):
            link = node.members["deaf"].link
            for number in range(1000):
                link.say(Hello("x", b"1" * 16, b"", b"", b"", b"", b"", False, number, 0))
            return node._watch.overrun(_now(live), link), len(link.control)

        cause, left = live.ask(stuff)
        assert "it reads nothing" in cause and left == 0
        team.leave()


def test_a_member_is_trusted_and_a_stranger_is_not():
    link = Link("somebody", secured=False)
    assert link.is_stranger
    link.secure(b"h" * 32, None)
    assert link.is_stranger  # nobody has introduced himself
    with pytest.raises(RemoteProtocolError, match="expected a message of at most 4096 bytes"):
        list(link.decoder.feed(_large()))


def _large():
    return encode(LayoutTable(b"x" * 5000, 0))
