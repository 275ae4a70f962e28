"""Journals as they are followed: lines that are not whole, files that come, shrink or are of another version."""

from __future__ import annotations

import json
import threading

import pytest

from commands import running
from live import eventually
from rowcast.errors import ConfigError
from rowcast.journal import Journal
from rowcast.page import Live, Recording, Watch
from rowcast.page.preview import preview


def line(t, event="gate", node="server", **fields):
    return json.dumps({"t": t, "node": node, "event": event, **fields}, separators=(",", ":")) + "\n"


START = line(0, "start", role="server")


def times(recording):
    return [record["t"] for record in recording.read(1000)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "server.jsonl"


def test_a_line_that_is_cut_is_waited_for(path):
    whole = START + line(1)
    path.write_text(whole[:-9])
    recording = Recording(path)
    assert times(recording) == [0] and times(recording) == []
    path.write_text(whole + line(2)[:5])
    assert times(recording) == [1]
    assert recording.remarks == []


def test_a_line_that_a_crash_cut_is_left_out_and_told_once(path):
    path.write_text(START + line(1)[:20] + "\n" + line(2) + line(3)[:9] + "\n" + line(4))
    recording = Recording(path)
    assert times(recording) == [0, 2, 4]
    assert recording.remarks == ["journal server.jsonl: a damaged line was left out"]


def test_a_file_that_became_shorter_is_read_again(path):
    path.write_text(START + line(1) + line(2))
    recording = Recording(path)
    assert times(recording) == [0, 1, 2]
    path.write_text(line(7, "start", role="server"))
    assert times(recording) == [7]
    assert "became shorter" in recording.remarks[0]


def test_another_version_is_told_of_once(path):
    path.write_text(START + line(1, "sung") + line(2, "sung") + line(3))
    recording = Recording(path)
    assert times(recording) == [0, 1, 2, 3]
    assert recording.remarks == ["journal server.jsonl: was written by another version: its events 'sung' are left out"]


@pytest.mark.parametrize("text", ["hello\n", "[1, 2]\n", '{"t": "soon", "node": "a", "event": "b"}\n', "\x00\xff{}\n"])
def test_what_is_no_journal_is_refused_in_one_line(path, text):
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"expected lines with t, node and event") as refused:
        times(Recording(path))
    assert "\n" not in str(refused.value)


def test_a_folder_in_the_order_of_time_with_files_that_appear(tmp_path):
    (tmp_path / "server.jsonl").write_text(START + line(3) + line(5))
    (tmp_path / "robot.jsonl").write_text(line(1, "start", "robot", role="worker") + line(4, node="robot"))
    (tmp_path / "notes.jsonl").write_text("no journal\n")
    recording = Recording(tmp_path)
    assert times(recording) == [0, 1, 3, 4, 5]
    assert "left out" in recording.remarks[0]
    (tmp_path / "later.jsonl").write_text(line(6, "start", "later", role="worker"))
    assert times(recording) == []
    recording.look_for_more()
    assert times(recording) == [6]


def test_records_behind_a_time_are_left_for_later(tmp_path):
    (tmp_path / "a.jsonl").write_text(START + line(3) + line(5))
    (tmp_path / "b.jsonl").write_text(line(2, "start", "b", role="worker") + line(4, node="b"))
    recording = Recording(tmp_path)
    assert [record["t"] for record in recording.read(99, until=3.5)] == [0, 2, 3]
    going_on = Recording(tmp_path, places=recording.places())
    assert times(going_on) == times(recording) == [4, 5]


def test_sessions(path):
    path.write_text(START + line(50) + line(7, "start", role="server") + line(9))
    assert times(Recording(path)) == [7, 9]
    assert times(Recording(path, session=1)) == [7, 9]
    # A clock that begins anew goes on where the one before ended.
    assert times(Recording(path, session=0)) == times(Recording(path, session=-2)) == [0, 50, 50, 52]
    with pytest.raises(ConfigError, match=r"expected a session in 0 \.\. 1, got 2"):
        Recording(path, session=2)


def test_the_last_session_is_found_across_blocks(path, monkeypatch):
    monkeypatch.setattr("rowcast.page.recording.CHUNK_BYTES", 64)
    path.write_text(START + "".join(line(t) for t in range(400)) + line(500, "start", role="server") + line(501) * 300)
    recording = Recording(path)
    assert recording.read(1)[0]["t"] == 500 and len(recording.read(1000)) == 300


