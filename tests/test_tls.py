"""TLS with a shared secret: what is on the wire, who stands in the middle, who speaks without, what stays as it was."""

from __future__ import annotations

import contextlib
import logging
import re
import select
import socket
import ssl
import threading
import time
from unittest import mock

import numpy as np
import pytest

from live import IMPATIENT, LAYOUT, LIMIT_S, LiveServer, Robot, eventually, open_to_anybody, propose, start_of
from relay import Relay
from rowcast.config import LinkSettings, WorkerSettings
from rowcast.drivers.sockets import Endpoint, Security, Team, connection, tcp
from rowcast.drivers.sockets.certificates import self_signed
from rowcast.drivers.sockets.tls import ALPN, Channel, channel_hash, context_of, load_issued, plain_refusal
from rowcast.errors import AuthenticationFailed, LinkLost, RemoteProtocolError, StreamDamaged, TlsNeeded
from rowcast.session import Link
from rowcast.session.proof import ServerHandshake, WorkerHandshake
from rowcast.wire import FrameDecoder, Hello, Refusal, RowLimits, Rows, encode

SECRET = b"the team's secret of 32 letters."
HASTY = WorkerSettings(join_limit_s=1.0, reconnect_first_s=0.01, reconnect_cap_s=0.05)


def pair(**options):
    """Both ends of TLS, the handshake not begun."""
    server = context_of(server_side=True)
    load_issued(server, self_signed())
    return Channel(context_of(server_side=False), server_side=False), Channel(server, server_side=True)


def carry(source, target):
    """Bring what one end has got to send to the other; returns it."""
    data = source.take()
    if data:
        target.buffer(len(data))[:] = data
        target.filled(len(data))
    return data


def shake_hands(client, server):
    while not (client.ready and server.ready):
        if not client.ready:
            client.advance()
        carry(client, server)
        if not server.ready:
            server.advance()
        carry(server, client)


def read_all(channel):
    place, found = bytearray(1 << 16), b""
    while count := channel.read(memoryview(place)):
        found += place[:count]
    return found


# -- one end and the other ---------------------------------------------------------------------------------------------


def test_it_is_tls_1_3_without_tickets_and_without_compression():
    client, server = pair()
    shake_hands(client, server)
    for end in (client, server):
        assert end._tls.version() == "TLSv1.3" and end._tls.compression() is None
        assert end._tls.selected_alpn_protocol() == ALPN
    assert carry(server, client) == b"" and read_all(client) == b"" and client._tls.session.has_ticket is False


def test_what_one_end_says_the_other_one_reads():
    client, server = pair()
    shake_hands(client, server)
    said = bytes(np.random.default_rng(0).bytes(100_000))
    for start in range(0, len(said), tcp.CHUNK_BYTES):
        client.write(memoryview(said)[start : start + tcp.CHUNK_BYTES])
    carried = carry(client, server)
    assert said[:64] not in carried and len(carried) < 1.003 * len(said)
    assert read_all(server) == said
    client.close()
    carry(client, server)
    assert read_all(server) == b""


def test_an_older_version_is_refused():
    _, server = pair()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    client = Channel(context, server_side=False)
    client.advance()
    carry(client, server)
    with pytest.raises(RemoteProtocolError, match="handshake failed: unsupported protocol"):
        server.advance()


def test_a_peer_that_speaks_something_else_inside_is_refused():
    _, server = pair()
    context = context_of(server_side=False)
    context.set_alpn_protocols(["h2"])
    client = Channel(context, server_side=False)
    with pytest.raises(RemoteProtocolError, match="expected a peer that speaks Rowcast inside TLS"):
        shake_hands(client, server)
    assert not server.usable


def test_damage_is_a_cut_link_and_no_byte_of_it_is_read():
    client, server = pair()
    shake_hands(client, server)
    for text in (b"whole", b"broken"):
        client.write(memoryview(text))
    data = bytearray(client.take())
    data[-1] ^= 1
    server.buffer(len(data))[:] = data
    server.filled(len(data))
    place = memoryview(bytearray(100))
    assert bytes(place[: server.read(place)]) == b"whole"
    for _ in range(2):
        with pytest.raises(StreamDamaged, match="decryption failed or bad record mac"):
            server.read(place)
    assert not server.usable
    carry(server, client)
    with pytest.raises(StreamDamaged, match="bad record mac"):
        client.read(place)


