"""What strangers may cost: connections, log lines, bytes of journal, descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
import subprocess
import sys

import msgspec
import pytest

from live import IMPATIENT, LAYOUT, LIMIT_S, LiveServer, Robot, eventually, start_of
from rowcast.config import ServerSettings
from rowcast.drivers.sockets import Endpoint, Shaper, Team, tcp
from rowcast.drivers.sockets.tcp import source_of
from rowcast.drivers.sockets.tls import context_of
from rowcast.errors import LinkLost, RemoteProtocolError
from rowcast.experiment.audit import ServerAudit, WorkerAudit, prove
from rowcast.links import Trace
from rowcast.session import Link
from rowcast.session.recurring import EVERY_S
from rowcast.sync import parse_policy
from rowcast.training import ServerNode
from rowcast.wire import Hello, encode

POLICIES = ("bsp?codec=raw", "rog:4?codec=raw", "rowcast?codec=raw")
WORD = b"0123456789abcdef"


def server_of(**settings):
    return ServerNode(parse_policy("bsp"), settings=ServerSettings(**settings))


def link_at(number, address="10.0.0.7"):
    return Link(f"{address}:{number}", address=address)


def events(node, kind, **wanted):
    return [
        record
        for record in node.journal.records
        if record["event"] == kind and all(record.get(key) == value for key, value in wanted.items())
    ]


def fail(node, now, number, address="10.0.0.7"):
    """Connect, say something wrong, and go."""
    link = link_at(number, address)
    node.link_up(now, link)
    node.blame(now, link, RemoteProtocolError("expected a Rowcast frame, got something else"))
    node.link_down(now, link, "closed")


def hello_of(name):
    return Hello(name, bytes(16), b"", b"", LAYOUT.digest, b"", b"", False, 0, 0)


# -- what is told ------------------------------------------------------------------------------------------------------


def test_what_is_repeated_is_counted_and_told_once_a_minute():
    node = server_of()
    for number in range(200):
        fail(node, 5.0 + number / 100, number, f"10.0.{number % 7}.1")
    assert len(events(node, "error")) == 1 and len(node.notices) == 1
    assert node.next_wake() == 5.0 + EVERY_S
    node.on_timer(5.0 + EVERY_S)
    (told,) = events(node, "repeated")
    assert (told["error"], told["count"], told["over_s"], told["peers"]) == ("RemoteProtocolError", 199, EVERY_S, 7)
    assert re.search(r"199 more connections in 60 s, from 10\.0\.0\.1, .* and 4 others", node.notices[-1])
    # It goes on: one line a minute; it stops: nothing; it begins anew: at once.
    for number in range(50):
        fail(node, 70.0, number)
    assert len(node.notices) == 2
    node.on_timer(5.0 + 2 * EVERY_S)
    assert len(node.notices) == 3 and events(node, "repeated")[-1]["count"] == 50
    node.on_timer(5.0 + 3 * EVERY_S)
    assert node.next_wake() is None and len(node.notices) == 3
    fail(node, 300.0, 1)
    assert len(events(node, "error")) == 2 and len(node.notices) == 4


def test_a_server_that_stops_tells_the_rest():
    node = server_of()
    for number in range(3):
        fail(node, 1.0, number)
    node.stop(2.0)
    assert [record["count"] for record in events(node, "repeated")] == [2]
    node.stop(3.0)
    assert len(events(node, "repeated")) == 1


def test_kinds_are_told_apart():
    node = server_of(failures_per_minute=3)
    fail(node, 0.0, 1)
    silent = link_at(2)
    node.link_up(0.0, silent)
    node.link_down(0.0, silent, "Connection reset by peer")
    fail(node, 0.0, 3)
    with pytest.raises(LinkLost, match=r"10\.0\.0\.7 has failed more than 3 times in a minute"):
        node.link_up(0.0, link_at(4))
    assert [record["error"] for record in events(node, "error")] == [
        "RemoteProtocolError",
        "no hello",
        "too many failures",
    ]


def test_a_minute_of_floods_costs_little():
    node = server_of()
    for number in range(20_000):
        try:
            fail(node, number * 0.003, number)
        except LinkLost:
            continue
    node.on_timer(61.0)
    assert sum(len(json.dumps(record)) for record in node.journal.records) < 2000
    assert len(node.notices) == 4
    assert sum(record["count"] for record in events(node, "repeated")) == 20_000 - 2


# -- who is let in -----------------------------------------------------------------------------------------------------


def test_failures_of_one_address_close_it_for_a_while_and_no_other():
    node = server_of(failures_per_minute=30)
    for number in range(30):
        fail(node, 10.0, number)
    with pytest.raises(LinkLost, match="failures_per_minute"):
        node.link_up(10.5, link_at(31))
    node.link_up(10.5, link_at(1, "10.0.0.8"))
    node.link_up(12.5, link_at(32))  # one more every two seconds
    fail(node, 12.5, 33)
    with pytest.raises(LinkLost):
        node.link_up(13.0, link_at(34))
    node.link_up(80.0, link_at(35))


def test_many_robots_behind_one_address_join_again_and_again():
    node = server_of(failures_per_minute=1, strangers_per_address=1)
    for life in range(3):
        for number in range(400):
            link = link_at(1000 * life + number)
            node.link_up(float(life), link)
            node.receive(float(life), link, hello_of(f"robot-{number}"))
            node.link_down(float(life), link, "closed by the other end")
    assert not events(node, "error")


def test_a_worker_that_is_refused_by_name_is_no_stranger():
    node = server_of(failures_per_minute=1)
    first = link_at(1)
    node.link_up(0.0, first)
    node.receive(0.0, first, hello_of("robot"))
    for number in range(2, 6):
        link = link_at(number)
        node.link_up(0.0, link)
        node.receive(0.0, link, msgspec.structs.replace(hello_of("robot"), session=bytes([number]) * 16))
        node.link_down(0.0, link, "closed")
    assert [record["error"] for record in events(node, "error")] == ["refused: name"]


def test_strangers_at_once_are_bounded_for_one_address_and_for_all():
    node = server_of(strangers_limit=5, strangers_per_address=3)
    links = [link_at(number) for number in range(3)]
    for link in links:
        node.link_up(0.0, link)
    with pytest.raises(LinkLost, match=r"3 connections of 10\.0\.0\.7 .* strangers_per_address"):
        node.link_up(0.0, link_at(4))
    for number in range(2):
        node.link_up(0.0, link_at(number, "10.0.0.8"))
    with pytest.raises(LinkLost, match="strangers_limit"):
        node.link_up(0.0, link_at(1, "10.0.0.9"))
    node.receive(0.0, links[0], hello_of("robot"))  # whoever is let in makes room
    node.link_up(0.0, link_at(1, "10.0.0.9"))


def test_a_connection_without_an_address_has_no_limits():
    node = server_of(failures_per_minute=1, strangers_limit=1)
    for _ in range(20):
        link = Link("test")
        node.link_up(0.0, link)
        node.blame(0.0, link, RemoteProtocolError("x"))


def test_an_address_is_what_one_user_has():
    assert source_of("10.0.0.7") == source_of("::ffff:10.0.0.7") == "10.0.0.7"
    assert source_of("2001:db8::1") == source_of("2001:db8::ffff:2%eth0") == "2001:db8::/64"
    assert source_of("2001:db8:0:1::1") != source_of("2001:db8::1")
    assert source_of("elsewhere") == "elsewhere"


# -- on real sockets ---------------------------------------------------------------------------------------------------


def reset(sock):
    """Close a socket so that the other end sees a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def connect(port, source="127.0.0.1"):
    return socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S, source_address=(source, 0))


