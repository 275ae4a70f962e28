"""Reports of jobs that are not judged by an accuracy: a trajectory error in metres, of which less is better."""

from __future__ import annotations

import csv
import functools
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rowcast.cli.results import _at_equal_steps, _draw
from rowcast.errors import ConfigError
from rowcast.experiment import Cell, Comparison, run_comparison
from rowcast.journal import Journal, open_journal
from rowcast.metric import Metric, metrics_to_json
from rowcast.report import ACCURACY, Run, metric_over, read_experiment, write_report, write_results
from rowcast.report.comparison import curve_table, summary_table
from rowcast.report.curve_figure import direction, value_range
from rowcast.report.curves import team_curve
from rowcast.report.measures import final_value
from rowcast.report.parts import MOST_ACROSS, across
from rowcast.report.table import BOUNDS, Table, table_of
from rowcast.report.targets import _rounded_down, target_table
from stub_cells import step_of

PNG = b"\x89PNG\r\n\x1a\n"
ERROR = Metric("trajectory_error", "m", "lower")
SCORE = Metric("map_score")
METRICS = (ERROR, SCORE)
SETTINGS = Comparison(policies=("bsp", "rog:4"), workers=(2,), hours=0.05, seeds=3, eval_every_s=20.0)

#: Gives the value of a metric after so many steps: cell, index of the robot, steps, name.
Value = Callable[[Cell, int, int, str], float | None]


def by_hand(cell: Cell, index: int, n: int, name: str) -> float | None:
    """Exact in binary: an error that falls by a quarter of a metre in a step, or by three eighths under rog."""
    if name == SCORE.name:
        return float(n)
    return 5.0 - (0.375 if cell.policy.startswith("rog") else 0.25) * n + 0.125 * cell.seed - 0.125 * index


