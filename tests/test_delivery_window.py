"""How much may be on its way: sizes of frames, probes of the round trip, and what a deadline leaves."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcast.config import LinkSettings
from rowcast.delivery.window import Window
from rowcast.wire.frames import ROWS_OVERHEAD_BYTES

SIZES = LinkSettings(frame_min_bytes=1000, frame_max_bytes=8000, frame_s=0.01, window_s=0.02, window_min_bytes=3000)


def window_at(rate_bps: float, *, probed: bool = True) -> Window:
    """A window of a link with this rate, whose round trip of 1 ms was measured just now unless told otherwise."""
    window = Window(replace(SIZES, initial_rate_bps=rate_bps))
    if probed:
        window.meter.sent(0.0, 100)
        window.meter.acknowledged(0.001, 100, 0.0)
        assert not window.meter.wants_probe(0.001)
    return window


@pytest.mark.parametrize(("rate_bps", "size"), [(1e4, 1000), (2.4e6, 3000), (1e9, 8000)])
def test_a_frame_is_link_time_between_its_bounds(rate_bps: float, size: int) -> None:
    assert Window(replace(SIZES, initial_rate_bps=rate_bps)).target_bytes(0.0) == size


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.floats(1e3, 1e10), st.floats(0.0, 100.0))
def test_whatever_the_rate_a_frame_keeps_its_bounds(rate_bps: float, now: float) -> None:
    window = window_at(rate_bps)
    assert SIZES.frame_min_bytes <= window.target_bytes(now) <= SIZES.frame_max_bytes


def test_a_probe_is_small_and_finds_the_link_idle() -> None:
    window = window_at(1e9, probed=False)
    assert window.meter.wants_probe(0.0)
    assert window.room(0.0, 1) == 0.0
    assert window.room(0.0, 0) == SIZES.frame_min_bytes - ROWS_OVERHEAD_BYTES
    window = window_at(1e9)
    assert window.room(0.001, 0) == window.target_bytes(0.001) - ROWS_OVERHEAD_BYTES > SIZES.frame_min_bytes
    assert window.room(0.001, 1) == window.room(0.001, 0)


def test_a_frame_goes_when_the_window_has_room_for_all_of_it() -> None:
    window = window_at(2.4e6)
    now = 0.001
    target = window.target_bytes(now)
    most = window.meter.peak_bps(now) / 8 * (SIZES.window_s + 2 * window.meter.round_trip_s)
    assert most > 2 * target and most > SIZES.window_min_bytes
    assert window.room(now, int(most - target)) == target - ROWS_OVERHEAD_BYTES
    assert window.room(now, math.ceil(most - target) + 1) == 0.0


def test_two_small_frames_are_always_allowed() -> None:
    window = window_at(1e4)
    assert window.meter.peak_bps(0.001) / 8 * SIZES.window_s < SIZES.window_min_bytes
    assert window.room(0.001, SIZES.window_min_bytes - SIZES.frame_min_bytes) > 0
    assert window.room(0.001, SIZES.window_min_bytes - SIZES.frame_min_bytes + 1) == 0.0


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.floats(1e4, 1e9), st.integers(0, 10**6), st.floats(0.0, 10.0))
def test_what_a_deadline_leaves_is_sent_before_it(rate_bps: float, in_flight: int, left_s: float) -> None:
    """All that is on its way and as much as the budget takes the link just until the deadline."""
    window = window_at(rate_bps, probed=False)
    budget = window.budget(5.0, in_flight, 5.0 + left_s)
    took_s = (in_flight + budget) * 8 / window.meter.rate_bps(5.0)
    assert took_s == pytest.approx(left_s, abs=1e-6)


def test_without_a_deadline_the_budget_has_no_end_and_after_it_there_is_none() -> None:
    window = window_at(1e6)
    assert window.budget(1.0, 10_000, math.inf) == math.inf
    assert window.budget(1.0, 0, 1.0) == 0.0
    assert window.budget(1.0, 500, 0.5) < -500


def test_the_link_is_drained_at_the_measured_rate_and_a_round_trip_later() -> None:
    window = window_at(8e6)
    now = 0.001
    assert window.drain_s(now, 0) == window.meter.round_trip_s > 0
    assert window.drain_s(now, 2000) == 16_000 / window.meter.rate_bps(now) + window.meter.round_trip_s
