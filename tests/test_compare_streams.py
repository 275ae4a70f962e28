"""Comparisons over streams: what is planned and refused, names and files of runs, and runs from start to figures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rowcast.config import load_tables
from rowcast.errors import ConfigError, DataError
from rowcast.experiment import Cell, Comparison, plan_cells, run_comparison
from rowcast.experiment.feeding import Feeding, find_streams, usual_buffer
from rowcast.experiment.runners.virtual import run_virtual
from rowcast.streams import parse_batch
from rowcast.tasks.sizes import bytes_of
from stub_cells import run_stub

SMALL = Comparison(policies=("bsp", "rowcast"), workers=(2,), hours=0.01, seeds=1, devices=("0.1@64",))
#: So fast that rows of the line travel in next to no time.
FAST = ("constant:20000",)

#: A task of a user that gives samples: what a line through the points of each robot is.
LINE = '''
import itertools, torch
from torch import nn
from rowcast.errors import SourceEnded
from rowcast.tasks import Metric, Task, TaskSettings

class Line(Task):
    """A line."""

    metrics = (Metric("error", "", "lower"),)

    def make_model(self):
        return nn.Linear(100, 20)

    def make_optimizer(self, model):
        return torch.optim.SGD(model.parameters(), lr=1.5)

    def _point(self, rng):
        x = torch.from_numpy(rng.standard_normal(100).astype("float32"))
        return x, x[:20]

    def samples(self, index, workers):
        rng = self.rng(index)
        return (self._point(rng) for _ in itertools.count())

    def batches(self, index, workers):
        raise AssertionError("a run on samples asks for no batches")
        yield

    def loss(self, model, batch):
        x, y = batch
        return (model(x) - y).square().mean()

    def evaluate(self, worker):
        rng = self.rng(99)
        x = torch.stack([self._point(rng)[0] for _ in range(64)])
        return {"error": float((worker.model(x) - x[:, :20]).square().mean())}


class Short(Line):
    """The same with an end."""

    def samples(self, index, workers):
        yield from itertools.islice(super().samples(index, workers), 100)
        raise SourceEnded("over")


class Batches(Line):
    """The same without samples."""

    samples = Task.samples
'''


@pytest.fixture
def task(tmp_path: Path) -> str:
    (tmp_path / "line.py").write_text(LINE)
    return str(tmp_path / "line.py")


# -- plan --------------------------------------------------------------------------------------------------------------


def fed(**more: Any) -> list[Cell]:
    return plan_cells(replace(SMALL, **more))


def test_streams_batches_buffers_and_injection_are_axes() -> None:
    cells = fed(
        streams=("S1", "12/75"),
        batch=("fixed:64", "team:1024"),
        buffer=("persist", "truncate:1s"),
        inject=("0", "0.1/0.1"),
    )
    assert len(cells) == len({cell.name for cell in cells}) == 2 * 2 * 2 * 2 * 2
    assert {cell.batch for cell in cells} == {None}
    assert cells[0].feeding == Feeding("S1", "fixed:64", "persist", "")
    assert cells[-1].feeding == Feeding("12/75", "team:1024", "truncate:1s", "0.1/0.1")
    assert [cell.policy for cell in cells[:2]] == ["bsp", "rowcast"]
    assert all(re.fullmatch(r"[\w.-]+", cell.name) for cell in cells)
    assert cells[0].name == "bsp_outdoor_w2_bfixed-64_c0.1-64-2b746e0a_rS1_qpersist_s0"


def test_what_is_not_said_is_decided() -> None:
    """A batch for the whole team of 64 for each robot, and the buffer of ScaDLES."""
    cells = fed(streams=("S1",), workers=(2, 4))
    assert [cell.feeding for cell in cells[::2]] == [
        Feeding("S1", "team:128", "truncate:1s"),
        Feeding("S1", "team:256", "truncate:1s"),
    ]
    kept = {rule: str(usual_buffer(parse_batch(rule))) for rule in ("fixed:64", "rate:1s", "team:9", "speed:9")}
    assert kept == {"fixed:64": "persist", **dict.fromkeys(("rate:1s", "team:9", "speed:9"), "truncate:1s")}


def test_without_streams_there_are_always_enough() -> None:
    cells = fed(batch=("speed:128", "fixed:64", 32), devices=("0.1@64/0.4@64",), policies=("bsp",))
    assert [(cell.batch, cell.feeding) for cell in cells] == [
        (None, Feeding("", "speed:128")),
        (None, Feeding("", "fixed:64")),
        (32, None),
    ]
    assert cells[0].name.startswith("bsp_outdoor_w2_bspeed-128_c0.1-64-0.4-64-") and "_r" not in cells[0].name


def test_options_and_files_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "streams.toml"
    path.write_text('[compare]\nstreams = ["S1", "S2"]\nbatch = ["fixed:64", "rate:1s"]\nbuffer = ["persist"]\n')
    got = load_tables({"compare": Comparison}, path, overrides=["inject=['0.1/0.1']"])["compare"]
    assert got == Comparison(
        streams=("S1", "S2"), batch=("fixed:64", "rate:1s"), buffer=("persist",), inject=("0.1/0.1",)
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"streams": ("S3",)}, "streams: expected S1, S2"),
        ({"streams": ("12/40/75",)}, "streams 12/40/75: has 3 rates, expected 2"),
        ({"streams": ("50", "50.0")}, "streams: 50 and 50.0 are the same"),
        ({"streams": ("S1",), "batch": (64,)}, "batch 64: expected a rule with streams, as fixed:64 or team:1024"),
        ({"streams": ("S1",), "batch": ("fix:64",)}, "batch 'fix:64' is unknown; did you mean 'fixed:64'"),
        ({"streams": ("S1",), "batch": ("fixed:64", "fixed:064")}, "batch: fixed:64 and fixed:064 are the same"),
        ({"streams": ("S1",), "buffer": ("keep",)}, "buffer 'keep' is unknown"),
        ({"streams": ("S1",), "buffer": ("persist", "persist")}, "buffer: persist, persist names one twice"),
        ({"streams": ("S1",), "inject": ("2/1",)}, "inject: expected alpha/beta"),
        ({"streams": ("S1",), "inject": ("0", "off")}, "inject: 0 and off are the same"),
        ({"batch": ("rate:1s",)}, "batch rate:1s: goes by what streams bring; add streams"),
        ({"batch": ("team:128",)}, "batch team:128: goes by what streams bring"),
        ({"buffer": ("persist",)}, "buffer: without streams nothing waits"),
        ({"inject": ("0.1/0.1",)}, "inject: expected batches of a rule"),
        ({"batch": (64,), "inject": ("0.1/0.1",)}, "inject: expected batches of a rule"),
        ({"batch": (0,)}, "batch: expected a number in 1"),
    ],
)
def test_what_does_not_go_together_is_one_line(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)) as error:
        fed(**change)
    assert "\n" not in str(error.value)


def test_a_task_without_samples_is_refused(task: str) -> None:
    with pytest.raises(ConfigError, match="task Batches gives whole batches and no single samples"):
        fed(task=f"{task}:Batches", streams=("S1",))
    with pytest.raises(ConfigError, match="task Line has no option 'batch' that says how many they are"):
        fed(task=f"{task}:Line")
    fed(task=f"{task}:Batches", devices=("0.1",))


def test_rates_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rates.csv").write_text("t_s,a,b\n0,12,40\n5,75,0\n10,0,0\n")
    monkeypatch.chdir(tmp_path)
    (cell, _) = fed(streams=("rates.csv",))
    assert cell.feeding is not None and cell.feeding.rates == str(tmp_path / "rates.csv")
    first, second = find_streams(cell.feeding.rates).team(2, 0)
    assert [first.rate_at(t) for t in (1.0, 7.0, 11.0)] == [12.0, 75.0, 12.0] and second.rate_at(7.0) == 0.0
    with pytest.raises(ConfigError, match=r"rates\.csv: has 2 rates, expected 4"):
        fed(streams=("rates.csv",), workers=(4,))
    with pytest.raises(DataError, match=r"none\.csv: cannot be read"):
        fed(streams=("none.csv",))
    (tmp_path / "bad.csv").write_text("t_s,a\n0,12\n5,fast\n")
    with pytest.raises(DataError, match=r"bad\.csv, line 3, column a: expected a number"):
        fed(streams=("bad.csv",))


# -- folders -----------------------------------------------------------------------------------------------------------


def test_runs_from_before_streams_are_still_finished(tmp_path: Path) -> None:
    """Their files say nothing of streams, and neither do those of new runs without any."""
    plain = replace(SMALL, devices=("1.5",))
    ran = run_comparison(plain, tmp_path, jobs=0, run=run_stub)
    done = sorted(tmp_path.glob("cells/*/done.json"))
    assert [path.parent.name for path in done] == ["bsp_outdoor_w2_btask_c1.5_s0", "rowcast_outdoor_w2_btask_c1.5_s0"]
    assert all("feeding" not in json.loads(path.read_text())["cell"] for path in done)
    before = [path.stat().st_mtime_ns for path in done]
    both = replace(plain, streams=("S1",), devices=("1.5",))
    assert run_comparison(plain, tmp_path, jobs=0, run=run_stub) == ran
    run_comparison(both, tmp_path, jobs=0, run=run_stub)
    assert [path.stat().st_mtime_ns for path in done] == before
    found = json.loads(
        (tmp_path / "cells" / "bsp_outdoor_w2_bteam-128_c1.5_rS1_qtruncate-1s_s0" / "done.json").read_text()
    )
    assert found["cell"]["feeding"] == {"rates": "S1", "batch": "team:128", "buffer": "truncate:1s", "inject": ""}
    again: list[str] = []
    run_comparison(both, tmp_path, jobs=0, run=lambda cell, folder, tell: again.append(cell.name))
    assert again == []


def test_the_rates_of_a_finished_run_are_its_settings(tmp_path: Path) -> None:
    """Another rule is another run; the same name with other settings is refused."""
    fed_by = replace(SMALL, policies=("bsp",), streams=("S1",), batch=("fixed:64",))
    (cell,) = run_comparison(fed_by, tmp_path, jobs=0, run=run_stub)
    path = tmp_path / "cells" / cell.name / "done.json"
    content = json.loads(path.read_text())
    content["cell"]["feeding"]["buffer"] = "truncate:1s"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="was run with other settings"):
        run_comparison(fed_by, tmp_path, jobs=0, run=run_stub)


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Cell], dict[str, list[dict[str, Any]]]]:
    """Runs a cell: for each robot its records."""

    def ran(cell: Cell) -> dict[str, list[dict[str, Any]]]:
        folder = tmp_path / "out" / "cells" / cell.name
        folder.mkdir(parents=True)
        run_virtual(cell, folder, lambda _: None)
        return {
            path.stem: [json.loads(line) for line in path.read_text().splitlines()]
            for path in sorted(folder.glob("robot-*.jsonl"))
        }

    return ran


def steps_of(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for record in records if record["event"] == "step"]


def test_a_run_trains_on_its_stream(task: str, run: Callable[[Cell], dict[str, list[dict[str, Any]]]]) -> None:
    (cell,) = fed(
        task=f"{task}:Line", policies=("bsp",), links=FAST, streams=("12/75",), batch=("fixed:24",), eval_every_s=5.0
    )
    journals = run(cell)
    slow, fast = (steps_of(records) for records in journals.values())
    # Links take next to no time beside the wait: 24 samples at 12 a second.
    assert [step["t"] for step in slow[1:]] == pytest.approx(
        [2.0 * (n + 2) + 0.04 for n in range(len(slow) - 1)], abs=0.1
    )
    assert {step["samples"] for step in slow} == {24} and {step["exposed"] for step in slow} == {0}
    began = fast[-1]["t"] - sum(fast[-1][name] for name in ("compute_s", "communicate_s", "stall_s"))
    assert fast[-1]["queued"] == pytest.approx(75 * began - 24 * (len(fast) - 1), abs=1)
    errors = [record["value"] for record in journals["robot-0"] if record.get("name") == "error"]
    assert errors[-1] < 0.5 * errors[0]


def test_a_step_counts_as_the_samples_of_its_batch(task: str, run: Callable[[Cell], Any], tmp_path: Path) -> None:
    """In a batch of which the learning rate is meant for twice as many samples, the model moves half as far."""
    found = []
    for reference in (240, 480):
        (cell,) = fed(
            task=f"{task}:Line", policies=("bsp?codec=raw",), workers=(1,), links=FAST, streams=("24",), hours=0.0005,
            batch=(f"rate:1s@{reference}",), devices=("0.1",), eval_every_s=0.5,
        )  # fmt: skip
        records = run(cell)["robot-0"]
        errors = [record["value"] for record in records if record.get("name") == "error"]
        found.append(errors[0] - errors[1])
        assert steps_of(records)[0]["samples"] == 24
    assert found[0] / found[1] == pytest.approx(2, rel=0.15)


def test_a_stream_that_is_over_ends_the_robots(task: str, run: Callable[[Cell], Any]) -> None:
    """They look at what came of it, deliver, and say goodbye."""
    (cell,) = fed(
        task=f"{task}:Short", policies=("bsp",), links=FAST, streams=("50",), batch=("fixed:30",), eval_every_s=100.0
    )
    for records in run(cell).values():
        assert [step["samples"] for step in steps_of(records)] == [30, 30, 30, 10]
        assert [record["event"] for record in records if record["event"] in ("drained", "end")] == ["drained", "end"]
        assert len([record for record in records if record.get("name") == "error"]) == 2


def test_dynamic_batching_needs_no_stream(task: str, run: Callable[[Cell], Any]) -> None:
    (cell,) = fed(
        task=f"{task}:Line",
        policies=("bsp",),
        links=FAST,
        batch=("speed:100",),
        devices=("0.1@50/0.4@50",),
        hours=0.005,
    )
    quick, slow = (steps_of(records) for records in run(cell).values())
    assert (quick[0]["samples"], slow[0]["samples"]) == (50, 50)
    assert (quick[-1]["samples"], slow[-1]["samples"]) == (80, 20)
    assert quick[-1]["compute_s"] == pytest.approx(slow[-1]["compute_s"], rel=0.05)
    assert {step["starve_s"] for step in quick} == {0.0}


def test_bytes_of_a_sample() -> None:
    import numpy as np
    import torch

    assert bytes_of((torch.zeros(3, 32, 32), torch.tensor(1))) == 3 * 32 * 32 * 4 + 8
    assert bytes_of({"image": np.zeros(7, np.uint8), "name": "seven", "label": 7}) == 7 + 5 + 8
    assert bytes_of([b"abc", 1.0]) == 11
