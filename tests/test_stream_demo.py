"""The demo of streams: a whole one, small; its table, from the journals; and how it ends when something is wrong."""

from __future__ import annotations

import asyncio
import io
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from commands import running
from live import LIMIT_S, python
from recordings import rest
from rowcast.cli import ExitCode
from rowcast.cli.display import plain, team_table
from rowcast.drivers.claim import claimed
from rowcast.errors import ConfigError, DataError, WorkerFailed
from rowcast.experiment.recorded_samples import write_samples
from rowcast.experiment.starting import state_file
from rowcast.experiment.stream_demo import run_stream_demo
from rowcast.experiment.stream_settings import StreamDemoSettings
from rowcast.journal import open_journal, read_journal
from rowcast.metric import Metric, metrics_to_json
from rowcast.report import curve_table, read_experiment
from rowcast.report.stream_figure import draw_streams
from rowcast.report.stream_tables import queue_table, stream_groups, summarise_stream
from rowcast.report.table import table_of
from rowcast.report.terminal import stream_terminal_table
from rowcast.sources import McapSource, make_source
from rowcast.tasks import build_task, unpack_item
from rowcast.training.member import MemberStatus

RULES = {"fixed:32": "fixed-32", "team:64": "team-64"}


def pretend_pretrained(out):
    """A model that took no time to train, where the demo finds its pre-trained one."""
    task = build_task("cruda-digits", pretrain_epochs=0)
    task.pretrain()
    (out / "states").mkdir()
    task.save_state(out / "states" / state_file(build_task("cruda-digits", seed=0)))


@pytest.fixture
def rowcast(monkeypatch, capsys):
    with running(monkeypatch, capsys, "stream", "demo") as run:
        yield run


@pytest.fixture(scope="module")
def demo_out(tmp_path_factory):
    """What a demo of two robots and 1.5 s for each rule left behind, and what it printed."""
    out = tmp_path_factory.mktemp("demo")
    pretend_pretrained(out)
    process = python(
        *("-m", "rowcast", "stream", "demo", "--rates=60,120", "--batch", ",".join(RULES), "--seconds=1.5"),
        *("--set", "test_items=50", "--out", out),
    )
    printed, err = process.communicate(timeout=6 * LIMIT_S)
    assert process.returncode == 0, printed + err
    return out, printed


