"""A team with certificates: who is let in under which name, who is not and why, and who is taken back."""

from __future__ import annotations

import logging
import re
import shutil
import socket
import ssl
import stat
import time

import numpy as np
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from live import IMPATIENT, LAYOUT, LIMIT_S, LiveServer, Robot, eventually, start_of
from rowcast.config import WorkerSettings
from rowcast.drivers.sockets import Endpoint, Security, Team, server
from rowcast.drivers.sockets.certificates import ROBOT, SERVER, Holder
from rowcast.drivers.sockets.credentials import OWN, REVOKED, TeamFolder, read_credential, read_revoked
from rowcast.drivers.sockets.secured import TeamGuest, TeamHost
from rowcast.errors import AuthenticationFailed, CertificateRevoked, ConfigError, LinkLost, RemoteProtocolError
from rowcast.wire import Hello
from team_files import authority_of, copied, file_of, give_server, issue, new_team, robot_file

HASTY = WorkerSettings(join_limit_s=0.6, reconnect_first_s=0.02, reconnect_cap_s=0.05)


@pytest.fixture(scope="module")
def team(tmp_path_factory):
    return new_team(tmp_path_factory.mktemp("team") / "team", "robot", "other")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    return new_team(tmp_path_factory.mktemp("foreign") / "team", "robot")


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """The server looks at its files more often than each second."""
    monkeypatch.setattr(server, "LOOK_S", 0.05)


def serving(folder, **settings):
    return LiveServer(security=Security(team=folder.path), **settings)


def joining(live, path, name="robot", settings=HASTY):
    return Team(Endpoint("127.0.0.1", live.port, Security(team=path)), name=name, settings=settings)


def robot_of(live, folder, name, **options):
    return Robot(Endpoint("127.0.0.1", live.port, Security(team=file_of(folder, name))), name, **options)


def own_of(path):
    return x509.load_pem_x509_certificates(path.read_bytes())


# -- what is made ------------------------------------------------------------------------------------------------------


def test_what_a_certificate_may_be_used_for(team):
    for path, purposes, role in (
        # A server that is a standby connects to the server that it follows.
        (team.path / OWN, [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH], SERVER),
        (file_of(team, "robot"), [ExtendedKeyUsageOID.CLIENT_AUTH], ROBOT),
    ):
        own, authority = own_of(path)
        found = {each.oid: each for each in own.extensions}
        usage = found[x509.KeyUsage.oid]
        assert usage.critical and usage.value.digital_signature and not usage.value.key_cert_sign
        basic = found[x509.BasicConstraints.oid]
        assert basic.critical and not basic.value.ca
        extended = found[x509.ExtendedKeyUsage.oid]
        assert extended.critical and list(extended.value) == purposes
        assert Holder.of(own).role == role
        assert own.not_valid_after_utc <= authority.not_valid_after_utc
        basic = authority.extensions.get_extension_for_class(x509.BasicConstraints)
        assert basic.critical and basic.value.ca and basic.value.path_length == 0
        usage = authority.extensions.get_extension_for_class(x509.KeyUsage).value
        assert usage.key_cert_sign and usage.crl_sign and not usage.digital_signature


@pytest.mark.parametrize("name", ["r2/d2", "Zoë: 7", "n" * 200, "日" * 200, "..", "-rf", "a%2Fb"])
def test_any_name_that_a_robot_may_have(tmp_path, name):
    folder = new_team(tmp_path / "team")
    path = folder.add(name, days=1)
    assert path.parent == folder.path / "robots" and path.exists()
    assert read_credential(path, ROBOT).holder.name == name
    assert [each.holder.name for each in folder.members()] == ["", name]


def test_a_team_is_not_made_twice(team):
    with pytest.raises(ConfigError, match=r"there is one already.*team add NAME.*team server"):
        TeamFolder(team.path).make(days=1)


