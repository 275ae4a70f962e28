"""Reports of runs with adaptive top-k equal what one computes by hand from the journals."""

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
from rowcast.report import write_report
from rowcast.report.comparison import sensitivity_tables
from rowcast.report.read import read_experiment
from rowcast.report.sections import sections
from rowcast.report.stream_tables import stream_groups
from rowcast.report.topk_sections import topk_groups
from stub_cells import step_of

#: Seconds between the steps of the stand-in, and steps.
EVERY_S, STEPS = 10.0, 16
SETTINGS = Comparison(
    policies=("bsp", "rowcast"),
    workers=(2,),
    hours=EVERY_S * STEPS / 3600,
    seeds=2,
    devices=("1",),
    topk=("0", "0.1/0.3"),
    eval_every_s=EVERY_S,
)


def run_thinned(cell: Cell, folder: Path, progress: Callable[[float], None]) -> None:
    """Stands in for a run: a step in each 10 s; the second of robot 0 has no gradient that can be used.

    With top-k robot 0 compresses every step, and robot 1 every second one: 200 of 1,000 numbers. Accuracy is 50 + 2 n
    + seed after n steps, 50 + n with top-k.
    """
    for k in range(cell.workers):
        with open_journal(f"robot-{k}", folder / f"robot-{k}.jsonl") as journal:
            journal.record(0.0, "start", role="worker")
            for n in range(STEPS + 1):
                value = 50.0 + (1 if cell.topk else 2) * n + cell.seed
                for name in ("accuracy", "own_accuracy"):
                    journal.record(EVERY_S * n, "metric", iteration=n, name=name, value=value)
                if n < STEPS:
                    more = thinned(k, n) if cell.topk else {}
                    journal.record(EVERY_S * (n + 1), "step", **step_of(cell, n + 1, 1, 1.0), **fed_by(cell), **more)
    progress(cell.seconds)


def thinned(k: int, n: int) -> dict[str, Any]:
    if (k, n) == (0, 1):
        return {"floats": 0, "gradient_floats": 0, "compressed": False}
    compressed = k == 0 or n % 2 == 0
    return {"floats": 200 if compressed else 1000, "gradient_floats": 1000, "compressed": compressed}


def fed_by(cell: Cell) -> dict[str, Any]:
    names = ("starve_s", "samples", "queued", "dropped", "age_s", "exposed", "exposed_bytes")
    return {} if cell.feeding is None else dict.fromkeys(names, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("thinned")
    run_comparison(SETTINGS, out, jobs=0, run=run_thinned)
    return out


def parts_of(folder: Path) -> dict[str, Any]:
    found, _ = sections(read_experiment(folder))
    return {part.name: part for section in found for part in section.parts}


def test_the_table_of_top_k_by_hand(folder: Path) -> None:
    shown = parts_of(folder)["topk"].shown
    lines = {(row[0], row[1]): dict(zip(shown.columns, row, strict=True)) for row in shown.rows}
    assert list(lines) == [("", "bsp"), ("", "rowcast"), ("0.1/0.3", "bsp"), ("0.1/0.3", "rowcast")]
    plain, own = lines["", "bsp"], lines["0.1/0.3", "rowcast"]
    assert (plain["CNC ratio (%)"], plain["floats sent (%)"], plain["seeds"]) == ("0 ± 0", "100 ± 0", 2)
    # 15 compressed steps of robot 0, 8 of 16 of robot 1.
    assert own["CNC ratio (%)"] == f"{100 * 23 / 31:.4g} ± 0"
    assert own["floats sent (%)"] == f"{100 * (23 * 200 + 8 * 1000) / 31_000:.4g} ± 0"
    assert str(own["accuracy at the end (%)"]).startswith(f"{50 + STEPS + 0.5} ±")
    low, high = [column for column in shown.columns if column.startswith("time to ")]
    assert not str(own[low]).startswith(">") and str(own[high]).startswith("> ")
    assert not str(plain[high]).startswith(">")


def test_top_k_is_a_condition(folder: Path) -> None:
    """The main figures show the first value."""
    experiment = read_experiment(folder)
    assert {str(run.conditions) for run in experiment.runs} == {
        "outdoor, 2 robots, 1 s a gradient",
        "outdoor, 2 robots, 1 s a gradient, top-k 0.1/0.3",
    }
    assert list(map(str, experiment.conditions)) == ["outdoor, 2 robots, 1 s a gradient"]
    assert [len(runs) for runs in experiment.by_policy(experiment.conditions[0]).values()] == [2, 2]
    (group,) = topk_groups(experiment)
    assert group.parts["bsp, top-k none"] == ("", "bsp")
    assert [run.seed for run in group.groups["rowcast, top-k 0.1/0.3"]] == [0, 1]


def test_with_streams_it_is_one_of_their_parts(tmp_path: Path) -> None:
    fed = replace(SETTINGS, seeds=1, policies=("bsp",), streams=("S1",), batch=("fixed:64", "team:128"))
    run_comparison(fed, tmp_path, jobs=0, run=run_thinned)
    (group,) = stream_groups(read_experiment(tmp_path))
    assert list(group.groups) == ["fixed:64", "fixed:64, top-k 0.1/0.3", "team:128", "team:128, top-k 0.1/0.3"]
    parts = parts_of(tmp_path)
    assert parts["streams"].shown.distinct("top-k") == ["", "0.1/0.3"]
    assert parts["topk-1"].title.endswith("stream S1, fixed:64, persist")
    assert parts["topk-2"].title.endswith("stream S1, team:128, truncate:1s")


def test_sensitivity_does_not_mix_runs_with_and_without(tmp_path: Path) -> None:
    run_comparison(replace(SETTINGS, seeds=1, workers=(2, 3)), tmp_path, jobs=0, run=run_thinned)
    table = sensitivity_tables(read_experiment(tmp_path))["workers"]
    at_the_end = table.where(measure="accuracy at the end (%)", policy="bsp")
    assert at_the_end.numbers("mean") == [50.0 + 2 * STEPS] * 2 and at_the_end.numbers("seeds") == [1, 1]


def test_the_page_and_the_results_have_it(tmp_path: Path) -> None:
    run_comparison(replace(SETTINGS, seeds=1, policies=("bsp",)), tmp_path, jobs=0, run=run_thinned)
    page = write_report(tmp_path).read_text()
    assert "CNC ratio (%)" in page and "floats sent (%)" in page
    assert (tmp_path / "report" / "topk.csv").read_text().startswith("top-k,policy,measure,")
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [result["cell"].get("topk") for result in results] == [None, "0.1/0.3"]


def test_without_top_k_nothing_of_it_is_shown(tmp_path: Path) -> None:
    run_comparison(replace(SETTINGS, seeds=1, topk=()), tmp_path, jobs=0, run=run_thinned)
    experiment = read_experiment(tmp_path)
    assert topk_groups(experiment) == []
    found, _ = sections(experiment)
    assert [section.title for section in found] == [str(experiment.conditions[0]), "Scalability", "Power"]


def test_a_top_k_that_nobody_wrote_is_refused(tmp_path: Path) -> None:
    (cell, *_) = run_comparison(replace(SETTINGS, seeds=1), tmp_path, jobs=0, run=run_thinned)
    path = tmp_path / "cells" / cell.name / "done.json"
    content = json.loads(path.read_text())
    content["cell"]["topk"] = 0.1
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"topk = 0\.1 is not what 'rowcast compare' writes"):
        read_experiment(tmp_path)
