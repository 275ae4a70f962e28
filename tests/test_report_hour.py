"""The picture of a run: what was drawn equals what one computes by hand from the steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rowcast.errors import ConfigError
from rowcast.links import Trace
from rowcast.report import Timeline, draw_timeline, state_shares, timeline_table
from rowcast.report.timeline_figure import _titles

PNG = b"\x89PNG\r\n\x1a\n"


def step(t: float, compute_s: float, communicate_s: float, stall_s: float, **more: Any) -> dict[str, Any]:
    numbers = {"push_share": 1.0, "push_bytes": 1, "pull_bytes": 1, "quota_s": None, "mta_time_s": 0.0}
    lasted = {"compute_s": compute_s, "communicate_s": communicate_s, "stall_s": stall_s}
    return {"t": t, "event": "step", "iteration": 1, **lasted, **numbers, **more}


#: Two steps: 2 s of gradient, 3 s of push, 4 s at the gate, 1 s of pull; then 2 s in which rows travelled for the first
#: half, and 1 s at the gate. Half a second before the second belongs to no step.
RECORDS = [
    {"t": 100.0, "event": "start"},
    step(110.0, 2.0, 4.0, 4.0, quota_s=3.0),
    {"t": 110.0, "event": "metric"},
    step(113.5, 2.0, 0.0, 1.0, overlap_s=1.0),
]


def test_states_by_hand() -> None:
    line = Timeline.from_records("robot-0", RECORDS, start_s=100.0)
    assert line.edges_s.tolist() == [[0.0, 2.0, 5.0, 9.0, 10.0], [10.5, 12.5, 12.5, 13.5, 13.5]]
    seconds = line.seconds_between(np.array([0.0, 1.0, 3.0, 6.0, 9.5, 10.5, 11.0, 13.0, 20.0]))
    assert seconds.tolist() == [
        [1.0, 0.0, 0.0, 0.0],
        [1.0, 1.0, 0.0, 0.0],
        [0.0, 2.0, 1.0, 0.0],
        [0.0, 0.5, 3.0, 0.0],
        [0.0, 0.5, 0.0, 0.0],
        [0.5, 0.0, 0.0, 0.5],
        [1.5, 0.0, 0.5, 0.5],
        [0.0, 0.0, 0.5, 0.0],
    ]
    assert line.steps_between(np.array([0.0, 9.0, 10.0, 13.0, 20.0])).tolist() == [0, 1, 0, 1]
    assert line.changes_between(8.0, 13.0).tolist() == [8.0, 9.0, 10.0, 10.5, 11.5, 12.5, 13.0]


def test_a_wait_for_data_comes_before_the_computation() -> None:
    """Where one robot has a stream, all lines have the state; without any, none has."""
    fed = [{**RECORDS[1], "starve_s": 1.0, "t": 111.0}, {**RECORDS[3], "starve_s": 1.5, "t": 115.5}]
    line = Timeline.from_records("robot-0", fed, start_s=100.0)
    edges = np.array([0.0, 0.5, 2.0, 11.0, 12.0, 15.5])
    assert line.starved_between(edges).tolist() == [0.5, 0.5, 0.0, 1.0, 0.5]
    assert line.seconds_between(edges)[:, 0].tolist() == [0.0, 1.0, 1.0, 0.0, 2.0]
    assert line.changes_between(10.0, 15.5).tolist() == [10.0, 11.0, 12.5, 13.5, 14.5, 15.5]
    plain = Timeline.from_records("robot-1", RECORDS, start_s=100.0)
    table = timeline_table({"bsp": [line, plain]}, 20.0)
    assert [name for name in table.columns if name not in timeline_table({"bsp": [plain]}, 20.0).columns] == ["starve"]
    (shares,) = state_shares(table).rows
    assert shares[2:] == pytest.approx([100 * part / 28.5 for part in (2.5, 8.0, 8.0, 10.0, 2.0)])
    assert _titles(state_shares(table))["bsp"].startswith("bsp: 2 steps; starve 8.8 %, compute 28.1 %")


def test_a_push_ends_no_earlier_than_its_time_and_no_later_than_the_exchange() -> None:
    """Behind the gate comes what is left of the exchange."""

    def pushed(**more: Any) -> float:
        edges = Timeline.from_records("robot-0", [step(10.0, 2.0, 4.0, 4.0, **more)]).edges_s[0]
        return float(edges[2] - edges[1])

    assert pushed(quota_s=1.0) == 1.0
    assert pushed(quota_s=1.0, mta_time_s=3.0) == 3.0
    assert pushed(quota_s=9.0) == 4.0
    assert pushed() == 4.0


def random_steps(rng: np.random.Generator, count: int) -> list[dict[str, Any]]:
    """One after the other, rounded as a journal is."""
    records, t = [], 0.0
    for _ in range(count):
        parts = rng.exponential([2.0, 5.0, 3.0])
        t += float(parts.sum())
        lasted = [round(float(part), 6) for part in parts]
        records.append(step(round(t, 6), *lasted, overlap_s=lasted[0], quota_s=lasted[1] / 2))
    return records


def test_bins_sum_to_the_time() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 7, 300):
        records = random_steps(rng, count)
        line = Timeline.from_records("robot-0", records)
        end = records[-1]["t"]
        edges = np.linspace(0.0, 1.2 * end, 61)
        seconds = line.seconds_between(edges)
        for column, field in enumerate(("compute_s", "communicate_s", "stall_s", "overlap_s")):
            assert seconds[:, column].sum() == pytest.approx(sum(record[field] for record in records), abs=1e-5 * count)
        inside = edges[1:] <= end
        np.testing.assert_allclose(seconds[inside, :3].sum(axis=1), np.diff(edges)[inside], atol=1e-5 * count)
        assert line.steps_between(edges).sum() == count
        assert (np.diff(line.edges_s.ravel()) >= 0).all()


def test_a_robot_without_a_step() -> None:
    line = Timeline.from_records("robot-0", [{"t": 1.0, "event": "start"}])
    assert line.seconds_between(np.array([0.0, 1.0, 2.0])).tolist() == [[0.0] * 4] * 2
    assert line.steps_between(np.array([0.0, 1.0])).tolist() == [0]
    assert line.changes_between(3.0, 4.0).tolist() == [3.0, 4.0]
    shares = state_shares(timeline_table({"bsp": [line]}, 60.0))
    assert shares.rows == (("bsp", 0.0, None, None, None, None),)
    assert _titles(shares) == {"bsp": "bsp: no step was finished"}


def test_a_step_that_lacks_a_number_is_named() -> None:
    with pytest.raises(ConfigError, match="robot-7: the step of iteration 1 has stall_s = None"):
        Timeline.from_records("robot-7", [{**RECORDS[1], "stall_s": None}])


def test_the_table_holds_what_is_drawn() -> None:
    line = Timeline.from_records("robot-0", RECORDS, start_s=100.0)
    link = Trace(np.array([0.0, 10.0]), np.array([8e6, 2e6]), "link", loop=False, duration_s=100.0)
    other = Timeline.from_records("robot-1", RECORDS[:2], start_s=100.0)
    table = timeline_table({"bsp": [line], "rog:4": [line, other]}, 40.0, {"robot-0": link}, close_up_s=(8.0, 13.0))
    whole = table.where(policy="bsp", view="whole")
    assert (whole.rows[0][3], whole.rows[-1][4]) == (0.0, 40.0)
    close = table.where(policy="bsp", view="close-up")
    assert close.numbers("to_s") == [9.0, 10.0, 10.5, 11.5, 12.5, 13.0]
    assert close.numbers("stall") == [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    assert close.numbers("communicate") == [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert close.numbers("overlap") == [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert close.numbers("steps") == [0, 1, 0, 0, 0, 0]
    rates = table.where(policy="", view="whole").numbers("link_bps")
    assert (rates[0], rates[-1]) == pytest.approx((8e6, 2e6))
    (bsp, rog) = state_shares(table).rows
    assert bsp[:2] == ("bsp", 2.0) and rog[:2] == ("rog:4", 1.5)
    assert bsp[2:] == pytest.approx([100 * 4 / 13, 100 * 4 / 13, 100 * 5 / 13, 100 * 1 / 13])
    assert _titles(state_shares(table))["bsp"] == "bsp: 2 steps; compute 30.8 %, communicate 30.8 %, stall 38.5 %"


@pytest.mark.parametrize("name", ["hour.png", "hour.svg"])
def test_the_file_is_written(tmp_path: Path, name: str) -> None:
    lines = [Timeline.from_records(f"robot-{k}", random_steps(np.random.default_rng(k), 50)) for k in range(2)]
    teams = {"bsp": lines, "rowcast": [*lines, Timeline.from_records("robot-2", [])]}
    draw_timeline(timeline_table(teams, 700.0, {"robot-0": Trace.constant(8e6)}), tmp_path / name)
    written = (tmp_path / name).read_bytes()
    assert written.startswith(PNG) if name.endswith("png") else b"</svg>" in written


def test_nothing_to_draw_and_nowhere_to_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no steps of any policy"):
        draw_timeline(timeline_table({}, 60.0), tmp_path / "hour.png")
    table = timeline_table({"bsp": [Timeline.from_records("robot-0", RECORDS, start_s=100.0)]}, 40.0)
    with pytest.raises(ConfigError, match="cannot be written"):
        draw_timeline(table, tmp_path / "nowhere" / "hour.png")
