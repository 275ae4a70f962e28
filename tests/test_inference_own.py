"""What the robot's own inference takes: what was measured beforehand, or what it takes now if that is more."""

from __future__ import annotations

import math

import pytest

from inferences import model_of
from rowcast.inference.inference import Inference
from rowcast.inference.own import FEWEST, REMEMBERED, OwnLane

MEASURED_S = 0.05


def computed(lane, durations_s):
    """Inferences one after the other, each of which takes so long from the decision to the answer."""
    now = 0.0
    for ticket, duration_s in enumerate(durations_s):
        lane.begin(now, Inference(ticket, None, now, math.inf))
        (work,) = lane.take_work(now + 0.001)
        now += duration_s
        assert lane.done(now, work, duration_s).ticket == ticket


def test_what_was_measured_beforehand_counts_while_it_is_kept():
    lane = OwnLane(model_of())
    assert lane.local_s(MEASURED_S) == MEASURED_S
    computed(lane, [0.9 * MEASURED_S] * REMEMBERED)
    assert lane.local_s(MEASURED_S) == MEASURED_S


def test_a_robot_that_has_become_slower_begins_earlier_and_later_again_when_it_has_recovered():
    lane = OwnLane(model_of())
    computed(lane, [0.07] * (FEWEST - 1))
    assert lane.local_s(MEASURED_S) == MEASURED_S
    computed(lane, [0.07])
    assert lane.local_s(MEASURED_S) == pytest.approx(0.07)
    computed(lane, [0.04] * REMEMBERED)
    assert lane.local_s(MEASURED_S) == MEASURED_S


def test_one_that_took_long_once_changes_nothing():
    lane = OwnLane(model_of())
    computed(lane, [0.04] * 30 + [1.0] + [0.04] * 20)
    assert lane.local_s(MEASURED_S) == MEASURED_S


def test_what_was_stopped_is_no_measure():
    lane = OwnLane(model_of())
    for ticket in range(2 * FEWEST):
        inference = Inference(ticket, None, 0.0, math.inf)
        lane.begin(0.0, inference)
        lane.take_work(0.0)
        lane.end(9.0, inference)
    assert lane.local_s(MEASURED_S) == MEASURED_S
