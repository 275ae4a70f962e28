"""The medium of an emulation: exact against its traces and channels, whatever the calls; queue, delay, jitter, loss."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcast.drivers.netns.medium import Medium, MediumLink, Verdict
from rowcast.errors import ConfigError, LocalProtocolError
from rowcast.links import CHANNELS, Trace, named_trace

quick = settings(deadline=None, derandomize=True, max_examples=80)
channels = st.sampled_from(sorted(CHANNELS))

FLAT = Trace.constant(8e6)  # a byte takes a microsecond
DEAD = Trace.constant(0.0)

#: When, over which link, how many bytes.
Arrival = tuple[float, int, int]
#: When, over which link, which packet (its place among the arrivals).
Departure = tuple[float, int, int]


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """A loop of a few steps; the first one carries something, others may carry nothing."""
    gaps = draw(st.lists(st.floats(0.01, 2.0), min_size=1, max_size=5))
    rate = st.floats(1e5, 1e8)
    values = [draw(rate), *(draw(st.one_of(st.just(0.0), rate)) for _ in gaps[1:])]
    starts = np.concatenate(([0.0], np.cumsum(gaps)))
    return Trace(starts[:-1], np.array(values), "drawn", duration_s=float(starts[-1]))


@st.composite
def links(draw: st.DrawFn) -> list[MediumLink]:
    """One to three links of all kinds."""
    kind = st.builds(
        MediumLink,
        traces(),
        delay_s=st.sampled_from([0.0, 0.003, 0.2]),
        jitter_s=st.sampled_from([0.0, 0.01]),
        loss=st.sampled_from([0.0, 0.3]),
        queue_s=st.sampled_from([0.0, 0.05, 1.0]),
        queue_bytes=st.one_of(st.none(), st.integers(0, 20_000)),
        queue_packets=st.integers(1, 6),
        reorder=st.booleans(),
    )
    return draw(st.lists(kind, min_size=1, max_size=3))


@st.composite
def arrivals(draw: st.DrawFn, links: int = 3) -> list[Arrival]:
    """Packets in order of time; many come together."""
    gap = st.one_of(st.just(0.0), st.floats(0.0, 0.3))
    each = st.tuples(gap, st.integers(0, links - 1), st.integers(0, 1500))
    now, found = 0.0, []
    for gap_s, link, size_bytes in draw(st.lists(each, min_size=1, max_size=60)):
        now += gap_s
        found.append((now, link, size_bytes))
    return found


def made(channel: str, links: list[MediumLink], seed: int = 0) -> Medium[int]:
    return Medium(channel, dict(enumerate(links)), seed)


def drain(medium: Medium[int], now: float = 0.0) -> list[Departure]:
    """All that still comes out from ``now`` on, woken at each event."""
    found: list[Departure] = []
    while (at := medium.next_event()) < math.inf:
        now = max(now, at)
        found += medium.departed(now)
    return found


def carried(medium: Medium[int], packets: list[Arrival], wakes: list[float] | None = None) -> list[Departure]:
    """What comes out of a medium that is looked at in between, at each of ``wakes``; ``None``: at each event."""
    found: list[Departure] = []
    pending = sorted(wakes or [])
    now = 0.0
    for place, (arrival, link, size_bytes) in enumerate(packets):
        while (at := medium.next_event() if wakes is None else pending[0] if pending else math.inf) <= arrival:
            if wakes is not None:
                pending.pop(0)
            now = max(now, at)
            found += medium.departed(now)
        medium.arrive(arrival, link % len(medium.counts), size_bytes, place)
        now = arrival
    return found + drain(medium, now)


# -- properties ------------------------------------------------------------------------------------------------------


@quick
@given(channels, links(), arrivals(), st.lists(st.floats(0, 5)))
def test_what_comes_out_does_not_depend_on_when_one_looks(
    channel: str, links: list[MediumLink], packets: list[Arrival], wakes: list[float]
) -> None:
    told = [carried(made(channel, links), packets, how) for how in (None, [], wakes)]
    assert told[0] == told[1] == told[2]  # to the bit
    times = [time_s for time_s, _, _ in told[0]]
    assert times == sorted(times)


@quick
@given(channels, links(), arrivals(), st.floats(0, 5))
def test_nothing_is_lost_unseen_or_comes_twice(
    channel: str, links: list[MediumLink], packets: list[Arrival], stop: float
) -> None:
    """In = out + full + lost + held, at any moment; and released, when all are let go."""
    medium = made(channel, links)
    kept = [each for each in packets if each[0] <= stop]
    verdicts = [medium.arrive(now, link % len(links), size, place) for place, (now, link, size) in enumerate(kept)]
    out = medium.departed(stop)
    for link, counts in medium.counts.items():
        held_packets, held_bytes = medium.held(link)
        gone = counts.packets_out + counts.packets_full + counts.packets_lost
        assert counts.packets_in == gone + held_packets
        assert counts.bytes_in == counts.bytes_out + counts.bytes_full + counts.bytes_lost + held_bytes
    assert verdicts.count(Verdict.FULL) == sum(counts.packets_full for counts in medium.counts.values())
    let_go = medium.release(stop)
    assert all(time_s == stop for time_s, _, _ in let_go) and medium.next_event() == math.inf
    assert [medium.held(link) for link in medium.counts] == [(0, 0)] * len(links)
    assert len(let_go) == sum(counts.packets_released for counts in medium.counts.values())
    told = Counter(place for _, _, place in [*out, *let_go])
    assert set(told.values()) <= {1}
    assert len(told) == len(kept) - sum(each.packets_full + each.packets_lost for each in medium.counts.values())


@quick
@given(channels, links(), arrivals())
def test_packets_of_a_link_stay_in_order(channel: str, links: list[MediumLink], packets: list[Arrival]) -> None:
    ordered = [dataclasses.replace(link, reorder=False) for link in links]
    out = carried(made(channel, ordered), packets)
    for link in range(len(links)):
        places = [place for _, each, place in out if each == link]
        assert places == sorted(places)


@quick
@given(channels, st.lists(traces(), min_size=1, max_size=3), arrivals())
def test_no_link_is_faster_than_its_trace_in_any_window(
    channel: str, traces: list[Trace], packets: list[Arrival]
) -> None:
    medium = made(channel, [MediumLink(trace, queue_s=600.0) for trace in traces])
    out = carried(medium, packets)
    for link, trace in enumerate(traces):
        mine = [(time_s, 8 * packets[place][2]) for time_s, each, place in out if each == link]
        for first, (start, _) in enumerate(mine):
            bits = 0
            for end, more in mine[first + 1 :]:
                bits += more
                assert bits <= trace.bits(start, end) * (1 + 1e-9) + 1e-3


@quick
@given(channels, traces(), st.lists(st.integers(1, 1500), min_size=1, max_size=200))
def test_a_link_that_always_has_something_carries_what_its_trace_carries(
    channel: str, trace: Trace, sizes: list[int]
) -> None:
    """The k-th packet ends when the trace has carried all up to it, though each began where the one before ended."""
    medium = made(channel, [MediumLink(trace, queue_s=600.0, queue_packets=len(sizes))])
    out = carried(medium, [(0.0, 0, size) for size in sizes])
    assert len(out) == len(sizes)
    for (time_s, _, _), bits in zip(out, 8 * np.cumsum(sizes), strict=True):
        assert trace.bits(0, time_s) == pytest.approx(bits, rel=1e-9)
        # Within a millionth of a bit: at the end of a stretch of nothing, rounding may not wait it out.
        assert trace.finish(0, bits * (1 - 1e-9)) <= time_s <= trace.finish(0, bits * (1 + 1e-9))


@quick
@given(channels, st.lists(traces(), min_size=1, max_size=3), arrivals())
def test_it_agrees_with_the_channel_of_the_simulator(channel: str, traces: list[Trace], packets: list[Arrival]) -> None:
    """The same transfers on the simulator's channel: each link hands it the next one when the one before has ended."""
    medium = made(channel, [MediumLink(trace, queue_packets=len(packets)) for trace in traces])
    out = carried(medium, packets)
    model = CHANNELS[channel]()
    for key, trace in enumerate(traces):
        model.add(key, trace)
    waiting: list[list[int]] = [[] for _ in traces]
    expected: list[Departure] = []

    def until(now: float) -> None:
        while (end := model.next_finish()) <= now and end < math.inf:
            for key in model.finished(end):
                expected.append((end, key, waiting[key].pop(0)))
                if waiting[key]:
                    model.begin(end, key, 8 * packets[waiting[key][0]][2])

    for place, (now, link, size) in enumerate(packets):
        until(now)
        waiting[link % len(traces)].append(place)
        if len(waiting[link % len(traces)]) == 1:
            model.begin(now, link % len(traces), 8 * size)
    until(math.inf)
    assert out == expected


