"""Reports equal what one computes by hand from the journals."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rowcast.errors import ConfigError
from rowcast.journal import Journal, write_to
from rowcast.metric import Metric
from rowcast.report import (
    ACCURACY,
    SECONDS,
    Curve,
    CurvePanel,
    RunSummary,
    Table,
    composition_table,
    draw_bars,
    draw_curves,
    metric_at_equal_steps,
    metric_over,
    read_run,
    summarise,
    terminal_table,
    worker_journals,
)
from rowcast.report.table import BOUNDS, table_of
from rowcast.report.terminal import _bytes

PNG = b"\x89PNG\r\n\x1a\n"


def step(iteration: int, compute_s: float, communicate_s: float, stall_s: float, **more: Any) -> dict[str, Any]:
    return {
        "iteration": iteration,
        "compute_s": compute_s,
        "communicate_s": communicate_s,
        "stall_s": stall_s,
        "push_share": 0.5,
        "push_bytes": 100,
        "pull_bytes": 40,
        "skipped": False,
        **more,
    }


def journal(path: Path, events: list[tuple[float, str, dict[str, Any]]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        book = Journal(path.stem, write_to(stream))
        for t, event, fields in events:
            book.record(t, event, **fields)
    return path


def accuracy(iteration: int, value: float) -> dict[str, Any]:
    return {"iteration": iteration, "name": "accuracy", "value": value}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two robots under rog:4; the second is slower and measured less."""
    folder = tmp_path / "rog-4"
    journal(folder / "server.jsonl", [(9.0, "start", {"role": "server"})])
    journal(
        folder / "robot-0.jsonl",
        [
            (10.0, "start", {"role": "worker"}),
            (10.5, "metric", accuracy(0, 50.0)),
            (12.0, "step", step(1, 0.5, 0.25, 0.25)),
            (13.0, "step", step(2, 0.5, 0.25, 0.25, push_share=1.0, skipped=True)),
            (13.1, "metric", accuracy(2, 60.0)),
            (13.2, "metric", {"iteration": 2, "name": "loss", "value": 0.1}),
            (14.0, "step", step(3, 0.75, 0.25, 0.0, push_bytes=50)),
            (14.5, "metric", accuracy(3, 64.0)),
            (15.0, "end", {"cause": "done"}),
        ],
    )
    journal(
        folder / "robot-1.jsonl",
        [
            (10.25, "start", {"role": "worker"}),
            (10.75, "metric", accuracy(0, 52.0)),
            (13.0, "step", step(1, 1.25, 0.25, 0.0)),
            (15.1, "metric", accuracy(2, 66.0)),
        ],
    )
    return tmp_path


def test_summary_by_hand(run: Path) -> None:
    paths = worker_journals(run, "rog:4")
    assert [path.name for path in paths] == ["robot-0.jsonl", "robot-1.jsonl"]
    assert summarise(read_run("rog:4", paths)) == RunSummary(
        policy="rog:4",
        workers=2,
        steps=2.0,
        seconds=(3.0 + 1.5) / 2,  # from 11 to 14, from 11.5 to 13
        final={"accuracy": 65.0},
        compute_s=3.0 / 4,
        communicate_s=0.25,
        stall_s=0.5 / 4,
        push_share=2.5 / 4,
        push_bytes=350,
        pull_bytes=160,
        skipped=1,
    )
    assert summarise(read_run("rog:4", paths)).step_s == 1.125


def test_the_summary_says_what_was_sent_meanwhile(tmp_path: Path) -> None:
    steps = [(1.0, "step", step(1, 1.0, 0.0, 0.0, overlap_s=1.0)), (3.0, "step", step(2, 2.0, 0.0, 0.0, overlap_s=0.0))]
    run = read_run("rowcast", [journal(tmp_path / "robot-0.jsonl", steps)])
    streamed = summarise(run)
    assert streamed.overlap_s == 0.5
    assert "rows travelled meanwhile: rowcast 33 %" in " ".join(printed([streamed]).split())
    table = composition_table({"rowcast": [run]}, meanwhile=True)
    assert [row[1:3] for row in table.rows] == [
        ("compute", 1.5),
        ("communicate", 0.0),
        ("stall", 0.0),
        ("whole", 1.5),
        ("sent meanwhile", 0.5),
    ]
    draw_bars(table, SECONDS, tmp_path / "composition.png")
    assert (tmp_path / "composition.png").read_bytes().startswith(PNG)


def test_a_worker_without_steps_or_accuracy(run: Path, tmp_path: Path) -> None:
    late = journal(tmp_path / "robot-2.jsonl", [(1.0, "start", {"role": "worker"})])
    alone = summarise(read_run("rog:4", [run / "rog-4" / "robot-1.jsonl", late]))
    assert (alone.workers, alone.steps, alone.seconds) == (2, 0.5, 1.5)
    assert alone.final == {"accuracy": None}  # a mean over those that measured would hide the other
    with pytest.raises(ConfigError, match="no 'step' event in"):
        summarise(read_run("rog:4", [late]))
    with pytest.raises(ConfigError, match="empty list"):
        read_run("rog:4", [])


