"""``rowcast doctor``: each check in each of its states, by real means where there are any."""

from __future__ import annotations

import datetime
import json
import socket
import threading
import time
from contextlib import closing

import pytest

from commands import running
from live import LIMIT_S, LiveServer, Robot
from rowcast.drivers.sockets import Endpoint, Security, probing
from rowcast.drivers.sockets.certificates import SERVER, Holder, now_utc
from rowcast.drivers.sockets.probing import Flow, Prober, RoundTrips
from rowcast.errors import LinkLost, RemoteProtocolError
from rowcast.experiment import doctor
from rowcast.experiment.doctor import local, remote
from rowcast.session import newcomers
from rowcast.version import __version__
from rowcast.wire import PROTOCOL_VERSION, Challenge, Echo, FrameDecoder, FrameEncoder, Probe, Refusal, encode, frames
from rowcast.wire.asides import MAX_FILLING
from team_files import file_of, give_server, new_team, robot_file

SECRET = b"the team's secret of 32 letters."
REMOTE = ["name", "route", "port", "introduction", "versions of both", "round trip", "clock"]
REMOTE += ["bandwidth up", "bandwidth down", "MTU"]


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """A measurement ends after a few hundred kilobytes."""
    monkeypatch.setattr(probing, "FLOW_BYTES", 1 << 18)


def looked(endpoint, name="doctor"):
    """What the checks say, by their names."""
    return {check.name: check for check in doctor.remote_checks(endpoint, name, 1_000_000)}


def failed(checks):
    """The only check that failed, which is the last one."""
    (found,) = [check for check in checks.values() if check.status == "fail"]
    assert found is list(checks.values())[-1] and found.remedy
    return found


def at(port, **words):
    return Endpoint("127.0.0.1", port, Security(**words))


# -- the way to a server --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [None, SECRET], ids=["clear", "secret"])
def test_all_is_well_with_a_server_that_runs(secret):
    with LiveServer(secret=secret) as server:
        checks = looked(server.endpoint)
    assert list(checks) == REMOTE
    assert {check.status for check in checks.values()} == {"ok"}
    assert ("TLS 1.3" in checks["introduction"].found) == (secret is not None)
    assert __version__ in checks["versions of both"].found
    assert not server.node.members  # nobody has joined


def test_all_is_well_with_certificates(tmp_path):
    team = new_team(tmp_path / "team", "robot-1")
    with LiveServer(security=Security(team=team.path)) as server:
        checks = looked(at(server.port, team=file_of(team, "robot-1")), "robot-1")
    assert list(checks) == ["own certificate", *REMOTE[:4], "server's certificate", *REMOTE[4:]]
    assert {check.status for check in checks.values()} == {"ok"}


def test_a_member_of_the_same_name_is_not_disturbed():
    with LiveServer(secret=SECRET) as server:
        robot = Robot(server, "robot1", steps=2, pause_at=1)
        assert robot.at_pause.wait(LIMIT_S)
        link = server.member("robot1", "link")
        checks = looked(server.endpoint, "robot1")
        assert {check.status for check in checks.values()} == {"ok"}
        assert server.member("robot1", "link") is link
        robot.go_on.set()
        robot.join(LIMIT_S)
    assert robot.error is None


def test_a_name_that_nobody_has():
    assert failed(looked(Endpoint("no-such-host.invalid", 7117))).name == "name"


def test_a_port_that_is_closed():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        found = failed(looked(at(sock.getsockname()[1])))
    assert found.name == "port" and "nobody listens" in found.found and "start the server" in found.remedy


def test_a_network_without_a_route():
    check = remote.route_check(socket.AF_INET, ("255.255.255.255", 7117))
    assert check.status == "fail" and check.remedy


def test_another_secret():
    with LiveServer(secret=SECRET) as server:
        found = failed(looked(at(server.port, secret=b"not the team's secret, but 32 ..")))
    assert found.name == "introduction" and "does not fit" in found.found and "--secret-file" in found.remedy


def test_no_secret_where_one_is_needed():
    with LiveServer(secret=SECRET) as server:
        found = failed(looked(at(server.port)))
    assert "TLS only" in found.found


def test_a_robots_certificate_that_has_expired(tmp_path):
    team = new_team(tmp_path / "team")
    path = robot_file(team, tmp_path / "old.pem", days=1, from_now_days=-5)
    found = failed(looked(at(1, team=path), "robot"))
    assert found.name == "own certificate" and "expired" in found.found and "add NAME --replace" in found.remedy


def test_a_servers_certificate_that_has_expired(tmp_path):
    team = new_team(tmp_path / "team", "robot-1")
    give_server(team, days=1, from_now_days=-5)
    with LiveServer(security=Security(team=team.path)) as server:
        found = failed(looked(at(server.port, team=file_of(team, "robot-1")), "robot-1"))
    assert found.name == "introduction" and "expired" in found.found