# -- queue -----------------------------------------------------------------------------------------------------------


def filled(link: MediumLink, now: float, size_bytes: int = 1000) -> int:
    """Packets that a link takes at once."""
    medium = made("independent", [link])
    taken = 0
    while medium.arrive(now, 0, size_bytes, taken) is Verdict.QUEUED:
        taken += 1
    return taken


def test_the_queue_follows_the_rate() -> None:
    trace = Trace([0, 1, 2], [80e6, 8e6, 0], "falls", duration_s=3)
    link = MediumLink(trace, queue_s=0.05, queue_packets=4)
    assert [filled(link, now) for now in (0.5, 1.5, 2.5)] == [500, 50, 4]
    assert filled(link, 0.5, 1) == 500_000


def test_a_queue_keeps_what_it_has_when_the_rate_falls() -> None:
    trace = Trace([0, 1], [8e6, 0], "stops", duration_s=2)
    medium = made("independent", [MediumLink(trace, queue_s=0.5, queue_packets=4)])
    for place in range(500):
        assert medium.arrive(0.95, 0, 1000, place) is Verdict.QUEUED
    assert len(medium.departed(1.5)) == 50  # 50 ms at a packet each millisecond, then nothing
    assert medium.held(0) == (450, 450_000)
    assert medium.arrive(1.5, 0, 1000, 500) is Verdict.FULL
    assert len(medium.departed(2.45)) == 450  # the rate is back: the rest leaves, in order
    assert medium.counts[0].largest_queue_bytes == 500_000