@pytest.mark.system
def test_demo_leaves_everything_behind(demo_out):
    out, printed = demo_out
    for rule, folder in RULES.items():
        assert re.search(rf"^ {rule} +[\d.]+ ", printed, re.MULTILINE), printed
        for node in ("server", "robot-0", "robot-1"):
            events = [record["event"] for record in read_journal(out / folder / f"{node}.jsonl")]
            assert events[0] == "start" and "end" in events
    assert (out / "streams.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.system
def test_its_figures_are_those_of_the_journals_and_nothing_is_lost(demo_out):
    out, _ = demo_out
    summary = json.loads((out / "summary.json").read_text())
    assert [run["feeding"]["batch"] for run in summary["runs"]] == list(RULES)
    assert {run["feeding"]["rates"] for run in summary["runs"]} == {"60/120"}
    assert [run["feeding"]["buffer"] for run in summary["runs"]] == ["persist", "truncate:1s"]
    for run, folder in zip(summary["runs"], RULES.values(), strict=True):
        assert run["audit"]["clean"] and (run["audit"]["lost"], run["audit"]["doubled"]) == (0, 0)
        figures = run["figures"]
        records = [record for k in range(2) for record in read_journal(out / folder / f"robot-{k}.jsonl")]
        steps = [record for record in records if record["event"] == "step"]
        assert 0 < figures["steps"] <= len(steps) / 2
        assert figures["largest_queue"] <= max(step["queued"] for step in steps)
        assert 0 < figures["samples_per_s"] * 1.4 <= sum(step["samples"] for step in steps)
        assert 0 <= figures["starve_share"] <= 1 and figures["age_s"] > 0
        assert 0 <= figures["final_accuracy"] <= 100
    assert all(step["samples"] == 32 for step in read_journal(out / "fixed-32" / "robot-1.jsonl") if "samples" in step)


@pytest.mark.system
def test_what_it_did_can_be_done_by_hand(demo_out, tmp_path):
    """Its sources are texts that anybody can give to ``rowcast train``; its files hold the samples of the task."""
    out, printed = demo_out
    source = f"{out / 'streams' / 'robot-0.mcap'}?rate=60&loop=1"
    settings = json.loads((out / "team-64" / "robot-0.json").read_text())
    assert settings["robot"]["stream"]["sources"] == [source]
    assert f"--source '{source}' --batch team:64" in printed
    played = make_source(source)
    played.open()
    assert played.take(5, 5.0)
    played.close()
    file = McapSource(out / "streams" / "robot-1.mcap")
    file.open()
    samples = rest(file)
    file.close()
    assert len(samples) == math.ceil(120 * 1.5) + 1
    for sample, (image, label) in zip(samples, build_task("cruda-digits").samples(1, 2), strict=False):
        found = unpack_item(sample.payload)
        assert torch.equal(found[0], image) and torch.equal(found[1], label)


@pytest.mark.system
def test_a_finished_folder_is_drawn_again(demo_out, monkeypatch, capsys):
    out, _ = demo_out
    with running(monkeypatch, capsys, "report") as run:
        code, printed, err = run(out)
    assert code == 0, err
    page = (out / "report" / "report.html").read_text()
    assert "Streams: loopback, 2 robots, stream 60/120" in page
    for name in ("queues", "stream-accuracy"):
        assert (out / "report" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "report.html" in printed


def test_an_interrupted_demo_ends_with_its_code(rowcast, tmp_path, monkeypatch):
    """What becomes of the processes is the same as in the other demo."""

    def interrupted(*_):
        raise asyncio.CancelledError

    monkeypatch.setattr("rowcast.experiment.stream_demo.run_stream_demo", interrupted)
    monkeypatch.setattr("rowcast.cli.demo.limit_threads", lambda threads: None)
    assert rowcast("--out", tmp_path / "out") == (ExitCode.INTERRUPTED, "", "rowcast: interrupted\n")


def test_what_an_earlier_demo_left_is_not_that_of_the_folder_any_more(tmp_path, monkeypatch):
    """Where the new one does not come to its end, nothing is drawn from both."""

    def ended(*_):
        raise WorkerFailed("no more power")

    pretend_pretrained(tmp_path)
    (tmp_path / "summary.json").write_text("{}")
    monkeypatch.setattr("rowcast.experiment.stream_demo.run_team", ended)
    with pytest.raises(WorkerFailed):
        run_stream_demo(StreamDemoSettings(rates=(5.0,), seconds=1.0), tmp_path, Silent())
    assert not (tmp_path / "summary.json").exists()
    assert [path.name for path in (tmp_path / "streams").iterdir()] == ["robot-0.mcap"]


class Silent:
    """Whoever watches a demo, and says nothing of it."""

    def says(self, text):
        pass

    def shows(self, run, left_s, total_s, lines):
        pass


@pytest.mark.parametrize("streams", [True, False])
def test_the_display_shows_batch_and_queue_where_there_are_streams(streams):
    fed = {"samples": 32.0, "queued": 70.0} if streams else {}
    lines = [
        MemberStatus("robot-0", "computing", 3, 0, 0.0, {"accuracy": 50.0, "share": 1.0, **fed}),
        MemberStatus("robot-1", "computing", 0, 3, 0.0, {}),
    ]
    text = plain("fixed:32", lines)
    assert ("robot-0: step 3, 50, batch 32, queue 70, - Mbit/s" in text) is streams
    assert "robot-1: step 0, -, - Mbit/s, rows -, behind 3, computing" in text
    table = team_table("fixed:32", lines)
    cells = {str(column.header): list(map(str, column.cells)) for column in table.columns}
    assert cells["steps"] == ["3", "0"] and cells["behind"] == ["0", "3"] and cells["accuracy"] == ["50", "-"]
    assert (cells.get("batch"), cells.get("queue")) == ((["32", "-"], ["70", "-"]) if streams else (None, None))


def test_the_display_fits_80_columns():
    metrics = {"accuracy": 50.0, "share": 1.0, "rate_bps": 27.8e6, "samples": 1024.0, "queued": 12345.0}
    console = Console(width=80, file=io.StringIO())
    console.print(team_table("team:256", [MemberStatus("robot-10", "waiting", 1000, 10, 12.0, metrics)]))
    lines = console.file.getvalue().splitlines()
    assert "…" not in "".join(lines) and "waiting 12 s" in lines[-2]


# -- bad input ---------------------------------------------------------------------------------------------------------

WHOLE = str(Path(__file__).parents[1] / "examples" / "diabetes_task.py") + ":Diabetes"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--rates", "12,-1"], "--rates: expected"),
        (["--rates", ""], "expected"),
        (["--batch", "fixd:64"], "batch 'fixd:64' is unknown; did you mean 'fixed:64'?"),
        (["--batch", "fixed:64,fixed:64"], "batch: fixed:64,fixed:64 names one twice"),
        (["--buffer", "keep"], "buffer"),
        (["--policy", "bps"], "unknown policy 'bps'"),
        (["--seconds", "0"], "--seconds: expected"),
        (["--task", "cruda-digit"], "unknown task 'cruda-digit'"),
        (["--task", WHOLE], "task Diabetes: gives whole batches and no single samples"),
        (["--set", "rate=1"], "rate"),
    ],
    ids=lambda value: None if isinstance(value, str) else value[-1].rpartition("/")[2],
)
def test_bad_input_is_one_line(rowcast, tmp_path, words, says):
    code, _, err = rowcast(*words, "--out", tmp_path / "out")
    assert code == ExitCode.USAGE
    (line,) = err.splitlines()
    assert says in line and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_used(rowcast, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = rowcast("--out", tmp_path / "file" / "out")
    assert code == ExitCode.USAGE and "cannot be made" in err
    with claimed(tmp_path / ".lock"), pytest.raises(ConfigError, match="another demo runs in this folder"):
        run_stream_demo(StreamDemoSettings(), tmp_path, None)


def test_settings():
    assert [str(rule) for rule in StreamDemoSettings().rules] == ["fixed:64", "rate:1s", "team:256"]
    assert [str(rule) for rule in StreamDemoSettings(rates=(5.0, 6.0)).rules][-1] == "team:128"
    with pytest.raises(ConfigError, match="1 to 100 robots"):
        StreamDemoSettings(rates=(1.0,) * 101)


def test_help(rowcast):
    code, out, err = rowcast("--help")
    assert (code, err) == (0, "") and "--rates" in out and "--batch" in out


# -- samples as a recording --------------------------------------------------------------------------------------------


def test_samples_are_written_as_many_as_are_wanted_or_fit(tmp_path, monkeypatch):
    path = tmp_path / "a.mcap"
    assert write_samples(path, iter(range(10)), 4) == 4
    assert write_samples(path, iter(range(3)), 4) == 3
    source = McapSource(path)
    source.open()
    assert [unpack_item(sample.payload) for sample in rest(source)] == [0, 1, 2]
    source.close()
    monkeypatch.setattr("rowcast.experiment.recorded_samples.MOST_BYTES", 5000)
    assert write_samples(path, (np.zeros(250, np.float32) for _ in range(10)), 100) == 5


def test_samples_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="the task has none for this robot"):
        write_samples(tmp_path / "a.mcap", [], 4)
    with pytest.raises(DataError, match=r"item: cannot be written: .*got object"):
        write_samples(tmp_path / "a.mcap", [1, object()], 4)
    with pytest.raises(ConfigError, match=r"nowhere.*cannot be written"):
        write_samples(tmp_path / "nowhere" / "a.mcap", [1], 4)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setitem(sys.modules, "mcap.writer", None)
    with pytest.raises(ConfigError, match=r"pip install 'rowcast\[mcap\]'"):
        write_samples(tmp_path / "a.mcap", [1], 4)


