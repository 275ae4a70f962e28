"""A reader of a broker is killed: ``benchmarks/stream_faults.py`` in short."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def faults(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    known = set(sys.modules)
    import stream_faults

    yield stream_faults
    for name in {"stream_faults", "team_faults", "brokers", "common"} & (set(sys.modules) - known):
        del sys.modules[name]


@pytest.mark.system
@pytest.mark.parametrize("k", [0, 1, 3], ids=["kafka-state", "kafka-commit", "mqtt-state"])
def test_nothing_is_lost_where_a_reader_is_killed(faults, k):
    case = faults.short(faults.CASES[k])
    if not faults.installed(case.broker):
        pytest.skip(f"{case.broker}: its broker or client library is not installed")
    outcome = faults.run_alone(case, seed=1)
    figures = faults.figures_of(case, outcome)
    assert [figure for figure in figures if not figure.met] == []
    assert len(outcome.killed_at) == 1 and 0 < outcome.killed_at[0] < case.samples


@pytest.mark.system
@pytest.mark.parametrize("k", [0, 2], ids=["bsp", "rowcast"])
def test_nothing_is_lost_where_a_worker_of_a_team_is_killed(faults, k):
    if not faults.installed("kafka"):
        pytest.skip("kafka: its client library is not installed (pip install 'rowcast[kafka]')")
    case = replace(faults.TEAM_CASES[k], samples=400, batch=16, kills=1)
    found = faults.run_team(case, seed=1)
    assert [figure for figure in faults.figures_of_team(case, found) if not figure.met] == []
    assert 0 < found.killed_at[0] < case.samples