def test_at_rate_0_a_link_takes_the_floor_and_nothing_ever_comes_out() -> None:
    medium = made("independent", [MediumLink(DEAD, queue_packets=3)])
    verdicts = [medium.arrive(1.0, 0, 1500, place) for place in range(5)]
    assert verdicts == [Verdict.QUEUED] * 3 + [Verdict.FULL] * 2
    assert medium.next_event() == math.inf and medium.departed(1e6) == []


def test_a_queue_in_bytes_does_not_follow_the_rate() -> None:
    link = MediumLink(Trace([0, 1], [8e9, 8e3], "falls", duration_s=2), queue_bytes=10_000, queue_packets=1)
    assert [filled(link, now) for now in (0.5, 1.5)] == [10, 10]
    assert filled(link, 0.5, 20_000) == 1  # a link that is empty takes a packet of any size
    assert filled(dataclasses.replace(link, queue_bytes=0), 0.5) == 1


# -- delay, jitter, loss ---------------------------------------------------------------------------------------------


def test_delay_begins_when_the_last_bit_has_left() -> None:
    medium = made("independent", [MediumLink(FLAT, delay_s=0.02)])
    out = carried(medium, [(1.0, 0, 1000), (1.0, 0, 500), (2.0, 0, 0)])
    assert [time_s for time_s, _, _ in out] == pytest.approx([1.021, 1.0215, 2.02])


def lone(link: MediumLink, number: int, seed: int = 0) -> list[Departure]:
    """Packets that meet nobody: each second one of 1000 bytes, which takes a millisecond."""
    return carried(made("independent", [link], seed), [(float(place), 0, 1000) for place in range(number)])


def test_jitter_is_uniform_between_nothing_and_what_was_asked() -> None:
    out = lone(MediumLink(FLAT, delay_s=0.01, jitter_s=0.04), 4000)
    drawn = np.sort([time_s - place - 0.011 for time_s, _, place in out]) / 0.04
    assert len(drawn) == 4000 and drawn[0] >= -1e-9 and drawn[-1] <= 1 + 1e-9
    distance = np.max(np.abs(drawn - (np.arange(4000) + 0.5) / 4000))
    assert distance < 1.95 / 4000**0.5  # Kolmogorov, 99.9 %; the seed is fixed


def test_packets_overtake_only_where_that_was_asked() -> None:
    close = [(0.002 * place, 0, 1000) for place in range(500)]
    kept = carried(made("independent", [MediumLink(FLAT, jitter_s=0.04)]), close)
    mixed = carried(made("independent", [MediumLink(FLAT, jitter_s=0.04, reorder=True)]), close)
    assert [place for _, _, place in kept] == list(range(500))
    assert [place for _, _, place in mixed] != list(range(500))
    # The same delays are drawn; whoever would overtake comes out together with the one before it.
    drawn = {place: time_s for time_s, _, place in mixed}
    assert [time_s for time_s, _, _ in kept] == list(np.maximum.accumulate([drawn[place] for place in range(500)]))


def test_loss_is_as_often_as_asked_and_each_by_itself() -> None:
    number, loss = 20_000, 0.1
    came = {place for _, _, place in lone(MediumLink(FLAT, loss=loss), number)}
    lost = np.array([place not in came for place in range(number)])
    assert abs(lost.mean() - loss) < 3.29 * (loss * (1 - loss) / number) ** 0.5  # 99.9 %; the seed is fixed
    again = lost[1:][lost[:-1]].mean()
    assert abs(again - loss) < 3.29 * (loss * (1 - loss) / lost.sum()) ** 0.5


def test_what_is_lost_has_taken_its_time() -> None:
    packets = [(0.0, 0, 1000)] * 50
    whole = carried(made("independent", [MediumLink(FLAT)]), packets)
    thinned = carried(made("independent", [MediumLink(FLAT, loss=0.5)]), packets)
    assert 0 < len(thinned) < 50 and set(thinned) < set(whole)
    assert carried(made("independent", [MediumLink(FLAT, loss=1.0)]), packets) == []