def test_a_name_has_one_certificate_at_a_time(tmp_path):
    folder = new_team(tmp_path / "team", "robot")
    first = read_credential(file_of(folder, "robot"), ROBOT)
    with pytest.raises(ConfigError, match="'robot' has a certificate; with --replace"):
        folder.add("robot", days=1)
    assert read_credential(file_of(folder, "robot"), ROBOT) == first
    folder.add("robot", days=1, replace=True)
    assert [each.state for each in folder.members() if each.holder.name == "robot"] == ["revoked", "valid"]
    folder.revoke("robot")
    with pytest.raises(ConfigError, match="got 'robot'; there are: none"):
        folder.revoke("robot")
    folder.add("robot", days=1)
    assert len(read_revoked(folder.path / REVOKED, read_credential(folder.path / OWN, SERVER).authority)) == 2


# -- who is let in -----------------------------------------------------------------------------------------------------


def test_a_team_trains_under_the_names_of_its_certificates(team):
    with serving(team, expected_workers=2) as live:
        robots = [robot_of(live, team, name, steps=4) for name in ("robot", "other")]
        for robot in robots:
            robot.done()
            np.testing.assert_array_equal(robot.team.replica, live.node.parameters)
        assert not live.events("error")


def test_a_worker_does_not_begin_under_another_name(team):
    for name in ("other", "Robot", "robot "):
        with pytest.raises(ConfigError, match=rf"it is that of 'robot', and this worker is {name!r}"):
            Team(Endpoint("127.0.0.1", 1, Security(team=file_of(team, "robot"))), name=name)


def test_a_robot_that_says_another_name_is_refused(team, monkeypatch):
    """One whose code was changed: it has a certificate, and says that it is somebody else."""
    monkeypatch.setattr(TeamGuest, "name", property(lambda self: "other"))
    with serving(team) as live:
        said = r"its certificate is that of 'robot', and it says that it is 'other'; join under the name"
        with pytest.raises(AuthenticationFailed, match=said):
            joining(live, file_of(team, "robot"), "other").start(LAYOUT, start_of())
        (told,) = live.events("error")
        assert told["error"] == "refused: certificate" and re.search(said, told["message"])
        assert not live.ask(lambda node: dict(node.members))


def test_a_robot_may_not_take_the_place_of_another_one(team, monkeypatch):
    """Not even when it knows the session of the other."""
    with serving(team, expected_workers=2) as live:
        robots = [robot_of(live, team, name, steps=3, pause_at=1) for name in ("robot", "other")]
        for robot in robots:
            assert robot.at_pause.wait(LIMIT_S)
        member = live.ask(lambda node: (node.members["other"].session, node.members["other"].life))
        link = live.ask(lambda node: node.members["robot"].link)
        stolen = Hello("other", member[0], b"", b"", LAYOUT.digest, b"", member[1], True, 1, 0)
        refusal = live.ask(lambda node: _newcomer_says(node, link, stolen))
        assert refusal[0] == "certificate"
        for robot in robots:
            robot.go_on.set()
        for robot in robots:
            robot.done()
        assert len(live.events("link_up", peer="other")) == 1


def _newcomer_says(node, link, hello):
    """What a hello on a new connection with the identity of ``link`` comes to."""
    newcomers = node._admission.newcomers
    again = type(link)("again", secured=False)
    newcomers.enter(again)
    again.secure(link.channel, link.identity)
    found = newcomers.refusal(0.0, again, hello)
    newcomers.leave(again)
    return found


# -- who is not --------------------------------------------------------------------------------------------------------


