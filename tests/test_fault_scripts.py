"""Each script of ``tests/faults``, on real sockets and in virtual time; and that the judge is not blind.

In virtual time they last as long as they say. On real sockets those that are longer than :data:`LENGTH_S` are played
faster, all times by the same factor; ``benchmarks/faults.py --parts scripts`` plays them at their full length.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import select
import socket
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from commands import running
from rowcast.cli import fault
from rowcast.codecs import codec_by_name
from rowcast.drivers.virtual import Clock
from rowcast.errors import ConfigError, WorkerFailed
from rowcast.experiment.faults import delays, load_script, play_sockets, play_virtual, sockets, virtual
from rowcast.experiment.faults.disk import FaultyDisk
from rowcast.experiment.faults.judging import judge
from rowcast.experiment.faults.processes import raise_descriptors
from rowcast.experiment.faults.relay import Link
from rowcast.experiment.faults.script import Named
from rowcast.experiment.faults.virtual_team import FaultyTeam
from rowcast.links import Trace
from rowcast.session import Link as Session
from rowcast.testing import VirtualTeam
from rowcast.testing.pipes import Connection, Pipe
from rowcast.training import ServerNode
from rowcast.wire import HEADER_BYTES, Heartbeat, Rows, encode

SCRIPTS = {path.stem: path for path in sorted((Path(__file__).parent / "faults").glob("*.toml"))}
#: The last event of a script on real sockets has ended by then (s).
LENGTH_S = 5.0
#: Nothing takes longer unless it hangs (s).
LIMIT_S = 20.0


class Quiet:
    """Shows nothing."""

    def says(self, text):
        pass

    def shows(self, run, left_s, total_s, lines):
        pass


def check(report):
    if report.not_played:
        pytest.skip(report.not_played)
    assert report.held, "\n".join(report.broken)


@pytest.mark.system
@pytest.mark.parametrize("name", SCRIPTS)
def test_on_real_sockets(name, tmp_path):
    script = load_script(SCRIPTS[name])
    wanted = 2 * sum(getattr(event, "count", 0) for event in script.event) + 100
    if (allowed := raise_descriptors()) < wanted:
        pytest.skip(f"needs {wanted} descriptors, and may have {allowed} (ulimit -Hn)")
    check(play_sockets(script.lasting(LENGTH_S), tmp_path / "out", Quiet()))


@pytest.mark.parametrize("name", SCRIPTS)
def test_in_virtual_time(name):
    check(play_virtual(load_script(SCRIPTS[name])))


# -- the judge is not blind --------------------------------------------------------------------------------------------


def broken(report):
    """What did not hold, by the beginning of its name."""
    return {verdict.what.split(" (")[0] for verdict in report.verdicts if not verdict.held}


def falsify_once(monkeypatch, change):
    """One frame of rows that comes to the server is another one: ``change(take, message)`` hands it on."""
    take, done = ServerNode.receive, []

    def receive(self, now, link, message):
        if isinstance(message, Rows) and self.gate.opened and not done and not message.absolute and now > 3.0:
            done.append(message.number)
            change(lambda each: take(self, now, link, each), message)
        else:
            take(self, now, link, message)

    monkeypatch.setattr(ServerNode, "receive", receive)


def test_a_row_that_is_lost_is_noticed(monkeypatch):
    zero = codec_by_name("zero").wire_id
    empty = np.zeros(0, dtype=np.uint8)
    falsify_once(monkeypatch, lambda take, rows: take(dataclasses.replace(rows, codec=zero, payload=empty)))
    report = play_virtual(load_script(SCRIPTS["cut-5s"]))
    assert "nothing is lost" in broken(report) and report.lost > 0 and report.doubled == 0


def test_a_row_that_counts_twice_is_noticed(monkeypatch):
    def twice(take, rows):
        payload = (2 * rows.payload.view("<f4")).view(np.uint8)
        take(dataclasses.replace(rows, payload=payload))

    falsify_once(monkeypatch, twice)
    report = play_virtual(load_script(SCRIPTS["cut-5s"]))
    assert "nothing counts twice" in broken(report) and report.doubled > 0 and report.lost == 0


def test_a_server_that_does_not_wait_for_its_log_is_noticed(monkeypatch):
    monkeypatch.setattr(FaultyTeam, "send_down", VirtualTeam.send_down)
    assert not play_virtual(load_script(SCRIPTS["power-loss-server"])).held


def test_a_gate_that_is_open_is_noticed(monkeypatch):
    script = load_script(SCRIPTS["stop-worker"])
    open_gate = msgspec.structs.replace(script.team, policy="rog:40?codec=raw", pace_s=(0.1, 0.3, 2.0))
    report = judge_as(script, play_facts(msgspec.structs.replace(script, team=open_gate)))
    assert broken(report) == {"nobody goes on beyond the slack"}


def test_a_server_that_waits_for_ever_is_noticed():
    """``absence_limit_s`` of the script says how long others may wait for who is gone."""
    script = load_script(SCRIPTS["stop-worker"])
    patient = msgspec.structs.replace(script.team, server={"absence_limit_s": 3600.0, "silence_limit_s": 3600.0})
    report = judge_as(script, play_facts(msgspec.structs.replace(script, team=patient)))
    assert "nobody waits longer than the policy allows" in broken(report)


def test_a_cause_that_is_not_named_is_noticed():
    script = load_script(SCRIPTS["cut-30s"])
    silent = Named(node="server", event="absent", says="robot-0")
    report = play_virtual(msgspec.structs.replace(script, journal=(*script.journal, silent)))
    assert broken(report) == {"the journal names the cause"}


def test_a_team_that_hangs_is_noticed(monkeypatch):
    """Whoever stands still does not go on."""
    hold = FaultyTeam.hold
    monkeypatch.setattr(FaultyTeam, "hold", lambda self, name, for_s: hold(self, name, 1e9))
    report = play_virtual(load_script(SCRIPTS["stop-server"]))
    assert "everybody comes to an end" in broken(report) and "training does not go on" in report.hang


def play_facts(script):
    return virtual._Player(script, 0).play()


def judge_as(script, facts):
    return judge(msgspec.structs.replace(script, journal=()), "virtual", facts)


# -- the reader --------------------------------------------------------------------------------------------------------

GOOD = """
about = "x"
[team]
workers = 2
durability = "log"
[[event]]
do = "kill"
to = ["robot-0"]
at_s = 1.0
restart_after_s = 1.0
[[journal]]
node = "server"
event = "link_down"
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("about", "abuot", "unknown key 'abuot' in the script itself; did you mean 'about'?"),
        ("workers", "worker_s", "unknown key 'worker_s' in team; did you mean 'workers'?"),
        ("at_s =", "att_s =", "unknown key 'att_s' in event[0]; did you mean 'at_s'?"),
        ('"kill"', '"kil"', "unknown event 'kil' in event[0]; did you mean 'kill'?"),
        ("node", "nod", "unknown key 'nod' in journal[0]; did you mean 'node'?"),
        ('to = ["robot-0"]', 'to = ["robot-7"]', "event 0 (kill): there is no 'robot-7'; did you mean 'robot-"),
        ("at_s = 1.0", 'at_s = "soon"', "expected `float | null`, got `str`"),
        ("at_s = 1.0\n", "", "event 0 (kill): expected either at_s, or phase"),
        ("at_s = 1.0", 'phase = "pushing"', "event 0 (kill): expected 'of', whose phase it is"),
        ('"robot-0"', '"server"', ""),
        ('"log"', '"none"', ""),
        ('do = "kill"', 'do = "cut"\nfor_s = 1.0', "unknown key 'restart_after_s' in event[0]"),
        ("workers = 2", "workers = 0", "team: expected 1 .. 16 workers"),
        ("workers = 2", 'policy = "rog:4"', "team: expected a policy whose sums are exact, got 'rog:4'"),
        ("workers = 2", "pace_s = [1.0]", "team: expected one pace_s, or one for each of 3 workers, got 1"),
        ('about = "x"', 'about = "x"\non = ["sockets"]', "because: expected why it is played on sockets only"),
        ("[[event]]", "[[event]]\nfor_s = 1.0", "unknown key 'for_s' in event[0]"),
        ('do = "kill"', 'do = "power-loss"', "it means nothing in virtual time"),
        ('"link_down"', '"link-down"', "there is no event 'link-down'; did you mean 'link_down'?"),
    ],
)
def test_what_is_wrong_in_a_script_is_one_line(old, new, said, tmp_path):
    path = tmp_path / "script.toml"
    path.write_text(GOOD.replace(old, new, 1))
    if not said:
        load_script(path)
        return
    with pytest.raises(ConfigError) as caught:
        load_script(path)
    text = str(caught.value)
    assert said in text and "\n" not in text and text.startswith(f"fault script {path}: ")


