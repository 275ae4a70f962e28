"""The delivery rate of a link, the round trip, and what follows from them."""

from __future__ import annotations

import pytest

from rowcast.sync import RateMeter
from rowcast.sync.rate import GRAIN_S, HALF_LIFE_S, LOWEST_BPS, MEMORY_S, PROBE_EVERY_S


def deliver(meter: RateMeter, start: float, rate_bps: float, seconds: float, size: int = 8000) -> float:
    """Frames back to back, each acknowledged when the link has carried it; returns the time of the end."""
    now = start
    while now < start + seconds:
        meter.sent(now, size)
        sent_at, now = now, now + 8 * size / rate_bps
        meter.acknowledged(now, size, sent_at)
    return now


@pytest.mark.parametrize("rate", [1e5, 1e6, 5e7, 1e9])
def test_the_first_acknowledgements_replace_the_assumed_rate(rate: float) -> None:
    meter = RateMeter(3e6)
    assert meter.rate_bps(0.0) == 3e6
    size = max(1000, int(rate * 0.004 / 8))
    now = deliver(meter, 5.0, rate, 0.1, size)
    assert meter.rate_bps(now) == pytest.approx(rate, rel=1e-6)
    assert meter.peak_bps(now) == pytest.approx(rate, rel=1e-6)


def test_a_change_of_rate_is_followed_with_the_half_life() -> None:
    meter = RateMeter(1e6)
    now = deliver(meter, 0.0, 1e6, 10.0)
    now = deliver(meter, now, 9e6, HALF_LIFE_S)
    assert meter.rate_bps(now) == pytest.approx(5e6, rel=0.05)
    now = deliver(meter, now, 9e6, 10 * HALF_LIFE_S)
    assert meter.rate_bps(now) == pytest.approx(9e6, rel=0.01)


def test_the_estimate_is_never_below_the_fifth_worst_of_the_last_seconds() -> None:
    meter = RateMeter(1e6)
    now = deliver(meter, 0.0, 8e6, 3.0)
    # One frame took a whole second: it is a single sample, far below the 20 % quantile of the others.
    meter.sent(now, 1000)
    meter.acknowledged(now + 1.0, 1000, now)
    assert meter.rate_bps(now + 1.0) == pytest.approx(8e6, rel=1e-3)
    # When what was better is older than the memory, the estimate falls.
    now = deliver(meter, now + 1.0, 1e5, MEMORY_S + 0.5)
    assert meter.rate_bps(now) == pytest.approx(1e5, rel=0.05)


def test_the_latest_rate_follows_a_fade_long_before_the_estimate() -> None:
    meter = RateMeter(1e6)
    assert meter.latest_bps(0.0) == 1e6
    now = deliver(meter, 0.0, 6e6, 10.0)
    assert meter.latest_bps(now) == meter.rate_bps(now) == pytest.approx(6e6, rel=1e-3)
    now = deliver(meter, now, 2e5, 3 * HALF_LIFE_S, size=2000)
    assert meter.rate_bps(now) == pytest.approx(6e6, rel=1e-3)
    assert meter.latest_bps(now) < 1e6
    # Silence lowers it as long as something is on its way; afterwards it is what it was.
    latest_bps = meter.latest_bps(now)
    meter.sent(now, 2000)
    assert meter.latest_bps(now + 4 * HALF_LIFE_S) == pytest.approx(latest_bps / 16, rel=0.01)
    assert meter.latest_bps(now + 1000.0) == pytest.approx(1.0)
    meter.settled(2000)
    assert meter.latest_bps(now + 1000.0) == latest_bps


def test_idle_time_does_not_count() -> None:
    meter = RateMeter(1e6)
    now = deliver(meter, 0.0, 4e6, 2.0)
    assert meter.rate_bps(now + 3600.0) == pytest.approx(4e6, rel=1e-3)
    now = deliver(meter, now + 3600.0, 4e6, 0.05)
    assert meter.rate_bps(now) == pytest.approx(4e6, rel=1e-3)


def test_silence_while_bytes_are_on_their_way_lowers_the_estimate() -> None:
    meter = RateMeter(1e6)
    now = deliver(meter, 0.0, 8e6, 2.0)
    meter.sent(now, 1000)
    heard = [meter.rate_bps(now + silence) for silence in (0.0, 1.0, MEMORY_S + 0.5, 60.0, 3600.0, 1e6)]
    assert heard[1:] == sorted(heard[1:], reverse=True)
    assert heard[:2] == pytest.approx([8e6, 8e6], rel=1e-3)  # the quantile holds while it is recent
    assert heard[2] == pytest.approx(8e6 * 0.5 ** ((MEMORY_S + 0.5 - GRAIN_S) / HALF_LIFE_S), rel=1e-3)
    assert heard[-1] == LOWEST_BPS  # never 0: it is divided by
    fresh = RateMeter(1e6)
    fresh.sent(0.0, 1000)
    assert fresh.rate_bps(100.0) == 1e6  # before the first measurement it says nothing
    meter.forget_flight()
    assert meter.rate_bps(now + 3600.0) == pytest.approx(8e6, rel=1e-3)