def test_a_journal_that_lacks_a_field_is_named(tmp_path: Path) -> None:
    path = journal(tmp_path / "robot-0.jsonl", [(1.0, "step", {"iteration": 7, "compute_s": 1.0})])
    for seconds in (None, 10.0):
        with pytest.raises(ConfigError, match=r"robot-0\.jsonl: the step of iteration 7 has communicate_s = None"):
            read_run("bsp", [path], seconds)
    with pytest.raises(ConfigError, match=r"none\.jsonl: cannot be read"):
        read_run("bsp", [tmp_path / "none.jsonl"])
    with pytest.raises(ConfigError, match="no journals of workers"):
        worker_journals(tmp_path, "ssp:4")
    for field, value in (("value", "much"), ("value", True), ("iteration", None)):
        measured = {**accuracy(2, 50.0), field: value}
        path = journal(tmp_path / "robot-1.jsonl", [(1.0, "metric", measured)])
        with pytest.raises(ConfigError, match=rf"measurement of accuracy at 1 s has {field} = {value!r}, expected a n"):
            read_run("bsp", [path])
    path.write_text('{"t":"soon","node":"robot-1","event":"start"}\n')
    with pytest.raises(ConfigError, match="an event 'start' has t = 'soon', expected seconds"):
        read_run("bsp", [path])


def test_a_run_of_a_demo_ends_with_its_training(run: Path) -> None:
    """The first step of any robot begins at 11; so many seconds later the run is over, whatever was delivered then."""
    paths = worker_journals(run, "rog:4")
    whole, cut = read_run("rog:4", paths), read_run("rog:4", paths, 2.5)
    assert (whole.seconds, cut.seconds) == (5.1, 3.5)
    assert [len(robot.ends_s) for robot in whole.robots] == [3, 1]
    assert [len(robot.ends_s) for robot in cut.robots] == [2, 1]
    assert summarise(cut).final == {"accuracy": (60.0 + 52.0) / 2}


def test_curve_by_hand(run: Path) -> None:
    read = read_run("rog:4", worker_journals(run, "rog:4"))
    curve = metric_over(read, ACCURACY, "steps")
    assert curve is not None
    assert curve.along.tolist() == [0, 2]  # robot-1 did not measure at 3
    assert curve.values.tolist() == [51.0, 63.0]
    timed = metric_over(read, ACCURACY, "time")
    assert timed is not None
    assert timed.along == pytest.approx([0.75, 3.1, 4.5])  # since 10.0, the first event, where both had measured
    assert timed.values[0] == pytest.approx((50 + 10 * 0.25 / 2.6 + 52) / 2)


def test_a_curve_needs_common_measurements(run: Path, tmp_path: Path) -> None:
    other = journal(tmp_path / "robot-9.jsonl", [(1.0, "metric", accuracy(9, 10.0))])
    apart = read_run("rog:4", [*worker_journals(run, "rog:4"), other])
    assert metric_over(apart, ACCURACY, "steps") is None
    assert metric_over(apart, Metric("unheard", "m", "lower"), "time") is None


def curve(steps: list[int], values: list[float]) -> Curve:
    return Curve(np.array(steps, dtype=np.float64), np.array(values))


CURVES = {
    "bsp": curve([0, 5, 10], [50.0, 58.0, 62.0]),
    "rog:4": curve([0, 5, 10, 15, 20], [50.0, 57.5, 62.5, 66.0, 68.0]),
    "rog:20": curve([0, 10, 20], [50.0, 61.0, 67.0]),
}


def test_a_metric_at_equal_steps() -> None:
    assert metric_at_equal_steps(CURVES) == (10, {"bsp": 62.0, "rog:4": 62.5, "rog:20": 61.0})
    between = {"bsp": CURVES["bsp"], "asp": curve([0, 4], [50.0, 54.0])}
    assert metric_at_equal_steps(between) == (4, {"bsp": pytest.approx(56.4), "asp": 54.0})
    assert metric_at_equal_steps({"bsp": CURVES["bsp"], "asp": curve([12, 13], [1.0, 1.0])}) is None
    assert metric_at_equal_steps({"bsp": CURVES["bsp"], "asp": None}) is None
    with pytest.raises(ConfigError, match="got none"):
        metric_at_equal_steps({})


def summary(policy: str, compute_s: float, communicate_s: float, stall_s: float, **more: Any) -> RunSummary:
    fields = {"push_share": 0.41, "push_bytes": 12_345_678, "pull_bytes": 999_900, "skipped": 0, **more}
    final = {"accuracy": 71.26}
    return RunSummary(policy, 4, 31.25, 40.04, final, compute_s, communicate_s, stall_s, **fields)


SUMMARIES = [summary("bsp", 0.21, 0.35, 0.72), summary("rog:4", 0.21, 0.19, 0.003), summary("ours", 0.0, 0.0, 0.0)]