def test_what_only_the_server_has_needs_a_log(tmp_path):
    path = tmp_path / "script.toml"
    path.write_text(GOOD.replace('"robot-0"', '"server"').replace('"log"', '"none"'))
    with pytest.raises(ConfigError, match="expected durability = 'log'"):
        load_script(path)


def test_all_times_are_scaled_alike():
    script = load_script(SCRIPTS["rate-zero"])
    short = script.lasting(6.2)
    assert short.scale == pytest.approx(0.1) and short.length_s == pytest.approx(6.2)
    assert short.team.pace_of(0) == pytest.approx(script.team.pace_of(0) / 10)
    assert short.team.rate_mbps == pytest.approx(10 * script.team.rate_mbps)
    assert short.server_settings.absence_limit_s == pytest.approx(script.server_settings.absence_limit_s / 10)
    assert short.server_settings.silence_limit_s == pytest.approx(1.0)
    assert script.lasting(1.0).server_settings.silence_limit_s == 0.5, "no shorter than may be set"
    assert script.lasting(1000.0) is script


# -- what a script is played with --------------------------------------------------------------------------------------


def echo_server():
    """A server that sends back what it is sent; its port, and what ends it."""
    listener = socket.create_server(("127.0.0.1", 0))
    taken = []

    def serve():
        sock, _ = listener.accept()
        taken.append(sock)
        with contextlib.suppress(OSError):
            while data := sock.recv(1 << 16):
                sock.sendall(data)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()

    def end():
        with contextlib.suppress(OSError):  # it was closed from the other end
            taken[0].shutdown(socket.SHUT_RDWR)
        thread.join(LIMIT_S)
        taken[0].close()
        listener.close()

    return listener.getsockname()[1], end