def test_a_robot_that_was_taken_back(tmp_path):
    team = new_team(tmp_path / "team", "robot-1")
    team.revoke("robot-1")
    with LiveServer(security=Security(team=team.path)) as server:
        found = failed(looked(at(server.port, team=file_of(team, "robot-1")), "robot-1"))
    assert "revoked" in found.found


class Fake:
    """Something that listens, says what it is told for each message that it hears, and closes."""

    def __init__(self, first, *answers):
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.port = self._sock.getsockname()[1]
        self._first, self._answers = first, answers
        self._encoder = FrameEncoder()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._thread.join()
        self._sock.close()

    def _serve(self):
        peer, _ = self._sock.accept()
        with peer:
            peer.settimeout(10)
            peer.sendall(self._first if isinstance(self._first, bytes) else self._encoder.encode(self._first))
            decoder = FrameDecoder()
            decoder.trusted = True
            heard = 0
            while heard < len(self._answers):
                count = peer.recv_into(decoder.buffer(1 << 16))
                if not count:
                    return
                for message in decoder.filled(count):
                    if heard == len(self._answers):
                        return
                    heard += 1
                    if (answer := self._answers[heard - 1](message)) is not None:
                        peer.sendall(self._encoder.encode(answer))


CHALLENGE = Challenge(bytes(16), bytes(16), False)


def test_a_server_of_an_older_release_lets_nobody_measure():
    refusal = Refusal("protocol", "hello: expected a known wish and a training of 16 bytes or none")
    with Fake(CHALLENGE, lambda message: refusal) as server:
        checks = looked(at(server.port))
    assert checks["introduction"].status == "warn" and "update the server" in checks["introduction"].remedy
    assert list(checks) == REMOTE[:4]


def test_a_server_of_another_protocol(monkeypatch):
    with monkeypatch.context() as older:
        older.setattr(frames, "PROTOCOL_VERSION", PROTOCOL_VERSION - 1)
        first = encode(CHALLENGE)
    with Fake(first, lambda message: None) as server:
        found = failed(looked(at(server.port)))
    assert found.name == "versions of both" and "same release" in found.remedy


def test_something_else_listens():
    with Fake(b"HTTP/1.1 400 Bad Request\r\nServer: something else entirely\r\n\r\n") as server:
        found = failed(looked(at(server.port)))
    assert found.name == "introduction"


def test_a_link_that_breaks_under_large_packets():
    def echo(message):
        return Echo(message.number, b"", __version__, time.time()) if isinstance(message, Probe) else None

    with Fake(CHALLENGE, *[echo] * (2 + probing.TRIPS)) as server:  # the hello, a probe, the round trips; no more
        found = failed(looked(at(server.port)))
    assert found.name == "link" and "did not bear the measurement" in found.found


def test_who_goes_beyond_loopback_without_a_secret_is_told(monkeypatch):
    with LiveServer() as server:
        monkeypatch.setattr(Security, "_exposes", lambda self, host: True)
        found = failed(looked(at(server.port)))
    assert "--insecure" in found.found


# -- what the server allows -----------------------------------------------------------------------------------------


def prober_of(server, **words):
    return Prober(socket.create_connection(("127.0.0.1", server.port)), at(server.port, **words), "doctor", 5.0)


def test_nobody_is_answered_before_the_proof():
    with LiveServer() as server, socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.settimeout(5)
        sock.sendall(encode(Probe(1, 10)))
        said = b""
        while chunk := sock.recv(1 << 16):
            said += chunk
    decoder = FrameDecoder()
    decoder.buffer(len(said))[: len(said)] = said
    kinds = [type(message).__name__ for message in decoder.filled(len(said))]
    assert "Echo" not in kinds and kinds[-1] == "Refusal"


def test_probes_are_bounded_in_number_and_size(monkeypatch):
    monkeypatch.setattr(newcomers, "MOST_PROBES", 5)
    with LiveServer() as server:
        with closing(prober_of(server)) as prober, pytest.raises(RemoteProtocolError, match="at most 5 probes"):
            prober.round_trips()
        monkeypatch.setattr(newcomers, "MOST_PROBES", 1000)
        monkeypatch.setattr(newcomers, "MOST_PROBE_BYTES", 3 * MAX_FILLING)
        with (
            closing(prober_of(server)) as prober,
            pytest.raises(RemoteProtocolError, match=f"and {3 * MAX_FILLING} bytes"),
        ):
            prober.down()
        with closing(prober_of(server)) as prober:
            prober._probe(b"", MAX_FILLING + 1)
            with pytest.raises(RemoteProtocolError, match="wants at most"):
                prober._echo()


def test_who_measures_for_too_long_is_sent_away():
    with (
        LiveServer(handshake_limit_s=0.5, heartbeat_s=0.1) as server,
        closing(prober_of(server)) as prober,
        pytest.raises(LinkLost, match=r"closed the connection|broke"),
    ):
        prober._echo()  # none is under way


