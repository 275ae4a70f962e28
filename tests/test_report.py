"""Reports equal what one computes by hand from the journals."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rowcast.errors import ConfigError
from rowcast.journal import Journal, write_to
from rowcast.report import (
    AccuracyCurve,
    PolicySummary,
    accuracy_at_equal_steps,
    accuracy_curve,
    draw_accuracy,
    draw_composition,
    summarise,
    table,
    worker_journals,
)
from rowcast.report.tables import _bytes

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
    assert summarise("rog:4", paths) == PolicySummary(
        policy="rog:4",
        workers=2,
        steps=2.0,
        seconds=(3.0 + 1.5) / 2,  # from 11 to 14, from 11.5 to 13
        final_accuracy=65.0,
        compute_s=3.0 / 4,
        communicate_s=0.25,
        stall_s=0.5 / 4,
        push_share=2.5 / 4,
        push_bytes=350,
        pull_bytes=160,
        skipped=1,
    )
    assert summarise("rog:4", paths).step_s == 1.125


def test_the_summary_says_what_was_sent_meanwhile(tmp_path: Path) -> None:
    steps = [(1.0, "step", step(1, 1.0, 0.0, 0.0, overlap_s=1.0)), (3.0, "step", step(2, 2.0, 0.0, 0.0, overlap_s=0.0))]
    streamed = summarise("rowcast", [journal(tmp_path / "robot-0.jsonl", steps)])
    assert streamed.overlap_s == 0.5
    assert "rows travelled meanwhile: rowcast 33 %" in " ".join(printed([streamed]).split())
    draw_composition([streamed, *SUMMARIES], tmp_path / "composition.png")
    assert (tmp_path / "composition.png").read_bytes().startswith(PNG)


def test_a_worker_without_steps_or_accuracy(run: Path, tmp_path: Path) -> None:
    late = journal(tmp_path / "robot-2.jsonl", [(1.0, "start", {"role": "worker"})])
    alone = summarise("rog:4", [run / "rog-4" / "robot-1.jsonl", late])
    assert (alone.workers, alone.steps, alone.seconds, alone.final_accuracy) == (2, 0.5, 1.5, 66.0)
    with pytest.raises(ConfigError, match="no 'step' event in"):
        summarise("rog:4", [late])
    with pytest.raises(ConfigError, match="empty list"):
        summarise("rog:4", [])


def test_a_journal_that_lacks_a_field_is_named(tmp_path: Path) -> None:
    path = journal(tmp_path / "robot-0.jsonl", [(1.0, "step", {"iteration": 7, "compute_s": 1.0})])
    with pytest.raises(ConfigError, match=r"robot-0\.jsonl: the step of iteration 7 has communicate_s = None"):
        summarise("bsp", [path])
    with pytest.raises(ConfigError, match=r"none\.jsonl: cannot be read"):
        summarise("bsp", [tmp_path / "none.jsonl"])
    with pytest.raises(ConfigError, match="no journals of workers"):
        worker_journals(tmp_path, "ssp:4")


def test_curve_by_hand(run: Path) -> None:
    curve = accuracy_curve(worker_journals(run, "rog:4"))
    assert curve.steps == (0, 2)  # robot-1 did not measure at 3
    assert curve.accuracy == (51.0, 63.0)
    assert curve.seconds == pytest.approx((0.625, 4.1))  # since 10.0, the first event


def test_a_curve_needs_common_measurements(run: Path, tmp_path: Path) -> None:
    other = journal(tmp_path / "robot-9.jsonl", [(1.0, "metric", accuracy(1, 10.0))])
    with pytest.raises(ConfigError, match=r"no iteration at which every worker.*robot-9\.jsonl: 1"):
        accuracy_curve([*worker_journals(run, "rog:4"), other])
    with pytest.raises(ConfigError, match="found: none"):
        accuracy_curve([])


CURVES = {
    "bsp": AccuracyCurve((0, 5, 10), (50.0, 58.0, 62.0), (0.5, 9.0, 18.0)),
    "rog:4": AccuracyCurve((0, 5, 10, 15, 20), (50.0, 57.5, 62.5, 66.0, 68.0), (0.5, 4.0, 8.0, 12.0, 16.0)),
    "rog:20": AccuracyCurve((0, 10, 20), (50.0, 61.0, 67.0), (0.5, 6.0, 11.0)),
}


def test_accuracy_at_equal_steps() -> None:
    assert accuracy_at_equal_steps(CURVES) == (10, {"bsp": 62.0, "rog:4": 62.5, "rog:20": 61.0})
    with pytest.raises(ConfigError, match=r"no iteration that all policies measured \(found bsp: 0\.\.10, asp: 3\.\.3"):
        accuracy_at_equal_steps({"bsp": CURVES["bsp"], "asp": AccuracyCurve((3,), (1.0,), (1.0,))})
    with pytest.raises(ConfigError, match="no curves"):
        accuracy_at_equal_steps({})


def summary(policy: str, compute_s: float, communicate_s: float, stall_s: float, **more: Any) -> PolicySummary:
    fields = {"push_share": 0.41, "push_bytes": 12_345_678, "pull_bytes": 999_900, "skipped": 0, **more}
    return PolicySummary(policy, 4, 31.25, 40.04, 71.26, compute_s, communicate_s, stall_s, **fields)


SUMMARIES = [summary("bsp", 0.21, 0.35, 0.72), summary("rog:4", 0.21, 0.19, 0.003), summary("ours", 0.0, 0.0, 0.0)]


def test_figures_are_written(tmp_path: Path) -> None:
    draw_accuracy(CURVES, tmp_path / "accuracy.png")
    draw_accuracy({"odd": AccuracyCurve((0,), (50.0,), (0.0,))}, tmp_path / "one.png")
    nothing_common = {"bsp": CURVES["bsp"], "asp": AccuracyCurve((3,), (1.0,), (1.0,))}
    draw_accuracy(nothing_common, str(tmp_path / "apart.png"))
    draw_composition(SUMMARIES, tmp_path / "composition.png")
    draw_composition(SUMMARIES[-1:], tmp_path / "zero.png")
    for name in ("accuracy", "one", "apart", "composition", "zero"):
        content = (tmp_path / f"{name}.png").read_bytes()
        assert content.startswith(PNG)
        assert len(content) > 5000
    draw_composition(SUMMARIES, tmp_path / "composition.svg")
    assert "<svg" in (tmp_path / "composition.svg").read_text(encoding="utf-8")


def test_figures_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no accuracy curves"):
        draw_accuracy({}, tmp_path / "a.png")
    with pytest.raises(ConfigError, match="no summaries"):
        draw_composition([], tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"missing.*cannot be written"):
        draw_composition(SUMMARIES, tmp_path / "missing" / "a.png")
    with pytest.raises(ConfigError, match="cannot be written"):
        draw_accuracy(CURVES, tmp_path / "a.docx")


def test_without_matplotlib_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, module, None)
    for draw in (lambda: draw_accuracy(CURVES, tmp_path / "a"), lambda: draw_composition(SUMMARIES, tmp_path / "a")):
        with pytest.raises(ConfigError, match=r"pip install 'rowcast\[demo\]'"):
            draw()


def printed(summaries: list[PolicySummary]) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(table(summaries))
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


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (99_949, "99.9 kB"), (999_499, "999 kB"), (999_500, "1.00 MB")],
)
def test_bytes(count: int, text: str) -> None:
    assert _bytes(count) == text


def test_large_bytes() -> None:
    assert (_bytes(4.56e6), _bytes(1.2e9), _bytes(5e15)) == ("4.56 MB", "1.20 GB", "5000 TB")