def received(sock, count):
    found = b""
    while len(found) < count:
        found += sock.recv(count - len(found))
    return found


def silent(sock, for_s=0.15):
    """Nothing comes, neither bytes nor an end."""
    return not select.select([sock], [], [], for_s)[0]


def test_a_link_stalls_in_the_middle_of_a_frame_and_goes_on():
    rows = Rows(1, 1, codec_by_name("raw").wire_id, False, True, np.arange(20), np.zeros(20 * 256, dtype=np.uint8))
    head, frame = encode(Heartbeat()), encode(rows)
    port, end = echo_server()
    with Link(port, 1e9) as link, socket.create_connection(("127.0.0.1", link.port), LIMIT_S) as sock:
        link.stall("up", mid_frame=True)
        sock.sendall(head + frame)
        half = len(head) + HEADER_BYTES + (len(frame) - HEADER_BYTES) // 2
        assert received(sock, half) == (head + frame)[:half]
        assert silent(sock)
        assert link.go_on()
        assert received(sock, len(head + frame) - half) == (head + frame)[half:]
        link.stall("up", mid_frame=True)
        assert not link.go_on(), "no frame has come by"
    end()


def test_a_link_that_is_cut_tells_nobody():
    port, end = echo_server()
    with Link(port, 1e9) as link, socket.create_connection(("127.0.0.1", link.port), LIMIT_S) as sock:
        sock.sendall(b"a")
        assert received(sock, 1) == b"a"
        link.stall("down")
        sock.sendall(b"b")
        assert silent(sock)
        link.go_on()
        assert received(sock, 1) == b"b"
        link.stall()
        end()
        assert silent(sock), "the server's end passes like all else"
        link.go_on()
        assert sock.recv(1) == b""


def test_a_link_has_a_rate():
    port, end = echo_server()
    with Link(port, 8e6) as link, socket.create_connection(("127.0.0.1", link.port), LIMIT_S) as sock:
        began = time.monotonic()
        sender = threading.Thread(target=sock.sendall, args=(bytes(200_000),))
        sender.start()
        received(sock, 200_000)
        passed_s = time.monotonic() - began
        sender.join(LIMIT_S)
        assert passed_s > 0.2, "a megabyte a second"
        link.set_rate(0.0)
        sock.sendall(b"x")
        assert silent(sock)
    end()


def test_a_disk_forgets_what_was_not_synchronised(tmp_path):
    disk = FaultyDisk(tmp_path)
    kept, lost = disk.create("kept"), disk.create("lost")
    kept.write(b"whole")
    kept.sync()
    kept.write(b"x" * 1000)
    lost.write(b"gone")
    disk.full = True
    with pytest.raises(OSError, match="No space left"):
        kept.write(b"y")
    with pytest.raises(OSError, match="No space left"):
        disk.create("more")
    disk.lose_power(random.Random(1))
    left = (tmp_path / "kept").read_bytes()
    assert left.startswith(b"whole") and len(left) < 1005
    assert not (tmp_path / "lost").exists()


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def demo(monkeypatch, capsys):
    with running(monkeypatch, capsys, "demo") as run:
        yield run