def bars(summaries: list[RunSummary]) -> Table:
    """As the composition of runs with one seed."""
    rows = [
        (each.policy, part, value, None, None, 1)
        for each in summaries
        for part, value in (
            ("compute", each.compute_s),
            ("communicate", each.communicate_s),
            ("stall", each.stall_s),
            ("whole", each.step_s),
        )
    ]
    return table_of(("policy", SECONDS.column, *BOUNDS), rows)


def lines(curves: dict[str, Curve]) -> Table:
    """As the curves of runs with one seed."""
    rows = [
        (policy, float(place), float(value), None, None, 1)
        for policy, own in curves.items()
        for place, value in zip(own.along, own.values, strict=True)
    ]
    return table_of(("policy", "iteration", *BOUNDS), rows)


def test_figures_are_written(tmp_path: Path) -> None:
    one = CurvePanel(lines(CURVES), "steps", "… at equal steps", 10)
    draw_curves([one, CurvePanel(lines(CURVES), "time (s)")], ACCURACY, tmp_path / "accuracy.png")
    draw_curves([CurvePanel(lines({"odd": curve([0], [50.0])}), "steps")], ACCURACY, str(tmp_path / "one.png"))
    draw_bars(bars(SUMMARIES), SECONDS, tmp_path / "composition.png")
    draw_bars(bars(SUMMARIES[-1:]), SECONDS, tmp_path / "zero.png")
    for name in ("accuracy", "one", "composition", "zero"):
        content = (tmp_path / f"{name}.png").read_bytes()
        assert content.startswith(PNG)
        assert len(content) > 5000
    draw_bars(bars(SUMMARIES), SECONDS, tmp_path / "composition.svg")
    assert "<svg" in (tmp_path / "composition.svg").read_text(encoding="utf-8")


def test_figures_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no curves of accuracy"):
        draw_curves([CurvePanel(lines({}), "steps")], ACCURACY, tmp_path / "a.png")
    with pytest.raises(ConfigError, match="no policy"):
        draw_bars(bars([]), SECONDS, tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"missing.*cannot be written"):
        draw_bars(bars(SUMMARIES), SECONDS, tmp_path / "missing" / "a.png")
    with pytest.raises(ConfigError, match="cannot be written"):
        draw_curves([CurvePanel(lines(CURVES), "steps")], ACCURACY, tmp_path / "a.docx")


def test_without_matplotlib_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, module, None)
    for draw in (
        lambda: draw_curves([CurvePanel(lines(CURVES), "steps")], ACCURACY, tmp_path / "a"),
        lambda: draw_bars(bars(SUMMARIES), SECONDS, tmp_path / "a"),
    ):
        with pytest.raises(ConfigError, match=r"pip install 'rowcast\[demo\]'"):
            draw()


def printed(summaries: list[RunSummary], metrics: tuple[Metric, ...] = (ACCURACY,)) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(terminal_table(summaries, metrics))
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def test_table_fits_a_terminal() -> None:
    text = printed([*SUMMARIES, summary("rog:20", 10.0, 200.0, 3000.0, skipped=17)])
    assert "…" not in text
    row = next(line for line in text.splitlines() if "bsp" in line)
    assert " ".join(row.split()) == "bsp 31.2 40.04 1.280 0.210 0.350 0.720 41% 12.3 MB 1.00 MB 71.3%"
    assert "10.00 200.0 3000 " in " ".join(text.split())
    assert "4 workers" in text
    assert "steps without a contribution: rog:20 17" in text
    assert "contribution" not in printed(SUMMARIES)
    assert "lower is better" not in text


def test_the_table_has_the_unit_of_a_metric_and_says_when_lower_is_better() -> None:
    metric = Metric("trajectory_error", "m", "lower")
    runs = [
        replace(summary(policy, 0.2, 0.3, 0.7), final={metric.name: value})
        for policy, value in (("bsp", 0.123456), ("rog:4", None), ("asp", float("nan")))
    ]
    text = printed(runs, (metric,))
    ends = [line.split()[-1] for line in text.splitlines() if line.split()[:1] in (["bsp"], ["rog:4"], ["asp"])]
    assert ends == ["0.1235", "-", "nan"]
    assert "…" not in text and "%" not in ends[0]
    assert "lower is better: trajectory error (m)" in text
    assert runs[2].to_json()["final_trajectory_error"] is None
    both = [replace(run, final={**run.final, "map_score": 0.75}) for run in runs]
    text = printed(both, (metric, Metric("map_score")))
    assert "map score at the end: bsp 0.75, rog:4 0.75, asp 0.75" in text and "…" not in text
    share = Metric("error_rate", "%", "lower")
    assert "12.3%" in printed([replace(runs[0], final={share.name: 12.34})], (share,))


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (99_949, "99.9 kB"), (999_499, "999 kB"), (999_500, "1.00 MB")],
)
def test_bytes(count: int, text: str) -> None:
    assert _bytes(count) == text


def test_large_bytes() -> None:
    assert (_bytes(4.56e6), _bytes(1.2e9), _bytes(5e15)) == ("4.56 MB", "1.20 GB", "5000 TB")
