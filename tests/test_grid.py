"""The parts of ``benchmarks/grid.py`` that decide: which cells there are, and who has lost what."""

from __future__ import annotations

import importlib
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from rowcast.metric import Metric
from rowcast.report import Curve

FOLDER = Path(__file__).parents[1] / "benchmarks"
ACCURACY, ERROR = Metric("accuracy", "%"), Metric("error", "points", "lower")
FACTORS = ("job", "team", "rate", "optimizer", "shards", "robots", "links")


@pytest.fixture
def part(monkeypatch):
    """A module of the benchmark by name, imported as when it is started."""
    monkeypatch.syspath_prepend(str(FOLDER))
    known = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - known:
        if name.startswith("grid") or name in ("common", "fashion"):
            del sys.modules[name]


def held(cells, strength):
    """The combinations of values of some factors that are in the cells."""
    return {
        each
        for cell in cells
        for each in itertools.combinations([(name, getattr(cell, name)) for name in FACTORS], strength)
    }


@pytest.mark.parametrize("strength", [2, 3])
def test_every_combination_that_is_possible_is_in_a_cell(part, strength):
    grid = part("grid_cells")
    product = [grid.GridCell(*values) for values in itertools.product(*grid.FACTORS.values())]
    possible = [cell for cell in product if cell.possible]
    cells = grid.all_cells(grid.JOBS, strength)
    assert held(cells, strength) == held(possible, strength)
    assert len(set(cells)) == len(cells) < len(possible) / 10
    assert cells == grid.all_cells(grid.JOBS, strength)


def test_one_robot_is_unequal_to_nobody(part):
    grid = part("grid_cells")
    assert not grid.GridCell(team=1, robots="unequal").possible
    assert not grid.GridCell(team=1, shards="skew").possible
    assert all(cell.possible for cell in grid.all_cells(grid.JOBS, 3))


def test_cells_are_chosen_by_patterns(part):
    grid = part("grid_cells")
    cells = grid.all_cells(grid.JOBS, 2)
    found = grid.chosen(cells, "digits/4/x1/momentum/iid/equal/*, */16/*")
    assert {cell.job for cell in found if cell.team == 4} == {"Digits"}
    assert [cell for cell in found if cell.team not in (4, 16)] == []
    assert grid.chosen(cells, "nothing") == []


# -- lines -------------------------------------------------------------------------------------------------------------


def line(part, values, *, gradients=240.0, metric=ACCURACY, seconds=None):
    """A run of which these values were seen, evenly over its gradients; what is better is higher."""
    values = np.asarray(values, dtype=float)
    along = np.linspace(0.0, gradients, len(values))
    return part("grid_judge").Line(metric, Curve(along, values), along if seconds is None else along * seconds)


def climbing(end, start=10.0, places=61):
    """From the start straight to the end, which is reached halfway."""
    return np.minimum(start + (end - start) * np.arange(places) / (places // 2), end)


def test_what_a_policy_is_below_bsp(part):
    judge, cell = part("grid_judge").judge, part("grid_cells").GridCell()
    references = {seed: line(part, climbing(90.0)) for seed in (0, 1)}
    lines = {0: line(part, climbing(87.0)), 1: line(part, climbing(85.0))}
    found = judge(cell, references, lines, 80.0)
    assert found.end == pytest.approx((3.0, 5.0))
    assert found.worst == pytest.approx((3.0, 5.0))
    assert found.allowed == pytest.approx(0.03 * 80)
    assert found.trains and not found.diverged and found.read == 1
    assert [figure.met for figure in found.figures()] == [False, False, True]


def test_a_shorter_run_is_read_up_to_its_end(part):
    judge, cell = part("grid_judge").judge, part("grid_cells").GridCell()
    half = line(part, climbing(90.0)[:31], gradients=120.0)
    found = judge(cell, {0: line(part, climbing(90.0))}, {0: half}, 80.0)
    assert found.end == pytest.approx((0.0,))
    assert found.read == pytest.approx(0.5)


def test_nothing_is_asked_where_bsp_does_not_train(part):
    judge, cell = part("grid_judge").judge, part("grid_cells").GridCell()
    falling = np.concatenate([climbing(90.0)[:40], np.linspace(90.0, 40.0, 21)])
    found = judge(cell, {0: line(part, falling)}, {0: line(part, climbing(20.0))}, 80.0)
    assert not found.trains
    assert all(figure.met for figure in found.figures())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (climbing(90.0), False),
        (np.concatenate([climbing(90.0)[:40], np.full(21, 45.0)]), True),
        (np.concatenate([climbing(90.0)[:40], np.full(21, 55.0)]), False),
        (np.append(climbing(90.0), np.nan), True),
        (np.linspace(10.0, 1.0, 61), True),
        (np.full(61, 10.0), False),
    ],
    ids=["climbs", "loses more than half", "loses less", "no number", "falls from the start", "learns nothing"],
)
def test_who_has_diverged(part, values, expected):
    assert part("grid_judge").diverged(line(part, values), 80.0) is expected


def test_a_seed_that_diverges_with_bsp_too_is_not_counted(part):
    judge, cell = part("grid_judge").judge, part("grid_cells").GridCell()
    lost = np.concatenate([climbing(90.0)[:40], np.full(21, 20.0)])
    references = {0: line(part, lost), 1: line(part, climbing(90.0))}
    found = judge(cell, references, {seed: line(part, lost) for seed in (0, 1)}, 80.0)
    assert found.diverged == (1,)


def test_an_error_that_shall_be_low_has_a_bound_of_what_was_gained(part):
    judge, cell = part("grid_judge").judge, part("grid_cells").GridCell()
    references = {0: line(part, climbing(-40.0, start=-60.0), metric=ERROR)}
    found = judge(cell, references, {0: line(part, climbing(-41.0, start=-60.0), metric=ERROR)}, 20.0)
    assert found.end == pytest.approx((1.0,))
    assert found.allowed == pytest.approx(0.6)
    assert found.values == pytest.approx((40.0, 41.0))


def test_time_to_accuracy_is_between_looks_and_has_to_be_kept(part):
    judge = part("grid_judge")
    reference = line(part, climbing(90.0))
    # Nine tenths of 80 points above 10 are at 82; the average of three looks is one look late.
    assert judge.gradients_to_target(reference, reference) == pytest.approx(120 * 0.9 + 4)
    assert judge.seconds_to_target(reference, line(part, climbing(90.0), seconds=2.0)) == pytest.approx(224)
    once = np.full(61, 10.0)
    once[30:33] = 100.0
    assert judge.gradients_to_target(reference, line(part, once)) == float("inf")
    assert judge.gradients_to_target(reference, line(part, climbing(80.0))) == float("inf")
