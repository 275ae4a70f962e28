"""A profile fitted to a trace makes traces that are like it; so do recorded traces, where the data is at hand.

Tolerances for an hour synthesised from a record (of three minutes, or nineteen): the mean within 10 %; the
distribution of rates within 0.18 of the mean (mean distance of the quantiles; 0.35 for one record with a single rate
20 times the median); the shares of low and of no bandwidth within 0.05; the time between changes of 20 % within a
factor of 1.7, of 40 % within a factor of 2 where the record has ten of them; the autocorrelation time within a factor
of 2.5. Counts of ten are themselves uncertain by a third. Seed 1 here; of the seeds 2 to 5, one of 96 is outside: an
hour like a record that is silent once, for 85 of its 180 seconds, has so few outages that its mean is 18 % off.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from rowcast.errors import TraceError
from rowcast.links import PROFILES, MarkovProfile, Trace, differences, fit, load_trace, outdoor, synthesise
from rowcast.links.stats import on_grid

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
ROBOTS = sorted((SHARED / "traces_wifi_robot").glob("*.csv"))
ROG = SHARED / "rog-artifact" / "outdoors.csv"


def rog_record() -> Trace:
    """The longest unbroken part of the outdoor record of the ROG artifact; the file has gaps, which no trace has."""
    with ROG.open(encoding="utf-8") as stream:
        rates = [float(row["mbps"]) * 1e6 for row in csv.DictReader(stream) if 432 <= int(row["record_index"]) <= 2593]
    return Trace(np.arange(len(rates)) * 0.5, np.array(rates), "rog outdoors", duration_s=len(rates) * 0.5)


def distance(one: Trace, other: Trace) -> float:
    """Mean distance of the quantiles of the rate, in means of the first."""
    shares = (np.arange(400) + 0.5) / 400
    quantiles = [
        np.quantile(on_grid(np.diff(np.append(trace.times_s, trace.duration_s)), trace.rates_bps)[0], shares)
        for trace in (one, other)
    ]
    return float(np.abs(quantiles[0] - quantiles[1]).mean()) / one.stats().mean_bps


def compare(source: Trace, seed: int, distribution: float = 0.18) -> None:
    made = synthesise(fit(source), seed, 3600.0)
    if distribution == 0.18:
        assert differences(source, made) == []
    wanted = source.stats()
    found = made.stats(wanted.low_bps)
    assert found.mean_bps == pytest.approx(wanted.mean_bps, rel=0.10)
    assert distance(source, made) <= distribution
    assert found.share_low == pytest.approx(wanted.share_low, abs=0.05)
    assert found.share_zero == pytest.approx(wanted.share_zero, abs=0.05)
    assert 1 / 1.7 <= found.change_20_s / wanted.change_20_s <= 1.7
    if source.duration_s / wanted.change_40_s >= 10:
        assert 1 / 2 <= found.change_40_s / wanted.change_40_s <= 2
    assert 1 / 2.5 <= found.autocorrelation_s / wanted.autocorrelation_s <= 2.5


@pytest.mark.skipif(not ROBOTS, reason="the recorded traces traces_wifi_robot are not here")
@pytest.mark.parametrize("path", ROBOTS, ids=[path.stem for path in ROBOTS])
def test_recorded_robots(path: Path) -> None:
    source = load_trace(path)
    stats = source.stats()
    compare(source, seed=1, distribution=0.35 if stats.best_bps > 15 * stats.p50_bps > 0 else 0.18)


@pytest.mark.skipif(not ROG.is_file(), reason="the outdoor record of the ROG artifact is not here")
def test_recorded_rog_outdoors() -> None:
    compare(rog_record(), seed=1)
    profile = fit(rog_record())
    assert [state.name for state in profile.states] == ["good", "poor", "outage"]


@pytest.mark.skipif(not ROG.is_file(), reason="the outdoor record of the ROG artifact is not here")
def test_statistics_of_the_rog_record_are_those_it_came_with() -> None:
    """``outdoors_stats.json``, which counts the 112 samples before the gap as well."""
    found = rog_record().stats(5e6)
    assert found.mean_bps == pytest.approx(73.3e6, rel=0.02)
    assert found.p5_bps == pytest.approx(0.82e6, rel=0.05)
    assert found.p25_bps == pytest.approx(4.25e6, rel=0.05)
    assert found.p75_bps == pytest.approx(133e6, rel=0.05)
    assert found.change_20_s == pytest.approx(0.968, rel=0.05)
    assert found.change_40_s == pytest.approx(1.442, rel=0.05)
    assert found.autocorrelation_s == pytest.approx(6.0, abs=0.5)  # there: the first sample below 1/e
    assert found.share_low == pytest.approx(0.313, abs=0.01)
    assert found.share_zero == pytest.approx(0.014, abs=0.002)
    assert np.mean(found.low_episodes_s) == pytest.approx(4.05, rel=0.05)
    assert max(found.low_episodes_s) == 24.0


def test_the_fit_of_a_synthetic_trace() -> None:
    compare(outdoor(3, 1800.0), seed=2)
    compare(synthesise(PROFILES["indoor"], 3, 3600.0), seed=2)


def test_the_fit_finds_the_states_of_a_link_that_comes_and_goes() -> None:
    """20 s at 10 Mbit/s, 5 s of nothing, again and again: good and outage, each with its length."""
    times = np.arange(0, 1000, 0.5)
    source = Trace(times, np.where(times % 25 < 20, 10e6, 0.0), "blinking", duration_s=1000)
    profile = fit(source)
    good, outage = profile.states
    assert (good.name, outage.name) == ("good", "outage")
    assert profile.turns == ((0.0, 1.0), (1.0, 0.0))
    assert good.median_bps == pytest.approx(10e6)
    assert (good.shortest_s, good.longest_s, outage.shortest_s, outage.longest_s) == (20, 20, 5, 5)
    assert outage.highest_bps == 0
    made = synthesise(profile, 4, 1000).stats()
    assert made.share_zero == pytest.approx(0.2, abs=0.03)
    assert set(made.low_episodes_s) <= {5.0}
    assert made.best_bps == 10e6


def test_what_is_not_like_the_source_is_said() -> None:
    source = outdoor(3, 600.0)
    assert differences(source, source) == []
    silent = Trace([0, 30], [1e6, 0], "silent", duration_s=60)
    said = differences(source, silent)
    for part in (
        "mean 0.5 Mbit/s, in the source",
        "quantiles",
        "below",
        "nothing at all 50.0% of the time",
        "change of 40 %",
    ):
        assert any(line.startswith(part) for line in said), (part, said)
    steady = Trace(np.arange(50.0), np.full(50, 3e6), "steady", duration_s=50)
    assert differences(steady, synthesise(fit(steady), 0, 100)) == []
    assert len(differences(source, source.scaled(2.0))) == 3  # mean, quantiles, and how long it is low


def test_a_steady_link_has_one_state_and_no_ripple() -> None:
    source = Trace(np.arange(50.0), np.full(50, 3e6), "steady", duration_s=50)
    profile = fit(source, "calm")
    assert profile.name == "calm"
    assert len(profile.states) == 1
    assert set(synthesise(profile, 0, 100).rates_bps) == {3e6}


@pytest.mark.parametrize("seed", range(2))
def test_uneven_steps_of_any_rates_can_be_fitted(seed: int) -> None:
    """Rounding on the grid must not look like two heaps; a link that is nearly always silent is one that is."""
    generator = np.random.default_rng(seed)
    edges = np.concatenate(([0.0], np.cumsum(generator.uniform(0.01, 3, 150))))
    for rates in (np.full(150, 2.5e6), np.where(generator.random(150) < 0.9, 0, 1e6), generator.lognormal(14, 3, 150)):
        source = Trace(edges[:-1], rates, "uneven", duration_s=float(edges[-1]))
        made = synthesise(fit(source), 0, 3600.0)
        assert made.stats().mean_bps == pytest.approx(source.stats().mean_bps, rel=0.25)


def test_the_same_trace_gives_the_same_profile() -> None:
    assert fit(outdoor(7, 300.0)) == fit(outdoor(7, 300.0))
    assert isinstance(fit(outdoor(7, 300.0)), MarkovProfile)
    assert fit(outdoor(7, 300.0)).name == "like outdoor:7"


@pytest.mark.parametrize(
    "source",
    [
        Trace.constant(1e6),
        Trace(np.arange(19.0), np.ones(19), "short", duration_s=19),
        Trace(np.arange(30.0), np.zeros(30), "silent", duration_s=30),
        Trace(np.arange(30.0), np.ones(30), "endless", loop=False, duration_s=float("inf")),
    ],
    ids=lambda trace: trace.name,
)
def test_what_cannot_be_fitted(source: Trace) -> None:
    with pytest.raises(TraceError, match="cannot be fitted; expected an end, 20 steps or more and a rate above 0"):
        fit(source)
