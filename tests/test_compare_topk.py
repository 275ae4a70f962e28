"""Comparisons with adaptive top-k: what is planned and refused, names of runs, and what becomes of gradients."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rowcast.errors import ConfigError
from rowcast.experiment import Cell, Comparison, plan_cells, run_comparison
from rowcast.experiment.runners.thinning import Thinning, gather, scatter
from rowcast.experiment.runners.virtual import run_virtual
from rowcast.streams import AdaptiveTopK, TopK, parse_topk
from rowcast.tasks import TaskWorker
from stub_cells import run_stub

SMALL = Comparison(policies=("bsp",), workers=(3,), hours=0.001, seeds=1, devices=("0.1",), links=("constant:20000",))
ELEMENTS, KEPT = 310, 31

#: A task whose gradients have a few large elements; in the fourth batch of 'Broken' something is not a number.
SLOPE = '''
import itertools, torch
from torch import nn
from rowcast.tasks import Metric, Task

class Slope(Task):
    """A plane."""

    metrics = (Metric("error", "", "lower"),)

    def make_model(self):
        return nn.Linear(30, 10)

    def make_optimizer(self, model):
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)

    def _point(self, rng):
        x = torch.from_numpy((rng.standard_normal(30) * 0.75 ** torch.arange(30).numpy()).astype("float32"))
        return x, x[:10]

    def samples(self, index, workers):
        rng = self.rng(index)
        return (self._point(rng) for _ in itertools.count())

    def batches(self, index, workers):
        points = self.samples(index, workers)
        while True:
            yield self.collate(list(itertools.islice(points, 8)))

    def loss(self, model, batch):
        x, y = batch
        return (model(x) - y).square().mean()

    def evaluate(self, worker):
        return {"error": float(worker.model.weight.detach().square().sum())}


class Broken(Slope):
    """The same with a batch that cannot be used."""

    def batches(self, index, workers):
        for n, (x, y) in enumerate(super().batches(index, workers)):
            yield x * float("nan") if n == 3 else x, y
'''


@pytest.fixture
def task(tmp_path: Path) -> str:
    (tmp_path / "slope.py").write_text(SLOPE)
    return str(tmp_path / "slope.py")


# -- plan --------------------------------------------------------------------------------------------------------------


def planned(**more: Any) -> list[Cell]:
    return plan_cells(replace(SMALL, **more))


def test_top_k_is_an_axis_with_and_without_streams() -> None:
    cells = planned(topk=("0", "0.1/0.3", "0.010/1"), batch=(16, 32), policies=("bsp", "rowcast"))
    assert len({cell.name for cell in cells}) == 2 * 3 * 2
    assert [cell.topk for cell in cells[:6]] == ["", "", "0.1/0.3", "0.1/0.3", "0.01/1", "0.01/1"]
    assert cells[0].name == "bsp_constant-20000_w3_b16_c0.1_s0"
    assert re.fullmatch(r"bsp_constant-20000_w3_b16_c0\.1_k0\.1-0\.3-[0-9a-f]{8}_s0", cells[2].name)
    fed = planned(topk=("0.1/0.3",), streams=("S1",), batch=("fixed:16", "rate:1s", "team:48", "speed:48"))
    assert {cell.topk for cell in fed} == {"0.1/0.3"} and len({cell.name for cell in fed}) == 4
    assert all(re.fullmatch(r"[\w.-]+_rS1_q[\w.-]+_k0\.1-0\.3-\w+_s0", cell.name) for cell in fed)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"topk": ("0.1",)}, "topk: expected ratio/delta, a ratio above 0 and up to 1 and a delta of 0 to 1, as in"),
        ({"topk": ("0/1",)}, "topk: expected ratio/delta"),
        ({"topk": ("0.1/1.5",)}, "or 0, got '0.1/1.5'"),
        ({"topk": ("0.1/0.3/1",)}, "topk: expected ratio/delta"),
        ({"topk": ("a tenth/1",)}, "topk: expected ratio/delta"),
        ({"topk": ("0.1/nan",)}, "topk: expected ratio/delta"),
        ({"topk": ("0", "off")}, "topk: 0 and off are the same"),
        ({"topk": ("0.1/1", "0.10/1.0")}, "topk: 0.1/1 and 0.10/1.0 are the same"),
        ({"topk": ("0.1/1", "0.1/1")}, "topk: 0.1/1, 0.1/1 names one twice"),
        (
            {"topk": ("0", "0.1/1"), "policies": ("bsp", "localsgd:4")},
            "topk 0.1/1: thins each gradient that is sent, and localsgd:4 sends the sum of 4 steps",
        ),
        (
            {"topk": ("0.1/1",), "policies": ("sparta",)},
            "topk 0.1/1: thins each gradient that is sent, and sparta sends the sum of many steps",
        ),
    ],
)
def test_what_cannot_be_is_one_line(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)) as error:
        planned(**change)
    assert "\n" not in str(error.value)


def test_none_goes_with_every_policy() -> None:
    assert planned(topk=("off",), policies=("localsgd:4",)) == planned(policies=("localsgd:4",))
    assert parse_topk("off") is None and parse_topk(" 0 ") is None and parse_topk("1/0") == TopK(1.0, 0.0)


def test_folders_of_runs_without_are_as_before(tmp_path: Path) -> None:
    """They are finished with it in the list, too, and a run with it is another."""
    run_comparison(SMALL, tmp_path, jobs=0, run=run_stub)
    (plain,) = tmp_path.glob("cells/*/done.json")
    assert not {"topk", "feeding"} & set(json.loads(plain.read_text())["cell"])
    before = plain.stat().st_mtime_ns
    both = replace(SMALL, topk=("0", "0.1/0.3"))
    _, thinned = run_comparison(both, tmp_path, jobs=0, run=run_stub)
    assert plain.stat().st_mtime_ns == before
    path = tmp_path / "cells" / thinned.name / "done.json"
    assert json.loads(path.read_text())["cell"]["topk"] == "0.1/0.3"
    again: list[str] = []
    run_comparison(both, tmp_path, jobs=0, run=lambda cell, folder, tell: again.append(cell.name))
    assert again == []
    path.write_text(path.read_text().replace('"0.1/0.3"', '"0.1/0.4"'))
    with pytest.raises(ConfigError, match="was run with other settings"):
        run_comparison(both, tmp_path, jobs=0, run=run_stub)


# -- parts -------------------------------------------------------------------------------------------------------------


def test_the_majority_of_the_newest_votes_decides() -> None:
    team = Thinning(TopK(0.1, 0.3))
    assert team.vote("a", True)  # nobody else has voted
    assert not team.vote("b", False)  # half is no majority
    assert team.vote("c", True)
    assert not team.vote("a", False)
    assert team.vote("b", True) and team.vote("b", True)  # a vote of one robot counts once
    assert not team.vote("c", False)
    team.leave("a")
    assert not team.vote("c", False)  # b for it, c against
    team.leave("c")
    team.leave("d")  # who never voted
    assert team.vote("b", True)


def test_a_parameter_without_a_gradient() -> None:
    """It counts as 0, and gets a gradient when something that had stayed is used."""
    with_, without = torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(3))
    with_.grad = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert gather([with_, without]).tolist() == [1, 2, 3, 4, 0, 0, 0]
    scatter(np.array([0, 0, 0, 4, 0, 0, 0], np.float32), [with_, without])
    assert with_.grad.tolist() == [[0, 0], [0, 4]] and without.grad is None
    scatter(np.array([0, 0, 0, 0, 0, 5, 0], np.float32), [with_, without])
    assert not with_.grad.any() and without.grad is not None and without.grad.tolist() == [0, 5, 0]


# -- runs --------------------------------------------------------------------------------------------------------------


@dataclass
class Ran:
    """What a run left.

    Attributes:
        steps: the records of each robot.
        files: their journals as written.
        gradients: (robot, as computed, as used), float64 [elements], in the order of the run.
    """

    steps: list[list[dict[str, Any]]]
    files: list[bytes]
    gradients: list[tuple[int, np.ndarray, np.ndarray]] = field(default_factory=list)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Cell], Ran]:
    """Runs a cell, and looks at the gradients where they are computed and where they are used."""
    found: list[tuple[int, np.ndarray, np.ndarray]] = []
    computed: dict[int, np.ndarray] = {}
    compute_on = TaskWorker.compute_on

    def gradient(robot: TaskWorker) -> np.ndarray:
        return np.concatenate([each.grad.numpy().ravel() for each in robot.model.parameters()]).astype(np.float64)

    def spied(robot: TaskWorker, batch: Any) -> float:
        if robot.index not in computed:
            robot.optimizer.register_step_pre_hook(
                lambda *_: found.append((robot.index, computed[robot.index], gradient(robot)))
            )
        loss = compute_on(robot, batch)
        computed[robot.index] = gradient(robot)
        return loss

    monkeypatch.setattr(TaskWorker, "compute_on", spied)

    def ran(cell: Cell) -> Ran:
        found.clear()
        computed.clear()
        folder = tmp_path / "out" / f"{len(list(tmp_path.glob('out/*')))}" / cell.name
        folder.mkdir(parents=True)
        run_virtual(cell, folder, lambda _: None)
        files = [path.read_bytes() for path in sorted(folder.glob("robot-*.jsonl"))]
        steps = [
            [record for record in map(json.loads, content.splitlines()) if record["event"] == "step"]
            for content in files
        ]
        return Ran(steps, files, list(found))

    return ran


def without_top_k(content: bytes) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in content.splitlines()]
    return [
        {key: value for key, value in record.items() if key not in ("floats", "gradient_floats", "compressed")}
        for record in records
    ]


@pytest.mark.parametrize(
    ("delta", "more"),
    [
        (0.04, {}),
        (0.04, {"policies": ("rowcast",)}),
        (0.02, {"streams": ("50/100/150",), "batch": ("rate:0.2s@10",), "devices": ("0.1@8",)}),
        (0.04, {"batch": ("speed:24",), "devices": ("0.1@8/0.2@8/0.3@8",)}),
    ],
    ids=["bsp", "rowcast", "streams", "speed"],
)
def test_no_mass_is_lost_or_used_twice(
    delta: float, more: dict[str, Any], task: str, run: Callable[[Cell], Ran]
) -> None:
    """What is used and what stays is what was computed, by the samples of each step; and the team decides by votes."""
    (cell,) = planned(task=f"{task}:Slope", topk=(f"0.1/{delta}",), **more)
    ran = run(cell)
    stays = [np.zeros(ELEMENTS) for _ in range(3)]
    by_rule = [AdaptiveTopK(0.1, delta, ELEMENTS) for _ in range(3)]
    votes: dict[int, bool] = {}
    kinds = set()
    steps = [iter(own) for own in ran.steps]
    for robot, computed, used in ran.gradients:
        step = next(steps[robot], None)
        if step is None:
            continue  # under way at the end
        count = step.get("samples", 1)
        held = stays[robot] + computed * count
        votes[robot] = by_rule[robot].look((computed * count).astype(np.float32))
        compressed = 2 * sum(votes.values()) > len(votes)
        by_rule[robot].send(compressed)
        assert step["compressed"] is compressed
        assert (step["floats"], step["gradient_floats"]) == (2 * KEPT if compressed else ELEMENTS, ELEMENTS)
        there = np.flatnonzero(used)
        np.testing.assert_allclose(used[there] * count, held[there], rtol=1e-4, atol=1e-6)
        stays[robot] = held - used * count
        if compressed:
            assert len(there) == KEPT
            assert np.abs(stays[robot]).max() <= np.abs(held[there]).min() + 1e-6  # the largest are used
        else:
            np.testing.assert_allclose(stays[robot], 0, atol=1e-5)
        kinds.add(compressed)
    assert kinds == {True, False}


def test_where_nothing_is_left_out_the_run_is_that_without(task: str, run: Callable[[Cell], Ran]) -> None:
    plain, never = planned(task=f"{task}:Slope", topk=("0", "0.1/0"))
    without, with_ = run(plain), run(never)
    assert all("floats" not in step and "compressed" not in step for own in without.steps for step in own)
    assert all(step["floats"] == ELEMENTS and not step["compressed"] for own in with_.steps for step in own)
    assert [without_top_k(own) for own in with_.files] == [without_top_k(own) for own in without.files]


def test_a_run_is_the_same_every_time(task: str, run: Callable[[Cell], Ran]) -> None:
    (cell,) = planned(task=f"{task}:Slope", topk=("0.1/0.25",), policies=("rowcast",))
    assert run(cell).files == run(cell).files


def test_a_gradient_that_cannot_be_used_leaves_what_had_stayed(task: str, run: Callable[[Cell], Ran]) -> None:
    (cell,) = planned(task=f"{task}:Broken", topk=("0.1/1",))
    with pytest.warns(UserWarning, match="NaN"):
        ran = run(cell)
    for own in ran.steps:
        assert [step["floats"] for step in own] == [0 if n == 3 else 2 * KEPT for n in range(len(own))]
        assert [step["skipped"] for step in own] == [n == 3 for n in range(len(own))] and len(own) > 6
        assert (own[3]["gradient_floats"], own[3]["compressed"]) == (0, False)
    of_first = [(computed, used) for robot, computed, used in ran.gradients if robot == 0]
    stays = np.zeros(ELEMENTS)
    for computed, used in of_first:  # a step that is skipped is none of them
        held = stays + computed
        there = np.flatnonzero(used)
        np.testing.assert_allclose(used[there], held[there], rtol=1e-4, atol=1e-6)
        stays = held - used