def test_a_name_measures_no_more_often_than_it_may_join():
    with LiveServer(joins_per_minute=2) as server:
        for _ in range(2):
            prober_of(server).close()
        with pytest.raises(RemoteProtocolError, match="too often"):
            prober_of(server)


# -- single checks --------------------------------------------------------------------------------------------------


def trips(**words):
    return RoundTrips(
        **({"least_s": 0.01, "median_s": 0.02, "most_s": 0.1, "release": __version__, "offset_s": 0.0} | words)
    )


@pytest.mark.parametrize(
    ("check", "status"),
    [
        (remote.trips_check(trips()), "ok"),
        (remote.trips_check(trips(median_s=0.6)), "warn"),
        (remote.clock_check(trips(offset_s=0.9)), "ok"),
        (remote.clock_check(trips(offset_s=-3.0)), "warn"),
        (remote.clock_check(trips(offset_s=3e6)), "fail"),
        (remote.version_check(__version__), "ok"),
        (remote.version_check("0.0.1"), "warn"),
        (remote.flow_check("up", Flow(1 << 20, 1.0), 1000), "ok"),
        (remote.flow_check("up", Flow(1 << 14, 1.0), 1000), "warn"),
        (remote.mtu_check(1500), "ok"),
        (remote.mtu_check(576), "warn"),
        (local.threads_check(4, 4), "ok"),
        (local.threads_check(8, 4), "warn"),
        (local.threads_check(1, 8), "warn"),
    ],
    ids=str,
)
def test_figures_and_what_is_made_of_them(check, status):
    assert check.status == status
    assert bool(check.remedy) == (status != "ok")


@pytest.mark.parametrize(("days", "status"), [(100, "ok"), (10, "warn"), (-1, "fail"), (500, "fail")], ids=str)
def test_dates_of_a_certificate(days, status):
    now = now_utc()
    holder = Holder(SERVER, "", 1, now - datetime.timedelta(days=1), now + datetime.timedelta(days=100), "")
    check = remote.certificate_check("certificate", holder, now + datetime.timedelta(days=99.9 - days))
    assert check.status == status


@pytest.mark.parametrize(("free_kib", "status"), [(1 << 20, "ok"), (40_000, "warn"), (10_000, "fail")])
def test_memory_for_a_model(tmp_path, free_kib, status):
    (tmp_path / "meminfo").write_text(f"MemTotal: 2000000 kB\nMemAvailable:   {free_kib} kB\n")
    assert local.memory_check(1_000_000, tmp_path / "meminfo").status == status
    assert local.memory_check(1_000_000, tmp_path / "gone").status == "warn"


def test_a_meter_that_reads_and_none(monkeypatch, tmp_path):
    class Opened:
        class meter:
            source = "sensor: of this test"
            close = staticmethod(lambda: None)

    assert local.meter_check(tmp_path).status == "warn"
    monkeypatch.setattr(local, "open_meter", lambda kind, sys_root: Opened)
    assert local.meter_check(tmp_path).status == "ok"


def test_whether_links_can_be_emulated(monkeypatch):
    monkeypatch.setattr(local, "why_not_here", lambda: None)
    assert local.emulation_check().status == "ok"
    monkeypatch.setattr(local, "why_not_here", lambda: "networks of namespaces need CAP_NET_ADMIN")
    check = local.emulation_check()
    assert (check.status, check.found) == ("warn", "networks of namespaces need CAP_NET_ADMIN")


# -- the command ----------------------------------------------------------------------------------------------------


def test_the_command_says_it_in_json_and_exits_with_what_failed(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(local, "emulation_check", lambda: doctor.Check("emulation", "ok", "left out"))
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "secret").chmod(0o600)
    with LiveServer(secret=SECRET) as server, running(monkeypatch, capsys, "doctor") as run:
        address = f"127.0.0.1:{server.port}"
        code, out, _ = run(address, "--secret-file", tmp_path / "secret", "--parameters", 1000, "--json")
        found = json.loads(out)
        assert code == 0 and found["fail"] == 0
        assert set(found) == {"release", "server", "ok", "warn", "fail", "checks"}
        assert [check["name"] for check in found["checks"]] == [
            "versions",
            "threads",
            "memory",
            "meter",
            "emulation",
            *REMOTE,
        ]
        for check in found["checks"]:
            assert set(check) == {"name", "status", "found", "remedy"}
        assert found["ok"] + found["warn"] == len(found["checks"])
        code, out, _ = run(address, "--parameters", 1000)
        assert code == 1 and "fail  introduction" in out and "-> give both ends the same --secret-file" in out
    with running(monkeypatch, capsys, "doctor") as run:
        code, out, _ = run("--parameters", 1000)
        assert code == 0 and "port" not in out and "ok    memory" in out
        code, _, err = run("--parameters", 0)
        assert code == 2 and "parameters" in err
