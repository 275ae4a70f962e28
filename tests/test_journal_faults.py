"""A journal never stops the training and is never emptied: full disks, second starts, crashes, forks."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import rowcast
from live import LAYOUT, LIMIT_S, LiveServer, Robot, eventually, python, start_of
from rowcast.errors import ConfigError
from rowcast.experiment.audit import ServerAudit, WorkerAudit, prove
from rowcast.journal import FileSink, Journal, open_journal, read_journal, session_count, write_to

POLICIES = ("bsp?codec=raw", "rog:4?codec=raw", "rowcast?codec=raw")


class Disk:
    """Stands for ``os.write``: while it is full, half of a line is written, and then nothing."""

    def __init__(self, monkeypatch):
        self.full = False
        self.refused = 0
        self._write = os.write
        self._room = 0
        monkeypatch.setattr("rowcast.journal.sinks.os.write", self.write)

    def fill(self, room=20):
        self.full, self._room = True, room

    def write(self, file, data):
        if not self.full:
            return self._write(file, data)
        if self._room:
            taken, self._room = self._write(file, bytes(data[: self._room])), 0
            return taken
        self.refused += 1
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FullStream(io.StringIO):
    """A text file on a disk that is full for a while."""

    error: OSError | None = None

    def write(self, text):
        if self.error is not None:
            super().write(text[: len(text) // 2])
            raise self.error
        return super().write(text)


def metric(journal, now):
    journal.record(now, "metric", iteration=int(now), name="loss", value=now)


def texts(caplog):
    return [record.getMessage() for record in caplog.records]


# -- what cannot be written --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EPIPE, errno.EROFS, errno.EBADF])
def test_what_is_missing_is_said_first(tmp_path, caplog, number):
    stream = FullStream()
    journal = Journal("robot1", write_to(stream))
    metric(journal, 0.0)
    stream.error = OSError(number, os.strerror(number))
    for now in (1.0, 1.5, 2.5, 4.0):
        metric(journal, now)
    stream.error = None
    metric(journal, 4.5)  # a file that failed is not tried with every record
    metric(journal, 6.0)
    path = tmp_path / "journal.jsonl"
    path.write_text(stream.getvalue())
    first, gap, last = read_journal(path)
    assert (first["t"], last["t"]) == (0.0, 6.0)
    why = os.strerror(number)
    assert gap == {"t": 6.0, "node": "robot1", "event": "gap", "records": 5, "since": 1.0, "why": why}
    assert journal.missed == 5
    told = texts(caplog)
    assert len([text for text in told if "goes on without the record" in text and why in text]) == 1
    assert any("3 damaged lines" in text for text in told) and any("5 records are missing" in text for text in told)


def test_one_warning_however_often_it_happens(caplog):
    stream = FullStream()
    journal = Journal("robot1", write_to(stream))
    for now in range(0, 40, 2):
        stream.error = OSError(errno.ENOSPC, "full") if now % 4 else None
        metric(journal, float(now))
    assert len(texts(caplog)) == 1
    assert stream.getvalue().count('"gap"') == 9


def test_a_closed_file_is_a_file_that_cannot_be_written(tmp_path, caplog):
    stream = io.StringIO()
    journal = Journal("robot1", write_to(stream))
    stream.close()
    metric(journal, 0.0)
    sink = FileSink(tmp_path / "journal.jsonl")
    journal = Journal("robot1", sink)
    sink.close()
    metric(journal, 0.0)
    assert len(texts(caplog)) == 2 and journal.missed == 1


def test_a_journal_that_ends_without_its_last_records_says_so(tmp_path, caplog, monkeypatch):
    disk = Disk(monkeypatch)
    with open_journal("robot1", tmp_path / "journal.jsonl") as journal:
        metric(journal, 0.0)
        disk.fill()
        metric(journal, 1.0)
        metric(journal, 1.1)
    assert "ends without its last 2 records: No space left on device" in texts(caplog)[-1]
    assert [record["t"] for record in read_journal(tmp_path / "journal.jsonl")] == [0.0]


def test_a_gap_that_is_told_at_the_end_has_no_time_that_is_still_to_come(tmp_path):
    stream = FullStream()
    journal = Journal("robot1", write_to(stream))
    stream.error = OSError(errno.ENOSPC, "full")
    for now in (1.0, 1.25):
        metric(journal, now)
    stream.error = None
    journal.close()  # right behind the last record; the file would be tried again at 2.0
    (tmp_path / "journal.jsonl").write_text(stream.getvalue())
    (gap,) = read_journal(tmp_path / "journal.jsonl")
    assert (gap["event"], gap["t"], gap["since"], gap["records"]) == ("gap", 1.25, 1.0, 2)


def test_the_end_is_tried_once_more(tmp_path, caplog, monkeypatch):
    disk = Disk(monkeypatch)
    path = tmp_path / "journal.jsonl"
    with open_journal("robot1", path) as journal:
        disk.fill()
        journal.record(0.0, "start", role="worker")
        metric(journal, 0.5)
        disk.full = False
    start, gap = read_journal(path)
    assert (start["event"], gap["records"]) == ("start", 1)


def test_a_session_has_its_header_though_the_disk_was_full_when_it_began(tmp_path, monkeypatch):
    path = tmp_path / "journal.jsonl"
    with open_journal("robot1", path) as journal:
        journal.record(100.0, "start", role="worker")
        metric(journal, 101.0)
    disk = Disk(monkeypatch)
    disk.fill()
    with open_journal("robot1", path) as journal:
        journal.record(0.0, "start", role="worker")
        metric(journal, 0.5)
        disk.full = False
        metric(journal, 2.0)
    assert [(record["t"], record["event"]) for record in read_journal(path)] == [
        (0.0, "start"),
        (2.0, "gap"),
        (2.0, "metric"),
    ]
    assert session_count(path) == 2


@pytest.mark.parametrize("policy", POLICIES)
def test_a_team_trains_on_while_its_disk_is_full_and_afterwards(tmp_path, monkeypatch, caplog, policy):
    disk = Disk(monkeypatch)
    paths = [tmp_path / f"{name}.jsonl" for name in ("server", "robot-0", "robot-1")]
    server_journal, *journals = (Journal(path.stem, FileSink(path)) for path in paths)
    with LiveServer(policy, journal=server_journal, expected_workers=2) as server:
        robots = [
            Robot(server, journal.node, steps=24, update=1 + place, pause_at=8, journal=journal)
            for place, journal in enumerate(journals)
        ]
        for robot in robots:
            assert robot.at_pause.wait(LIMIT_S)
        disk.fill()
        for robot in robots:
            robot.pause_at = 16
            robot.at_pause.clear()
            robot.go_on.set()
        for robot in robots:
            assert robot.at_pause.wait(LIMIT_S)
        assert disk.refused >= 3
        disk.full = False
        for robot in robots:
            robot.done()
        audit = prove(
            ServerAudit.of(server.node, LAYOUT, start_of()),
            [WorkerAudit.of(robot.team.node, metrics={}, busy_s=[], paces_s=[]) for robot in robots],
        )
        assert audit.clean and audit.total_error < 1e-6, audit
    assert len([text for text in texts(caplog) if "goes on without" in text]) == 3
    for journal in (server_journal, *journals):
        journal.close()
        assert journal.missed > 0
    for path, journal in zip(paths, (server_journal, *journals), strict=True):
        found = list(read_journal(path))
        assert sum(record["records"] for record in found if record["event"] == "gap") == journal.missed


SCRIPT = """
import pathlib, resource, sys
from rowcast.journal import Journal, FileSink, read_journal