@pytest.mark.parametrize("first", [b"RC\x04\x01", b"GET / HTTP/1.1\r\n", b"\x00"])
def test_what_is_no_tls_is_named(first):
    for end in pair():
        end.buffer(100)[: len(first)] = first
        with pytest.raises(TlsNeeded, match="expected TLS, got .* without" if first[:2] == b"RC" else "got bytes b'"):
            end.filled(len(first))


# -- proofs bound to the channel ---------------------------------------------------------------------------------------


def test_neither_proof_fits_in_another_channel():
    entropy = iter(bytes([number]) * 16 for number in range(100))
    server = ServerHandshake(b"l" * 16, SECRET, lambda size: next(entropy))
    hello = Hello("robot", b"1" * 16, b"", b"", b"", b"", b"", False, 0, 0)
    seen, own = channel_hash(b"a certificate"), channel_hash(b"another one")
    for worker_sees, server_has, fits in (
        (seen, seen, True),
        (seen, own, False),
        (b"", own, False),
        (seen, b"", False),
    ):
        worker = WorkerHandshake(SECRET, lambda size: next(entropy))
        said = worker.answer(server.challenge, hello, worker_sees)
        assert server.accepts(said, server_has) is fits
        server._proved = False
        proof = server.prove(said, server_has)
        if fits:
            worker.verify(proof)
            assert worker.proven
        else:
            with pytest.raises(AuthenticationFailed, match="does not fit the secret"):
                worker.verify(proof)
            assert not worker.proven


class InTheMiddle:
    """Has a certificate of his own towards the worker, and is a worker towards the server; hands on what each says.

    Attributes:
        heard: what the worker said, in the clear.
    """

    def __init__(self, port):
        self._server = ("127.0.0.1", port)
        self._context = open_to_anybody()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.heard = b""
        self._thread = threading.Thread(target=self._serve, name="in-the-middle")

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(LIMIT_S)
        self._listener.close()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                with self._listener.accept()[0] as taken, contextlib.suppress(OSError):
                    self._hand_on(taken)

    def _hand_on(self, taken):
        taken.settimeout(LIMIT_S)
        ours = context_of(server_side=False)
        with (
            self._context.wrap_socket(taken, server_side=True) as worker,
            socket.create_connection(self._server, LIMIT_S) as made,
            ours.wrap_socket(made) as server,
        ):
            ends = {worker: server, server: worker}
            while True:
                for one in select.select(list(ends), [], [], LIMIT_S)[0]:
                    data = one.recv(1 << 16)
                    if not data:
                        return
                    self.heard += data if one is worker else b""
                    ends[one].sendall(data)


def test_who_stands_in_the_middle_fails_both_proofs(caplog):
    with caplog.at_level(logging.WARNING), LiveServer(secret=SECRET) as server, InTheMiddle(server.port) as middle:
        team = Team(Endpoint("127.0.0.1", middle.port, Security(SECRET)), name="robot", settings=HASTY)
        with pytest.raises(AuthenticationFailed, match=r"did not prove that it knows the shared secret.*refused this"):
            team.start(LAYOUT, start_of())
        assert not server.ask(lambda node: dict(node.members))
        assert server.events("error", error="refused: secret")
    # The worker's first message is there; nothing of a model is.
    assert b"robot" in middle.heard and len(middle.heard) < 20_000


# -- on the wire -------------------------------------------------------------------------------------------------------


class Recording:
    """Harm of a :class:`Relay` that does none, and keeps what passes."""

    def __init__(self):
        self.passed = {"up": b"", "down": b""}

    def __call__(self, way, connection, offset, data):
        self.passed[way] += data
        return data


@pytest.mark.parametrize(("secret", "hidden"), [(SECRET, True), (None, False)])
def test_nothing_can_be_read_on_the_way(secret, hidden):
    recording = Recording()
    with LiveServer(secret=secret) as server, Relay(server.port, recording) as relay:
        Robot(Endpoint("127.0.0.1", relay.port, Security(secret)), "eavesdropped", steps=3).done()
    row = np.arange(64, dtype=np.float32).tobytes()
    both = recording.passed["up"] + recording.passed["down"]
    for text in (b"eavesdropped", b"weight", row, SECRET):
        assert (text in both) is (not hidden and text != SECRET), text
    assert recording.passed["up"].startswith(b"\x16\x03" if hidden else b"RC")