#: What is wrong with a robot's file; what the robot is told, and what the journal of the server says.
WRONG = {
    "expired": (
        lambda team, foreign, path: robot_file(team, path, days=1, from_now_days=-3),
        r"did not accept this robot's certificate \(that of 'robot', valid from .* to .*; by the clock of this machine "
        r"it is .*\): it has expired by the clock of the server; make a new one with 'rowcast team add NAME --replace'",
        r"its certificate was not accepted: it has expired by the clock of the server",
    ),
    "not yet valid": (
        lambda team, foreign, path: robot_file(team, path, from_now_days=3),
        r"did not accept this robot's certificate .*: it is not valid yet by the clock of the server; set the clocks",
        r"its certificate was not accepted: it is not valid yet by the clock of the server",
    ),
    "revoked": (
        lambda team, foreign, path: file_of(team, "robot"),
        r"the certificate of 'robot' was revoked on .* UTC; if that was a mistake, make a new one",
        r"the certificate of 'robot' was revoked on",
    ),
    "no robot's": (
        lambda team, foreign, path: team.path / OWN,
        r"its certificate is not that of a robot; make one with 'rowcast team add NAME'",
        r"its certificate is not that of a robot",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_who_is_refused_hears_why(wrong, team, foreign, tmp_path, monkeypatch):
    make, told_robot, told_server = WRONG[wrong]
    mine = copied(team, tmp_path / "team")
    path = make(mine, foreign, tmp_path / "robot.pem")
    if wrong == "revoked":
        mine.revoke("robot")
    if wrong == "no robot's":  # whoever does that has changed the code
        monkeypatch.setattr(TeamGuest.__init__, "__defaults__", (SERVER,))
        monkeypatch.setattr(TeamGuest, "name", property(lambda self: "robot"))
    with serving(mine) as live:
        with pytest.raises(AuthenticationFailed, match=told_robot) as caught:
            joining(live, path).start(LAYOUT, start_of())
        assert isinstance(caught.value, CertificateRevoked) is (wrong == "revoked")
        eventually(lambda: live.events("error"))
        assert re.search(told_server, live.events("error")[0]["message"])
        assert not live.ask(lambda node: dict(node.members))


def test_another_team_is_nobodys(team, foreign, caplog):
    """Neither end knows the other: the robot goes on looking for its own server, to its own limit."""
    with caplog.at_level(logging.WARNING), serving(team) as live:
        with pytest.raises(
            AuthenticationFailed, match=r"did not prove that it belongs to this team.*not of this robot's"
        ):
            joining(live, file_of(foreign, "robot")).start(LAYOUT, start_of())
        eventually(lambda: live.events("error"))
        assert "the robot did not accept the server's certificate" in live.events("error")[0]["message"]
    assert any("belongs to this team" in text and "trying again" in text for text in caplog.messages)


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ({"days": 1, "from_now_days": -3}, r"it has expired by the clock of this machine, 20.*'rowcast team server'"),
        ({"from_now_days": 3}, r"it is not valid yet by the clock of this machine, 20.* UTC; set the clock"),
    ],
    ids=["expired", "not yet valid"],
)
def test_a_server_with_wrong_dates_is_named(team, tmp_path, times, said):
    mine = copied(team, tmp_path / "team")
    give_server(mine, **times)
    with serving(mine) as live:
        with pytest.raises(AuthenticationFailed, match=rf"belongs to this team.*{said}"):
            joining(live, file_of(mine, "robot")).start(LAYOUT, start_of())
        eventually(lambda: live.events("error"))
        assert "its dates do not fit the robot's clock" in live.events("error")[0]["message"]


def test_a_robot_that_poses_as_the_server_is_found_out(team, tmp_path, monkeypatch):
    mine = copied(team, tmp_path / "team")
    shutil.copy(file_of(mine, "other"), mine.path / OWN)
    monkeypatch.setattr("rowcast.drivers.sockets.secured.SERVER", ROBOT)
    host = TeamHost(mine.path)
    monkeypatch.undo()
    with serving(team) as live:
        live.ask(lambda _: setattr(live.server, "_tls", host))
        with pytest.raises(AuthenticationFailed, match=r"belongs to this team.*it is not that of a server"):
            joining(live, file_of(team, "robot")).start(LAYOUT, start_of())