path, how = pathlib.Path(sys.argv[1]), sys.argv[2]
journal = Journal("robot1", FileSink(path))
for n in range(10):
    journal.record(n, "metric", iteration=n, name="loss", value=0.5)
if how == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, resource.RLIM_INFINITY))
else:
    filler = path.with_name("filler")
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
for n in range(10, 200):
    journal.record(n, "metric", iteration=n, name="loss", value=0.5)
if how == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
else:
    filler.unlink()
journal.record(200, "end", cause="x")
found = list(read_journal(path))
(gap,) = [record for record in found if record["event"] == "gap"]
assert found[-2:] == [gap, {"t": 200, "node": "robot1", "event": "end", "cause": "x"}], found[-2:]
assert gap["records"] == journal.missed > 100 and len(found) == 202 - journal.missed, (gap, len(found))
print(gap["why"])
"""


@pytest.mark.parametrize(("how", "why"), [("limit", "File too large"), ("tmpfs", "No space left on device")])
def test_a_real_file_system_that_is_full_for_a_while(tmp_path, how, why):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "j.jsonl"), how]
    if how == "tmpfs":
        inside = f'mount -t tmpfs -o size=32k none "{tmp_path}" && exec "$@"'
        probe = ["unshare", "-m", "sh", "-c", inside, "sh"]
        try:
            allowed = subprocess.run([*probe, "true"], capture_output=True, timeout=LIMIT_S).returncode == 0
        except FileNotFoundError:
            allowed = False
        if not allowed:
            pytest.skip("no private mount is allowed here (unshare -m, as root)")
        command = [*probe, *command]
    found = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert found.returncode == 0, found.stderr
    assert found.stdout == f"{why}\n"


def test_a_log_on_a_full_disk_ends_nobody(tmp_path):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with full.open("w") as out, full.open("w") as log:
        process = python(
            "-m", "rowcast", "serve", "--port=0", "--seconds=0.3", "--journal", tmp_path / "j", stdout=out, stderr=log
        )
        assert process.wait(LIMIT_S) == 1  # it says that not all could be written
    assert [record["event"] for record in read_journal(tmp_path / "j")] == ["start", "end"]
    assert list(read_journal(tmp_path / "j"))[-1]["cause"] == "0.3 s are over"


# -- several sessions in one file --------------------------------------------------------------------------------------


def test_a_file_is_appended_to_and_the_last_session_is_read(tmp_path):
    path = tmp_path / "journal.jsonl"
    for clock in (500.0, 3.0, 40.0):  # the clock begins anew when the machine does
        with open_journal("robot1", path) as journal:
            journal.record(clock, "start", role="worker")
            metric(journal, clock + 1)
    assert session_count(path) == 3
    assert [record["t"] for record in read_journal(path)] == [40.0, 41.0]
    assert [record["t"] for record in read_journal(path, session=0)] == [500.0, 501.0]
    assert [record["t"] for record in read_journal(path, session=-2)] == [3.0, 4.0]
    assert [record["t"] for record in read_journal(path, session=None)] == [500.0, 501.0, 3.0, 4.0, 40.0, 41.0]
    for session in (3, -4):
        with pytest.raises(ConfigError, match=r"expected a session in 0 \.\. 2"):
            list(read_journal(path, session=session))


def test_a_session_without_a_header_is_given_one(tmp_path):
    path = tmp_path / "journal.jsonl"
    for clock in (500.0, 3.0):
        journal = Journal("robot1", FileSink(path))
        metric(journal, clock)
        journal.close()
    assert [record["event"] for record in read_journal(path, session=0)] == ["metric"]
    start, _ = read_journal(path)
    assert (start["t"], start["node"], start["event"], start["role"]) == (3.0, "robot1", "start", None)


def test_what_a_crash_cut_short_is_left_out_and_the_next_session_begins_on_a_new_line(tmp_path, caplog):
    path = tmp_path / "journal.jsonl"
    with open_journal("robot1", path) as journal:
        journal.record(1.0, "start", role="worker")
        metric(journal, 2.0)
    whole = path.read_bytes()
    header = whole.index(b"\n") + 1
    for cut in range(1, len(whole)):
        path.write_bytes(whole[:cut])
        with open_journal("robot1", path) as journal:
            journal.record(9.0, "start", role="worker")
        assert [record["t"] for record in read_journal(path)] == [9.0]
        assert path.read_bytes().startswith(whole[:cut])
        before = [record["t"] for record in read_journal(path, session=None)][:-1]
        assert before == ([1.0, 2.0] if cut == len(whole) - 1 else [1.0] if cut >= header - 1 else [])
    # What a power failure leaves of blocks that were never written.
    path.write_bytes(whole + bytes(50) + b"\n" + whole[header:])
    assert len(list(read_journal(path))) == 3
    assert any("1 damaged line left out" in text for text in texts(caplog))


def test_a_file_that_is_no_journal_is_not_appended_to(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"PK\x03\x04 weights")
    with pytest.raises(ConfigError, match=r"model\.pt: the file holds something else than a journal"):
        FileSink(path)
    assert path.read_bytes() == b"PK\x03\x04 weights"
    with pytest.raises(ConfigError, match="cannot be written"):
        FileSink(tmp_path / "a\0b")


def test_two_processes_do_not_write_one_file(tmp_path):
    path = tmp_path / "journal.jsonl"
    script = "import sys; from rowcast.journal import FileSink; sink = FileSink(sys.argv[1]); input()"
    other = python("-c", script, path, stdin=subprocess.PIPE)
    try:

        def refused():
            try:
                FileSink(path).close()
            except ConfigError as error:
                return str(error)
            return ""

        assert "another process writes this file" in eventually(refused)
    finally:
        other.communicate("\n", LIMIT_S)
    FileSink(path).close()  # its end frees the file, however it came


def test_a_device_is_written_by_many(caplog):
    first, second = Journal("robot-1", FileSink(os.devnull)), Journal("robot-2", FileSink(os.devnull))
    for journal in (first, second):
        metric(journal, 1.0)
    assert not caplog.records


def test_a_pipe_that_nobody_reads_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=r"pipe: cannot be written"):
        FileSink(tmp_path / "pipe")


def test_a_cell_of_a_notebook_may_be_run_again(tmp_path, caplog):
    path = tmp_path / "robot-1.jsonl"
    first = rowcast.join("127.0.0.1:1", name="robot-1", journal_file=path)
    second = rowcast.join("127.0.0.1:1", name="robot-1", journal_file=path)
    assert not caplog.records
    metric(first.journal, 1.0)  # robots of one process that share a file are told
    assert "another journal of this process writes the file now" in texts(caplog)[0]
    metric(second.journal, 1.0)
    assert [record["event"] for record in read_journal(path)] == ["start", "metric"]
    assert session_count(path) == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_neither_writes_nor_holds_the_file(tmp_path):
    path = tmp_path / "journal.jsonl"
    script = """
