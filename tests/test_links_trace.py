"""Traces: exact integrals, their inverse, and what is refused."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rowcast.links.fitting
import rowcast.links.synth
import rowcast.links.trace
from rowcast.errors import LocalProtocolError, TraceError
from rowcast.links import Trace

quick = settings(deadline=None, derandomize=True, max_examples=150)

rates = st.one_of(st.just(0.0), st.floats(1e3, 1e9))
times = st.floats(0.0, 500.0)


@st.composite
def traces(draw: st.DrawFn, loop: bool | None = None) -> Trace:
    gaps = draw(st.lists(st.floats(1e-3, 30.0), min_size=1, max_size=12))
    starts = np.concatenate(([0.0], np.cumsum(gaps)))
    values = draw(st.lists(rates, min_size=len(gaps), max_size=len(gaps)))
    loops = draw(st.booleans()) if loop is None else loop
    return Trace(starts[:-1], np.array(values), "drawn", loops, duration_s=float(starts[-1]))


def close(a: float, b: float, scale: float = 0.0) -> bool:
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9 * scale + 1e-9)


def by_steps(trace: Trace, t0: float, t1: float) -> float:
    """The integral by walking from change to change: slow, and a different way from the one tested."""
    total, t = 0.0, t0
    while t < t1:
        until = min(trace.next_change(t), t1)
        total += trace.rate((t + until) / 2) * (until - t)
        t = until
    return total


step = Trace([0, 2, 3], [8e6, 0, 4e6], "step", duration_s=4)  # 16 + 0 + 4 Mbit in each lap of 4 s
once = Trace([0, 2, 3], [8e6, 0, 4e6], "once", loop=False, duration_s=4)
endless = Trace([0, 2, 3], [8e6, 0, 4e6], "endless", loop=False, duration_s=math.inf)


def test_rates_and_integrals_by_hand() -> None:
    assert [step.rate(t) for t in (0, 1.9, 2, 3, 3.9, 4, 42, 43)] == [8e6, 8e6, 0, 4e6, 4e6, 8e6, 0, 4e6]
    assert [once.rate(t) for t in (3.9, 4, 100)] == [4e6, 0, 0]
    assert [endless.rate(t) for t in (3.9, 4, 1e6)] == [4e6, 4e6, 4e6]
    assert step.bits(0, 4) == 20e6
    assert step.bits(1, 9) == 8e6 + 4e6 + 20e6 + 8e6
    assert step.bits(2, 3) == 0
    assert once.bits(1, 100) == 12e6
    assert endless.bits(1, 13) == 8e6 + 40e6


def test_finish_by_hand() -> None:
    assert step.finish(0, 8e6) == 1
    assert step.finish(0, 16e6) == 2  # the last bit passes before the stretch of nothing, not after it
    assert step.finish(0, 17e6) == 3.25
    assert step.finish(2.5, 1e6) == 3.25
    assert step.finish(2.5, 0) == 2.5
    assert step.finish(3.5, 2e6) == 4
    assert step.finish(1, 12e6 + 5 * 20e6 + 8e6) == 25
    assert step.finish(1, 12e6 + 5 * 20e6) == 24
    assert step.finish(0, math.inf) == math.inf
    assert once.finish(1, 12e6) == 4
    assert once.finish(1, 12e6 + 1) == math.inf
    assert once.finish(50, 1) == math.inf
    assert endless.finish(1, 8e6 + 40e6) == 13
    assert Trace([0, 1], [0, 0], "dead", duration_s=2).finish(0.5, 1) == math.inf
    assert Trace([0, 1], [5, 0], "dying", loop=False, duration_s=math.inf).finish(0, 6) == math.inf


def test_next_change_skips_steps_of_equal_rate() -> None:
    same = Trace([0, 1, 2, 3], [5, 5, 7, 5], "same", duration_s=4)
    assert [same.next_change(t) for t in (0, 1, 2, 3, 3.5, 6.5)] == [2, 2, 3, 6, 6, 7]
    assert [once.next_change(t) for t in (0, 2, 3, 4)] == [2, 3, 4, math.inf]
    assert endless.next_change(3) == math.inf
    assert Trace([0, 1], [5, 5], "flat", duration_s=2).next_change(0.3) == math.inf


def test_constant_link_is_exact_and_never_changes() -> None:
    link = Trace.constant(20e6)
    assert link.name == "constant:20"
    assert link.bits(3, 1e6 + 3) == 20e12
    assert link.finish(7, 20e6) == 8
    assert link.next_change(1e9) == math.inf
    assert link.shifted(10).rate(1e9) == 20e6
    assert link.cut(5, 8).bits(0, 100) == 60e6
    assert link.stats().mean_bps == 20e6
    assert link.stats().change_20_s == math.inf


@given(traces(), times, st.floats(0.0, 300.0), st.floats(0.0, 300.0))
@quick
def test_bits_are_conserved_over_a_split(trace: Trace, t0: float, first: float, second: float) -> None:
    whole = trace.bits(t0, t0 + first + second)
    parts = trace.bits(t0, t0 + first) + trace.bits(t0 + first, t0 + first + second)
    assert close(whole, parts, scale=1e9)
    assert whole >= -1e-3


@given(traces(), times, st.floats(0.0, 60.0))
@quick
def test_bits_equal_the_walk_from_change_to_change(trace: Trace, t0: float, length: float) -> None:
    assert close(trace.bits(t0, t0 + length), by_steps(trace, t0, t0 + length), scale=1e9)


@given(traces(), times, st.floats(0.0, 1e11))
@quick
def test_finish_is_the_inverse_of_bits(trace: Trace, t: float, bits: float) -> None:
    end = trace.finish(t, bits)
    assert end >= t
    if end == math.inf:
        horizon = trace.bits(t, t + 2 * trace.duration_s)
        assert horizon < bits if not trace.loop else horizon == 0
    else:
        # In the rounding error of `end`, a rate of 1e9 bit/s passes 1e9 * 1e-15 * end bits.
        tolerance = 1e-5 * (1 + end) + 1e-13 * trace.bits(0, trace.duration_s)
        assert math.isclose(trace.bits(t, end), bits, rel_tol=1e-9, abs_tol=tolerance)


@given(traces(), times, st.floats(0.001, 300.0))
@quick
def test_finish_is_the_first_such_time(trace: Trace, t: float, length: float) -> None:
    bits = trace.bits(t, t + length)
    end = trace.finish(t, bits)
    assert end <= t + length + 1e-6 * (1 + length)
    if bits > 1 and end - t > 1e-3:
        assert trace.bits(t, end - 1e-3) < bits


@given(traces(loop=True), times, st.integers(1, 50))
@quick
def test_a_loop_repeats(trace: Trace, t: float, laps: int) -> None:
    lap = trace.duration_s
    assert close(trace.bits(t, t + laps * lap), laps * trace.bits(0, lap) if laps else 0, scale=1e9)
    bits = trace.bits(0, lap)
    if bits > 0:
        assert trace.finish(0, laps * bits) == pytest.approx((laps - 1) * lap + trace.finish(0, bits), abs=1e-6)


@given(traces(), times)
@quick
def test_the_rate_holds_until_the_next_change(trace: Trace, t: float) -> None:
    change = trace.next_change(t)
    assert change > t
    until = min(change, t + 100.0)
    assert all(trace.rate(t + share * (until - t)) == trace.rate(t) for share in (0.25, 0.5, 0.9))


def test_next_change_always_moves_on() -> None:
    trace = Trace([0, 0.1, 0.3], [1, 2, 3], "fine", duration_s=0.7)
    t = 1e9  # so far out that adding up a lap and a step is off by more than the distance of two floats
    for _ in range(1000):
        later = trace.next_change(t)
        assert later > t
        t = later
    assert t > 1e9 + 50


@given(traces(loop=True), st.floats(0.0, 200.0), times, st.floats(0.0, 100.0))
@quick
def test_a_shifted_trace_is_the_same_later(trace: Trace, offset: float, t: float, length: float) -> None:
    moved = trace.shifted(offset)
    assert moved.duration_s == trace.duration_s
    assert close(moved.bits(t, t + length), trace.bits(offset + t, offset + t + length), scale=10e9)


@given(traces(), st.floats(0.0, 0.9), st.floats(0.05, 0.99))
@quick
def test_a_cut_carries_what_the_whole_carried(trace: Trace, start: float, share: float) -> None:
    t0 = start * trace.duration_s
    t1 = t0 + share * (trace.duration_s - t0)
    piece = trace.cut(t0, t1)
    assert close(piece.bits(0, piece.duration_s), trace.bits(t0, t1), scale=1e9)
    assert piece.duration_s == t1 - t0


def test_cut_over_several_laps_and_scaled() -> None:
    piece = step.cut(3, 9)
    np.testing.assert_array_equal(piece.times_s, [0, 1, 3, 4, 5])
    np.testing.assert_array_equal(piece.rates_bps, [4e6, 8e6, 0, 4e6, 8e6])
    assert piece.duration_s == 6
    half = step.scaled(0.5)
    assert half.bits(0, 4) == 10e6
    assert half.name == "step x0.5"
    assert once.shifted(1).duration_s == 3


def test_stats_by_hand() -> None:
    trace = Trace([0, 1, 3, 4, 9], [100, 2, 0, 75, 90], "hand", duration_s=10)
    stats = trace.stats()
    assert stats.mean_bps == (100 + 4 + 0 + 375 + 90) / 10
    assert (stats.best_bps, stats.low_bps) == (100, 5)
    assert stats.share_low == 0.3
    assert stats.share_zero == 0.1
    assert stats.low_episodes_s == (3.0,)
    assert (stats.p5_bps, stats.p25_bps, stats.p50_bps, stats.p95_bps) == (0, 2, 75, 100)
    assert stats.change_20_s == 10 / 4  # 100 -> 2 -> 0 -> 75 -> 90, the last by exactly 20 %
    assert stats.change_40_s == 10 / 3
    assert trace.stats(low_bps=80).low_episodes_s == (8.0,)


def test_a_change_is_counted_from_the_last_counted_change() -> None:
    slow = Trace([0, 1, 2, 3], [100, 110, 121, 133], "creeping", duration_s=4)
    assert slow.stats().change_20_s == 4  # 100 -> 121; none of the three steps alone is 20 %


def test_the_autocorrelation_time() -> None:
    """Blocks of length b: the autocorrelation falls in a straight line and is 1/e at (1 - 1/e) b."""
    generator = np.random.default_rng(0)
    rates = np.repeat(generator.uniform(1e6, 9e6, 20_000), 10)
    blocks = Trace(np.arange(len(rates)) * 0.1, rates, "blocks", duration_s=len(rates) * 0.1)
    assert blocks.stats().autocorrelation_s == pytest.approx(1 - 1 / math.e, rel=0.05)
    # The same rates in other steps are the same trace: every second boundary is one between equal rates.
    coarse = Trace(blocks.times_s[::10], rates[::10], "coarse", duration_s=blocks.duration_s)
    assert coarse.stats().autocorrelation_s == pytest.approx(1 - 1 / math.e, rel=0.05)
    uneven = np.sort(np.concatenate((blocks.times_s, generator.uniform(0, 1000, 500))))
    cut = Trace(uneven, [blocks.rate(t) for t in uneven.tolist()], "uneven", duration_s=blocks.duration_s)
    assert cut.stats().autocorrelation_s == pytest.approx(blocks.stats().autocorrelation_s, rel=0.01)
    assert Trace.constant(5e6).stats().autocorrelation_s == math.inf
    assert Trace([0, 1], [5, 5], "flat", duration_s=2).stats().autocorrelation_s == math.inf


def test_looped() -> None:
    again = once.looped()
    assert again.loop
    assert again.bits(0, 8) == 40e6
    assert again.looped(False) == once
    with pytest.raises(TraceError, match="duration_s is inf"):
        endless.looped()


def test_value_semantics() -> None:
    again = Trace([0, 2, 3], [8e6, 0, 4e6], "step", duration_s=4)
    assert again == step
    assert hash(again) == hash(step)
    assert once != step
    assert step != "step"
    with pytest.raises(ValueError, match="read-only"):
        step.rates_bps[0] = 1.0


@pytest.mark.parametrize(
    ("times_s", "rates_bps", "duration_s", "loop", "message"),
    [
        ([], [], 1, True, "at least one"),
        ([0, 1], [1], 2, True, "as many times as rates"),
        ([[0]], [[1]], 2, True, "as many times as rates"),
        (["a"], [1], 2, True, "must be numbers"),
        ([1], [1], 2, True, "first time is 1 s, expected 0"),
        ([0, 2, 2], [1, 1, 1], 3, True, "step 2: time 2 s does not come after 2 s"),
        ([0, 2, 1], [1, 1, 1], 3, True, "step 2: time 1 s does not come after 2 s"),
        ([0, math.nan], [1, 1], 3, True, "step 1"),
        ([0, 1], [1, -1], 3, True, "step 1: rate -1 bit/s"),
        ([0, 1], [math.inf, 1], 3, True, "step 0: rate inf"),
        ([0, 1], [math.nan, 1], 3, True, "step 0: rate nan"),
        ([0, 1], [1, 1], 1, True, "duration_s is 1, expected finite and beyond the last step at 1 s"),
        ([0, 1], [1, 1], math.inf, True, "duration_s is inf"),
        ([0, 1], [1, 1], math.nan, False, "duration_s is nan, expected above 1 s"),
    ],
)
def test_what_is_not_a_trace(times_s: object, rates_bps: object, duration_s: float, loop: bool, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        Trace(times_s, rates_bps, "bad", loop, duration_s=duration_s)  # type: ignore[arg-type]


def test_misuse_blames_the_caller() -> None:
    for call in (
        lambda: step.rate(-1),
        lambda: step.rate(math.nan),
        lambda: step.next_change(math.inf),
        lambda: step.bits(2, 1),
        lambda: step.finish(0, -1),
        lambda: step.finish(0, math.nan),
        lambda: step.scaled(-1),
        lambda: step.scaled(math.inf),
        lambda: step.cut(2, 2),
        lambda: step.cut(0, math.inf),
        lambda: once.cut(0, 5),
        lambda: once.shifted(4),
        lambda: endless.stats(),
    ):
        with pytest.raises(LocalProtocolError):
            call()
    with pytest.raises(TraceError):
        Trace.constant(-1)


@pytest.mark.parametrize("module", [rowcast.links.trace, rowcast.links.synth, rowcast.links.fitting])
def test_examples_in_the_docstrings(module: object) -> None:
    outcome = doctest.testmod(module)  # type: ignore[arg-type]
    assert outcome.attempted > 0
    assert outcome.failed == 0