def test_the_socket_has_its_options(monkeypatch):
    tuned = []
    real = tcp._tune
    monkeypatch.setattr(tcp, "_tune", lambda sock, settings: tuned.append(sock) or real(sock, settings))
    with LiveServer(secret=SECRET) as server:
        robot = Robot(server, "robot", steps=2, pause_at=1, link_settings=LinkSettings())
        assert robot.at_pause.wait(LIMIT_S)
        inner = [robot.team._network.connection.sock, *server.ask(lambda _: [c.sock for c in _connections(server)])]
        for sock in inner:
            assert sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                unsent = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
                assert unsent == tcp.NOTSENT_LOWAT_BYTES
        robot.go_on.set()
        robot.done()
        (up,) = [record for record in robot.team.journal.records if record["event"] == "link_up"]
        assert up["congestion_control"] == server.events("link_up")[0]["congestion_control"] is not None


def _connections(server):
    return server.server._connections.values()


def test_a_goodbye_is_delivered_inside_tls():
    with LiveServer(secret=SECRET, expected_workers=2) as server:
        robots = [Robot(server, f"robot-{index}", steps=3, pause_at=2) for index in range(2)]
        for robot in robots:
            assert robot.at_pause.wait(LIMIT_S)
        robots[0].team.leave()
        eventually(lambda: server.events("leave", peer="robot-0"))
        robots[1].go_on.set()
        robots[1].done()
        assert server.events("leave", peer="robot-0")[0]["cause"] == "left"
        assert server.events("leave", peer="robot-1")[0]["cause"] == "finished"
        robots[0].go_on.set()
        robots[0].join(LIMIT_S)
    with LiveServer(secret=SECRET) as server:
        robot = Robot(server, "robot", steps=10**6, pause_at=2)
        assert robot.at_pause.wait(LIMIT_S)
    eventually(lambda: [record for record in robot.team.journal.records if record["event"] == "link_down"])
    causes = [record["cause"] for record in robot.team.journal.records if record["event"] == "link_down"]
    assert causes[0] == "the server said goodbye: the server was stopped"
    robot.team.leave()
    robot.go_on.set()
    robot.join(LIMIT_S)


class Taken:
    """What an owner is asked for, in the order of a node: control before rows. Counts what it hands out."""

    def __init__(self, rows, link):
        self.rows, self.link = rows, link
        self.handed = []

    def next_message(self, _):
        message = self.link.next_control(0.0) or (self.rows.pop(0) if self.rows else None)
        if message is not None:
            self.handed.append(message)
        return message

    def position(self):
        return 0

    committed_to = position

    def __getattr__(self, name):
        return lambda *_: None


def test_control_overtakes_rows_inside_tls():
    """Frames are asked for when the kernel takes bytes, a record of 16 kB at a time, and none before."""
    client, server = pair()
    shake_hands(client, server)
    one = connection.Connection(mock.Mock(), channel=server)
    one.link = mock.Mock(is_clogged=False, closing=False)
    rows = [Rows(n, 0, 1, True, False, np.arange(100), np.zeros(100_000, dtype=np.uint8)) for n in range(1, 4)]
    one._owner = owner = Taken(list(rows), mock.Mock())
    control: list = []
    owner.link.next_control = lambda now: control.pop(0) if control else None
    one.link.encoder.encode = encode
    written = []

    def write(data):
        written.append(len(data))
        one.pause_writing()

    one._transport = mock.Mock(write=write, is_closing=lambda: False)
    one.pump()
    assert len(owner.handed) == 1 and written == [tcp.CHUNK_BYTES + 22]
    control.append(Refusal("name", "first"))
    one.write_on()
    assert len(owner.handed) == 1  # the first frame goes on
    while len(owner.handed) < 4:
        one.write_on()
    assert isinstance(owner.handed[1], Refusal), [type(message).__name__ for message in owner.handed]
    assert max(written) <= tcp.CHUNK_BYTES + 22


# -- one end without ---------------------------------------------------------------------------------------------------


def test_a_worker_without_tls_is_told_so(monkeypatch, caplog):
    monkeypatch.setattr(connection, "SPEAKS_FIRST_S", 0.1)
    with caplog.at_level(logging.WARNING), LiveServer(secret=SECRET) as server:
        team = Team(server.endpoint.__class__("127.0.0.1", server.port), name="robot", settings=IMPATIENT)
        with pytest.raises(AuthenticationFailed, match=r"this server speaks TLS only.*--secret-file.*--team"):
            team.start(LAYOUT, start_of())
        eventually(lambda: server.events("error", error="TlsNeeded"))
    (told,) = [r.getMessage() for r in caplog.records if "closed" in r.getMessage()]
    assert re.search(r"expected TLS, got nothing in 0\.1 s, as from a worker that speaks without", told)


def test_what_a_worker_without_tls_is_told_any_release_reads():
    (refusal,) = FrameDecoder().feed(plain_refusal())
    assert refusal.code == "tls" and "TLS only" in refusal.text