def test_chance_is_that_of_the_seed_and_of_the_link() -> None:
    link = MediumLink(FLAT, jitter_s=0.01, loss=0.2)
    assert lone(link, 300, seed=4) == lone(link, 300, seed=4) != lone(link, 300, seed=5)
    packets = [(float(place), place % 2, 1000) for place in range(600)]
    beside = [each for each in carried(made("independent", [link, link]), packets) if each[1] == 0]
    alone = carried(made("independent", [link]), packets[::2])
    assert [time_s for time_s, _, _ in beside] == [time_s for time_s, _, _ in alone]
    other = [time_s - place for time_s, each, place in carried(made("independent", [link, link]), packets) if each]
    assert other != [time_s - place for time_s, _, place in beside]


def test_jitter_does_not_decide_who_is_lost() -> None:
    places = [
        [place for _, _, place in lone(MediumLink(FLAT, jitter_s=jitter_s, loss=0.3), 200)] for jitter_s in (0.0, 0.5)
    ]
    assert places[0] == places[1]


# -- several links ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channel", "asked"), [("airtime", (4e6, 2e6, 0.5e6)), ("equal", (12e6 / 11,) * 3)])
def test_stations_share_the_channel(channel: str, asked: tuple[float, ...]) -> None:
    rates = (12e6, 6e6, 1.5e6)
    medium = made(channel, [MediumLink(Trace.constant(rate), queue_packets=10_000) for rate in rates])
    packets = [(0.0, link, 1000) for _ in range(6000) for link in range(3)]
    for place, (now, link, size) in enumerate(packets):
        medium.arrive(now, link, size, place)
    medium.departed(10.0)
    for link, bps in enumerate(asked):
        assert 8 * medium.counts[link].bytes_out / 10 == pytest.approx(bps, rel=0.005)


def test_a_packet_goes_on_at_the_exact_moment_it_comes_out() -> None:
    """From one station to another: over its uplink, then over the other's downlink, which is busy."""
    up, down = MediumLink(FLAT, delay_s=0.01), MediumLink(Trace.constant(4e6), delay_s=0.005)
    medium = made("independent", [up, down])
    medium.arrive(0.0, 0, 1000, 0, onward=(1,))
    medium.arrive(0.0, 1, 6000, 1)  # 12 ms
    assert medium.departed(1.0) == [
        (pytest.approx(0.011), 0, 0),
        (pytest.approx(0.017), 1, 1),
        (pytest.approx(0.019), 1, 0),
    ]
    medium.arrive(1.0, 0, 1000, 2, onward=(1,))
    assert medium.release(1.0) == [(1.0, 0, 2), (1.0, 1, 2)]


def test_a_long_trace_is_followed_to_the_end() -> None:
    """A link that fades, looked at seldom: the last bit is where the trace has it."""
    trace = named_trace("outdoor", 3)
    medium = made("independent", [MediumLink(trace, queue_packets=20_000, delay_s=0.001)])
    for place in range(20_000):
        medium.arrive(0.0, 0, 1500, place)
    out = drain(medium)
    assert out[-1][0] - 0.001 == pytest.approx(trace.finish(0, 20_000 * 12_000.0), abs=1e-6)
    gaps = [later[0] - earlier[0] for earlier, later in pairwise(out)]
    assert min(gaps) >= 12_000 / trace.rates_bps.max() - 1e-9


# -- what it refuses -------------------------------------------------------------------------------------------------


def test_it_says_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match=r"unknown channel 'airtim'; did you mean 'airtime'"):
        made("airtim", [MediumLink(FLAT)])
    with pytest.raises(ConfigError, match="expected one link or more"):
        made("airtime", [])
    medium = made("airtime", [MediumLink(FLAT)])
    medium.departed(2.0)
    for now in (1.0, math.inf, math.nan):
        with pytest.raises(LocalProtocolError, match=r"expected a finite time, 2.0 s or later"):
            medium.arrive(now, 0, 1, 0)
    for link, size, onward in ((1, 1, ()), (0, -1, ()), (0, 1, (3,))):
        with pytest.raises(LocalProtocolError, match=r"expected 0 bytes or more, and links of \[0\]"):
            medium.arrive(2.0, link, size, 0, onward)
    assert medium.counts[0].packets_in == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("delay_s", -0.1), ("delay_s", math.nan), ("jitter_s", 61.0), ("loss", 1.5), ("queue_s", -1.0)],
)
def test_a_link_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"medium: {name}: expected 0 \.\. "):
        MediumLink(FLAT, **{name: value})
    with pytest.raises(ConfigError, match=r"queue_bytes: expected 0 bytes or more, got -1"):
        MediumLink(FLAT, queue_bytes=-1)
    with pytest.raises(ConfigError, match=r"queue_packets: expected 1 or more, got 0"):
        MediumLink(FLAT, queue_packets=0)