def run_metres(cell: Cell, folder: Path, progress: Callable[[float], None], value: Value = by_hand) -> None:
    """As ``run_virtual``: a step in each 20 s, and what was measured before the first and after each."""
    for index in range(cell.workers):
        with open_journal(f"robot-{index}", folder / f"robot-{index}.jsonl") as journal:
            journal.record(0.0, "start", role="worker", policy=cell.policy)
            for n in range(int(cell.seconds // 20) + 1):
                if n:
                    journal.record(20.0 * n, "step", **step_of(cell, n, 4, 2.0))
                measure(journal, cell, index, n, value)
    progress(cell.seconds)


def measure(journal: Journal, cell: Cell, index: int, n: int, value: Value) -> None:
    for metric in METRICS:
        found = value(cell, index, n, metric.name)
        if found is not None:
            journal.record(20.0 * n, "metric", iteration=n, name=metric.name, value=found)


def compared(out: Path, value: Value = by_hand, settings: Comparison = SETTINGS) -> Path:
    """A finished comparison whose runs name their metrics."""
    run_comparison(settings, out, jobs=0, run=functools.partial(run_metres, value=value))
    for path in out.glob("cells/*/done.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "metrics": metrics_to_json(METRICS)}))
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = compared(tmp_path_factory.mktemp("metres"))
    write_report(out)
    return out


def rows(folder: Path, name: str, **wanted: str) -> list[dict[str, str]]:
    with (folder / "report" / f"{name}.csv").open(newline="") as stream:
        return [row for row in csv.DictReader(stream) if all(row[key] == value for key, value in wanted.items())]


def groups_of(folder: Path) -> Mapping[str, list[Run]]:
    experiment = read_experiment(folder)
    return experiment.by_policy(experiment.conditions[0])


# -- tables and figures ------------------------------------------------------------------------------------------------


def test_time_and_energy_to_an_error_by_hand(folder: Path) -> None:
    """The mean of five looks at the team is 5.4375 - 0.25 n under bsp, 5.6875 - 0.375 n under rog, plus an eighth for
    each seed; it must hold for three."""
    table = {(row["trajectory_error_m"], row["policy"], row["until_then"]): row for row in rows(folder, "targets")}
    # The worst of what all kept: bsp with seed 2 at n = 7, 3.9375 m. The best that one policy kept: rog, 3.3125 m.
    assert list(dict.fromkeys(key[0] for key in table)) == ["3.94", "3.32"]
    for policy, seconds in (("bsp", (120 + 140 + 140) / 3), ("rog:4", (100 + 100 + 120) / 3)):
        row = table["3.94", policy, "seconds"]
        assert (row["bound"], float(row["mean"])) == ("", pytest.approx(seconds))
        assert float(row["low"]) < seconds < float(row["high"])
    late = table["3.32", "bsp", "seconds"]
    assert (late["bound"], late["low"], late["high"]) == (">", "", "")
    assert float(late["mean"]) == pytest.approx((160 + 160 + 180) / 3)
    assert float(table["3.32", "rog:4", "seconds"]["mean"]) == 140.0
    joules = table["3.94", "bsp", "joules of the team"]
    # A step of a robot: 2 s of computation, 4 s of communication, the rest at the price of a stall.
    assert float(joules["mean"]) == pytest.approx(400 / 3 / 20 * 2 * (2 * 13.35 + 4 * 4.25 + 14 * 4.04), rel=1e-3)


def test_the_primary_metric_is_first_everywhere(folder: Path) -> None:
    measures = [row["measure"] for row in rows(folder, "summary", policy="bsp")]
    assert measures[-2:] == ["trajectory error at the end (m)", "map score at the end"]
    assert float(rows(folder, "summary", policy="rog:4", measure=measures[-2])[0]["mean"]) == pytest.approx(1.6875)
    (paired,) = rows(folder, "paired", measure=measures[-2])
    assert paired["compared"] == "minus bsp" and float(paired["mean"]) == pytest.approx(-0.125 * 9)
    made = {path.name for path in (folder / "report").iterdir()}
    for name in ("trajectory_error", "map_score"):
        assert {f"{name}-{along}.{kind}" for along in ("steps", "time", "energy") for kind in ("csv", "png")} <= made
    assert {"targets.csv", "targets-map_score.csv"} <= made
    assert not [name for name in made if "accuracy" in name]
    curve = rows(folder, "trajectory_error-time", policy="bsp")
    assert [float(row["mean"]) for row in curve] == [5.0625 - 0.25 * n for n in range(10)]
    assert (folder / "report" / "trajectory_error-time.png").read_bytes().startswith(PNG)


def test_the_page_has_units_and_says_which_way_is_better(folder: Path) -> None:
    page = (folder / "report" / "report.html").read_text(encoding="utf-8")
    assert "Lower is better: trajectory error." in page
    assert "<th>trajectory error at the end (m)</th><th>map score at the end</th>" in page
    assert "Time and energy until a trajectory error is kept" in page
    assert page.index("Trajectory error against steps") < page.index("Map score against steps")
    assert "accuracy" not in page.lower()
    assert "Left out" not in page


def test_many_measures_stand_below_each_other() -> None:
    """A page is not as wide as a job with nine metrics; the numbers are the same."""

    def summary(count: int) -> Table:
        lines = [
            (policy, f"measure {k}", 1.0 * k, 0.5 * k, 1.5 * k, 3) for policy in ("bsp", "asp") for k in range(count)
        ]
        return table_of(("policy", "measure", *BOUNDS), lines)

    few, many = across(summary(MOST_ACROSS)), across(summary(MOST_ACROSS + 1))
    assert few.columns == ("policy", *(f"measure {k}" for k in range(MOST_ACROSS)), "seeds")
    assert many.columns == ("measure", "bsp", "asp")
    assert many.rows[2] == ("measure 2", "2 ± 1", "2 ± 1") and many.rows[-1] == ("seeds", 3, 3)
    assert [row[1] for row in many.rows[:MOST_ACROSS]] == list(few.rows[0][1:-1])


def test_results_name_the_metrics(folder: Path) -> None:
    line = json.loads((folder / "results.jsonl").read_text().splitlines()[0])
    assert line["metrics"] == metrics_to_json(METRICS)
    assert (line["final_trajectory_error"], line["final_map_score"]) == (2.6875, 9.0)
    assert line["curve"]["trajectory_error"] == [4.9375 - 0.25 * n for n in range(10)]
    assert line["curve_map_score"]["map_score"] == list(range(10))
    assert line["curve_map_score"]["elapsed_s"] == line["curve"]["elapsed_s"] == [20.0 * n for n in range(10)]


def test_a_metric_is_the_same_as_its_mirror_image(folder: Path) -> None:
    """Times to a level do not depend on which way is better, only on the way that the curves go."""
    groups = groups_of(folder)
    found = target_table(groups, ERROR)
    upward = {policy: [_negative(run) for run in runs] for policy, runs in groups.items()}
    mirrored = target_table(upward, Metric(ERROR.name, "m", "higher"))
    assert [row[1:] for row in mirrored.rows] == [row[1:] for row in found.rows]
    assert [row[0] for row in mirrored.rows] == [-value for value in found.numbers("trajectory_error_m")]


def _negative(run: Run) -> Run:
    """A run whose robots measured the same error with the other sign."""
    robots = []
    for robot in run.robots:
        own = robot.measured[ERROR.name]
        robots.append(replace(robot, measured={ERROR.name: replace(own, values=-own.values)}))
    return replace(run, robots=tuple(robots))


@pytest.mark.parametrize(
    ("metric", "means", "half", "expected"),
    [
        (ERROR, (0.5, 1.5), 5.0, (0.0, 2.0)),  # a length is not negative
        (ERROR, (120.0, 180.0), 200.0, (90.0, 210.0)),  # and not a share
        (Metric("regret"), (-3.0, -1.0), 0.5, (-3.5, -0.5)),
        (Metric("error_rate", "%", "lower"), (50.0, 90.0), 70.0, (30.0, 100.0)),
        (ERROR, (0.02, 0.02), 0.0, (0.02, 0.02)),
    ],
)
def test_the_axis_shows_what_a_metric_can_be(
    metric: Metric, means: tuple[float, ...], half: float, expected: tuple[float, float]
) -> None:
    points = [("bsp", float(k), mean, mean - half, mean + half, 2) for k, mean in enumerate(means)]
    low, high = value_range([table_of(("policy", "time_s", *BOUNDS), points)], metric)
    edge = 0.03 * (expected[1] - expected[0]) or 0.05 * means[0]
    assert (low + edge, high - edge) == pytest.approx(expected)
    assert direction(metric) == ("↓ lower is better" if metric.better == "lower" else "↑ higher is better")


@pytest.mark.parametrize(
    ("value", "metric", "expected"),
    [
        (3.9375, ERROR, 3.94),
        (0.0123411, ERROR, 0.0124),
        (12_341.0, ERROR, 12_400.0),
        (0.0, ERROR, 0.0),
        (66.66, Metric("error_rate", "%", "lower"), 66.7),
        (66.66, ACCURACY, 66.6),
        (0.87654, SCORE, 0.876),
        (64.7 - 1e-12, ACCURACY, 64.6),  # rounded up, nobody would have kept it
    ],
)
def test_targets_are_rounded_to_the_worse_side(value: float, metric: Metric, expected: float) -> None:
    assert metric.sign * _rounded_down(metric.sign * value, metric) == pytest.approx(expected, rel=1e-12)


# -- what is not there -------------------------------------------------------------------------------------------------


def test_a_run_that_diverged_is_not_left_out_in_silence(tmp_path: Path) -> None:
    """Seed 1 of bsp gives no number from step 5 on: null in its journal."""

    def diverged(cell: Cell, index: int, n: int, name: str) -> float | None:
        lost = name == ERROR.name and (cell.policy, cell.seed) == ("bsp", 1) and index == 0 and n >= 5
        return math.nan if lost else by_hand(cell, index, n, name)

    out = compared(tmp_path / "out", diverged)
    page = write_report(out).read_text(encoding="utf-8")
    assert (
        "trajectory error at the end (m), outdoor, 2 robots, 2.18 s a gradient: bsp came to no number with seed 1"
        in page
    )
    assert "trajectory error against time, outdoor, 2 robots, 2.18 s a gradient: bsp has gaps" in page
    assert "not a number" in page
    groups = groups_of(out)
    runs = groups["bsp"]
    assert [math.isnan(final_value(run, ERROR) or 0.0) for run in runs] == [False, True, False]
    summary = summary_table(groups, METRICS).where(policy="bsp", measure="trajectory error at the end (m)")
    assert summary.rows[0][2:] == (pytest.approx((2.6875 + 2.9375) / 2), *summary.rows[0][3:5], 2)
    curve = curve_table(groups, ERROR, "time").where(policy="bsp")
    assert [row[2] is None for row in curve.rows] == [n >= 5 for n in range(10)]
    assert curve.rows[-1][2:] == (None, None, None, 2)
    # It kept the level of no window that spans the loss; others are asked for what they kept.
    early = rows(out, "targets", policy="bsp", until_then="seconds")
    assert all(row["bound"] == ">" or float(row["mean"]) < 180 for row in early)
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    (lost,) = [line for line in lines if (line["policy"], line["seed"]) == ("bsp", 1)]
    assert lost["final_trajectory_error"] is None and lost["curve"]["trajectory_error"][-1] is None


def test_a_metric_that_one_run_lacks(tmp_path: Path) -> None:
    def lacking(cell: Cell, index: int, n: int, name: str) -> float | None:
        return None if name == SCORE.name and cell.seed == 2 else by_hand(cell, index, n, name)

    out = compared(tmp_path / "out", lacking)
    page = write_report(out).read_text(encoding="utf-8")
    assert "map score at the end, outdoor, 2 robots, 2.18 s a gradient: bsp came to no number with seed 2" in page
    assert "time and energy until a map score is kept, outdoor, 2 robots, 2.18 s a gradient: a run has too few" in page
    (score,) = rows(out, "summary", policy="bsp", measure="map score at the end")
    assert (float(score["mean"]), score["seeds"]) == (9.0, "2")
    assert len(rows(out, "targets")) == 8  # the other metric has them
    assert not (out / "report" / "targets-map_score.csv").exists()


def test_a_level_that_is_never_kept(tmp_path: Path) -> None:
    """An error that jumps up and down, or is not a number all along, has targets only where something was kept."""

    def lost(cell: Cell, index: int, n: int, name: str) -> float | None:
        return math.nan if name == ERROR.name else by_hand(cell, index, n, name)

    out = compared(tmp_path / "out", lost)
    page = write_report(out).read_text(encoding="utf-8")
    assert not (out / "report" / "targets.csv").exists()
    assert "bsp came to no number with seed 0, 1, 2" in page
    assert not target_table(groups_of(out), ERROR).rows


def test_runs_without_a_step(tmp_path: Path) -> None:
    """Zero steps: what is divided by them is empty, and the page says of which seed."""
    settings = Comparison(policies=("bsp", "rog:4"), workers=(1,), hours=0.005, seeds=1, eval_every_s=20.0)
    out = compared(tmp_path / "out", by_hand, settings)
    page = write_report(out).read_text(encoding="utf-8")
    assert "steps, outdoor, 1 robot, 2.18 s a gradient: bsp finished none with seed 0" in page
    (step,) = rows(out, "summary", policy="bsp", measure="step (s)")
    assert (step["mean"], step["seeds"]) == ("", "0")
    assert not rows(out, "paired", measure="step (s)")


def test_nothing_is_divided_by_a_policy_that_sent_nothing(tmp_path: Path) -> None:
    out = compared(tmp_path / "out")
    for path in out.glob("cells/bsp_*_s1/*.jsonl"):
        path.write_text(path.read_text().replace('"push_bytes":1000', '"push_bytes":0'))
    page = write_report(out).read_text(encoding="utf-8")
    (sent,) = rows(out, "paired", measure="sent by the team (MB)")
    assert (float(sent["mean"]), sent["seeds"]) == (1.0, "2")
    where = "sent by the team (MB), outdoor, 2 robots, 2.18 s a gradient"
    assert f"{where}: rog:4 over bsp, which is 0 with seed 1" in page


# -- reading -----------------------------------------------------------------------------------------------------------


def test_an_older_folder_holds_an_accuracy(tmp_path: Path) -> None:
    settings = Comparison(policies=("bsp",), workers=(1,), hours=0.05, seeds=1)
    (cell,) = run_comparison(settings, tmp_path, jobs=0, run=run_metres)
    path = tmp_path / "cells" / cell.name / "done.json"
    content = json.loads(path.read_text())
    content.pop("metrics", None)
    path.write_text(json.dumps(content))
    experiment = read_experiment(tmp_path)
    assert experiment.metrics == (ACCURACY,) == (Metric("accuracy", "%", "higher"),)
    assert metric_over(experiment.runs[0], ACCURACY, "time") is None


def changed(out: Path, what: Callable[[dict[str, object]], object], name: str = "done.json") -> None:
    path = next(out.glob(f"cells/*/{name}"), out / name)
    content = json.loads(path.read_text())
    what(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("file", "fields", "complaint"),
    [
        ("done.json", {"metrics": []}, r"done\.json: metrics: expected one or more"),
        ("done.json", {"metrics": "loss"}, r"done\.json: expected a list of metrics"),
        ("done.json", {"metrics": [{"name": "a", "better": "less"}]}, "expected 'higher' or 'lower', got 'less'"),
        ("done.json", {"versions": 3}, r"done\.json: versions: expected an object, got 3"),
        ("compare.json", {"settings": []}, r"compare\.json: settings: expected an object"),
        ("compare.json", {"settings": {"stall_w": -1}}, r"compare\.json: settings: stall_w"),
        ("compare.json", {"cells": "bsp"}, r"compare\.json: cells: expected a list of names"),
    ],
)
def test_what_a_file_must_not_hold(tmp_path: Path, file: str, fields: dict[str, object], complaint: str) -> None:
    settings = Comparison(policies=("bsp",), workers=(1,), hours=0.05, seeds=1)
    out = compared(tmp_path, by_hand, settings)
    changed(out, lambda content: content.update(fields), file)
    with pytest.raises(ConfigError, match=complaint):
        write_results(out)


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("hours", 0, "hours: expected a length above 0, got 0"),
        ("policy", 4, "policy = 4 is not what"),
        ("workers", "2", "workers = '2' is not what"),
        ("batch", "all", "batch = 'all' is not what"),
        ("seed", None, "seed = None is not what"),
    ],
)
def test_what_a_cell_must_not_hold(tmp_path: Path, field: str, value: object, complaint: str) -> None:
    settings = Comparison(policies=("bsp",), workers=(1,), hours=0.05, seeds=1)
    out = compared(tmp_path, by_hand, settings)
    changed(out, lambda content: content["cell"].update({field: value}))  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=complaint):
        read_experiment(out)


