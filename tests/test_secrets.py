"""The shared secret: who can read its file, where it could show, and what is not its fault."""

from __future__ import annotations

import asyncio
import copy
import logging
import socket

import pytest

import rowcast
from rowcast.config import Secret, read_secret
from rowcast.drivers.sockets import Endpoint, Security, Server, Team
from rowcast.errors import ConfigError, ServerUnavailable
from rowcast.journal import read_journal
from rowcast.rows import Layout
from rowcast.session import JoinRequest
from rowcast.sync import parse_policy
from rowcast.training import ServerNode

WORD = b"0123456789abcdef0123456789abcdef"


@pytest.fixture
def unresolvable(monkeypatch):
    """No name stands for an address; addresses in numbers do."""

    def find(host, *arguments, **options):
        if host is not None and not host[:1].isdigit():
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *arguments, **options)

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", find)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o640, True), (0o644, True)])
def test_a_secret_that_others_can_read_is_named_once(tmp_path, caplog, mode, warned):
    path = tmp_path / "team.secret"
    path.write_bytes(WORD)
    path.chmod(mode)
    for _ in range(3):
        assert read_secret(path) == WORD
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == warned
    if warned:
        assert f"mode {mode:o}" in lines[0] and f"chmod 600 {path}" in lines[0]


def test_no_text_shows_the_secret(tmp_path):
    path = tmp_path / "team.secret"
    path.write_bytes(WORD)
    path.chmod(0o600)
    team = rowcast.join("127.0.0.1:1", name="robot-1", secret_file=path, journal_file=tmp_path / "robot-1.jsonl")
    server = ServerNode(parse_policy("bsp"), secret=read_secret(path))
    secret = read_secret(path)
    texts = [str(vars(team)), str(vars(server)), f"{secret}", f"{secret!r}", f"{JoinRequest(WORD)}"]
    texts += [str([secret]), str(list(read_journal(tmp_path / "robot-1.jsonl")))]
    for text in texts:
        assert WORD.decode() not in text
    assert "not shown" in f"{secret}" and secret == WORD == copy.deepcopy(Secret(WORD))


def test_a_name_that_is_not_found_is_not_blamed_on_the_secret(unresolvable):
    with pytest.raises(ConfigError, match=r"'robot\.lan' cannot be resolved") as caught:
        rowcast.join("robot.lan", name="robot-0")
    assert "secret" not in str(caught.value)


def test_a_name_that_cannot_be_one_is_refused_with_a_secret_too():
    for host in ("a" * 64, "a..b"):
        with pytest.raises(ConfigError, match="cannot be resolved"):
            Team(Endpoint(host, 1, Security(WORD)), name="robot-0")


def test_a_robot_whose_server_has_no_address_yet_says_so(unresolvable):
    settings = rowcast.WorkerSettings(join_limit_s=0.1, reconnect_first_s=0.05)
    team = Team(Endpoint("robot.lan", 1, Security(WORD)), name="robot-0", settings=settings)
    layout = Layout.from_shapes([("weight", (2, 2))])
    with pytest.raises(ServerUnavailable, match="the name cannot be resolved"):
        team.start(layout, layout.zeros())


@pytest.mark.parametrize("secret", [None, WORD])
def test_a_server_says_that_its_name_is_not_found(unresolvable, secret):
    server = Server(ServerNode(parse_policy("bsp"), secret=secret), "robot.lan", 0)
    with pytest.raises(ConfigError, match=r"'robot\.lan' cannot be resolved") as caught:
        asyncio.run(server.start())
    assert "secret" not in str(caught.value) and "another server" not in str(caught.value)


def test_a_server_says_that_an_address_is_not_this_machine_s():
    server = Server(ServerNode(parse_policy("bsp"), secret=WORD), "192.0.2.1", 0)
    with pytest.raises(ConfigError, match="this machine has no such address"):
        asyncio.run(server.start())
