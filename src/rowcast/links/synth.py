"""Synthetic bandwidth traces of links that fade: a small semi-Markov model and the built-in profiles.

The model. A link is in one of a few states. A visit to a state lasts a truncated log-normal time; the
state after it is drawn by the row of a transition matrix. Each visit has its own level, log-normal around
the state's median, and on the level rides a ripple: ``rate = level * exp(ripple * z)``, where ``z`` is an
AR(1) process of unit variance that runs through all states,
``z[k+1] = a z[k] + sqrt(1 - a^2) e``, ``a = exp(-step_s / ripple_time_s)``, ``e ~ N(0, 1)``.
The result is clipped to the state's range and to the link's cap. States whose ranges do not meet keep
apart what the statistics tell apart: an episode of low bandwidth is exactly one visit to the low state.

Balanced draws. Lengths of visits and turns are drawn in blocks of :data:`BALANCE` per state, one from
each equal part of the distribution, in random order. Each draw alone has the stated distribution, but a
trace of ten minutes already carries about the share of low bandwidth that an endless one has, so two seeds
give the same difficulty at different moments.

Source of the outdoor numbers: "ROG: A High Performance and Robust Distributed Training System for Robotic
IoT", MICRO 2022, Sec. II-B (robots outdoors, Wi-Fi): a change of 20 % or more every 0.4 to 1 s and of 40 %
or more every 1.2 to 1.5 s on average, about a third of the time below 5 Mbit/s, in episodes of 1 to 25 s,
on a link that gives about 90 Mbit/s at best. How a change is counted is said in :mod:`rowcast.links.stats`.
The parameters below were chosen by us to meet these numbers; a day of it (seed 5) has a change of 20 % each
0.57 s and of 40 % each 1.34 s, 33.9 % of the time below 5 Mbit/s, and episodes of 1 to 25 s with median 3 s.
Unlike the recorded link it is never wholly silent: its lowest rate is 50 kbit/s.

Source of the indoor numbers: the bandwidth replayed indoors by the artifact of LOPInfer (public repository
``hku-systems/LOPInfer``, of the owner of ROG's), as logged: 19 minutes, rounded to 8 Mbit/s and capped at 232
Mbit/s. Mean 80.8 Mbit/s, quartiles 64, 80 and 104, a tenth of the time (10.7 %) at 16 or below but not at 0, in few
long episodes; a change of 20 % or more every 1.1 s and of 40 % or more every 7.0 s. So indoors a link fades less
often than outdoors and less deep: what counts as poor indoors still carries 8 Mbit/s. The ROG artifact has no record
from indoors. The parameters were chosen by us to meet these numbers after the same rounding;
``tests/test_links_synth.py`` compares them, and ``docs/links.md`` has the table. What is not met: the record's long
memory, which comes from one fade of a minute and a half in 19 minutes (its autocorrelation is 0.53 at 30 s, that of
the profile about 0.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from rowcast.errors import ConfigError
from rowcast.links.trace import FloatArray, Trace

__all__ = ["PROFILES", "LinkState", "MarkovProfile", "outdoor", "stay_s", "synthesise"]

#: Draws that are balanced together; see the module's text.
BALANCE = 8
#: Rates are rounded to this many bit/s, so that a trace does not hang on the last bit of ``exp``.
_ROUND_BPS = 1000.0
_NORMAL = NormalDist()


@dataclass(frozen=True)
class LinkState:
    """One state of a link. ``_spread`` and ``ripple`` are standard deviations of a natural logarithm."""

    name: str
    median_bps: float  #: median level of a visit, bit/s
    level_spread: float  #: how much levels differ from visit to visit
    ripple: float  #: how much the rate moves within a visit
    lowest_bps: float  #: the rate is clipped to this range, bit/s
    highest_bps: float
    stay_median_s: float  #: length of a visit: log-normal, cut to the range below
    stay_spread: float
    shortest_s: float
    longest_s: float


@dataclass(frozen=True)
class MarkovProfile:
    """A kind of link: its states and how it moves between them.

    Raises:
        ConfigError: shapes or ranges that cannot be (the message says which).
    """

    name: str
    cap_bps: float  #: the most that the link ever gives, bit/s
    states: tuple[LinkState, ...]
    turns: tuple[tuple[float, ...], ...]  #: ``turns[i][j]``: chance that state j follows state i; rows sum to 1
    step_s: float = 0.2  #: the rate is constant for so long
    ripple_time_s: float = 1.15  #: time after which the ripple has forgotten all but 1/e
    low_states: frozenset[str] = frozenset()  #: a trace never ends in one of these, so that none is cut short

    def __post_init__(self) -> None:
        known = [state.name for state in self.states]
        square = len(self.turns) == len(known) and all(len(row) == len(known) for row in self.turns)
        if not square or any(min(row) < 0 or not math.isclose(sum(row), 1.0) for row in self.turns):
            raise ConfigError(
                f"profile {self.name!r}: turns must be a {len(known)} x {len(known)} matrix, rows sum to 1"
            )
        if not self.low_states < set(known):
            raise ConfigError(f"profile {self.name!r}: low_states {sorted(self.low_states)} must be some of {known}")
        if not (self.cap_bps > 0 and self.step_s > 0 and self.ripple_time_s > 0):
            raise ConfigError(f"profile {self.name!r}: cap_bps, step_s and ripple_time_s must be above 0")
        for state in self.states:
            rates_fit = 0 <= state.lowest_bps <= state.median_bps <= state.highest_bps
            times_fit = 0 < state.shortest_s <= state.stay_median_s <= state.longest_s
            if not rates_fit or not times_fit or state.stay_spread <= 0:
                raise ConfigError(f"profile {self.name!r}, state {state.name!r}: expected lowest <= median <= highest")


def synthesise(profile: MarkovProfile, seed: int | Sequence[int], duration_s: float) -> Trace:
    """A looping trace of the given kind and length (s).

    Args:
        profile: the kind of link.
        seed: 0 or more, or several such numbers, for instance ``(run, robot, direction)``. The same seed
            gives the same trace; different seeds give independent ones.
        duration_s: length, rounded up to whole steps.

    Raises:
        ConfigError: the seed is negative, or the duration not above 0.
    """
    if not 0 < duration_s < math.inf:
        raise ConfigError(f"profile {profile.name!r}: duration_s is {duration_s}, expected a finite time above 0")
    try:
        generator = np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"profile {profile.name!r}: seed {seed!r}: expected whole numbers, 0 or more") from error
    steps = math.ceil(round(duration_s / profile.step_s, 9))
    ripple = _ripple(generator, steps, math.exp(-profile.step_s / profile.ripple_time_s))
    rates = np.empty(steps)
    start = 0
    for state, length in _visits(profile, generator, steps):
        level = state.median_bps * math.exp(state.level_spread * generator.standard_normal())
        piece = level * np.exp(state.ripple * ripple[start : start + length])
        rates[start : start + length] = np.clip(piece, state.lowest_bps, state.highest_bps)
        start += length
    rates = np.minimum(np.round(rates / _ROUND_BPS) * _ROUND_BPS, profile.cap_bps)
    label = "-".join(str(part) for part in np.atleast_1d(np.asarray(seed)).tolist())
    ticks = np.round(np.arange(steps + 1) * profile.step_s, 9)
    return Trace(ticks[:-1], rates, f"{profile.name}:{label}", duration_s=float(ticks[-1]))


def outdoor(seed: int | Sequence[int], duration_s: float = 600.0, cap_bps: float = 90e6) -> Trace:
    """A robot's link outdoors (profile ``"outdoor"``); rates are clipped to ``cap_bps`` (bit/s).

    To keep the pattern but slow the whole link down, use :meth:`Trace.scaled` instead of a lower cap.

    >>> outdoor(seed=1) == outdoor(seed=1), outdoor(seed=1) == outdoor(seed=2)
    (True, False)
    """
    return synthesise(replace(PROFILES["outdoor"], cap_bps=cap_bps), seed, duration_s)


_INDOOR = MarkovProfile(
    name="indoor",
    cap_bps=232e6,
    #                 median  spread ripple  range         stay: median spread range
    states=(
        LinkState("good", 91e6, 0.28, 0.15, 40e6, 232e6, 40.0, 0.7, 5.0, 120.0),
        LinkState("fair", 66e6, 0.12, 0.15, 30e6, 120e6, 30.0, 0.7, 5.0, 90.0),
        LinkState("poor", 15e6, 0.08, 0.15, 8e6, 19.5e6, 30.0, 0.7, 4.0, 70.0),
    ),
    turns=((0.45, 0.40, 0.15), (0.70, 0.15, 0.15), (0.50, 0.50, 0.0)),
    ripple_time_s=0.5,
    low_states=frozenset({"poor"}),
)

#: The built-in kinds of link. Adding one is one entry here and its statistics in ``tests/test_links_synth.py``.
PROFILES: Mapping[str, MarkovProfile] = {
    "indoor": _INDOOR,
    "outdoor": MarkovProfile(
        name="outdoor",
        cap_bps=90e6,
        #                 median  spread ripple  range          stay: median spread range
        states=(
            LinkState("good", 60e6, 0.25, 0.35, 7.0e6, 90e6, 6.0, 0.6, 1.0, 30.0),
            LinkState("fair", 14e6, 0.30, 0.35, 5.5e6, 30e6, 1.2, 0.5, 0.6, 4.0),
            LinkState("poor", 2.4e6, 0.55, 0.50, 0.05e6, 4.5e6, 2.4, 1.0, 1.0, 25.0),
        ),
        turns=((0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0)),
        low_states=frozenset({"poor"}),
    ),
}


def _ripple(generator: np.random.Generator, steps: int, memory: float) -> FloatArray:
    """AR(1) process of unit variance, shape ``(steps,)``."""
    shocks = (generator.standard_normal(steps) * math.sqrt(1.0 - memory * memory)).tolist()
    value = float(generator.standard_normal())
    values = np.empty(steps)
    for index, shock in enumerate(shocks):
        value = memory * value + shock
        values[index] = value
    return values


def _visits(profile: MarkovProfile, generator: np.random.Generator, steps: int) -> list[tuple[LinkState, int]]:
    """The states in turn with the number of steps of each visit; the numbers sum to ``steps``."""
    stays = [_balanced(generator) for _ in profile.states]
    turns = [_balanced(generator) for _ in profile.states]
    safe = [index for index, state in enumerate(profile.states) if state.name not in profile.low_states]
    visits: list[tuple[LinkState, int]] = []
    index = int(generator.integers(len(profile.states)))
    left = steps
    while left > 0:
        state = profile.states[index]
        length = max(1, round(stay_s(state, stays[index]()) / profile.step_s))
        if length >= left and index not in safe:  # it would be cut short by the end: stay out of it
            state, length = profile.states[safe[0]], left
        length = min(length, left)
        visits.append((state, length))
        left -= length
        index = int(np.searchsorted(np.cumsum(profile.turns[index]), turns[index](), side="right"))
        index = min(index, len(profile.states) - 1)
    return visits


def _balanced(generator: np.random.Generator) -> Callable[[], float]:
    """Draws from (0, 1) of which each block of BALANCE has one in each of BALANCE equal parts."""
    block: list[float] = []

    def draw() -> float:
        if not block:
            block.extend(((generator.permutation(BALANCE) + generator.random(BALANCE)) / BALANCE).tolist())
        return block.pop()

    return draw


def stay_s(state: LinkState, quantile: float) -> float:
    """Length of a visit in seconds: a log-normal time cut to the state's range, at the given quantile."""
    low, high = (
        _NORMAL.cdf(math.log(limit / state.stay_median_s) / state.stay_spread)
        for limit in (state.shortest_s, state.longest_s)
    )
    inside = min(max(low + quantile * (high - low), 1e-12), 1.0 - 1e-12)
    stay_s = state.stay_median_s * math.exp(state.stay_spread * _NORMAL.inv_cdf(inside))
    return min(max(stay_s, state.shortest_s), state.longest_s)
