"""Runs against those of one policy, the reference, seed by seed: to the level that it kept, and at equal samples.

The level is what the reference had reached and kept when its run ended; time and energy to it are those of
:mod:`rowcast.energy.reaching`. Samples are those that the whole team was trained on (:mod:`.samples`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rowcast.energy import CensoredValue, smoothed
from rowcast.energy.reaching import HOLD, WINDOW
from rowcast.errors import ConfigError, near_match
from rowcast.metric import Metric
from rowcast.report.curves import Curve
from rowcast.report.measures import energy_to, time_to
from rowcast.report.samples import metric_over_samples, samples_at
from rowcast.report.targets import evenly
from rowcast.report.values import Array, Experiment, Groups, Run

__all__ = [
    "USUAL",
    "AtEqualSamples",
    "Behind",
    "Reading",
    "ToLevel",
    "at_equal_samples",
    "behind_over",
    "check_reference",
    "reference_of",
    "run_at_equal_samples",
    "run_to_level",
    "to_level",
]

#: The reference that a report takes by itself, if it ran; otherwise the first policy.
USUAL = "bsp"
#: Places at which seeds are compared, from the first common one to the last.
PLACES = 101
#: Share of the samples after which it counts how far a policy is behind.
AFTER = 0.1


@dataclass(frozen=True)
class Reading:
    """How a metric is read: in the same way of all runs that are compared.

    Attributes:
        metric: what is read.
        every_s: seconds between two looks.
        window: looks that a moving average spans.
    """

    metric: Metric
    every_s: float
    window: int = WINDOW

    def over_time(self, run: Run) -> Curve | None:
        """The team's metric at multiples of ``every_s``; ``None`` of fewer looks than a level must be kept for."""
        curve = evenly(run, self.metric, self.every_s)
        return curve if len(curve.along) >= HOLD else None

    def smoothed(self, values: Array) -> Array:
        """The moving average."""
        return smoothed(values, self.window)

    def kept(self, curve: Curve) -> float:
        """The level that a run had reached and kept when it ended: the worst moving average of the last looks.

        Not-a-number where one of them is.
        """
        return float(self.metric.sign * (self.metric.sign * self.smoothed(curve.values)[-HOLD:]).min())


# -- which policy it is ------------------------------------------------------------------------------------------------


def check_reference(experiment: Experiment, wanted: str) -> None:
    """Whether a policy has a finished run.

    Raises:
        ConfigError: it has not; the nearest policy that has is in the message.
    """
    finished = list(dict.fromkeys(run.policy for run in experiment.runs))
    if wanted not in finished:
        raise ConfigError(
            f"reference {wanted!r}: expected a policy with a finished run in {experiment.folder}; "
            f"{near_match(wanted, finished)}"
        )


def reference_of(groups: Groups, wanted: str | None = None) -> str | None:
    """The reference of some runs: the policy that is wanted, or :data:`USUAL`, or the first; ``None``: it did not run.

    Args:
        groups: at least one policy.
        wanted: ``None``: nobody has said.
    """
    chosen = (USUAL if USUAL in groups else next(iter(groups))) if wanted is None else wanted
    return chosen if chosen in groups else None


