"""Channel models: bytes are conserved, ends are exact, and one transfer alone gets what its trace gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcast.errors import LocalProtocolError
from rowcast.links import CHANNELS, Channel, EqualThroughput, Independent, SharedAirtime, Trace, outdoor

quick = settings(deadline=None, derandomize=True, max_examples=60)
every = pytest.mark.parametrize("make", CHANNELS.values(), ids=CHANNELS.keys())
shared = pytest.mark.parametrize("make", [SharedAirtime, EqualThroughput], ids=["airtime", "equal"])
Make = Callable[[], Channel]

FLAT = 8e6
step = Trace([0, 2, 3], [8e6, 0, 4e6], "step", duration_s=4)  # 16 + 0 + 4 Mbit in each lap of 4 s
dead = Trace.constant(0.0)


@st.composite
def traces(draw: st.DrawFn, zero: bool = True) -> Trace:
    """A loop of a few steps, one of which carries something."""
    gaps = draw(st.lists(st.floats(0.01, 5.0), min_size=1, max_size=6))
    rate = st.floats(1e4, 1e8)
    values = [draw(rate), *(draw(st.one_of(st.just(0.0), rate) if zero else rate) for _ in gaps[1:])]
    starts = np.concatenate(([0.0], np.cumsum(gaps)))
    return Trace(starts[:-1], np.array(values), "drawn", duration_s=float(starts[-1]))


amounts = st.floats(1.0, 1e7)


def opened(make: Make, *links: Trace) -> Channel:
    channel = make()
    for key, trace in enumerate(links):
        channel.add(key, trace)
    return channel


def drain(channel: Channel) -> list[tuple[float, int]]:
    """(end, key) of everything that ends."""
    ends = []
    while (end := channel.next_finish()) < math.inf:
        keys = channel.finished(end)
        assert keys, "what ends at next_finish() has ended then"
        ends += [(end, key) for key in keys]
    return ends


# ------------------------------------------------------------------ by hand


def test_independent_links_do_not_disturb_each_other() -> None:
    channel = opened(Independent, step, Trace.constant(FLAT), dead)
    assert channel.next_finish() == math.inf
    assert channel.begin(0, 0, 17e6) == 3.25
    assert channel.begin(0, 1, FLAT) == 1
    assert channel.begin(0, 2, 1) == math.inf
    assert channel.finished(0.5) == []
    assert drain(channel) == [(1, 1), (3.25, 0)]
    assert channel.abort(5, 2) == 0


def test_airtime_is_shared_in_equal_parts() -> None:
    channel = opened(SharedAirtime, Trace.constant(8e6), Trace.constant(2e6))
    assert channel.begin(0, 0, 8e6) == 1
    assert channel.begin(0.5, 1, 2e6) == 2.5  # if the other went on for ever
    assert channel.next_finish() == 1.5  # 4 of 8 Mbit alone, the rest at 4 Mbit/s
    assert channel.finished(1.5) == [0]
    assert channel.next_finish() == 2.0  # 1 of 2 Mbit at half the rate, the rest alone
    assert channel.finished(2.0) == [1]


def test_equal_throughput_is_that_of_the_slow_one() -> None:
    """Heusse et al.: with rates 8 and 2 everybody gets 1 / (1/8 + 1/2) = 1.6 Mbit/s."""
    channel = opened(EqualThroughput, Trace.constant(8e6), Trace.constant(2e6))
    channel.begin(0, 0, 8e6)
    channel.begin(0, 1, 8e6)
    assert channel.abort(1, 0) == pytest.approx(1.6e6, rel=1e-12)
    assert channel.abort(2, 1) == pytest.approx(1.6e6 + 2e6, rel=1e-12)


@shared
def test_a_station_at_rate_0_takes_no_airtime(make: Make) -> None:
    channel = opened(make, Trace.constant(8e6), step, dead)
    for key in range(3):
        channel.begin(0, key, 20e6)
    assert channel.finished(2) == []  # 2 s at half of 8 Mbit/s each, the dead one takes nothing
    assert channel.next_finish() == pytest.approx(4 if make is SharedAirtime else 4 + 1 / 3)
    assert channel.abort(3, 0) == pytest.approx(8e6 + 8e6)  # the whole rate while link 1 is silent
    assert channel.abort(3, 1) == pytest.approx(8e6)
    assert channel.abort(3, 2) == 0
    assert channel.next_finish() == math.inf


@every
def test_the_last_bit_passes_before_a_stretch_of_nothing(make: Make) -> None:
    channel = opened(make, step, step)
    assert channel.begin(0, 0, 16e6) == 2
    if make is Independent:
        assert channel.begin(0, 1, 16e6) == 2
    else:
        channel.abort(0, 0)
        channel.begin(0.3, 0, 16e6 * 0.85 / 2)
        channel.begin(0.3, 1, 16e6 * 0.85 / 2)
    assert drain(channel) == [(2, 0), (2, 1)]


@every
def test_ends_come_in_order_of_end_and_key(make: Make) -> None:
    channel = opened(make, *[Trace.constant(FLAT)] * 5)
    for key, bits in ((4, 1e6), (2, 1e6), (3, 5e5), (0, 2e6), (1, 1e6)):
        channel.begin(0, key, bits)
    assert channel.finished(10) == [3, 1, 2, 4, 0]
    assert channel.finished(10) == []


@every
def test_nothing_to_carry_ends_at_once_also_on_a_dead_link(make: Make) -> None:
    channel = opened(make, dead, step)
    assert channel.begin(1, 1, 1e6) == 1.125
    assert channel.begin(1, 0, 0) == 1
    assert channel.next_finish() == 1
    assert channel.finished(1) == [0]
    assert channel.begin(1, 0, 0) == 1
    assert channel.abort(1, 0) == 0
    assert channel.next_finish() == 1.125


@every
def test_an_ended_transfer_stays_until_it_is_told_of(make: Make) -> None:
    channel = opened(make, Trace.constant(FLAT), Trace.constant(FLAT))
    channel.begin(0, 0, FLAT)
    channel.begin(5, 1, FLAT)
    assert channel.next_finish() == 1
    with pytest.raises(LocalProtocolError, match="link 0: carries a transfer"):
        channel.begin(5, 0, 1)
    assert channel.abort(5.5, 0) == FLAT
    assert channel.abort(5.5, 0) == 0
    assert drain(channel) == [(6, 1)]


@every
def test_a_link_that_is_removed_leaves_the_channel_to_the_others(make: Make) -> None:
    channel = opened(make, Trace.constant(FLAT), Trace.constant(FLAT), dead)
    channel.begin(0, 0, FLAT)
    channel.begin(0, 1, 2 * FLAT)
    channel.begin(0, 2, 0)
    channel.remove(2)
    channel.remove(0)
    assert drain(channel) == [(2, 1)]
    channel.add(0, Trace.constant(2 * FLAT))
    assert channel.begin(2, 0, FLAT) == 2.5


@every
def test_misuse_blames_the_caller(make: Make) -> None:
    channel = opened(make, Trace.constant(FLAT))
    channel.begin(3, 0, FLAT)
    for call in (
        lambda: channel.add(0, dead),
        lambda: channel.remove(1),
        lambda: channel.begin(3, 1, 1),
        lambda: channel.abort(3, 1),
        lambda: channel.begin(3, 0, 1),
        lambda: channel.finished(2.9),
        lambda: channel.finished(math.nan),
        lambda: channel.finished(math.inf),
        lambda: channel.abort(2.9, 0),
    ):
        with pytest.raises(LocalProtocolError):
            call()
    channel.abort(3, 0)
    for bits in (-1.0, math.inf, math.nan):
        with pytest.raises(LocalProtocolError):
            channel.begin(3, 0, bits)
    assert channel.begin(3, 0, FLAT) == 4


# ------------------------------------------------------------------ properties


@given(traces(), st.floats(0, 50), st.lists(amounts, min_size=1, max_size=5))
@quick
def test_alone_all_models_give_what_the_trace_gives(trace: Trace, start: float, sizes: list[float]) -> None:
    for make in CHANNELS.values():
        channel, now = opened(make, trace, dead), start
        for bits in sizes:
            assert channel.begin(now, 0, bits) == channel.next_finish() == trace.finish(now, bits)
            now = channel.next_finish()
            assert channel.finished(now) == [0]
        assert channel.begin(now, 0, 1e12) > now + 1
        assert channel.abort(now + 1, 0) == pytest.approx(trace.bits(now, now + 1), abs=1e-3)


Action = tuple[str, int, float, float]
actions = st.lists(
    st.tuples(
        st.sampled_from(["begin", "begin", "abort", "look", "drain"]), st.integers(0, 3), st.floats(0, 3), amounts
    ),
    min_size=4,
    max_size=25,
)


def played(make: Make, links: list[Trace], script: list[Action]) -> tuple[float, dict[int, float], list[list[float]]]:
    """Play the script: the time at its end, bits that passed by key, and (begin, end, key) of each transfer."""
    channel = opened(make, *links)
    now = 0.0
    passed = dict.fromkeys(range(len(links)), 0.0)
    under_way: dict[int, tuple[float, float]] = {}
    stretches: list[list[float]] = []

    def ended(key: int, at: float, bits: float) -> None:
        start, size = under_way.pop(key)
        assert -1e-9 <= bits <= size
        passed[key] += bits
        stretches.append([start, at, key])

    for kind, number, wait, bits in script:
        key = number % len(links)
        until = now + wait
        while (end := channel.next_finish()) <= until:
            assert end >= now
            now = end
            for done in channel.finished(end):
                ended(done, end, under_way[done][1])
        now = until
        if kind == "begin" and key not in under_way:
            expected = channel.begin(now, key, bits)
            under_way[key] = (now, bits)
            assert now < channel.next_finish() <= expected
        elif kind == "abort":
            was = key in under_way
            got = channel.abort(now, key)
            if was:
                ended(key, now, got)
            else:
                assert got == 0
        elif kind == "look":
            assert channel.finished(now) == []
    for key in sorted(under_way):
        ended(key, now, channel.abort(now, key))
    assert channel.next_finish() == math.inf
    return now, passed, stretches


@given(st.lists(traces(), min_size=1, max_size=4), actions)
@quick
def test_no_link_carries_more_than_it_could_alone(links: list[Trace], script: list[Action]) -> None:
    for make in CHANNELS.values():
        now, passed, stretches = played(make, links, script)
        for key, trace in enumerate(links):
            alone = sum(trace.bits(start, end) for start, end, of in stretches if of == key)
            assert passed[key] <= alone * (1 + 1e-9) + 1e-3
            if make is Independent:
                assert passed[key] == pytest.approx(alone, rel=1e-9, abs=1e-3 * (1 + len(script)))
        if make is not Independent:
            edges = sorted({0.0, now, *(float(t) for trace in links for t in changes(trace, now))})
            best = sum(max(trace.rate(start) for trace in links) * (end - start) for start, end in pairwise(edges))
            assert sum(passed.values()) <= best * (1 + 1e-9) + 1e-3


def changes(trace: Trace, until: float) -> list[float]:
    found, t = [], 0.0
    while (t := trace.next_change(t)) < until:
        found.append(t)
    return found


@given(st.lists(traces(), min_size=1, max_size=4), actions)
@quick
def test_looking_changes_nothing(links: list[Trace], script: list[Action]) -> None:
    without = [(("drain" if kind == "look" else kind), key, wait, bits) for kind, key, wait, bits in script]
    for make in CHANNELS.values():
        assert played(make, links, script) == played(make, links, without)


@given(st.lists(st.floats(1e4, 1e8), min_size=2, max_size=5), st.data())
@quick
def test_airtime_is_conserved(rates: list[float], data: st.DataObject) -> None:
    """While anybody sends, the airtimes bits / R of all sum to the time that passed, in both shared models."""
    sizes = [data.draw(st.floats(0.05, 3.0)) * rate for rate in rates]
    for make in (SharedAirtime, EqualThroughput):
        channel = opened(make, *(Trace.constant(rate) for rate in rates))
        for key, bits in enumerate(sizes):
            channel.begin(0, key, bits)
        ends = drain(channel)
        airtime = sum(bits / rate for bits, rate in zip(sizes, rates, strict=True))
        assert ends[-1][0] == pytest.approx(airtime, rel=1e-9)
        first = data.draw(st.floats(0.01, 0.9)) * ends[0][0]
        for key, bits in enumerate(sizes):
            channel.begin(ends[-1][0], key, bits)
        passed = [channel.abort(ends[-1][0] + first, key) for key in range(len(rates))]
        assert sum(bits / rate for bits, rate in zip(passed, rates, strict=True)) == pytest.approx(
            first, rel=1e-9, abs=1e-9
        )
        if make is SharedAirtime:
            assert passed == pytest.approx([rate * first / len(rates) for rate in rates], abs=1e-3)
        else:
            assert passed == pytest.approx([passed[0]] * len(rates), abs=1e-3)


@given(st.lists(traces(zero=False), min_size=2, max_size=3), st.lists(amounts, min_size=3, max_size=3))
@quick
def test_walking_in_small_steps_gives_the_same(links: list[Trace], sizes: list[float]) -> None:
    """A slow and different way to the first end: add up shares over a fine grid of time."""
    for make in (SharedAirtime, EqualThroughput):
        channel = opened(make, *links)
        for key in range(len(links)):
            channel.begin(0, key, sizes[key])
        first = channel.next_finish()
        edges = sorted({0.0, first, *(t for trace in links for t in changes(trace, first))})
        passed = np.zeros(len(links))
        for start, end in pairwise(edges):
            rates = np.array([trace.rate((start + end) / 2) for trace in links])
            share = rates / len(links) if make is SharedAirtime else np.full(len(links), 1 / np.sum(1 / rates))
            passed += share * (end - start)
        winners = channel.finished(first)
        for key in winners:
            assert passed[key] == pytest.approx(sizes[key], rel=1e-6, abs=1e-3)
        others = [key for key in range(len(links)) if key not in winners]
        assert [channel.abort(first, key) for key in others] == pytest.approx(passed[others].tolist(), rel=1e-6, abs=1)


@shared
def test_who_began_first_does_not_matter(make: Make) -> None:
    links = [outdoor(seed, 60.0) for seed in range(6)]
    sizes = [3e7 + 7e6 * key for key in range(6)]
    found = []
    for order in (range(6), reversed(range(6))):
        channel = opened(make, *links)
        for key in order:
            channel.begin(1.5, key, sizes[key])
        found.append(drain(channel))
    assert found[0] == found[1]
    assert len(found[0]) == 6