def assert_nothing_lost(server, *robots):
    audit = prove(
        ServerAudit.of(server.node, LAYOUT, start_of()),
        [WorkerAudit.of(robot.team.node, metrics={}, busy_s=[], paces_s=[]) for robot in robots],
    )
    assert audit.clean, audit


def traces(caplog):
    return [record for record in caplog.records if record.exc_info or record.name == "asyncio"]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_team_trains_while_strangers_connect_reset_talk_and_guess(policy, caplog):
    with LiveServer(policy, expected_workers=2, secret=WORD, failures_per_minute=40) as server:
        robots = [Robot(server, f"robot-{k}", steps=10, update=1 + k, pause_at=4) for k in range(2)]
        for robot in robots:
            assert robot.at_pause.wait(LIMIT_S)

        def connect_and_reset(node):
            # On the server's thread: what it takes from its queue afterwards was reset before.
            for _ in range(20):
                reset(connect(server.port, "127.0.0.2"))

        server.ask(connect_and_reset)
        inside = context_of(server_side=False)
        eventually(lambda: server.events("error", error="no hello"))
        for _ in range(20):
            with connect(server.port, "127.0.0.3") as sock:
                sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
                while sock.recv(4096):
                    pass
        for number in range(60):
            # An OSError: closed at once, before TLS stands or behind it.
            with (
                connect(server.port, "127.0.0.4") as sock,
                contextlib.suppress(OSError),
                inside.wrap_socket(sock) as tls,
            ):
                tls.sendall(encode(hello_of(f"guess-{number}")))
                while tls.recv(4096):
                    pass
        for robot in robots:
            robot.go_on.set()
        for robot in robots:
            robot.done()
        assert_nothing_lost(server, *robots)
    assert not traces(caplog)
    kinds = {record["error"] for record in server.events("error")}
    assert {"no hello", "TlsNeeded", "refused: secret", "too many failures"} <= kinds
    counts = {record["error"]: record["count"] for record in server.events("repeated")}
    assert counts["TlsNeeded"] == 19 and counts["refused: secret"] >= 39
    told = [record.getMessage() for record in caplog.records if "connection" in record.getMessage()]
    assert len(told) <= 2 * len(kinds) + 2
    assert any("more connections" in text and "127.0.0.4" in text for text in told)