def test_acknowledgements_in_one_grain_are_one_sample() -> None:
    meter = RateMeter(1e6)
    for _ in range(4):
        meter.sent(0.0, 1000)
    for i in range(4):
        meter.acknowledged(0.01 + i * GRAIN_S / 8, 1000, 0.0)
    # The first spans 10 ms; the burst behind it waits for the next grain instead of counting as a fast link.
    assert meter.rate_bps(0.02) == pytest.approx(8e5)
    assert meter.peak_bps(0.02) == pytest.approx(8e5)


def test_acknowledgements_that_were_held_up_do_not_open_the_window() -> None:
    meter = RateMeter(1e6)
    now = deliver(meter, 0.0, 8e6, 2.0)
    # Five frames were held up for 40 ms, then all of them are acknowledged 2 ms apart: 32 Mbit/s, if one believes it.
    for _ in range(5):
        meter.sent(now, 8000)
    for i in range(5):
        meter.acknowledged(now + 0.032 + i * GRAIN_S, 8000, now)
    assert meter.peak_bps(now + 0.04) == pytest.approx(8e6, rel=0.02)


def test_the_window_follows_a_link_that_grew_within_a_few_acknowledgements() -> None:
    meter = RateMeter(1e6)
    now = deliver(meter, 0.0, 1e6, 5.0)
    now = deliver(meter, now, 2e7, 8 * 0.0032)
    assert meter.rate_bps(now) < 2e6
    assert meter.peak_bps(now) == pytest.approx(2e7, rel=0.01)


def test_the_round_trip_is_that_of_a_small_frame_alone() -> None:
    meter = RateMeter(8e6)
    assert meter.round_trip_s == 0.0
    for start, trip in ((40.0, 0.3), (41.0, 0.1), (42.0, 0.2)):
        meter.sent(start, 1000)
        meter.acknowledged(start + trip, 1000, start)
    assert meter.round_trip_s == pytest.approx(0.1)  # the shortest of three
    meter.sent(45.0, 100_000)  # not small: what it takes is the rate's
    meter.acknowledged(45.01, 100_000, 45.0)
    assert meter.round_trip_s == pytest.approx(0.1)
    for start in (55.0, 56.0):
        meter.sent(start, 1000)
        meter.acknowledged(start + 0.2, 1000, start)
    assert meter.round_trip_s == pytest.approx(0.2)


def test_a_round_trip_that_stays_the_same_is_asked_for_more_rarely() -> None:
    meter = RateMeter(8e6)
    now, gaps = deliver(meter, 0.0, 8e6, 0.1), []
    for trip in (0.1, 0.1, 0.1, 0.1, 0.11, 0.1, 0.3, 0.1):
        probed = now
        while not meter.wants_probe(now):
            now += 0.5
        gaps.append(now - probed)
        meter.sent(now, 1000)
        now += trip
        meter.acknowledged(now, 1000, now - trip)
        deliver(meter, now, 8e6, 0.1)  # what a small frame takes is little at this rate
    assert gaps == pytest.approx([10, 5, 5, 5, 10, 20, 40, 5], abs=1.0)  # it is believed when three say so


def test_rows_of_any_size_answer_when_the_round_trip_is_asked_for() -> None:
    meter = RateMeter(8e6)
    assert meter.wants_probe(0.0)
    meter.sent(0.0, 1_000_000)
    meter.acknowledged(1.2, 1_000_000, 0.0)
    assert not meter.wants_probe(1.2)
    assert meter.round_trip_s < 0.3
    assert not meter.wants_probe(1.2 + PROBE_EVERY_S)
    assert meter.wants_probe(1.3 + 2 * PROBE_EVERY_S)


def test_frames_shorter_than_a_grain_are_measured_together() -> None:
    meter = RateMeter(1e6)
    now = 0.0
    for _ in range(50):  # each is acknowledged before the next is sent, with idle time between
        meter.sent(now, 1000)
        meter.acknowledged(now + 8e-5, 1000, now)
        now += 1.0
    assert meter.rate_bps(now) == pytest.approx(1e8, rel=1e-3)