@pytest.mark.system
def test_the_demo_plays_a_fault_and_says_what_held(demo, tmp_path):
    path = tmp_path / "short.toml"
    path.write_text(GOOD.replace("restart_after_s = 1.0", "restart_after_s = 0.1"))
    code, out, _ = demo("--fault", path, "--out", tmp_path / "out")
    assert code == 0, out
    assert "kill robot-0 at 1 s, and start again 0.1 s later" in out and "robot-0: joined" in out
    assert "held  nothing counts twice (invariant 5): 0 too many" in out
    assert f"everything held; everything is in {tmp_path / 'out' / 'short'}" in out
    assert (tmp_path / "out" / "short" / "server.jsonl").exists()


def test_the_demo_fails_where_something_did_not_hold(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(fault, "play_sockets", lambda script, folder, observer: play_virtual(script))
    path = tmp_path / "short.toml"
    path.write_text(GOOD.replace('"link_down"', '"absent"'))
    code, out, _ = demo("--fault", path)
    assert code == 1
    assert "NOT   the journal names the cause (server: absent): no record" in out
    assert "1 of 8 did not hold" in out


def test_the_demo_says_in_one_line_what_is_wrong(demo, tmp_path):
    path = tmp_path / "short.toml"
    path.write_text(GOOD.replace("at_s", "at"))
    code, _, err = demo("--fault", path)
    assert code == 2 and "unknown key 'at' in event[0]; did you mean 'at_s'?" in err
    path.write_text(GOOD)
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "mine.txt").touch()
    code, _, err = demo("--fault", path, "--out", tmp_path)
    assert code == 2 and "holds files that no fault script wrote" in err
    assert (tmp_path / "short" / "mine.txt").exists()


def test_a_team_that_does_not_begin_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(sockets, "BEGIN_LIMIT_S", 0.0)
    with pytest.raises(WorkerFailed, match="the team is not complete: robot-0 starting"):
        play_sockets(load_script(SCRIPTS["cut-5s"]), tmp_path / "out", Quiet())


def test_a_frame_that_never_comes_is_told(tmp_path):
    """A cut in the middle of a frame of rows, on a link that carries none by then."""
    script = load_script(SCRIPTS["cut-mid-frame"])
    cut = msgspec.structs.replace(script.event[0], at_s=0.5, for_s=0.5)
    slow = msgspec.structs.replace(script.team, pace_s=5.0, steps=1)
    report = play_sockets(
        msgspec.structs.replace(script, event=(cut,), team=slow, journal=()), tmp_path / "out", Quiet()
    )
    assert broken(report) == {"everything happens as it is written"}


def test_what_a_process_waits_for_a_processor_is_measured(monkeypatch, tmp_path):
    def told(**by_thread):
        for thread, nanoseconds in by_thread.items():
            path = tmp_path / "7" / "task" / thread / "schedstat"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"1000 {nanoseconds} 5\n")

    monkeypatch.setattr(delays, "_PROC", tmp_path)
    seen = delays.Delays()
    told(one=1_000_000_000)
    seen.look(10.0, [7, 8])
    told(one=1_500_000_000, two=250_000_000)
    seen.look(20.0, [7, 8])
    assert seen.between(10.0, 20.0) == seen.between(12.0, 15.0) == 0.75
    assert seen.between(0.0, 5.0) == 1.0 and seen.between(21.0, 22.0) == 0.0
    assert delays.Delays().between(0.0, 1.0) == 0.0


def test_a_frame_stops_in_the_middle_in_virtual_time():
    clock, came, free = Clock(), [], []
    pipe = Pipe(clock, 0.0, lambda: False)
    sender = Session("worker")
    pipe.deliver = lambda data: came.append((clock.now, len(data)))
    pipe.idle = lambda: free.append(clock.now)
    pipe.open(Connection(sender, Session("server")), sender, Trace.constant(8000.0))
    pipe.carry(0.0, Heartbeat(), bytes(1000))  # a second
    assert pipe.middle(0.0) is None, "it is no frame of rows"
    clock.at(0.25, lambda: pipe.stall(clock.now, 2.25))
    clock.at(1.25, lambda: pipe.stall(clock.now, 3.25))
    while clock.next < math.inf:
        clock.step()
    assert came == [(0.25, 250), (4.0, 750)] and free == [4.0]
    pipe.stall(clock.now, 6.0)
    assert not pipe.takes(5.0)
    while clock.next < math.inf:
        clock.step()
    assert free == [4.0, 6.0] and pipe.takes(6.0)
