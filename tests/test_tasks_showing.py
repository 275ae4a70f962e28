"""What a task may do beside training: a clock, links of its own size, events, exhibits, a pace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from live import LiveServer
from rowcast.errors import ConfigError
from rowcast.experiment import Comparison, RobotSettings, run_comparison, run_robot
from rowcast.experiment.runners.virtual import model_bytes
from rowcast.experiment.starting import CACHE_VARIABLE
from rowcast.journal import read_journal
from rowcast.links import load_trace, named_trace
from rowcast.rows import Layout
from rowcast.tasks import TaskWorker, build_task, load_task
from rowcast.testing import check_task
from showing_task import HEIGHT, WIDTH

SHOWING = f"{Path(__file__).parent / 'showing_task.py'}:Showing"
SMALL = Comparison(
    task=SHOWING, policies=("bsp",), seeds=1, hours=30 / 3600, eval_every_s=10.0, workers=(2,), devices=("1.5",)
)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sums in the same order each time, and no cache of whoever runs the tests."""
    monkeypatch.setenv(CACHE_VARIABLE, "off")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def compared(out: Path, **changes: Any) -> Path:
    """The folder of the only run of a comparison."""
    (cell,) = run_comparison(Comparison(**{**vars(SMALL), **changes}), out, jobs=0)
    return out / "cells" / cell.name


def test_the_task_conforms() -> None:
    check_task(load_task(SHOWING), steps=20)


# -- the clock ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[float]]:
    """What the clock of each worker says when it computes."""
    found: dict[int, list[float]] = {}
    compute_on = TaskWorker.compute_on

    def watched(worker: TaskWorker, batch: Any) -> float:
        found.setdefault(worker.index, []).append(worker.clock())
        return compute_on(worker, batch)

    monkeypatch.setattr(TaskWorker, "compute_on", watched)
    return found


def test_in_virtual_time_the_clock_is_that_of_the_worker(tmp_path: Path, seen: dict[int, list[float]]) -> None:
    folder = compared(tmp_path)
    for index, times in seen.items():
        records = [json.loads(line) for line in (folder / f"robot-{index}.jsonl").read_text().splitlines()]
        ends = [record["t"] for record in records if record["event"] == "step"]
        # A gradient is computed where the step before has ended; the run goes on for a moment after its last.
        assert times[0] == 0.0 and times[1 : len(ends) + 1] == pytest.approx(ends, abs=1e-5)
    assert set(seen) == {0, 1} and len(seen[0]) > 5


def test_a_robot_has_real_seconds_since_its_first_step(seen: dict[int, list[float]]) -> None:
    with LiveServer("bsp", expected_workers=1) as server:
        told: list[float] = []
        settings = RobotSettings(server=f"127.0.0.1:{server.port}", task=SHOWING, steps=3, pace_s=0.05, eval_every=0)
        run_robot(settings, progress=lambda progress: told.append(progress.passed_s))
    began, *later = seen[0]
    assert 0.0 <= began < told[0] <= later[0] < told[1] <= later[1] < told[2]


# -- links -------------------------------------------------------------------------------------------------------------


def test_links_are_scaled_by_what_the_task_says_they_were_recorded_with(tmp_path: Path) -> None:
    folder = compared(tmp_path, hours=5 / 3600)
    assert build_task(SHOWING).reference_bytes == 1_000
    scale = model_bytes(Layout.from_shapes([("weight", (HEIGHT, WIDTH))])) / 1_000
    expected = named_trace("outdoor", (0, 0, 0), 3600.0).scaled(scale)
    found = load_trace(folder / "link-0-up.csv")
    assert [found.rate(time) for time in (0.0, 7.0, 99.0)] == pytest.approx(
        [expected.rate(time) for time in (0.0, 7.0, 99.0)], rel=1e-3
    )


# -- events ------------------------------------------------------------------------------------------------------------


def events(journal: Path, name: str = "task") -> list[dict[str, Any]]:
    return [record for record in read_journal(journal) if record["event"] == name]


def test_what_happened_is_in_the_journal_at_its_time(tmp_path: Path) -> None:
    """A frame each 4 s, told after the first step that ends behind it; what is left at the end is told there."""
    folder = compared(tmp_path)
    for index in (0, 1):
        journal = folder / f"robot-{index}.jsonl"
        ends = [step["t"] for step in events(journal, "step")]
        found = events(journal)
        assert [event["detail"] for event in found] == [f"number {k}, due at {4 * k:.2f} s" for k in range(1, 8)]
        assert {event["what"] for event in found} == {"frame"}
        for k, event in enumerate(found, start=1):
            assert event["t"] == pytest.approx(min([end for end in ends if end >= 4 * k], default=30.0), abs=1e-5)
            assert event["iteration"] == sum(end <= event["t"] for end in ends)


def test_a_robot_tells_events_too(tmp_path: Path) -> None:
    with LiveServer("bsp", expected_workers=1) as server:
        settings = RobotSettings(
            server=f"127.0.0.1:{server.port}",
            task=SHOWING,
            task_options={"frame_every_s": 0.1},
            steps=4,
            pace_s=0.1,
            journal=tmp_path / "robot.jsonl",
        )
        run_robot(settings)
    found = events(tmp_path / "robot.jsonl")
    assert [event["detail"].partition(",")[0] for event in found][:3] == ["number 1", "number 2", "number 3"]
    assert [event["iteration"] for event in found] == sorted(event["iteration"] for event in found)


@pytest.mark.parametrize("wrong", ["[('lost',)]", "['lost']", "[('lost', 3)]"])
def test_what_is_no_event_is_refused(tmp_path: Path, wrong: str) -> None:
    path = changed(tmp_path, "        return told", f"        return {wrong}")
    with pytest.raises(ConfigError, match="task Showing: happened: expected pairs of texts, what and a detail"):
        compared(tmp_path / "out", task=str(path))


def changed(folder: Path, old: str, new: str) -> str:
    """The task with a text replaced, in a file of its own."""
    text = Path(SHOWING.rpartition(":")[0]).read_text()
    assert text.count(old) == 1
    path = folder / "changed.py"
    path.write_text(text.replace(old, new))
    return f"{path}:Showing"