# -- table and picture, by hand ----------------------------------------------------------------------------------------

ERROR = Metric("error", "m", "lower")


def fed(out, folder, batch, steps):
    """The journals of two robots, with a step each two seconds; robot k: 10 (k + 1) samples of 20 (k + 1) that wait."""
    (out / folder).mkdir(parents=True)
    for k in range(2):
        with open_journal(f"robot-{k}", out / folder / f"robot-{k}.jsonl") as journal:
            journal.record(0.0, "start", role="worker")
            for n in range(steps + 1):
                for name in ("accuracy", "error"):
                    journal.record(2.0 * n, "metric", iteration=n, name=name, value=50.0 + 10 * n + k)
                if n < steps:
                    journal.record(
                        2.0 * (n + 1),
                        "step",
                        **{"iteration": n + 1, "starve_s": 1.5, "compute_s": 0.25, "communicate_s": 0.25},
                        **{"stall_s": 0.0, "push_bytes": 9, "push_share": 1.0, "pull_bytes": 9, "skipped": False},
                        **{"quota_s": None, "mta_time_s": 0.0, "rate_bps": 1e6, "staleness": 0},
                        **{"samples": 10 * (k + 1), "queued": 20 * (k + 1), "dropped": k, "age_s": 0.5 * (k + 1)},
                        **{"exposed": 0, "exposed_bytes": 0},
                    )
    feeding = {"rates": "5/10", "batch": batch, "buffer": "persist", "inject": ""}
    return {"folder": folder, "policy": "bsp", "feeding": feeding}