def test_runs_that_disagree_about_a_metric(tmp_path: Path) -> None:
    settings = Comparison(policies=("bsp",), workers=(1,), hours=0.05, seeds=2)
    out = compared(tmp_path, by_hand, settings)
    path = sorted(out.glob("cells/*/done.json"))[1]
    content = json.loads(path.read_text())
    content["metrics"] = metrics_to_json([Metric(ERROR.name, "cm", "lower"), SCORE])
    path.write_text(json.dumps(content))
    with pytest.raises(
        ConfigError, match=r"trajectory error \(cm\), lower is better, is trajectory error \(m\), lower"
    ):
        read_experiment(out)


def test_a_robot_that_was_started_again_is_told(tmp_path: Path) -> None:
    settings = Comparison(policies=("bsp",), workers=(1,), hours=0.05, seeds=1)
    out = compared(tmp_path, by_hand, settings)
    (path,) = out.glob("cells/*/robot-0.jsonl")
    path.write_text(path.read_text() * 2)
    assert len(read_experiment(out).runs[0].robots[0].ends_s) == 9
    assert "robot-0.jsonl: the robot was started 2 times; its last session is shown" in write_report(out).read_text()


def test_a_demo_of_zero_seconds(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps({"policies": {"bsp": {}}, "settings": {}}))
    with pytest.raises(ConfigError, match="seconds: expected the length of a run above 0, got None"):
        read_experiment(tmp_path)