def test_a_robot_without_a_certificate_is_told_to_get_one(team):
    secret = Security(b"the secret of some other team...")
    with serving(team) as live:
        worker = Team(Endpoint("127.0.0.1", live.port, secret), name="robot", settings=HASTY)
        with pytest.raises(AuthenticationFailed, match=r"knows the shared secret: it wants the certificate of a robot"):
            worker.start(LAYOUT, start_of())
        eventually(lambda: live.events("error"))
        assert "it has none, and the server lets in the robots of its team only" in live.events("error")[0]["message"]


def test_a_robot_with_a_certificate_does_not_join_a_server_with_a_secret(team):
    said = r"belongs to this team.*or the server has a shared secret"
    with LiveServer(secret=b"the secret of some team...") as live, pytest.raises(AuthenticationFailed, match=said):
        joining(live, file_of(team, "robot")).start(LAYOUT, start_of())


def test_a_server_that_never_ends_its_handshake_is_given_up(team):
    settings = WorkerSettings(join_limit_s=0.5, silence_limit_s=0.5, reconnect_first_s=0.01)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        worker = Team(
            Endpoint("127.0.0.1", mute.getsockname()[1], Security(team=file_of(team, "robot"))),
            name="robot",
            settings=settings,
        )
        with pytest.raises((AuthenticationFailed, LinkLost), match=r"within 0\.5 s|came from the server for 0\.5 s"):
            worker.start(LAYOUT, start_of())


def test_a_trained_robot_whose_certificate_expires_keeps_what_it_has(team, tmp_path):
    """It goes on looking, and comes back when it is given another one."""
    mine = copied(team, tmp_path / "team")
    path = tmp_path / "robot.pem"
    shutil.copy(file_of(mine, "robot"), path)
    with serving(mine) as live:
        robot = Robot(
            Endpoint("127.0.0.1", live.port, Security(team=path)), "robot", steps=6, pause_at=3, settings=IMPATIENT
        )
        assert robot.at_pause.wait(LIMIT_S)
        robot_file(mine, path, days=1, from_now_days=-3)
        assert live.cut("robot")
        eventually(lambda: live.events("error"))
        assert "it has expired" in live.events("error")[0]["message"]
        robot.go_on.set()
        robot_file(mine, path)
        robot.done()
        np.testing.assert_array_equal(robot.team.replica, live.node.parameters)
        assert live.events("resume", peer="robot")


# -- who is taken back -------------------------------------------------------------------------------------------------


def test_a_robot_that_is_revoked_goes_at_once_and_does_not_come_back(team, tmp_path, caplog):
    mine = copied(team, tmp_path / "team")
    with caplog.at_level(logging.WARNING), serving(mine, expected_workers=2, absence_limit_s=600.0) as live:
        robots = {name: robot_of(live, mine, name, steps=40, pause_at=5) for name in ("robot", "other")}
        for robot in robots.values():
            assert robot.at_pause.wait(LIMIT_S)
        begun = time.monotonic()
        mine.revoke("robot")
        eventually(lambda: live.events("leave", peer="robot"), 5.0)
        assert time.monotonic() - begun < 5.0
        said = r"the certificate of 'robot' was revoked on 20\d\d-\d\d-\d\d"
        assert re.match(said, live.events("leave", peer="robot")[0]["cause"])
        for robot in robots.values():
            robot.go_on.set()
        with pytest.raises(CertificateRevoked, match=said):
            robots["robot"].done()
        robots["other"].done()  # it does not wait until the other one has been absent for ten minutes
        with pytest.raises(CertificateRevoked, match=said):
            joining(live, file_of(mine, "robot")).start(LAYOUT, start_of())
        assert len(live.events("link_up", peer="robot")) == 1
        assert any(record["error"] == "CertificateRevoked" for record in live.events("error"))
    causes = [r["cause"] for r in robots["robot"].team.journal.records if r["event"] == "link_down"]
    assert re.match(f"the server said goodbye: {said}", causes[0])


def test_a_revoked_robot_that_reads_nothing_is_cut_off(team, tmp_path, monkeypatch):
    monkeypatch.setattr(server, "GOODBYE_S", 0.2)
    mine = copied(team, tmp_path / "team")
    with serving(mine) as live, _shaken(live, mine):
        eventually(lambda: live.ask(lambda _: len(live.server._holders)))
        mine.revoke("robot")
        eventually(lambda: not live.ask(lambda _: len(live.server._connections)), 5.0)