def test_a_worker_whose_address_was_closed_gets_in_when_it_has_failed_less(caplog):
    with LiveServer(failures_per_minute=600) as server:
        for _ in range(601):
            with connect(server.port) as sock:
                sock.sendall(b"nonsense")
                try:
                    while sock.recv(4096):
                        pass
                except ConnectionResetError:
                    break
        Robot(server, "robot", steps=3).done()
    assert not traces(caplog)


def test_a_connection_that_was_reset_before_it_was_ours_is_tried_again(caplog, monkeypatch):
    """The worker's side: the system refuses the options of a connection that is gone."""
    real, refused = tcp._tune, []

    def tune(sock, settings):
        if len(refused) < 2 and sock.type == socket.SOCK_STREAM and _is_connected(sock):
            refused.append(1)
            raise OSError(22, "Invalid argument")
        return real(sock, settings)

    with LiveServer() as server:
        monkeypatch.setattr(tcp, "_tune", tune)
        Robot(server, "robot", steps=2).done()
    assert len(refused) == 2 and not traces(caplog)


def _is_connected(sock):
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def test_a_server_without_descriptors_says_so_once_and_recovers():
    serve = 'ulimit -n 48; exec "$@"'
    process = subprocess.Popen(
        [
            "sh",
            "-c",
            serve,
            "sh",
            sys.executable,
            "-m",
            "rowcast",
            "serve",
            "--port=0",
            "--once",
            "--policy=rog:4",
            "--set",
            "gather_s=0",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    held = []
    try:
        port = int(re.search(r":(\d+),", process.stdout.readline())[1])
        held = [connect(port) for _ in range(80)]
        line = process.stderr.readline()
        assert "no connection can be taken" in line and "ulimit -n" in line
        for sock in held:
            sock.close()
        held.clear()
        robot = Team(Endpoint("127.0.0.1", port), name="robot", settings=IMPATIENT)
        robot.start(LAYOUT, start_of())
        robot.finish()
        assert process.wait(LIMIT_S) == 0
    finally:
        for sock in held:
            sock.close()
        process.kill()
        _, err = process.communicate()
    assert "Traceback" not in err
    assert err.count("no connection can be taken") <= 1  # the rest, with its number, when the server ends
    assert len(err.splitlines()) < 10, err


def test_a_shaper_outlives_what_cannot_be_taken_or_is_gone(caplog):
    with (
        LiveServer() as server,
        Shaper("127.0.0.1", server.port, up=Trace.constant(1e9), down=Trace.constant(1e9)) as link,
    ):

        async def fails():
            for _ in range(10):  # on the relay's thread: what it takes was reset before
                reset(connect(link.address[1]))
            real = link._loop.sock_accept

            async def accept(listener):
                link._loop.sock_accept = real
                raise OSError(24, "Too many open files")

            link._loop.sock_accept = accept

        asyncio.run_coroutine_threadsafe(fails(), link._loop).result(LIMIT_S)
        Robot(Endpoint(*link.address), "robot", steps=2).done()
    assert not traces(caplog)