def _pairs(references: Sequence[Run], runs: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Reference and run of each seed that both have."""
    by_seed = {run.seed: run for run in references}
    return [(by_seed[run.seed], run) for run in sorted(runs, key=lambda run: run.seed) if run.seed in by_seed]


# -- to the level that it kept -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ToLevel:
    """What it took a run to get to the level that the reference with its seed kept, and what it took the reference.

    Attributes:
        seed: of both; ``level``: in the unit of the metric.
        seconds, joules: of the run, lower bounds where it did not get there.
        reference_s, reference_j: of the reference.
    """

    seed: int
    level: float
    seconds: CensoredValue
    joules: CensoredValue
    reference_s: float
    reference_j: float

    @property
    def time_percent(self) -> CensoredValue | None:
        """Time as a share of the reference's; ``None`` where that is 0."""
        return _percent(self.seconds, self.reference_s)

    @property
    def energy_percent(self) -> CensoredValue | None:
        """Energy as a share of the reference's; ``None`` where that is 0."""
        return _percent(self.joules, self.reference_j)


def _percent(value: CensoredValue, of: float) -> CensoredValue | None:
    return CensoredValue(100 * value.value / of, value.reached, "%", value.source) if of > 0 else None


def to_level(references: Sequence[Run], runs: Sequence[Run], reading: Reading) -> list[ToLevel]:
    """Time and energy to the level that the reference kept, for each seed that both have.

    A seed is left out where one of the two has too few looks, or the reference did not end with a number.
    """
    found = (run_to_level(reference, run, reading) for reference, run in _pairs(references, runs))
    return [each for each in found if each is not None]


def run_to_level(reference: Run, run: Run, reading: Reading) -> ToLevel | None:
    """The same of one run; ``None`` where it is left out."""
    theirs, ours = reading.over_time(reference), reading.over_time(run)
    if theirs is None or ours is None:
        return None
    level = reading.kept(theirs)
    if not np.isfinite(level):
        return None
    (reference_s, reference_j), (seconds, joules) = (
        (
            time_to(curve, reading.metric, level, reading.window),
            energy_to(of, curve, reading.metric, level, reading.window),
        )
        for of, curve in ((reference, theirs), (run, ours))
    )
    return ToLevel(run.seed, level, seconds, joules, reference_s.value, reference_j.value)


# -- at equal samples --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class AtEqualSamples:
    """Moving averages of two runs with one seed, read at the same samples; arrays of one length.

    Attributes:
        seed: of both.
        samples: of the team, increasing, up to the end of the run that has the fewer.
        own, behind: of the run, and by how much that is worse than the reference; in the unit of the metric.
    """

    seed: int
    samples: Array
    own: Array
    behind: Array


def at_equal_samples(references: Sequence[Run], runs: Sequence[Run], reading: Reading) -> list[AtEqualSamples]:
    """Runs against the reference at equal samples, for each seed that both have.

    A seed is left out where the two have too few looks in common.

    Raises:
        ConfigError: this version does not know a policy; see :func:`~rowcast.report.samples.samples_at`.
    """
    found = (run_at_equal_samples(reference, run, reading) for reference, run in _pairs(references, runs))
    return [each for each in found if each is not None]


def run_at_equal_samples(reference: Run, run: Run, reading: Reading) -> AtEqualSamples | None:
    """The same of one run; ``None`` where it is left out.

    The two look at different samples. Both are read where that run looked which has fewer samples in the end, so at
    places that are near to each other, and then smoothed: a moving average over the same places spans the same part of
    both.
    """
    theirs, ours = metric_over_samples(reference, reading.metric), metric_over_samples(run, reading.metric)
    looks = [(each, reading.over_time(each)) for each in (reference, run)]
    places = [np.unique(samples_at(each, curve.along)) for each, curve in looks if curve is not None]
    if theirs is None or ours is None or len(places) < 2:
        return None
    fewer = min(places, key=lambda own: float(own[-1]))
    theirs = theirs.at(ours.at(fewer).along)
    ours = ours.at(theirs.along)
    if len(ours.along) < HOLD:
        return None
    own = reading.smoothed(ours.values)
    behind = reading.metric.sign * (reading.smoothed(theirs.values) - own)
    return AtEqualSamples(run.seed, ours.along, own, behind)


@dataclass(frozen=True, eq=False)
class Behind:
    """By how much a policy is worse than the reference at equal samples.

    Attributes:
        seeds: that are compared.
        samples: float64 [places], from the first place that all seeds have to the last.
        by_seed: float64 [seeds, places], in the unit of the metric; straight lines between looks.
        ends: float64 [seeds], at the end of the shorter run of each seed; ``end_samples``: mean samples there.
    """

    seeds: tuple[int, ...]
    samples: Array
    by_seed: Array
    ends: Array
    end_samples: float

    @cached_property
    def furthest(self) -> int | None:
        """The place at which the mean over the seeds is furthest behind, once a tenth of the samples was used.

        ``None`` where one of the seeds has no number after that.
        """
        after = self.samples >= AFTER * self.samples[-1] * (1 - 1e-9)
        means = self.by_seed.mean(axis=0)
        if not np.isfinite(means[after]).all():
            return None
        return int(np.where(after, means, -np.inf).argmax())


def behind_over(pairs: Sequence[AtEqualSamples]) -> Behind | None:
    """All seeds at the same samples; ``None`` where they have none in common."""
    if not pairs:
        return None
    first, last = max(pair.samples[0] for pair in pairs), min(pair.samples[-1] for pair in pairs)
    if first >= last:
        return None
    grid = np.linspace(first, last, PLACES)
    return Behind(
        tuple(pair.seed for pair in pairs),
        grid,
        np.array([np.interp(grid, pair.samples, pair.behind) for pair in pairs]),
        np.array([pair.behind[-1] for pair in pairs]),
        float(np.mean([pair.samples[-1] for pair in pairs])),
    )