def test_a_server_without_tls_is_named_at_once(caplog):
    with caplog.at_level(logging.WARNING), LiveServer() as server:
        begun = time.monotonic()
        team = Team(Endpoint("127.0.0.1", server.port, Security(SECRET)), name="robot", settings=HASTY)
        with pytest.raises(
            AuthenticationFailed, match="expected TLS, got a server that speaks without; give the server"
        ):
            team.start(LAYOUT, start_of())
        assert time.monotonic() - begun < LIMIT_S
        eventually(lambda: server.events("error", error="TlsNeeded"))
        (told,) = server.events("error")
        assert "got the beginning of TLS" in told["message"] and "--secret-file or --team" in told["message"]


def test_bytes_in_the_clear_are_refused_on_a_port_with_tls():
    """What a stranger sends in the clear is no message, whatever it looks like."""
    with LiveServer(secret=SECRET) as server:
        with socket.create_connection(("127.0.0.1", server.port), LIMIT_S) as sock:
            sock.sendall(encode(Hello("robot", b"1" * 16, b"", b"", LAYOUT.digest, b"", b"", False, 0, 0)))
            said = b"".join(iter(lambda: sock.recv(4096), b""))
        assert said == plain_refusal()
        (told,) = server.events("error")
        assert told["error"] == "TlsNeeded" and "got a worker that speaks without" in told["message"]


def test_a_server_that_never_ends_its_handshake_is_given_up(caplog):
    settings = WorkerSettings(join_limit_s=0.5, silence_limit_s=0.5, reconnect_first_s=0.01)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        team = Team(Endpoint("127.0.0.1", silent.getsockname()[1], Security(SECRET)), name="robot", settings=settings)
        with pytest.raises((AuthenticationFailed, LinkLost), match=r"no proof came for 0\.5 s"):
            team.start(LAYOUT, start_of())


def test_a_link_that_is_cut_comes_back_inside_tls():
    with LiveServer(secret=SECRET, expected_workers=2) as server:
        robots = [Robot(server, f"robot-{index}", steps=8, update=1 + index, pause_at=4) for index in range(2)]
        for robot in robots:
            assert robot.at_pause.wait(LIMIT_S)
        assert server.cut("robot-0")
        for robot in robots:
            robot.go_on.set()
        for robot in robots:
            robot.done()
            np.testing.assert_array_equal(robot.team.replica, server.node.parameters)
        assert server.events("resume", peer="robot-0")
        np.testing.assert_array_equal(start_of() - server.node.parameters, sum(robot.computed for robot in robots))


def test_a_frame_of_rows_is_read_whole_from_many_records():
    client, server = pair()
    shake_hands(client, server)
    rows = Rows(1, 0, 1, True, False, np.arange(100), np.arange(100_000, dtype=np.uint32).view(np.uint8))
    data = memoryview(encode(rows))
    for start in range(0, len(data), tcp.CHUNK_BYTES):
        client.write(data[start : start + tcp.CHUNK_BYTES])
    carry(client, server)
    decoder = FrameDecoder()
    decoder.trusted, decoder.streams = True, {0: RowLimits(1000)}
    found = []
    while count := server.read(decoder.buffer(connection.READ_BYTES)):
        found += [np.array(message.payload) for message in decoder.filled(count)]
    np.testing.assert_array_equal(found[0], rows.payload)


def test_a_record_that_is_not_whole_is_seen_like_a_frame():
    """Its length has no checksum of its own: nobody waits for ever for what a flipped bit has announced."""
    client, server = pair()
    shake_hands(client, server)
    client.write(memoryview(bytes(1000)))
    data, here = client.take(), 0
    link = Link("somebody")
    link.opened(0.0)
    for piece in (data[:3], data[3:9], data[9:500], data[500:-1], data[-1:]):
        server.buffer(len(piece))[:] = piece
        server.filled(len(piece))
        here = (here + len(piece)) % len(data)
        link.decoder.hold(*server.unfinished)
        assert server.unfinished == ((here, len(data) if here >= 5 else 5) if here else (0, 0))
        assert link.decoder.unfinished == server.unfinished and link.decoder.begun == (here > 0)
        link.heard(1.0)
        assert (link.unfinished_since is not None) == (here > 0)


def test_a_team_is_usable_inside_tls():
    with LiveServer(secret=SECRET) as server:
        team = Team(server.endpoint, name="robot")
        team.start(LAYOUT, start_of())
        propose(team, 1)
        team.exchange()
        team.finish()
        np.testing.assert_array_equal(team.replica, start_of() - 1)
