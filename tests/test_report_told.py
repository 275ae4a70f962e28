"""Reports of what tasks told beside their metrics: events, counted by kind."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rowcast.errors import ConfigError
from rowcast.experiment import Cell, Comparison, run_comparison
from rowcast.report import read_experiment, write_report
from rowcast.report.told_sections import MOST_KINDS, told_line, told_part, told_table
from stub_cells import run_stub

SETTINGS = Comparison(policies=("bsp", "rog:4", "asp"), workers=(2,), hours=0.05, seeds=2, eval_every_s=20.0)


def tell(folder: Path, index: int, time_s: float, what: object, detail: object) -> None:
    """Add an event to the journal of a robot."""
    record = {"t": time_s, "node": f"robot-{index}", "event": "task", "iteration": 1, "what": what, "detail": detail}
    with (folder / f"robot-{index}.jsonl").open("a", encoding="utf-8") as journal:
        journal.write(json.dumps(record) + "\n")


def run_told(cell: Cell, folder: Path, progress: Callable[[float], None]) -> None:
    """Under bsp robot-1 is lost once, and twice more with seed 1; under rog each robot is; asp tells nothing."""
    run_stub(cell, folder, progress)
    for index in (0, 1):
        if cell.policy == "rog:4":
            tell(folder, index, 30.0 - index, "lost", f"frame <{index}>")
        if cell.policy == "bsp" and index == 1:
            for k in range(1 + 2 * cell.seed):
                tell(folder, index, 45.0 + k, "lost", f"frame {k}")
            tell(folder, index, 50.0, "found\x1b", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("told")
    run_comparison(SETTINGS, out, jobs=0, run=run_told)
    write_report(out)
    return out


def test_events_are_counted_by_kind(folder: Path) -> None:
    with (folder / "report" / "told.csv").open(newline="") as stream:
        rows = {(row["policy"], row["what"]): row for row in csv.DictReader(stream)}
    assert list(rows) == [("bsp", "lost"), ("bsp", r"found\x1b"), ("rog:4", "lost")]
    lost = rows["bsp", "lost"]
    assert (float(lost["mean"]), int(lost["seeds"])) == (2.0, 2)
    assert float(lost["low"]) < 1.0 and float(lost["high"]) > 3.0
    assert (lost["first_robot"], lost["first_s"], lost["first_detail"]) == ("robot-1", "45", "frame 0")
    other = rows["rog:4", "lost"]
    assert [float(other[name]) for name in ("mean", "low", "high")] == [2.0, 2.0, 2.0]
    assert (other["first_robot"], other["first_s"], other["first_detail"]) == ("robot-1", "29", "frame <1>")


def test_the_page_shows_them(folder: Path) -> None:
    page = (folder / "report" / "report.html").read_text(encoding="utf-8")
    assert "What the tasks told" in page and "robot-1, 29 s: frame &lt;1&gt;" in page
    assert "\x1b" not in page


def test_a_run_says_them_in_a_line(folder: Path) -> None:
    experiment = read_experiment(folder)
    groups = experiment.by_policy(experiment.conditions[0])
    assert told_line(groups["bsp"][1]) == (
        r"bsp: the task told 3 x lost, 1 x found\x1b; the first: robot-1 at 45 s, lost: frame 0"
    )
    assert told_line(groups["asp"][0]) is None


def test_without_events_there_is_no_table(folder: Path) -> None:
    experiment = read_experiment(folder)
    quiet = {"asp": experiment.by_policy(experiment.conditions[0])["asp"]}
    assert not list(told_part(quiet, "", "these", [])) and not told_table(quiet).rows


def one_run(out: Path, **fields: object) -> Path:
    """A run of a robot that told the same kind of event again and again."""

    def run(cell: Cell, folder: Path, progress: Callable[[float], None]) -> None:
        run_stub(cell, folder, progress)
        for k in range(MOST_KINDS + 2):
            tell(folder, 0, 30.0, **{"what": f"kind {k}", "detail": "", **fields})

    run_comparison(Comparison(**{**vars(SETTINGS), "policies": ("bsp",), "seeds": 1}), out, jobs=0, run=run)
    return out


def test_kinds_that_there_is_no_room_for_are_named(tmp_path: Path) -> None:
    notes: list[str] = []
    experiment = read_experiment(one_run(tmp_path))
    (part,) = told_part(experiment.by_policy(experiment.conditions[0]), "-outdoor", "these", notes)
    assert part.name == "told-outdoor" and len(part.numbers.rows) == len(part.shown.rows) == MOST_KINDS
    assert notes == ["what the tasks told, these: 2 of 32 kinds of events"]


@pytest.mark.parametrize("wrong", [{"what": 3}, {"detail": None}])
def test_a_damaged_event_is_named(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"robot-0.jsonl: an event of the task at 30 s has .*expected texts"):
        read_experiment(one_run(tmp_path, **wrong))
