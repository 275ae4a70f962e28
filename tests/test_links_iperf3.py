"""Traces of what ``iperf3 -J`` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rowcast.errors import TraceError
from rowcast.links import load_team, load_trace


def interval(start: float, end: float, bps: float, **more: Any) -> dict[str, Any]:
    return {"streams": [], "sum": {"start": start, "end": end, "seconds": end - start, "bits_per_second": bps, **more}}


def written(path: Path, *intervals: Any, **more: Any) -> Path:
    path.write_text(json.dumps({"start": {}, "intervals": list(intervals), "end": {}, **more}))
    return path


def test_each_interval_is_a_step(tmp_path: Path) -> None:
    path = written(tmp_path / "robot-0.json", interval(0, 0.5, 8e6), interval(0.501, 1.0, 0), interval(1.0, 1.6, 4e6))
    trace = load_trace(path)
    assert trace.name == "robot-0.json" and trace.loop and trace.duration_s == 1.6
    np.testing.assert_allclose(trace.times_s, [0, 0.501, 1.0])
    np.testing.assert_allclose(trace.rates_bps, [8e6, 0, 4e6])
    assert not load_trace(path, loop=False).loop
    assert [each.name for each in load_team(tmp_path)] == ["robot-0.json"]


def test_what_was_to_be_omitted_is_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", interval(0, 1, 9e9, omitted=True), interval(1, 2, 5e6), interval(2, 3, 6e6))
    trace = load_trace(path)
    np.testing.assert_allclose(trace.rates_bps, [5e6, 6e6])
    assert trace.duration_s == 2.0


@pytest.mark.parametrize(
    ("intervals", "more", "says"),
    [
        ((), {"error": "unable to connect to server"}, "no intervals; iperf3 says: 'unable to connect to server'"),
        ((interval(0, 1, 1e6, omitted=True),), {}, "no intervals; measure again"),
        (({"sum": {"start": 0}},), {}, "interval 1: expected 'sum' with start, end, bits_per_second"),
        (([],), {}, "interval 1: expected 'sum'"),
        ((interval(0, 1, -1.0),), {}, "interval 1: 0 to 1 s at -1 bit/s cannot be"),
        ((interval(0, 1, 1e6), interval(0, 2, 1e6)), {}, "interval 2 begins at 0 s, not after 0 s"),
        ((interval(0, 1, 1e6), interval(1.5, 2, 1e6)), {}, "nothing is known of 1 to 1.5 s"),
    ],
)
def test_what_is_refused(tmp_path: Path, intervals: tuple[Any, ...], more: dict[str, Any], says: str) -> None:
    with pytest.raises(TraceError, match=says):
        load_trace(written(tmp_path / "a.json", *intervals, **more))


@pytest.mark.parametrize(("text", "says"), [("{", "not JSON"), ("[]", "with a list 'intervals'"), ("{}", "intervals")])
def test_other_files(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(TraceError, match=says):
        load_trace(tmp_path / "a.json")
