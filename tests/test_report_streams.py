"""Reports of runs with streams equal what one computes by hand from the journals."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rowcast.errors import ConfigError
from rowcast.experiment import Cell, Comparison, run_comparison
from rowcast.journal import open_journal
from rowcast.report import summarise, terminal_table, write_report
from rowcast.report.read import read_experiment
from rowcast.report.results import write_results
from rowcast.report.sections import sections
from rowcast.report.stream_figure import draw_queues
from rowcast.report.stream_tables import queue_table, stream_groups
from rowcast.report.table import table_of
from rowcast.report.values import Feeding
from stub_cells import run_stub

#: Seconds between the steps of the stand-in, and steps.
EVERY_S, STEPS = 10.0, 18
SETTINGS = Comparison(
    policies=("bsp",),
    workers=(2,),
    hours=EVERY_S * STEPS / 3600,
    seeds=2,
    devices=("1",),
    streams=("S1", "40/60"),
    batch=("fixed:64", "team:128"),
    inject=("0", "0.5/0.25"),
    eval_every_s=EVERY_S,
)


def run_fed(cell: Cell, folder: Path, progress: Callable[[float], None]) -> None:
    """Stands in for a run: a step in each 10 s, of which the robot starves 4, or 1 with a batch of the team.

    Robot ``k`` trains on 64 samples a step, or on 32 (k + 1) of a team's batch; its queue is 100 n (k + 1) after n
    steps, or 10 (k + 1). Accuracy is 50 + 2 n, or 50 + 4 n, and the seed.
    """
    assert cell.feeding is not None
    team = cell.feeding.batch.startswith("team")
    for k in range(cell.workers):
        with open_journal(f"robot-{k}", folder / f"robot-{k}.jsonl") as journal:
            journal.record(0.0, "start", role="worker")
            for n in range(STEPS + 1):
                value = 50.0 + (4 if team else 2) * n + cell.seed
                for name in ("accuracy", "own_accuracy"):
                    journal.record(EVERY_S * n, "metric", iteration=n, name=name, value=value)
                if n < STEPS:
                    given = 16 if cell.feeding.inject and k == 0 else 0
                    journal.record(EVERY_S * (n + 1), "step", **step(n + 1, k, team, given))
    progress(cell.seconds)


def step(n: int, k: int, team: bool, given: int) -> dict[str, Any]:
    return {
        "iteration": n,
        "compute_s": 1.0,
        "communicate_s": 2.0,
        "stall_s": 6.0 if team else 3.0,
        "push_bytes": 1000,
        "push_share": 1.0,
        "pull_bytes": 2000,
        "quota_s": 1.0,
        "mta_time_s": 0.0,
        "rate_bps": 1e6,
        "staleness": 0,
        "skipped": False,
        "starve_s": 1.0 if team else 4.0,
        "samples": 32 * (k + 1) if team else 64,
        "queued": (k + 1) * (10 if team else 100 * n),
        "dropped": 5 if team else 0,
        "age_s": 0.5 * (k + 1) if team else 2.0 * n,
        "exposed": given,
        "exposed_bytes": 3000 * given,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fed")
    run_comparison(SETTINGS, out, jobs=0, run=run_fed)
    return out


def test_a_recording_is_named_by_its_file() -> None:
    """A list of rates is no path."""
    assert Feeding("/data/rates.csv", "fixed:64", "persist", "").stream == "rates.csv"
    assert Feeding("12/30/75", "fixed:64", "persist", "").stream == "12/30/75"
    assert Feeding("", "fixed:64", "", "0.1/0.1").words == ("fixed:64", "injection 0.1/0.1")


def test_runs_are_grouped_by_stream_and_named_by_what_differs(folder: Path) -> None:
    first, second = stream_groups(read_experiment(folder))
    assert (first.stream, second.stream) == ("S1", "40/60")
    assert first.team == "outdoor, 2 robots, 1 s a gradient, stream S1"
    # Each batch has one buffer, so that it is not said; there is one policy.
    assert list(first.groups) == [
        "fixed:64",
        "fixed:64, injection 0.5/0.25",
        "team:128",
        "team:128, injection 0.5/0.25",
    ]
    assert first.parts["team:128, injection 0.5/0.25"] == ("team:128", "truncate:1s", "0.5/0.25", "", "bsp")
    assert [run.seed for run in first.groups["fixed:64"]] == [0, 1]


def test_the_main_figures_show_the_first_batch_of_each_stream(folder: Path) -> None:
    experiment = read_experiment(folder)
    assert [str(each) for each in experiment.conditions] == [
        "outdoor, 2 robots, 1 s a gradient, stream S1, fixed:64, persist",
        "outdoor, 2 robots, 1 s a gradient, stream 40/60, fixed:64, persist",
    ]
    found, _ = sections(experiment)
    assert [section.title for section in found] == [
        *map(str, experiment.conditions),
        "Streams: outdoor, 2 robots, 1 s a gradient, stream S1",
        "Streams: outdoor, 2 robots, 1 s a gradient, stream 40/60",
        "Scalability",
        "Power",
    ]
    names = [part.name for section in found for part in section.parts]
    assert len(set(names)) == len(names)
    assert {"streams-1", "stream-targets-2", "stream-accuracy-1", "queues-2", "timeline-outdoor-1-S1"} <= set(names)


def shown(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The table of the first stream, by batch and injection."""
    found, _ = sections(read_experiment(folder))
    table = next(part for section in found for part in section.parts if part.name == "streams-1").shown
    lines = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    return {(line["batch"], line["injection"]): line for line in lines}