def test_a_report_needs_neither_the_task_nor_torch(folder: Path) -> None:
    code = f"import sys; from rowcast.report import write_report; write_report({str(folder)!r}); "
    code += "print(sorted({name for name in sys.modules if name == 'torch' or name.startswith('rowcast.tasks')}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_curves_of_robots_with_a_gap() -> None:
    """Straight lines lead to a value that is not a number, and not across it."""
    places = np.arange(4.0)
    curve = team_curve([(places, np.array([1.0, 2.0, math.nan, 4.0])), (places, np.array([1.0, 1.0, 1.0, 1.0]))])
    assert curve is not None
    assert np.isnan(curve.values).tolist() == [False, False, True, False]
    assert np.isnan(curve.at(np.array([0.5, 1.5, 2.5])).values).tolist() == [False, True, True]


# -- the end of a demo -------------------------------------------------------------------------------------------------


def test_a_demo_tells_each_metric_at_equal_steps(folder: Path, tmp_path: Path) -> None:
    groups = groups_of(folder)
    read = {policy: runs[0] for policy, runs in groups.items()}
    assert list(_at_equal_steps(read)) == [
        "trajectory error after 9 steps: bsp 2.688 m, rog:4 1.562 m",
        "map score after 9 steps: bsp 9, rog:4 9",
    ]
    assert list(_at_equal_steps({"bsp": read["bsp"]})) == []
    assert _draw(read, ERROR, tmp_path / "error.png")
    assert (tmp_path / "error.png").read_bytes().startswith(PNG)
    assert not _draw(read, Metric("unheard"), tmp_path / "nothing.png")
    assert not (tmp_path / "nothing.png").exists()


def test_a_demo_names_its_metrics(folder: Path, tmp_path: Path) -> None:
    """Its report has them, from its summary."""
    (cell,) = folder.glob("cells/bsp_*_s0")
    shutil.copytree(cell, tmp_path / "bsp")
    settings = {"trace": "outdoor", "pace_s": 1.0, "seconds": 170.0}
    summary = {"settings": settings, "policies": {"bsp": {}}, "metrics": metrics_to_json(METRICS)}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    experiment = read_experiment(tmp_path)
    assert experiment.metrics == METRICS
    assert final_value(experiment.runs[0], ERROR) == 2.6875
    assert "Trajectory error against time" in write_report(tmp_path).read_text(encoding="utf-8")
