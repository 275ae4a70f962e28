"""Which servers may follow a server, and why the others are refused; without sockets."""

from __future__ import annotations

import random
import re

import msgspec
import pytest

from disks import MemoryDisk
from rowcast.config import LinkSettings, ServerSettings, StateSettings
from rowcast.drivers.sockets import DurableServer, LeadingServer
from rowcast.drivers.sockets.follower import FollowerPort
from rowcast.drivers.state import ServerKeeper, TeamSpec
from rowcast.drivers.state.folder import StateFolder
from rowcast.errors import SteppedDown
from rowcast.journal import Journal
from rowcast.session import Link
from rowcast.session.states import Conversation, HostState
from rowcast.version import __version__
from rowcast.wire import Challenge, Follow, Followed, Proof, Refusal, Stored
from rowcast.wire.auth import follower_proof

SECRET = b"sixteen bytes and more of it"
FOLLOW = Follow(b"f" * 16, b"n" * 16, b"", 1, False, ":7117", b"", "bsp", __version__)


def leading():
    spec = TeamSpec("bsp", ServerSettings(), LinkSettings())
    keeper = ServerKeeper(
        MemoryDisk(), spec, StateSettings(durability="log"), Journal("server"), source=random.Random(0).randbytes
    )
    return LeadingServer(keeper)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({"release": "9.9"}, rf"expected a standby of release {__version__}, got one of 9\.9"),
        ({"server": b"own"}, "this one itself, or a copy of its state"),
        ({"team": b"t" * 16}, "that of another team"),
        ({"policy": "ssp:2"}, "expected a standby of policy bsp, got one of ssp:2"),
        ({"leads": True, "term": 0}, "leads in term 1, and the other one led in term 0"),
    ],
)
def test_who_may_follow(changes, why):
    server = leading()
    if changes.get("server") == b"own":
        changes = {"server": server.keeper.identity}
    refusal = server.judge(msgspec.structs.replace(FOLLOW, **changes))
    if why is None:
        assert refusal is None
    else:
        assert refusal[0] == "standby" and re.search(why, refusal[1])


def test_a_server_whose_log_is_replicated_refuses_a_standby(monkeypatch):
    server = leading()
    monkeypatch.setattr(StateFolder, "followable", False)
    assert "in JetStream, which needs no standby" in server.judge(FOLLOW)[1]


def test_a_keeper_takes_a_log_as_it_takes_a_folder_and_says_why_it_must_end(monkeypatch):
    disk, settings = MemoryDisk(), StateSettings(durability="log")
    spec = TeamSpec("bsp", ServerSettings(), LinkSettings())
    keeper = ServerKeeper(StateFolder(disk), spec, settings, Journal("server"), source=random.Random(0).randbytes)
    server = DurableServer(keeper)
    assert server.lost is None and keeper.failing == ""
    monkeypatch.setattr(StateFolder, "lost", SteppedDown("another process took it over"))
    monkeypatch.setattr(StateFolder, "trouble", "nobody answers")
    assert server.lost is StateFolder.lost
    assert "cannot be written: nobody answers; workers hear nothing until it can be; make room there" in keeper.failing
    keeper.close(1.0)
    again = ServerKeeper(disk, spec, settings, Journal("server"), source=random.Random(1).randbytes)
    assert again.identity == keeper.identity


def test_a_server_has_one_standby():
    server = leading()
    connection = Connection()
    server._port = FollowerPort(server, connection, None, server.keeper.identity, 0.0)
    server._port.follow = FOLLOW
    assert server.judge(FOLLOW) is None, "the same one comes anew"
    another = msgspec.structs.replace(FOLLOW, server=b"g" * 16)
    assert server.judge(another) == ("standby", "this server has a standby at :7117; stop that first")
    assert server.judge(msgspec.structs.replace(another, leads=True, term=9)) is None, "that is news"


class Connection:
    """A connection that keeps what it is given."""

    def __init__(self, **about):
        self.link = Link("10.0.0.2:7", **about)
        self.link.conversation = Conversation(HostState.STRANGER)
        self.closed = ""

    def pump(self):
        pass

    def close(self, cause):
        self.closed = cause


class Leader:
    """Takes whoever has proved who it is."""

    def __init__(self):
        self.positions = []

    def judge(self, follow):
        return None

    def followed(self, port):
        return Followed(b"s" * 16, b"t" * 16, 1, 2)

    def stored(self, port, position):
        self.positions.append(position)


def port_of(secret=SECRET):
    connection = Connection()
    port = FollowerPort(Leader(), connection, secret, b"s" * 16, 0.0)
    challenge = port.next_message()
    assert isinstance(challenge, Challenge) and challenge.secret_needed == (secret is not None)
    return port, connection, challenge


def said(port):
    found = []
    while (message := port.next_message()) is not None:
        found.append(message)
    return found


def proven(challenge, connection, secret=SECRET):
    proof = follower_proof(secret, challenge, FOLLOW, connection.link.channel)
    return msgspec.structs.replace(FOLLOW, proof=proof)


def test_who_knows_the_secret_follows_and_is_told_that_the_server_knows_it_too():
    port, connection, challenge = port_of()
    port._take(proven(challenge, connection))
    proof, followed = said(port)
    assert isinstance(proof, Proof) and isinstance(followed, Followed) and port.follow is not None


@pytest.mark.parametrize(("why", "code"), [("another secret", "secret"), ("a robot's certificate", "certificate")])
def test_who_does_not_or_is_a_robot_is_refused_and_heard_no_more(why, code):
    port, connection, challenge = port_of()
    if code == "certificate":
        connection.link.identity = "robot0"
    port._take(proven(challenge, connection, SECRET if code == "certificate" else b"another one, long enough"))
    refusal = said(port)[-1]
    assert isinstance(refusal, Refusal) and refusal.code == code
    assert connection.link.closing and port.follow is None
    port._take(Stored(5))
    assert port._leader.positions == []


def test_the_log_follows_the_snapshot_in_pieces_and_what_is_stored_is_counted():
    port, connection, challenge = port_of()
    port._take(proven(challenge, connection))
    said(port)
    port.group(6, 60, b"in the snapshot")  # committed before the snapshot was there
    port.group(7, 70, b"behind it")
    assert said(port) == [] and not port.caught_up
    port.snapshot(7, bytes(100_000))
    pieces = said(port)
    assert [(one.snapshot, one.number, len(one.data), one.left) for one in pieces] == [
        (True, 7, 65_536, 34_464),
        (True, 7, 34_464, 0),
        (False, 7, 9, 0),
    ]
    assert port.caught_up, "what is on its way is little"
    port._take(Stored(7))
    port._take(Stored(8))
    assert port._leader.positions == [60, 70]


def test_a_standby_that_is_too_slow_is_let_go(monkeypatch):
    monkeypatch.setattr("rowcast.drivers.sockets.follower.MOST_WAITING_BYTES", 1000)
    port, connection, challenge = port_of()
    port._take(proven(challenge, connection))
    port.snapshot(1, bytes(5000))  # as large as the model, and asked for
    port.group(1, 1, bytes(900))
    assert not connection.closed
    port.group(2, 2, bytes(200))
    assert "too slow" in connection.closed