class _shaken:
    """A robot that shakes hands in TLS, says nothing, and reads nothing."""

    def __init__(self, live, folder):
        self._sock = socket.create_connection(("127.0.0.1", live.port), LIMIT_S)
        guest = TeamGuest(file_of(folder, "robot"))
        self._tls = guest._context.wrap_socket(self._sock)

    def __enter__(self):
        return self._tls

    def __exit__(self, *_):
        self._tls.close()


def test_a_damaged_list_lets_nobody_back_in(team, tmp_path, caplog):
    mine = copied(team, tmp_path / "team")
    mine.revoke("robot")
    with caplog.at_level(logging.WARNING), serving(mine) as live:
        (mine.path / REVOKED).write_bytes(b"-----BEGIN X509 CRL-----\nnonsense\n-----END X509 CRL-----\n")
        eventually(lambda: live.events("error", error="team files"))
        assert "what was read before stays in force" in live.events("error")[0]["message"]
        with pytest.raises(CertificateRevoked):
            joining(live, file_of(mine, "robot")).start(LAYOUT, start_of())
        (mine.path / REVOKED).unlink()
        with pytest.raises(CertificateRevoked):
            joining(live, file_of(mine, "robot")).start(LAYOUT, start_of())


def test_a_list_that_somebody_else_has_signed_is_not_taken(team, foreign, tmp_path):
    mine = copied(team, tmp_path / "team")
    shutil.copy(foreign.path / REVOKED, mine.path / REVOKED)
    with pytest.raises(ConfigError, match="authority has not signed this list"):
        TeamHost(mine.path)


def test_a_server_takes_its_new_certificate_while_it_runs(team, tmp_path):
    mine = copied(team, tmp_path / "team")
    give_server(mine, days=1, from_now_days=-3)
    with serving(mine) as live:
        with pytest.raises(AuthenticationFailed, match="it has expired"):
            joining(live, file_of(mine, "robot")).start(LAYOUT, start_of())
        mine.renew_server(days=10)
        robot_of(live, mine, "robot", steps=2).done()


