"""The synthetic outdoor link has the statistics that were published for real ones."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest

from rowcast.errors import ConfigError
from rowcast.links import PROFILES, Trace, TraceStats, outdoor, synthesise

LOW_BPS = 5e6
SEEDS = range(8)


@cache
def stats(seed: int, duration_s: float) -> TraceStats:
    return outdoor(seed, duration_s).stats(LOW_BPS)


CASES = [(seed, 600.0) for seed in SEEDS] + [(100, 4 * 3600.0)]


@pytest.mark.parametrize(("seed", "duration_s"), CASES)
def test_outdoor_statistics(seed: int, duration_s: float) -> None:
    """ROG, MICRO'22, Sec. II-B: see the text of rowcast.links.synth."""
    found = stats(seed, duration_s)
    assert 0.4 <= found.change_20_s <= 1.0
    assert 1.2 <= found.change_40_s <= 1.5
    assert 0.28 <= found.share_low <= 0.38
    assert found.best_bps == 90e6
    assert min(found.low_episodes_s) >= 1.0 - 1e-6
    assert max(found.low_episodes_s) <= 25.0 + 1e-6
    assert 1.5 <= np.median(found.low_episodes_s) <= 5.0
    assert found.share_zero == 0


def test_a_long_trace_uses_the_whole_range_of_episodes() -> None:
    episodes = np.array(stats(100, 4 * 3600.0).low_episodes_s)
    assert len(episodes) > 800
    assert episodes.min() < 1.3
    assert episodes.max() > 20
    assert np.percentile(episodes, 90) > 6
    # No episode at the seam where the trace starts again is longer than one visit either.
    assert outdoor(100, 4 * 3600.0).rate(4 * 3600.0 - 0.1) > LOW_BPS


def test_low_rates_still_carry_something() -> None:
    for seed in SEEDS:
        trace = outdoor(seed)
        assert trace.rates_bps.min() >= 0.05e6
        assert trace.finish(0, 8 * 1_000_000) < 30


def test_the_same_seed_is_the_same_trace() -> None:
    assert outdoor(3) == outdoor(3)
    assert outdoor((3, 1, 0), 60) == outdoor((3, 1, 0), 60)
    assert outdoor(3) == synthesise(PROFILES["outdoor"], 3, 600.0)
    assert outdoor((3, 1)).name == "outdoor:3-1"


def test_different_seeds_are_independent() -> None:
    """Four robots, two directions: low at different moments."""
    links = [outdoor((0, robot, direction), 3600.0).rates_bps for robot in range(4) for direction in range(2)]
    correlation = np.corrcoef(links)
    others = correlation[~np.eye(len(links), dtype=bool)]
    assert np.abs(others).max() < 0.15
    together = np.mean(np.all(np.array(links) < LOW_BPS, axis=0))
    assert together < 0.01


def test_no_two_links_start_alike() -> None:
    first = [outdoor(seed).rate(0) for seed in range(40)]
    assert len(set(first)) > 35
    assert 5 < sum(rate < LOW_BPS for rate in first) < 22


def test_cap_step_and_duration() -> None:
    trace = outdoor(1, duration_s=10.1, cap_bps=40e6)
    assert trace.rates_bps.max() <= 40e6
    assert trace.duration_s == pytest.approx(10.2)
    assert isinstance(trace, Trace)
    assert trace.loop
    assert len(outdoor(1, duration_s=0.05).rates_bps) == 1


@pytest.mark.parametrize("duration_s", [0.0, -1.0, float("inf"), float("nan")])
def test_impossible_durations(duration_s: float) -> None:
    with pytest.raises(ConfigError, match="duration_s"):
        outdoor(0, duration_s)


@pytest.mark.parametrize("seed", [-1, "one", 1.5])
def test_impossible_seeds(seed: object) -> None:
    with pytest.raises(ConfigError, match="seed"):
        outdoor(seed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"turns": ((1.0,),)}, "3 x 3"),
        ({"turns": ((0.0, 0.5, 0.6), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0))}, "rows sum to 1"),
        ({"low_states": frozenset({"bad"})}, "low_states"),
        ({"low_states": frozenset({"good", "fair", "poor"})}, "low_states"),
        ({"cap_bps": 0.0}, "above 0"),
    ],
)
def test_impossible_profiles(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(PROFILES["outdoor"], **change)  # type: ignore[arg-type]


def test_impossible_states() -> None:
    profile = PROFILES["outdoor"]
    state = dataclasses.replace(profile.states[0], median_bps=1.0)
    with pytest.raises(ConfigError, match="'good'"):
        dataclasses.replace(profile, states=(state, *profile.states[1:]))
