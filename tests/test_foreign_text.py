"""Names and sentences of others: shown as they are, on a terminal, in a log, on a page; never obeyed."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import pty
import re
import threading
import warnings

import pytest

from live import IMPATIENT, LAYOUT, LIMIT_S, LiveServer, Robot, eventually, python, start_of
from rowcast.cli.app import main
from rowcast.cli.display import plain, team_table
from rowcast.cli.streams import PlainConsole, Steady
from rowcast.drivers.sockets import Endpoint, Team
from rowcast.errors import ConfigError, visible
from rowcast.experiment import Comparison, run_comparison
from rowcast.report import read_experiment
from rowcast.report.table import table_of
from rowcast.session.readable import readable
from rowcast.testing import ScriptedWorker, VirtualTeam
from rowcast.training.member import MemberStatus
from rowcast.wire import Ack, Leave, Refusal, Waiting
from stub_cells import run_stub
from teams import noise

#: Names that a server lets in: all of their characters can be shown.
SHOWN = (
    "[/x]",
    "[link=https://example.org]robot[/link]",
    "[bold red]robot",
    ":boom:",
    "$\\frac$",
    "$x_{$",
    "=1+1",
    "../../robot",
    "<script>alert(1)</script>",
    "{{ 7 * 7 }}",
    "%s%n",
    "ロボット",
    "\U0001f600",
)
#: And some that it does not.
HIDDEN = ("\x1b[2J", "\x1b]8;;https://example.org\x07x", "a\nb", "a\rb", "a\0b", "\u202etxt", "\x9b31m", "a\u2028b")

#: What a terminal would obey, or not show where it stands.
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")


def test_what_cannot_be_shown_becomes_an_escape():
    assert visible("robot-0, ü, ロボット, \U0001f600 [/x]") == "robot-0, ü, ロボット, \U0001f600 [/x]"
    for name in HIDDEN:
        assert visible(name).isprintable() and visible(name) != name
    assert visible("\x1b[31m\n\u202e\ud800\U000e0001") == "\\x1b[31m\\n\\u202e\\ud800\\U000e0001"
    assert visible("x" * 501) == "x" * 500 + "…" and len(visible("\0" * 10**6)) == 4 * 500 + 1


def test_sentences_of_messages_are_made_visible():
    for message in (Leave("\x1b[2J"), Refusal("\x07", "\x1b[2J"), Waiting(3, "\x1b[2J" * 1000)):
        shown = {name: getattr(readable(message), name) for name in message.__struct_fields__}
        assert not OBEYED.search(repr(shown).replace("\\\\", ""))
        assert all(len(str(value)) < 3000 for value in shown.values())
    ack = Ack(3)
    assert readable(ack) is ack


@pytest.mark.parametrize("policy", ["bsp?codec=raw", "rog:4?codec=raw", "rowcast?codec=raw"])
def test_what_a_server_says_reaches_no_terminal_raw(policy, caplog):
    with LiveServer(policy) as server:
        robot = Robot(server, "robot", steps=4, pause_at=2)
        assert robot.at_pause.wait(LIMIT_S)

        def say(node):
            link = node.members["robot"].link
            node.team.notifier.say(link, Waiting(2, "\x1b]0;owned\x07 [/x]"))
            node.team.notifier.say(link, Leave("\x1b[2J goodbye"))
            server.server._pump()

        server.ask(say)
        eventually(lambda: "goodbye" in caplog.text)
        robot.go_on.set()
        robot.done()
    told = [record.getMessage() for record in caplog.records]
    assert any("\\x1b]0;owned\\x07 [/x]" in text for text in told)
    assert any("\\x1b[2J goodbye" in text for text in told)
    assert not any(OBEYED.search(text) for text in told)


@pytest.mark.parametrize("name", HIDDEN)
def test_a_name_that_cannot_be_shown_is_refused(name):
    """By its own machine at once; by a server that hears it from a program that does not ask first."""
    with pytest.raises(ConfigError, match="printable name") as caught:
        Team(Endpoint("127.0.0.1", 1), name=name, settings=IMPATIENT)
    assert not OBEYED.search(str(caught.value))
    team = VirtualTeam(LAYOUT, "bsp", [])
    team.start(ScriptedWorker(name, noise(0, LAYOUT), 1, initial=start_of()))
    team.run(2.0)
    assert not team.server.members
    assert not any(OBEYED.search(notice) for notice in (*team.server.notices, *team.workers[name].node.notices))


def test_a_server_on_a_terminal_shows_every_name_as_it_is(tmp_path):
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "200", "LINES": "60", "TERM": "xterm-256color", "PYTHONUTF8": "1"}
    words = ("serve", "--port=0", "--set", "gather_s=0", "--journal", tmp_path / "j")
    process = python("-m", "rowcast", *words, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    seen = bytearray()

    def read():
        try:
            while chunk := os.read(ours, 1 << 16):
                seen.extend(chunk)
        except OSError:  # the other end was closed
            pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    teams = []
    try:
        port = int(eventually(lambda: re.search(rb"127\.0\.0\.1:(\d+),", bytes(seen)))[1])
        for name in SHOWN:
            teams.append(Team(Endpoint("127.0.0.1", port), name=name, settings=IMPATIENT))
            teams[-1].start(LAYOUT, start_of())
        for name in SHOWN:
            eventually(lambda name=name: name.encode() in bytes(seen))
        assert process.poll() is None
        for team in teams:
            team.leave()
    finally:
        process.terminate()
        process.wait(LIMIT_S)
        reader.join(LIMIT_S)
        os.close(ours)
    assert process.returncode == 130
    text = seen.decode()
    assert "Traceback" not in text and "\x1b]8;" not in text


def test_tables_and_lines_show_names_as_they_are():
    for name in (*SHOWN, *HIDDEN):
        line = MemberStatus(name, "computing", 3, 0, 0.0, {"accuracy": 50.0})
        for width in (80, 20):
            console = PlainConsole()
            console.file, console.width = io.StringIO(), width
            console.print(team_table(name, [line]))
            console.print(name, soft_wrap=True)
            assert not OBEYED.search(console.file.getvalue())
            assert width == 20 or visible(name)[:20] in console.file.getvalue()
        assert visible(name)[:40] in plain("title", [line])


def test_a_complaint_is_one_line_that_a_terminal_does_not_obey(capsys, monkeypatch):
    log = logging.getLogger("rowcast")  # the command changes it for good, and how warnings are shown
    for name in ("handlers", "level", "propagate"):
        monkeypatch.setattr(log, name, getattr(log, name))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with pytest.raises(SystemExit) as ended:
        main(["train", "--task", "\x1b[2J[/x]\n\u202e"])
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and not OBEYED.search(err) and "[/x]" in err


def test_a_terminal_without_the_letters_gets_escapes():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    Steady(stream).write("ロボット ü\n")
    stream.flush()
    assert stream.buffer.getvalue() == "\\u30ed\\u30dc\\u30c3\\u30c8 ü\n".encode("latin-1")


# -- reports -----------------------------------------------------------------------------------------------------------


def test_a_report_of_robots_with_awkward_names_in_an_awkward_folder(tmp_path, capsys):
    out = tmp_path / "[/x][link=y]z"
    settings = Comparison(policies=("bsp",), workers=(1,), hours=0.05, seeds=1)
    (cell,) = run_comparison(settings, out, jobs=0, run=run_stub)
    folder = out / "cells" / cell.name
    own = folder / "robot-0.jsonl"
    names = [name for name in (*SHOWN, *HIDDEN) if "/" not in name and "\0" not in name]
    for name in names:
        (folder / f"{name}.jsonl").write_bytes(own.read_bytes())
    (folder / "links.json").write_text(json.dumps({name: {"up": "up.csv"} for name in [*names, "robot-0"]}))
    done = json.loads((folder / "done.json").read_text())
    done["versions"]["<b>"] = "\x1b[2J<script>"
    (folder / "done.json").write_text(json.dumps(done))
    words = ["compare", "--policies=bsp", "--workers=1", "--hours=0.05", "--seeds=1", "--out", str(out), "--jobs=0"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    shown = capsys.readouterr()
    assert "[/x][link=y]z" in shown.out.replace("\n", "") and shown.err == ""  # no warning of a letter without a shape
    page = (out / "report" / "report.html").read_text(encoding="utf-8")
    assert not OBEYED.search(page)
    assert "<script>" not in page and "&lt;script&gt;" in page
    for path in (out / "report").glob("*.csv"):
        text = path.read_text(encoding="utf-8")
        assert not OBEYED.search(text)
        cells = [value for line in csv.reader(io.StringIO(text)) for value in line]
        assert not [value for value in cells if value.startswith("=")]


def test_a_cell_is_no_formula(tmp_path):
    table_of(("=name", "value"), [("=1+1", -2.5), ("@x", 3), ("plain", None)]).save_csv(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "'=name,value\n'=1+1,-2.5\n'@x,3\nplain,\n"


def test_a_summary_does_not_lead_out_of_its_folder(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "robot-0.jsonl").write_text('{"t":0.0,"node":"robot-0","event":"end","cause":"x"}\n')
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "summary.json").write_text(json.dumps({"policies": {"../outside": {}}}))
    with pytest.raises(ConfigError, match=r"expected the name of a policy, got '\.\./outside'"):
        read_experiment(inside)