def test_the_table_of_streams_by_hand(folder: Path) -> None:
    table = shown(folder)
    fixed, team = table["fixed:64", ""], table["team:128", "0.5/0.25"]
    assert (fixed["buffer"], team["buffer"], fixed["policy"], fixed["seeds"]) == ("persist", "truncate:1s", "bsp", 2)
    assert fixed["samples trained"] == f"{64 * 2 * STEPS} ± 0" and fixed["samples dropped"] == "0 ± 0"
    assert team["samples trained"] == f"{96 * STEPS} ± 0" and team["samples dropped"] == f"{10 * STEPS} ± 0"
    assert fixed["mean queue (samples)"] == f"{100 * 1.5 * (STEPS + 1) / 2:.4g} ± 0"
    assert (fixed["largest queue (samples)"], team["largest queue (samples)"]) == (f"{200 * STEPS} ± 0", "20 ± 0")
    # The age is a mean over samples: robot 1 has twice as many, twice as old.
    assert team["mean age (s)"] == f"{(32 * 0.5 + 64 * 1.0) / 96:.4g} ± 0"
    assert (fixed["starve (%)"], team["starve (%)"]) == ("40 ± 0", "10 ± 0")
    assert (fixed["exposed samples"], team["exposed samples"]) == ("0 ± 0", f"{16 * STEPS} ± 0")
    assert team["exposed (MB)"] == f"{0.048 * STEPS:.4g} ± 0"
    joules = 2 * STEPS * (4 * 4.04 + 13.35 + 2 * 4.25 + 3 * 4.04)
    assert fixed["energy of the team (kJ)"] == f"{joules / 1e3:.4g} ± 0"


def test_the_time_to_a_level_is_that_of_the_targets(folder: Path) -> None:
    found, _ = sections(read_experiment(folder))
    targets = next(part for section in found for part in section.parts if part.name == "stream-targets-1").numbers
    low, high = sorted(set(targets.values("accuracy_percent")))  # type: ignore[type-var]
    table = shown(folder)
    fixed, team = table["fixed:64", ""], table["team:128", ""]
    # Moving averages of five looks: the team gains 4 a look, the fixed batch 2.
    assert fixed[f"time to {low} % (s)"] and not str(fixed[f"time to {low} % (s)"]).startswith(">")
    assert str(fixed[f"time to {high} % (s)"]).startswith("> ")
    reached = targets.where(until_then="seconds", accuracy_percent=low)
    seconds = [reached.where(policy=f"{name}").numbers("mean")[0] for name in ("fixed:64", "team:128")]
    # The average is two looks behind.
    assert seconds[0] - 20 == 2 * (seconds[1] - 20)
    assert str(team[f"time to {low} % (s)"]).startswith(f"{seconds[1]:.4g}")


def test_queues_over_time_are_those_of_the_newest_steps(folder: Path) -> None:
    group = stream_groups(read_experiment(folder))[0]
    table = queue_table(group)
    fixed = table.where(policy="fixed:64")
    times = fixed.numbers("time_s")
    assert times[-1] == EVERY_S * STEPS and fixed.values("queued")[0] is None  # before the first step
    for time_s, queued, most, age_s in zip(
        *map(fixed.numbers, ("time_s", "queued", "most_queued", "age_s")), strict=True
    ):
        n = int(time_s / EVERY_S + 1e-9)
        if n:
            assert (queued, most, age_s) == (150 * n, 200 * n, 2 * n)


