"""What frames and acknowledgements spend on their way: the rate of one direction, whatever waits in the other."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from rowcast.config import LinkSettings
from rowcast.delivery.window import Window
from rowcast.sync import RateMeter
from rowcast.sync.transit import LATE, MEMORY_S, MOST_LATE_S, Shortest, Transit

SIZE, FRAME_S = 4000, 0.01
UNSHRUNK = (Phase.explicit, Phase.generate)  #: a smaller example of a figure tells no more


@dataclass
class Path:
    """A link that carries one frame after the other, and a way back on which acknowledgements wait.

    Attributes:
        rate_bps: of the way there.
        there_s, back_s: the shortest time of a byte, each way.
        offset_s: what the peer's clock is ahead.
        free_at: when the link has carried everything.
    """

    rate_bps: float
    there_s: float = 0.0
    back_s: float = 0.0
    offset_s: float = 0.0
    free_at: float = 0.0

    def carry(self, now: float, size: int) -> float:
        """When a frame that is sent at ``now`` has arrived (s)."""
        self.free_at = max(self.free_at, now) + 8 * size / self.rate_bps
        return self.free_at + self.there_s


def exchange(meter: RateMeter, path: Path, sends: list[tuple[float, int, float]]) -> float:
    """Send frames at some times, each acknowledged so many seconds late; the time of the last acknowledgement (s)."""
    events = []
    heard_at = 0.0
    for sent_at, size, late_s in sends:
        arrived = path.carry(sent_at, size)
        heard_at = max(heard_at, arrived + path.back_s + late_s)  # they do not overtake each other
        events += [(sent_at, 0, size, sent_at, 0.0), (heard_at, 1, size, sent_at, arrived + path.offset_s)]
    for now, kind, size, sent_at, arrived in sorted(events):
        if kind == 0:
            meter.sent(now, size)
        else:
            meter.acknowledged(now, size, sent_at, arrived)
    return heard_at


def pairs(start: float, count: int, rate_bps: float, late_s: float) -> list[tuple[float, int, float]]:
    """Frames two by two, the second behind the first, with a pause behind both."""
    frame_s = 8 * SIZE / rate_bps
    return [(start + 3 * k * frame_s + part * frame_s / 2, SIZE, late_s) for k in range(count) for part in range(2)]


@settings(max_examples=60, deadline=None, derandomize=True, phases=UNSHRUNK)
@given(
    st.sampled_from([2e5, 1e6, 2e7]),
    st.floats(0.0, 0.3),
    st.floats(-1e6, 1e6),
    st.lists(st.tuples(st.floats(0.0, 0.5), st.floats(0.0, 0.4)), min_size=40, max_size=80),
)
def test_the_rate_of_a_direction_is_measured_whatever_the_other_one_holds_up(rate_bps, there_s, offset_s, drawn):
    """Pauses between bursts of two frames, acknowledgements late by up to 0.4 s, clocks far apart."""
    meter, path = RateMeter(1e6), Path(rate_bps, there_s=there_s, back_s=0.01, offset_s=offset_s)
    size = round(rate_bps / 8 * FRAME_S)
    now, sends = 1.0, [(0.5, 100, 0.0), (0.9, 100, 0.0)]
    for pause_s, late_s in drawn:
        for _ in range(2):
            sends.append((now, size, late_s))
            now += 0.3 * FRAME_S
        now = max(now + pause_s, path.free_at)
    heard_at = exchange(meter, path, sends)
    assert meter.rate_bps(heard_at) == pytest.approx(rate_bps, rel=0.03)


def test_without_times_of_arrival_late_acknowledgements_look_like_a_slow_link():
    """The control: the same frames, and a peer that does not say when they arrived."""
    meter, path = RateMeter(1e6), Path(1e6)
    for k in range(100):
        now = 0.3 * k
        meter.sent(now, SIZE)
        meter.acknowledged(path.carry(now, SIZE) + 0.2, SIZE, now)
    assert meter.rate_bps(30.3) < 0.5e6


def test_frames_that_are_acknowledged_together_are_one_measurement():
    meter, path = RateMeter(1e6), Path(1e6, offset_s=77.0)
    exchange(meter, path, [(0.0, 100, 0.0)])
    now = 1.0
    for _ in range(20):
        arrived = [path.carry(now, SIZE) for _ in range(5)]
        for _ in arrived:
            meter.sent(now, SIZE)
        meter.acknowledged(arrived[-1], 5 * SIZE, now, arrived[-1] + path.offset_s)
        now = arrived[-1] + 0.5
    assert meter.rate_bps(now) == pytest.approx(1e6, rel=0.03)


def test_a_change_of_rate_is_seen_under_late_acknowledgements():
    meter, path = RateMeter(1e6), Path(4e6, offset_s=-5.0)
    exchange(meter, path, pairs(0.0, 100, 4e6, 0.1))
    assert meter.peak_bps(2.0) == pytest.approx(4e6, rel=0.05)
    path.rate_bps = 5e5
    last = exchange(meter, path, pairs(10.0, 100, 5e5, 0.1))
    assert meter.peak_bps(last) == pytest.approx(5e5, rel=0.05)


def test_the_window_is_kept_full_behind_late_acknowledgements_and_no_fuller():
    """What has arrived and is not yet acknowledged does not count; what waits in front of the link does."""
    sizes = LinkSettings(frame_s=0.01, window_s=0.04, frame_min_bytes=500, window_min_bytes=1000)
    window, path = Window(sizes), Path(4e6)

    def filled(now: float) -> int:
        in_flight = 0
        while window.room(now, in_flight) > 0:
            in_flight += 100
        return in_flight

    last = exchange(window.meter, path, [(0.2, 100, 0.0), *pairs(0.5, 50, 4e6, 0.0)])
    prompt = filled(last)
    assert window.meter.late_s == pytest.approx(0.0, abs=1e-3)
    assert prompt <= 4e6 / 8 * (sizes.window_s + 2 * window.meter.round_trip_s)
    last = exchange(window.meter, path, pairs(2.0, 50, 4e6, 0.08))
    assert window.meter.late_s == pytest.approx(0.08, abs=0.005)
    late = filled(last)
    assert late - prompt == pytest.approx(0.08 * 4e6 / 8, rel=0.05)
    assert window.budget(last, late, last + 1.0) == pytest.approx(4e6 / 8 - prompt, rel=0.05)


def test_one_acknowledgement_that_was_held_up_opens_no_window():
    transit = Transit()
    for k in range(5):
        transit.heard(float(k), k - 0.1, k - 0.05, 100)
    transit.heard(8.0, 4.9, 5.0, 100)
    transit.heard(9.0, 5.9, 6.0, 100)
    assert transit.late_s == pytest.approx(0.0)
    for k in range(LATE):
        transit.heard(10 + k, 9.85 + k, 9.87 + k, 100)
    assert transit.late_s == pytest.approx(0.08)
    for k in range(LATE):
        transit.heard(20.0 + k, 15.9 + k, 16.0 + k, 100)
    assert transit.late_s == MOST_LATE_S


def test_another_link_is_measured_anew():
    meter, path = RateMeter(1e6), Path(1e6, offset_s=1000.0)
    exchange(meter, path, pairs(0.0, 50, 1e6, 0.05))
    meter.forget_flight()
    other = Path(1e6, offset_s=-3e5, free_at=100.0)  # the peer began again: its clock, too
    last = exchange(meter, other, pairs(100.0, 50, 1e6, 0.05))
    assert meter.rate_bps(last) == pytest.approx(1e6, rel=0.03)
    assert meter.late_s == pytest.approx(0.0, abs=1e-6)


def test_the_shortest_is_forgotten_after_a_while():
    shortest = Shortest()
    assert shortest.get() is None
    shortest.put(0.0, 3.0, 7)
    shortest.put(1.0, 5.0, 8)
    assert shortest.get() == (3.0, 7)
    shortest.put(MEMORY_S + 1.0, 4.0, 9)
    assert shortest.get() == (3.0, 7)
    shortest.put(2 * MEMORY_S + 2.0, 6.0, 10)
    assert shortest.get() == (4.0, 9)
    shortest.put(10 * MEMORY_S, 8.0, 11)
    assert shortest.get() == (8.0, 11)  # after a long pause nothing is known of before
