"""``rowcast team``, a server with its folder, and a robot with its file; and that no key shows anywhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import rowcast
from commands import running
from live import IMPATIENT, LAYOUT, LIMIT_S, start_of
from rowcast.config import read_secret
from rowcast.drivers.sockets import Endpoint, Security, Server, Team
from rowcast.drivers.sockets.certificates import ROBOT, Authority, self_signed
from rowcast.drivers.sockets.credentials import read_credential
from rowcast.drivers.sockets.secured import SecretGuest, SecretHost, TeamGuest, TeamHost
from rowcast.errors import CertificateRevoked, ConfigError
from rowcast.experiment import RobotSettings
from rowcast.journal import read_journal
from rowcast.sync import parse_policy
from rowcast.training import ServerNode
from team_files import new_team

WORD = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def team(monkeypatch, capsys, tmp_path):
    """Runs ``rowcast team ...`` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    with running(monkeypatch, capsys, "team") as run:
        yield run


def test_a_team_from_its_beginning(team, tmp_path):
    code, out, _ = team("init", "team")
    assert code == 0 and "rowcast serve --team team" in out and "rowcast team add NAME --team team" in out
    code, out, _ = team("add", "robot-1")
    assert code == 0 and "team/robots/robot-1.pem is the file of 'robot-1'" in out
    assert team("add", "robot-2", "--days", "0.5")[0] == 0
    assert team("revoke", "robot-1")[1] == (
        "'robot-1': 1 certificate revoked; a server with this folder sends it away within 5 s\n"
    )
    assert re.match(r"the server's new certificate is valid until 20\d\d-", team("server", "--days", "90")[1])
    lines = team("list")[1].splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["name", "state"],
        ["(the", "server)"],
        ["(the", "server)"],
        ["robot-1", "revoked"],
        ["robot-2", "valid"],
    ]
    assert lines[3].rstrip().endswith("UTC") and not lines[4].endswith("UTC")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("add", "robot-1"), "team team: there is none; 'rowcast team init team' makes one"),
        (("list",), "there is none"),
        (("revoke", "robot-1"), "there is none"),
        (("init", "team", "--days", "0"), "--days: expected above 0 and at most 3650 days, got 0"),
        (("init", "team", "--days", "nan"), "--days: expected above 0"),
        (("add", "two\nlines"), "expected a printable name"),
        (("add", ""), "expected a printable name"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(team, words, says):
    code, _, err = team(*words)
    assert code == 2 and says in err and len(err.splitlines()) == 1


def test_a_name_that_is_taken_or_unknown(team):
    team("init", "team")
    team("add", "robot-1")
    assert "with --replace it is revoked" in team("add", "robot-1")[2]
    assert team("add", "robot-1", "--replace")[0] == 0
    assert "got 'robot-2'; there are: robot-1" in team("revoke", "robot-2")[2]
    assert "there is one already" in team("init", "team")[2]


def test_a_folder_that_cannot_be_written_is_named(team, tmp_path):
    (tmp_path / "team").write_text("a file")
    code, _, err = team("init", "team")
    assert code == 2 and "team team: File exists" in err


# -- no key anywhere ---------------------------------------------------------------------------------------------------


def key_lines(path):
    """The lines of the private keys in a file, each of which would betray it."""
    found = re.findall(r"-----BEGIN PRIVATE KEY-----\n(.*?)-----END", Path(path).read_text(), re.DOTALL)
    lines = [line for block in found for line in block.split()]
    assert len(lines) >= 3
    return lines


def assert_hidden(texts, secrets):
    for place, text in texts.items():
        assert "PRIVATE KEY" not in text, place
        for secret in secrets:
            assert secret not in text, place


@pytest.mark.parametrize("kind", ["team", "secret"])
def test_no_process_log_or_journal_shows_a_key(tmp_path, kind):
    """A server as it is started, a robot that joins, one that is turned away."""
    if kind == "team":
        folder = new_team(tmp_path / "team", "robot", "gone")
        folder.revoke("gone")
        secrets = [
            line
            for path in folder.path.rglob("*")
            if path.suffix in (".pem", ".key") and path.is_file() and "PRIVATE" in path.read_text()
            for line in key_lines(path)
        ]
        serves = ["--team", str(folder.path)]
        joins = {name: {"team": folder.path / "robots" / f"{name}.pem"} for name in ("robot", "gone")}
    else:
        (tmp_path / "team.secret").write_text(WORD)
        (tmp_path / "team.secret").chmod(0o600)
        secrets, serves = [WORD], ["--secret-file", str(tmp_path / "team.secret")]
        joins = {"robot": {"secret_file": tmp_path / "team.secret"}}
    command = [sys.executable, "-m", "rowcast", "serve", "--port=0", "--once", "--set", "gather_s=0", "--quiet"]
    command += [*serves, "--journal", str(tmp_path / "server.jsonl")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    texts = {}
    try:
        port = int(re.search(r":(\d+),", process.stdout.readline())[1])
        if Path("/proc").is_dir():
            for name in ("cmdline", "environ"):
                texts[name] = Path(f"/proc/{process.pid}/{name}").read_bytes().decode(errors="replace")
        if "gone" in joins:
            gone = rowcast.join(f"127.0.0.1:{port}", name="gone", settings=IMPATIENT, **joins["gone"])
            with pytest.raises(CertificateRevoked) as caught:
                gone.start(LAYOUT, start_of())
            texts["error"] = str(caught.value)
        robot = rowcast.join(
            f"127.0.0.1:{port}",
            name="robot",
            settings=IMPATIENT,
            journal_file=tmp_path / "robot.jsonl",
            **joins["robot"],
        )
        robot.start(LAYOUT, start_of())
        texts["team"] = f"{robot!r} {vars(robot)} {robot._endpoint!r}"
        robot.finish()
        assert process.wait(LIMIT_S) == 0
    finally:
        process.kill()
        texts["out"], texts["err"] = process.communicate()
    for name in ("server", "robot"):
        texts[f"journal of {name}"] = (tmp_path / f"{name}.jsonl").read_text()
        assert len(list(read_journal(tmp_path / f"{name}.jsonl"))) > 3
    assert_hidden(texts, secrets)


def test_no_object_and_no_error_shows_a_key(tmp_path):
    folder = new_team(tmp_path / "team", "robot")
    path = folder.path / "robots" / "robot.pem"
    secrets = [WORD, *key_lines(path), *key_lines(folder.path / "server.pem"), *key_lines(folder.path / "ca.key")]
    (tmp_path / "team.secret").write_text(WORD)
    (tmp_path / "team.secret").chmod(0o600)
    secret = read_secret(tmp_path / "team.secret")
    with_team, with_secret = Security(team=path), Security(secret)
    server = Server(ServerNode(parse_policy("bsp")), "127.0.0.1", 0, security=Security(team=folder.path))
    objects = [
        with_team,
        with_secret,
        Endpoint("127.0.0.1", 1, with_team),
        Endpoint("127.0.0.1", 1, with_secret),
        vars(server),
        vars(Team(Endpoint("127.0.0.1", 1, with_team), name="robot")),
        vars(Team(Endpoint("127.0.0.1", 1, with_secret), name="robot")),
        Authority.make("team"),
        self_signed(),
        read_credential(path, ROBOT),
        *(vars(end) for end in (TeamGuest(path), TeamHost(folder.path), SecretGuest(), SecretHost())),
        vars(TeamGuest(path).open()),
        folder.members(),
        RobotSettings(secret_file=tmp_path / "team.secret"),
        RobotSettings(team=path),
    ]
    errors = []
    for content in (path.read_text()[:-200], path.read_text()[200:], path.read_text().replace("BEGIN CERT", "BEGIN X")):
        (tmp_path / "bad.pem").write_text(content)
        (tmp_path / "bad.pem").chmod(0o600)
        with pytest.raises(ConfigError) as caught:
            read_credential(tmp_path / "bad.pem", ROBOT)
        errors += [str(caught.value), repr(caught.value), str(caught.value.__cause__)]
    assert_hidden({f"{type(one).__name__} {number}": f"{one!r} {one}" for number, one in enumerate(objects)}, secrets)
    assert_hidden(dict(enumerate(errors)), secrets)
    assert "not shown" in repr(Authority.make("team"))


def test_a_key_that_python_wants_in_a_file_is_encrypted_there_and_gone_behind(tmp_path, monkeypatch):
    import ssl
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen = []
    real = ssl.SSLContext.load_cert_chain

    def load(self, path, **words):
        seen.append((Path(path).read_text(), Path(path).parent.stat().st_mode & 0o777))
        return real(self, path, **words)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", load)
    SecretHost()
    ((text, mode),) = seen
    assert "BEGIN ENCRYPTED PRIVATE KEY" in text and "BEGIN PRIVATE KEY" not in text and mode == 0o700
    assert list(tmp_path.iterdir()) == []


def test_the_rest_of_rowcast_is_quick_without_certificates():
    """What needs no certificate does not load what makes them."""
    code = "import sys, rowcast, rowcast.cli, rowcast.drivers.sockets; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=LIMIT_S, check=False).returncode == 0
