"""A server and its standby in processes, as who runs a team meets them: certificates, full disks, decisions."""

from __future__ import annotations

import resource

import pytest

from live import IMPATIENT, LIMIT_S, Robot, eventually
from rowcast.cli.exits import ExitCode
from rowcast.drivers.sockets import Endpoint, Security
from rowcast.drivers.sockets.certificates import ROBOT
from rowcast.wire import Ballot
from standby_processes import ServerProcess, pair
from team_files import file_of, issue, new_team
from test_standby_sockets import POLICIES, audit, robots_at

pytestmark = pytest.mark.system


def test_with_certificates_the_standby_follows_as_a_server_and_takes_over(tmp_path):
    folder = new_team(tmp_path / "team", "robot0", "robot1")
    with pair(tmp_path, POLICIES["bsp"], 2, "--team", folder.path) as (first, second):
        robots = [
            Robot(
                Endpoint("127.0.0.1", first.port, Security(team=file_of(folder, f"robot{k}"))),
                f"robot{k}",
                steps=30,
                update=k + 1,
                pause_at=20,
                settings=IMPATIENT,
            )
            for k in range(2)
        ]
        eventually(lambda: max(robot.iteration for robot in robots) >= 3)
        first.end()
        second.says("took over")
        for robot in robots:
            assert robot.at_pause.wait(LIMIT_S), robot.error
            robot.go_on_to(None)
        audit(robots)


def test_with_a_robots_certificate_nobody_follows(tmp_path):
    folder = new_team(tmp_path / "team", "robot0")
    first = ServerProcess(tmp_path, "first", "bsp", 1, "--team", folder.path)
    other = new_team(tmp_path / "other")
    for name in ("ca.pem", "revoked.pem"):
        if (folder.path / name).exists():
            (other.path / name).write_bytes((folder.path / name).read_bytes())
    issue(folder, other.path / "server.pem", ROBOT, "robot0")
    second = ServerProcess(tmp_path, "second", "bsp", 1, "--team", other.path)
    second.options += ["--standby-of", f"127.0.0.1:{first.port}"]
    try:
        first.start()
        second.start(None)
        assert second.code() == ExitCode.USAGE
        second.says("expected the file of a server, got that of 'robot0'", 0.1)
    finally:
        first.end()
        second.end()


def test_an_operator_gives_the_team_to_the_standby(tmp_path):
    """Both are killed, and one does not come back. What the guard knows of the robots comes back with the state."""
    guard = ["--guard", "quarantine"]
    with pair(tmp_path, POLICIES["bsp"], 2, *guard) as (first, second):
        robots = robots_at(first, pause_at=20, link=None)
        eventually(lambda: max(robot.iteration for robot in robots) >= 3)
        for robot in robots:
            assert robot.at_pause.wait(LIMIT_S), robot.error
        for each in (first, second):
            each.end()
        second.options = [*guard, "--take-over"]
        second.start()
        for robot in robots:
            robot.go_on_to(30)
        for robot in robots:
            assert robot.at_pause.wait(LIMIT_S), robot.error
        first.options = [*guard, "--standby-of", f"127.0.0.1:{second.port}"]
        first.start("has all that")  # of the other one: what it had was older
        for robot in robots:
            robot.go_on_to(None)
        audit(robots)
        assert '"clipped"' not in second.journal.read_text("utf-8")


def test_a_standby_whose_disk_is_full_is_let_go_and_comes_back(tmp_path):
    with pair(tmp_path, POLICIES["rowcast"], 2, "--set", "lease_s=1") as (first, second):
        robots = robots_at(first, steps=60, pause_at=40)
        eventually(lambda: max(robot.iteration for robot in robots) >= 3)
        before = resource.prlimit(second.process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        second.says("the state cannot be written")
        first.says("goes on alone")
        for robot in robots:
            assert robot.at_pause.wait(LIMIT_S), robot.error
        resource.prlimit(second.process.pid, resource.RLIMIT_FSIZE, before)
        second.says("has all that")
        for robot in robots:
            robot.go_on_to(50)
        for robot in robots:
            assert robot.at_pause.wait(LIMIT_S), robot.error
        first.end()  # it has what it needs to lead
        second.says("took over")
        for robot in robots:
            robot.go_on_to(None)
        audit(robots)


@pytest.mark.parametrize("why", ["it is bound to the other server", "it may have forgotten what it granted"])
def test_one_of_two_robots_does_not_grant_a_term(why, tmp_path):
    """If it is bound, the server that is left makes way, and binds nobody; otherwise it waits for its standby."""
    with pair(tmp_path, POLICIES["bsp"], 2) as (first, second):
        robots = robots_at(first, pause_at=20, link=None)
        eventually(lambda: max(robot.iteration for robot in robots) >= 3)
        for robot in robots:
            assert robot.at_pause.wait(LIMIT_S), robot.error
        voters = [robot.team.node._joining.client.voter for robot in robots]
        if why.startswith("it is bound"):
            assert voters[1].vote(Ballot(3, 2, (tmp_path / "second" / "identity").read_bytes()[-16:])).granted
        else:
            voters[1].abstains = True
        second.end()
        if why.startswith("it is bound"):
            first.says("steps down")
            assert first.code() == ExitCode.STEPPED_DOWN
            assert [voter.highest for voter in voters] == [2, 3]
            second.start("took over")  # both grant it the term: the other one is bound no longer
        else:
            first.says("workers are asked for term 3")
            eventually(lambda: voters[0].highest == 3)
            second.start("has all that")
        for robot in robots:
            robot.go_on_to(None)
        audit(robots)
        assert not voters[1].abstains