def test_figures_and_tables_have_the_wait_for_data(folder: Path) -> None:
    found, _ = sections(read_experiment(folder))
    parts = {part.name: part for section in found for part in section.parts}
    composition = parts["composition-outdoor-1-S1"].numbers
    assert composition.distinct("seconds_per_step_in") == ["starve", "compute", "communicate", "stall", "whole"]
    assert composition.where(seconds_per_step_in="starve").numbers("mean") == [4.0]
    assert composition.where(seconds_per_step_in="whole").numbers("mean") == [10.0]
    assert parts["composition-outdoor-1-S1"].caption.startswith("Events 'step': starve_s, compute_s,")
    energy = parts["energy-outdoor-1-S1"].numbers
    assert energy.where(joules_per_step_in="starve").numbers("mean") == [pytest.approx(4 * 4.04)]
    assert parts["power-states"].numbers.distinct("state")[0] == "starve"
    (line,) = parts["timeline-outdoor-1-S1"].shown.rows
    assert line[:4] == ("bsp", float(STEPS), pytest.approx(40.0), pytest.approx(10.0))


def test_the_page_and_the_results_are_written(tmp_path: Path) -> None:
    run_comparison(replace(SETTINGS, seeds=1, streams=("S1",), inject=()), tmp_path, jobs=0, run=run_fed)
    page = write_report(tmp_path).read_text()
    assert "Streams: outdoor, 2 robots, 1 s a gradient, stream S1" in page and "team:128" in page
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [result["starve_s"] for result in results] == [4.0, 1.0]
    for name in ("streams.csv", "queues.csv", "queues.png", "stream-accuracy.png"):
        assert (tmp_path / "report" / name).stat().st_size > 0
    with pytest.raises(ConfigError, match="no queues to draw"):
        draw_queues(table_of(("policy", "time_s", "queued", "most_queued", "age_s"), ()), tmp_path / "none.png")


def test_without_streams_nothing_of_them_is_shown(tmp_path: Path) -> None:
    plain = replace(SETTINGS, streams=(), batch=(), inject=(), seeds=1)
    run_comparison(plain, tmp_path, jobs=0, run=run_stub)
    experiment = read_experiment(tmp_path)
    assert stream_groups(experiment) == [] and experiment.conditions[0].feeding is None
    found, _ = sections(experiment)
    for section in found:
        for part in section.parts:
            assert "starve" not in part.caption
            assert "starve" not in [*part.numbers.columns, *map(str, (v for row in part.numbers.rows for v in row))]
    write_results(experiment)
    assert "starve_s" not in (tmp_path / "results.jsonl").read_text()


def test_both_kinds_of_runs_stand_in_one_folder(folder: Path, tmp_path: Path) -> None:
    """Runs of a version before streams, and new ones with them."""
    plain = replace(SETTINGS, streams=(), batch=(), inject=(), seeds=1)
    run_comparison(plain, tmp_path, jobs=0, run=run_stub)
    run_comparison(replace(SETTINGS, seeds=1, streams=("S1",)), tmp_path, jobs=0, run=run_fed)
    experiment = read_experiment(tmp_path)
    assert len(experiment.runs) == 5 and len(stream_groups(experiment)) == 1
    found, _ = sections(experiment)
    assert [section.title for section in found[1:]] == [
        "Streams: outdoor, 2 robots, 1 s a gradient, stream S1",
        "Scalability",
        "Power",
    ]


def test_a_feeding_that_nobody_wrote_is_refused(tmp_path: Path) -> None:
    (cell, *_) = run_comparison(replace(SETTINGS, seeds=1), tmp_path, jobs=0, run=run_fed)
    path = tmp_path / "cells" / cell.name / "done.json"
    content = json.loads(path.read_text())
    content["cell"]["feeding"] = {"rates": 3}
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"feeding = .* is not what 'rowcast compare' writes"):
        read_experiment(tmp_path)


def test_the_terminal_has_a_column_for_the_wait(folder: Path) -> None:
    experiment = read_experiment(folder)
    summary = summarise(experiment.runs[0])
    assert (summary.starve_s, summary.step_s) == (4.0, 10.0) and summary.to_json()["starve_s"] == 4.0
    assert summary.seconds == pytest.approx(EVERY_S * STEPS)
    headers = [str(column.header) for column in terminal_table([summary], experiment.metrics).columns]
    assert "starve\ns" in headers
    silent = replace(summary, starve_s=0.0)
    headers = [str(column.header) for column in terminal_table([silent], experiment.metrics).columns]
    assert "starve\ns" not in headers and "starve_s" not in silent.to_json()