def folder_of(out, runs, seconds=6.0):
    metrics = metrics_to_json([Metric("accuracy", "%", "higher"), ERROR])
    content = {"seed": 3, "settings": {"seconds": seconds}, "metrics": metrics, "versions": {}, "runs": runs}
    (out / "summary.json").write_text(json.dumps(content))
    return out


def test_the_table_is_what_one_computes_by_hand(tmp_path):
    experiment = read_experiment(folder_of(tmp_path, [fed(tmp_path, "a", "fixed:10", 3), fed(tmp_path, "b", "b:2", 2)]))
    first, second = map(summarise_stream, experiment.runs)
    assert first.to_json() == {
        "batch": "fixed:10",
        "steps": 3.0,
        "samples_per_s": (10 + 20) * 3 / 6.0,
        "step_s": 2.0,
        "starve_share": 0.75,
        "age_s": (10 * 0.5 + 20 * 1.0) / 30,
        "largest_queue": 40,
        "dropped": 3,
        "final_accuracy": 80.5,
        "final_error": 80.5,
    }
    assert (second.steps, second.samples_per_s) == (2.0, 10.0)
    assert experiment.runs[0].seed == 3 and experiment.runs[0].policy == "bsp"
    table = stream_terminal_table([first, second], experiment.metrics, 2)
    assert [column._cells for column in table.columns] == [
        ["fixed:10", "b:2"],
        ["3", "2"],
        ["15.00", "10.00"],
        ["2.000", "2.000"],
        ["75%", "75%"],
        ["0.833", "0.833"],
        ["40", "40"],
        ["3", "2"],
        ["80.5%", "70.5%"],
    ]
    assert "error at the end: fixed:10 80.5 m, b:2 70.5 m" in str(table.caption)
    assert "lower is better: error (m)" in str(table.caption)


def test_a_rule_that_made_no_step_is_named(tmp_path):
    experiment = read_experiment(folder_of(tmp_path, [fed(tmp_path, "a", "fixed:9000", 0)]))
    with pytest.raises(ConfigError, match=r"no robot finished a step with batches fixed:9000 in .* train for longer"):
        summarise_stream(experiment.runs[0])


@pytest.mark.parametrize("seconds", [6.0, 1200.0], ids=["seconds", "minutes"])
def test_the_picture(tmp_path, seconds):
    (group,) = stream_groups(read_experiment(folder_of(tmp_path, [fed(tmp_path, "a", "fixed:10", 3)], seconds)))
    curves = curve_table(group.groups, ERROR, "time")
    draw_streams(queue_table(group), curves, ERROR, tmp_path / "streams.svg")
    text = (tmp_path / "streams.svg").read_text()
    assert "mathdefault" not in text and text.startswith("<?xml")
    with pytest.raises(ConfigError, match="no curves of error, to draw"):
        draw_streams(queue_table(group), table_of(curves.columns, ()), ERROR, tmp_path / "none.png")


@pytest.mark.parametrize(
    ("runs", "says"),
    [
        (3, "runs: expected a list of objects, got 3"),
        ([{"policy": "bsp"}], "expected folder and policy of each, got None and 'bsp'"),
        ([{"folder": "../a", "policy": "bsp"}], "expected the name of a folder, got '../a'"),
        ([{"folder": "a", "policy": "bsp", "feeding": 3}], "feeding = 3 is not what"),
    ],
    ids=["no list", "no folder", "a folder elsewhere", "no feeding"],
)
def test_a_summary_that_nobody_wrote_is_refused(tmp_path, runs, says):
    fed(tmp_path, "a", "fixed:10", 1)
    with pytest.raises(ConfigError, match=re.escape(says)):
        read_experiment(folder_of(tmp_path, runs))