def test_nothing_there(tmp_path):
    with pytest.raises(ConfigError, match="found nothing there"):
        Recording(tmp_path / "missing")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "server.jsonl").write_text(START)
    with pytest.raises(ConfigError, match=r"found none; there are some in run"):
        Recording(tmp_path)


def test_a_preview_has_the_whole_run_and_its_end(path):
    lines = [line(t, "step", "r", iteration=t, compute_s=1.0, stall_s=0.0) for t in range(150_000)]
    path.write_text(START + "".join(lines))
    team = preview({path: 0})
    robot = team.robots["r"]
    assert (team.start, team.now, robot.iteration) == (0, 149_999, 149_999)
    middles, _ = robot.curves["stall"].whole()
    assert team.records < 120_000 and min(middles) < 1000 and max(middles) > 149_000


@pytest.fixture
def watch(path):
    path.write_text(START)
    found = Watch(path)
    found.start()
    yield found
    found.close()


def test_what_is_written_while_it_is_watched_is_seen(watch, path):
    with path.open("a") as file:
        file.write(line(3, "join", peer="r"))
        file.flush()
        eventually(lambda: "r" in watch.team.robots)
        file.write("garbage\n")
        file.flush()
        eventually(lambda: any("damaged" in each.text for each in watch.team.log))


def test_a_long_run_is_shown_by_samples_until_it_is_read(path, monkeypatch):
    monkeypatch.setattr("rowcast.page.watching.LONG_BYTES", 1000)
    path.write_text(START + "".join(line(t, "step", "r", iteration=t) for t in range(5000)))
    watch = Watch(path)
    assert watch.loaded < 1 and watch.team.robots["r"].iteration == 4999
    generation = watch.generation
    watch.start()
    eventually(lambda: watch.loaded == 1)
    watch.close()
    assert watch.generation > generation and watch.team.records == 5001


def test_a_journal_tells_who_watches_it_also_when_it_cannot_be_written():
    def broken(record):
        raise OSError(28, "No space left on device")

    live = Live("a server")
    journal = Journal("server", broken)
    journal.watch(live.take)
    journal.record(1.0, "join", peer="r", epoch=1, iteration=0, how="seed", members=1)
    with journal.resting():
        journal.record(1.5, "join", peer="replayed", epoch=1, iteration=0, how="seed", members=1)
    thread = threading.Thread(target=lambda: journal.record(2.0, "end", cause="done"))
    thread.start()
    thread.join()
    with live.lock:
        live.pump()
    assert list(live.team.robots) == ["r"] and live.team.ended == "done"
    assert journal.missed == 3 and not live.replays


def test_what_the_page_cannot_take_in_is_left_out_and_told(monkeypatch):
    monkeypatch.setattr("rowcast.page.watching.MOST_WAITING", 3)
    live = Live("a server")
    for number in range(5):
        live.take({"t": float(number), "node": "server", "event": "join", "peer": f"r-{number}"})
    with live.lock:
        live.pump()
        live.pump()
    assert list(live.team.robots) == ["r-2", "r-3", "r-4"]
    assert [line.who for line in live.team.log].count("page") == 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["watch", "{}/missing"], "expected a file or a folder, found nothing there"),
        (["watch", "{}/file.jsonl"], "expected lines with t, node and event"),
        (["watch", "{}/ok.jsonl", "--page", "nowhere"], "expected PORT or HOST:PORT"),
        (["watch", "{}/ok.jsonl", "--session", "4"], "expected a session in 0 .. 0, got 4"),
        (["watch", "{}/ok.jsonl", "--page", "0.0.0.0:0", "--page-token-file", "{}/short"], "expected 16 or more"),
        (["watch", "{}/ok.jsonl", "--page", "0", "--page-token-file", "{}/none"], "cannot be read"),
        (["watch", "{}/ok.jsonl", "--page", "0", "--page-token-file", "{}/open"], "others can read it"),
        (["serve", "--page-token-file", "x"], "expected a page as well"),
    ],
)
def test_bad_input_is_one_line(monkeypatch, capsys, tmp_path, words, complaint):
    (tmp_path / "file.jsonl").write_text("no journal\n")
    (tmp_path / "ok.jsonl").write_text(START)
    (tmp_path / "short").write_text("short")
    (tmp_path / "open").write_text("a" * 32)
    (tmp_path / "short").chmod(0o600)
    (tmp_path / "open").chmod(0o644)
    with running(monkeypatch, capsys) as run:
        code, out, err = run(*(word.format(tmp_path) for word in words))
    assert code == 2 and complaint in err and len(err.splitlines()) == 1 and out == ""