# -- files -------------------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_used_are_named(team, foreign, tmp_path):
    key, own, authority = _parts(file_of(team, "robot"))
    other_key, other, _ = _parts(file_of(team, "other"))
    _, _, alien = _parts(file_of(foreign, "robot"))
    bad = tmp_path / "bad.pem"
    for content, said in (
        (b"", "expected a key and two certificates"),
        (b"a secret of more than 16 bytes", "expected a key and two certificates"),
        (own + authority, "expected a key and two certificates"),
        (key + own, "expected a key and two certificates"),
        (other_key + own + authority, "do not fit each other"),
        (key + own + alien, "do not fit each other"),
        (key + authority + own, "do not fit each other"),
        (other_key + other + authority, "it is that of 'other', and this worker is 'robot'"),
        ((team.path / OWN).read_bytes(), "expected the file of a robot, got that of the server"),
    ):
        bad.write_bytes(content)
        bad.chmod(0o600)
        with pytest.raises(ConfigError, match=said):
            Team(Endpoint("127.0.0.1", 1, Security(team=bad)), name="robot")
    for path, said in (
        (tmp_path / "none", "No such file"),
        (team.path, "expected the file of one robot, got a folder"),
    ):
        with pytest.raises(ConfigError, match=said):
            Team(Endpoint("127.0.0.1", 1, Security(team=path)), name="robot")
    for path, said in (
        (tmp_path / "none", "expected a folder, got nothing"),
        (file_of(team, "robot"), "expected a folder, got a file"),
        (tmp_path, "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=said):
            Security(team=path).host(False)
    with pytest.raises(ConfigError, match="got both"):
        Security(b"s" * 32, team=team.path)
    with pytest.raises(ConfigError, match="a node without a secret"):
        Security(team=team.path).host(True)


def _parts(path):
    parts = re.findall(rb"-----BEGIN .*?-----END [A-Z ]*-----\n", path.read_bytes(), re.DOTALL)
    assert len(parts) == 3
    return parts


def test_an_encrypted_key_asks_nobody_for_a_password(team, tmp_path):
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from rowcast.drivers.sockets.certificates import key_pem

    key, own, authority = _parts(file_of(team, "robot"))
    path = tmp_path / "robot.pem"
    path.write_bytes(key_pem(load_pem_private_key(key, None), b"word") + own + authority)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="expected a key and two certificates"):
        TeamGuest(path)


def test_a_file_that_others_can_read_is_named(team, tmp_path, caplog):
    path = tmp_path / "robot.pem"
    shutil.copy(file_of(team, "robot"), path)
    path.chmod(0o644)
    TeamGuest(path)
    assert [text for text in caplog.messages if "other users of this machine can read" in text and "chmod 600" in text]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_keys_are_for_their_owner_only(tmp_path, umask):
    import os

    tmp_path.chmod(0o700)
    before = os.umask(umask)
    try:
        folder = TeamFolder(tmp_path / "team")
        if umask == 0o777:
            folder.path.mkdir()
            folder.path.chmod(0o700)
            for name in ("issued", "robots"):
                (folder.path / name).mkdir()
                (folder.path / name).chmod(0o700)
        folder.make(days=1)
        folder.add("robot", days=1)
    finally:
        os.umask(before)
    keys = [path for path in folder.path.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert sorted(path.name for path in keys) == ["ca.key", "robot.pem", "server.pem"]
    for path in keys:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for place in (folder.path, folder.path / "robots"):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_a_key_is_never_written_over(team, tmp_path):
    from rowcast.drivers.sockets.credentials import new_key_file

    path = tmp_path / "key"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        new_key_file(path, b"key")
    assert not (tmp_path / "elsewhere").exists()


def test_a_team_without_its_authoritys_key_serves_and_cannot_be_added_to(team, tmp_path):
    """Where the server is need not be where robots are made."""
    mine = copied(team, tmp_path / "team")
    (mine.path / "ca.key").unlink()
    with serving(mine) as live:
        robot_of(live, mine, "robot", steps=2).done()
    with pytest.raises(ConfigError, match=r"ca\.key: cannot be read"):
        mine.add("new", days=1)


def test_it_is_the_authority_that_signs(team):
    own, authority = own_of(file_of(team, "robot"))
    own.verify_directly_issued_by(authority_of(team).certificate)
    assert authority == authority_of(team).certificate
    with pytest.raises(RemoteProtocolError, match="not that of a server"):
        TeamGuest(file_of(team, "robot")).admit(_Peer(own))


class _Peer:
    """A channel to somebody with this certificate."""

    def __init__(self, certificate):
        from cryptography.hazmat.primitives.serialization import Encoding

        self.peer_certificate = certificate.public_bytes(Encoding.DER)


def test_openssl_takes_what_we_make(team):
    """The strict profile of RFC 5280, without a line of ours."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=team.path / "ca.pem")
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.check_hostname = False
    context.load_cert_chain(file_of(team, "robot"))
    with serving(team) as live, socket.create_connection(("127.0.0.1", live.port), LIMIT_S) as sock:
        context.set_alpn_protocols(["rowcast"])
        with context.wrap_socket(sock) as secured:
            assert secured.version() == "TLSv1.3" and secured.recv(2) == b"RC"


def test_a_certificate_of_the_team_that_is_none_of_ours_is_refused(team, tmp_path):
    issue(team, tmp_path / "odd.pem", ROBOT, "robot")
    own, _ = own_of(tmp_path / "odd.pem")
    host = TeamHost(team.path)
    assert host.admit(_Peer(own))[1].name == "robot"
    assert host.admit(_Peer(own_of(team.path / OWN)[0]))[1].name == ""  # a standby; it joins under no name
