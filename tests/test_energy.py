"""Energy: Joules against hand computation, what was not reached, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rowcast.config import describe
from rowcast.energy import (
    CensoredValue,
    Energy,
    PowerStates,
    any_censored,
    energy_to_metric,
    smoothed,
    time_to_metric,
    total_energy,
    worker_energy,
)
from rowcast.energy.states import PUBLISHED
from rowcast.errors import ConfigError, LocalProtocolError
from rowcast.journal import Journal

ROUND = PowerStates(compute_w=10.0, communicate_w=5.0, stall_w=4.0, origin="a desk")  # overlap: 11 W


def step(t: float, iteration: int, compute: float, communicate: float, stall: float, **more: Any) -> dict[str, Any]:
    parts = {"compute_s": compute, "communicate_s": communicate, "stall_s": stall}
    return {"t": t, "node": "robot-1", "event": "step", "iteration": iteration, **parts, **more}


#: 2 + 1 + 1 s; then 2 s, 0.5 of them with the radio, 1 + 0 s; then 3 s of silence before 1 + 1 + 0 s.
RUN = [
    {"t": 99.0, "node": "robot-1", "event": "start", "role": "worker"},
    step(104.0, 1, 2.0, 1.0, 1.0),
    {"t": 104.5, "node": "robot-1", "event": "metric", "iteration": 1, "name": "accuracy", "value": 50.0},
    step(107.0, 2, 2.0, 1.0, 0.0, overlap_s=0.5),
    step(112.0, 3, 1.0, 1.0, 0.0),
]
FIRST, SECOND, THIRD = 20 + 5 + 4, 15 + 5.5 + 5, 12 + 10 + 5


# -- power states ---------------------------------------------------------------------------------------------


def test_the_published_table_and_its_price_of_overlap() -> None:
    power = PowerStates()
    assert (power.compute_w, power.communicate_w, power.stall_w) == (13.35, 4.25, 4.04)
    assert power.overlap_w == pytest.approx(13.56, abs=1e-12)
    assert PUBLISHED in power.source and "13.35" in power.source


def test_other_watts_do_not_borrow_the_published_source() -> None:
    changed = replace(PowerStates(), compute_w=9.0)
    assert PUBLISHED not in changed.source and "as set by the user" in changed.source
    assert "a desk" in ROUND.source


@pytest.mark.parametrize(
    ("watts", "complaint"),
    [
        ({"compute_w": -1.0}, "compute_w: expected a number in 0.0 .. 10000.0 W, got -1.0"),
        ({"stall_w": float("nan")}, "stall_w: expected a number"),
        ({"compute_w": 4.0, "stall_w": 13.0}, "are the two exchanged"),
    ],
)
def test_impossible_watts_are_refused(watts: dict[str, float], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        PowerStates(**watts)


def test_every_state_has_unit_and_range() -> None:
    assert all(entry["unit"] == "W" and entry["range"] for entry in describe(PowerStates) if entry["name"] != "origin")


# -- one worker -----------------------------------------------------------------------------------------------


def test_energy_integrates_to_hand_computed_joules() -> None:
    account = worker_energy(RUN, ROUND)
    assert account.total.joules == pytest.approx(FIRST + SECOND + THIRD)
    assert account.total.source == ROUND.source
    states = account.states
    assert states is not None
    assert (states.compute_s, states.overlap_s, states.communicate_s) == (4.5, 0.5, 3.0)
    assert (states.stall_s, states.uncovered_s, states.total_s) == (1.0, 3.0, 12.0)
    assert states.joules(ROUND) == {"compute": 45, "overlap": 5.5, "communicate": 15, "stall": 4, "uncovered": 12}


def test_a_wait_for_data_is_stall_and_communication_where_rows_travelled_meanwhile() -> None:
    fed = [
        step(106.0, 1, 2.0, 1.0, 1.0, starve_s=2.0),
        step(111.0, 2, 2.0, 0.0, 0.0, overlap_s=2.0, starve_s=3.0),
        step(114.0, 3, 1.0, 1.0, 0.0, starve_s=0.5),
    ]
    account = worker_energy(fed, ROUND)
    states = account.states
    assert states is not None
    assert (states.starve_s, states.starve_overlap_s, states.uncovered_s) == (2.5, 3.0, 0.5)
    assert states.total_s == account.elapsed_s[-1] == 14.0
    spent = {"compute": 30, "overlap": 22, "communicate": 10, "stall": 4, "uncovered": 2, "starve": 10 + 15}
    assert states.joules(ROUND) == spent and account.total.joules == pytest.approx(sum(spent.values()))
    after = {2: 8, 4: 28, 6: 37, 9: 52, 11: 74, 12: 78, 14: 93}
    assert {s: account.joules_after(s) for s in after} == pytest.approx(after)
    with pytest.raises(ConfigError, match="starve_s = -1, expected seconds"):
        worker_energy([step(4.0, 1, 1.0, 1.0, 0.0, starve_s=-1.0)], ROUND)
    with pytest.raises(ConfigError, match="seconds would be paid twice"):
        worker_energy([step(4.0, 1, 1.0, 1.0, 0.0), step(6.0, 2, 1.0, 0.5, 0.0, starve_s=1.0)], ROUND)


def test_one_step_at_the_published_watts() -> None:
    """algorithms.md 9.1: 29.1 J of computation in 2.18 s; 80 J with 1.47 s of radio and 11.1 s of stall."""
    account = worker_energy([step(14.75, 1, 2.18, 1.47, 11.1)])
    assert account.joules_after(2.18) == pytest.approx(13.35 * 2.18)
    assert account.total.joules == pytest.approx(29.103 + 6.2475 + 44.844)


def test_the_curve_has_a_corner_where_the_computation_ends() -> None:
    account = worker_energy(RUN, ROUND)
    assert account.times_s[0] == 100.0 and account.joules[0] == 0.0
    assert np.all(np.diff(account.times_s) >= 0) and np.all(np.diff(account.joules) >= 0)
    after = {1: 10, 2: 20, 3: 24.5, 4: 29, 5: 29 + 10.25, 7: FIRST + SECOND, 8: FIRST + SECOND + 4, 12: 81.5}
    assert {s: account.joules_after(s) for s in after} == pytest.approx(after)
    assert account.elapsed_s[-1] == 12.0


def test_behind_the_last_step_a_worker_waits() -> None:
    assert worker_energy(RUN, ROUND).joules_after(15.0) == pytest.approx(81.5 + 3 * 4)
    with pytest.raises(LocalProtocolError):
        worker_energy(RUN, ROUND).joules_after(-1.0)


def test_start_and_end_widen_and_cut() -> None:
    assert worker_energy(RUN, ROUND, start_s=99.0, end_s=114.0).total.joules == pytest.approx(81.5 + 4 + 8)
    cut = worker_energy(RUN, ROUND, start_s=101.0, end_s=103.0)  # 1 s of computation, half of the exchange
    assert cut.total.joules == pytest.approx(10 + 4.5)
    assert cut.states is not None and cut.states.total_s == pytest.approx(2.0)
    assert list(cut.times_s[[0, -1]]) == [101.0, 103.0]
    beyond = worker_energy(RUN, ROUND, start_s=200.0, end_s=210.0)
    assert beyond.total.joules == pytest.approx(40.0)
    with pytest.raises(LocalProtocolError, match="at or after the start"):
        worker_energy(RUN, ROUND, start_s=5.0, end_s=4.0)


def test_a_worker_without_a_step_counts_as_stalled_between_given_times() -> None:
    assert worker_energy(RUN[:1], ROUND, start_s=0.0, end_s=10.0).total.joules == pytest.approx(40.0)
    with pytest.raises(ConfigError, match="no 'step' event"):
        worker_energy(RUN[:1], ROUND)


def test_what_a_node_writes_is_read() -> None:
    journal = Journal("robot-1")
    journal.record(3.0, "step", iteration=1, compute_s=1.0, communicate_s=1.0, stall_s=1.0)
    assert worker_energy(journal.records, ROUND).total.joules == pytest.approx(19.0)


@pytest.mark.parametrize(
    ("records", "complaint"),
    [
        ([], "no record at all"),
        ([*RUN, {**RUN[0], "node": "robot-2"}], "got robot-1, robot-2; price one at a time"),
        ([step(1.0, 7, 1.0, None, 0.0)], "iteration 7 has communicate_s = None"),  # type: ignore[arg-type]
        ([step(1.0, 7, 1.0, -0.5, 0.0)], "communicate_s = -0.5, expected seconds, 0 or more"),
        ([step(1.0, 7, 1.0, 0.0, 0.0, overlap_s=2.0)], "overlap_s is longer than the compute_s"),
        ([step(4.0, 1, 1.0, 1.0, 0.0), step(3.0, 2, 0.0, 0.0, 0.0)], "iteration 2: it ends before the step before"),
        ([step(4.0, 1, 1.0, 1.0, 0.0), step(5.0, 2, 1.0, 0.5, 0.0)], "seconds would be paid twice"),
    ],
)
def test_journals_that_cannot_be_priced(records: list[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        worker_energy(records, ROUND)


def test_rounding_of_the_journal_is_no_error() -> None:
    rounded = [step(1.0, 1, 1.0, 0.0, 0.0), step(2.0, 2, 0.5, 0.500001, 0.0)]
    account = worker_energy(rounded, ROUND)
    assert account.total.joules == pytest.approx(17.5, abs=1e-4)
    assert np.all(np.diff(account.times_s) >= 0)


def test_energies_add_up_and_keep_their_sources() -> None:
    total = total_energy([Energy(1.0, "a"), Energy(2.0, "b"), Energy(3.5, "a")])
    assert total == Energy(6.5, "a; b")
    assert str(total) == "6.5 J (a; b)"
    with pytest.raises(ConfigError, match="expected at least one"):
        total_energy([])


# -- to a metric -------------------------------------------------------------------------------------------

TIMES = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_smoothing_looks_at_the_past_only() -> None:
    assert list(smoothed([3.0, 6.0, 0.0, 9.0], 3)) == [3.0, 4.5, 3.0, 5.0]
    assert list(smoothed([3.0, 6.0], 1)) == [3.0, 6.0]


def test_a_target_counts_from_the_first_of_three_evaluations() -> None:
    curve = [50.0, 61.0, 59.0, 61.0, 62.0, 63.0]  # the early 61 does not stay
    assert time_to_metric(TIMES, curve, 60.0, window=1).value == 3.0
    found = time_to_metric(TIMES, curve, 60.0, window=2)  # 50 55.5 60 60 61.5 62.5
    assert (found.value, found.reached, found.unit) == (2.0, True, "s")
    assert time_to_metric(TIMES, curve, 50.0, window=1).value == 0.0


def test_what_is_not_reached_is_a_bound() -> None:
    low = time_to_metric(TIMES, [50.0, 51.0, 52.0, 53.0, 54.0, 55.0], 60.0)
    assert (low.value, low.reached, str(low), f"{low:.1f}") == (5.0, False, ">5", ">5.0")
    # Two evaluations at the target are not three; 3 s is below whatever time the run would have come to.
    short = time_to_metric(TIMES, [50.0, 51.0, 52.0, 53.0, 61.0, 62.0], 60.0, window=1)
    assert (short.value, short.reached) == (3.0, False)


def test_energy_to_metric_is_the_team_s_and_is_censored_with_the_time() -> None:
    team = [worker_energy(RUN, ROUND), worker_energy(RUN[:2], ROUND)]  # 81.5 J in 12 s; 29 J in 4 s, then 4 W
    times, curve = [0.0, 4.0, 8.0, 12.0, 16.0], [50.0, 55.0, 60.0, 61.0, 62.0]
    reached = energy_to_metric(times, curve, 60.0, team, window=1)  # at 8 s
    assert reached.value == pytest.approx((FIRST + SECOND + 4) + (29 + 16))
    assert (reached.reached, reached.unit, reached.source) == (True, "J", ROUND.source)
    never = energy_to_metric(times, curve, 90.0, team, window=1)  # 16 s
    assert never.value == pytest.approx((81.5 + 16) + (29 + 48)) and str(never) == ">174.5"
    assert any_censored([reached, never]) and not any_censored([reached])
    with pytest.raises(ConfigError, match="at least one energy"):
        energy_to_metric(times, curve, 60.0, [])


def test_a_target_of_a_loss_is_reached_from_above() -> None:
    loss = [3.0, 0.9, 1.1, 0.9, 0.8, 0.7]  # the early 0.9 does not stay
    assert time_to_metric(TIMES, loss, 1.0, better="lower", window=1).value == 3.0
    mirrored = [-value for value in loss]
    for target in (0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 3.0):
        for window in (1, 2, 5):
            lower = time_to_metric(TIMES, loss, target, better="lower", window=window)
            assert lower == time_to_metric(TIMES, mirrored, -target, window=window)
    never = time_to_metric(TIMES, loss, 0.75, better="lower", window=1)
    assert (str(never), never.reached) == (">4", False)
    team = [worker_energy(RUN, ROUND)]
    times = [0.0, 4.0, 8.0, 12.0, 16.0]
    spent = energy_to_metric(times, [9.0, 5.0, 2.0, 1.0, 1.0], 2.0, team, better="lower", window=1)
    assert (spent.value, spent.reached) == (team[0].joules_after(8.0), True)
    with pytest.raises(ConfigError, match="expected better = 'higher' or 'lower', got 'less'"):
        time_to_metric(TIMES, loss, 1.0, better="less")


def test_an_evaluation_that_gave_nan_is_not_at_the_target() -> None:
    """A run that diverged on the way has not kept it, whichever way is better."""
    nan = float("nan")
    for better, sign in (("higher", 1.0), ("lower", -1.0)):
        late = [sign * 1.0, sign * 1.0, nan, sign * 1.0, sign * 1.0, sign * 1.0]
        assert time_to_metric(TIMES, late, sign * 1.0, better=better, window=1).value == 3.0
        gone = [sign * 1.0, sign * 1.0, nan, nan, nan, nan]
        assert str(time_to_metric(TIMES, gone, sign * 1.0, better=better, window=1)) == ">5"
    assert np.isnan(smoothed([1.0, nan, 1.0, 1.0], 2)).tolist() == [False, True, True, False]


def test_joules_at_many_times_are_those_at_each() -> None:
    account = worker_energy(RUN, ROUND)
    times = np.array([0.0, 0.5, 4.0, 11.9, 12.0, 20.0])
    assert account.joules_at(times).tolist() == [account.joules_after(float(t)) for t in times]
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(LocalProtocolError, match="expected seconds, 0 or more"):
            account.joules_at(np.array([1.0, wrong]))


def test_values_print_with_their_bound() -> None:
    assert str(CensoredValue(123.0, False)) == ">123"
    assert str(CensoredValue(123.0, True)) == "123"
    assert f"{CensoredValue(1234.56, False):.0f}" == ">1235"


@pytest.mark.parametrize(
    ("times", "curve", "target", "complaint"),
    [
        ([0.0, 1.0], [1.0, 2.0], 1.0, "expected 3 evaluations or more, got 2"),
        ([0.0, 1.0], [1.0, 2.0, 3.0], 1.0, "a time for each value"),
        ([0.0, 2.0, 1.0], [1.0, 2.0, 3.0], 1.0, "do not go back"),
        ([0.0, 1.0, 2.0], [[1.0], [2.0], [3.0]], 1.0, "expected a list of numbers"),
        ([0.0, 1.0, 2.0], [1.0, 2.0, 3.0], float("nan"), "a target that is a number"),
    ],
)
def test_curves_that_tell_nothing(times: list[float], curve: list[float], target: float, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        time_to_metric(times, curve, target)