import os, sys
from rowcast.journal import FileSink, Journal
journal = Journal("robot1", FileSink(sys.argv[1]))
journal.record(0.0, "end", cause="parent")
child = os.fork()
journal.record(1.0, "end", cause="child" if child == 0 else "parent")
if child == 0:
    print("forked", flush=True)
    sys.stdin.readline()
    os._exit(0)
os._exit(0)
"""
    process = python("-c", script, path, stdin=subprocess.PIPE)
    try:
        assert process.stdout.readline() == "forked\n"
        assert process.wait(LIMIT_S) == 0
        FileSink(path).close()  # the child lives; the lock does not
    finally:
        process.communicate("\n", LIMIT_S)
    assert [record["cause"] for record in read_journal(path)] == ["parent", "parent"]


# -- the command -------------------------------------------------------------------------------------------------------


def test_a_second_start_of_a_server_leaves_the_journal_of_the_first_alone(tmp_path):
    path = tmp_path / "server.jsonl"
    first = python("-m", "rowcast", "serve", "--port=0", "--journal", path)
    try:
        port = first.stdout.readline().split(",")[0].rpartition(":")[2]
        before = path.read_bytes()
        assert before.startswith(b'{"t":')
        # The same command: the port is in use. With another port: the file is.
        for place, says in ((port, "cannot listen"), ("0", "another process writes this file")):
            second = python("-m", "rowcast", "serve", "--port", place, "--journal", path)
            _, err = second.communicate(timeout=LIMIT_S)
            assert second.returncode == 2 and says in err and "Traceback" not in err, err
            assert path.read_bytes() == before
        first.kill()  # a crash: its record stays when the server is started again
        first.wait(LIMIT_S)
        again = python("-m", "rowcast", "serve", "--port=0", "--seconds=0", "--journal", path)
        assert again.wait(LIMIT_S) == 0
        again.communicate()
    finally:
        first.kill()
        first.communicate()
    assert path.read_bytes().startswith(before)
    assert session_count(path) == 2
    assert [record["event"] for record in read_journal(path)] == ["start", "end"]
    assert [record["event"] for record in read_journal(path, session=0)] == ["start"]


def test_a_robot_that_joins_twice_appends(tmp_path):
    path = tmp_path / "robot.jsonl"
    threads = threading.active_count()
    for steps in (3, 5):
        with LiveServer() as server:
            team = rowcast.join(f"127.0.0.1:{server.port}", name="robot", journal_file=path)
            team.start(LAYOUT, start_of())
            for _ in range(steps):
                team.accumulate([team.replica[spec.start : spec.stop] for spec in LAYOUT.tensors], 1.0)
                team.exchange()
            team.finish()
    assert [sum(record["event"] == "step" for record in read_journal(path, session=n)) for n in (0, 1)] == [3, 5]
    start = next(iter(read_journal(path)))
    assert (start["event"], start["role"], start["version"]) == ("start", "worker", rowcast.__version__)
    assert start["settings"]["join_limit_s"] == 30.0
    assert threading.active_count() == threads
