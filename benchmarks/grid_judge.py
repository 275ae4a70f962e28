"""What ``grid.py`` asks of a policy in a cell: the accuracy of ``bsp`` at equal samples, and that it does not diverge.

``bsp`` on links that never make anybody wait is what everything is compared with: its parameters after n iterations
depend neither on links nor on who computes how fast. Two runs are read where their teams have made equally many
gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common import Figure
from grid_cells import GridCell
from rowcast.energy import smoothed
from rowcast.metric import Metric
from rowcast.report import Curve, Run, interval, metric_over
from rowcast.sync import parse_policy

__all__ = [
    "WINDOW",
    "Judged",
    "Line",
    "diverged",
    "gradients_to_target",
    "judge",
    "line_of",
    "seconds_to_target",
    "spread",
]

Array = npt.NDArray[np.float64]

#: Looks that are averaged, of :data:`PLACES` over the reference: to compare values, and to see when one is reached.
WINDOW, SHORT_WINDOW, PLACES = 6, 3, 60
#: A level is reached when it is kept for so many looks.
HOLD = 3
#: Points below ``bsp`` that are allowed of a percentage, or this share of what it gained.
POINTS, SHARE = 1.0, 0.03
#: A run has diverged that ends with less than this share of what it had gained at its best, where that was so much of
#: what ``bsp`` gains in the base cell of the job; or so much below where it started.
KEPT, GAINED, LOST = 0.5, 0.1, 0.1
#: ``bsp`` trains where it keeps this share of it, and gains so much of what it gains in the base cell of the job.
TRAINS_KEPT, TRAINS_GAIN = 0.9, 0.25
#: Where time to accuracy is compared: when this share of what ``bsp`` gains is reached.
WAY = 0.9


@dataclass(frozen=True)
class Line:
    """A metric of a run by the gradients of its team; what is better is higher.

    Attributes:
        metric: as the task has it.
        curve: its places are gradients; values of a metric that shall be low have the other sign.
        times_s: when the team had made them.
    """

    metric: Metric
    curve: Curve
    times_s: Array

    @property
    def start(self) -> float:
        return float(self.curve.values[0])

    def gains(self, window: int = SHORT_WINDOW) -> Array:
        """What has been gained since the start, smoothed."""
        return smoothed(self.curve.values, window) - self.start

    @property
    def gained(self) -> float:
        """At the end."""
        return float(self.gains(WINDOW)[-1])

    def kept(self) -> float:
        """What of the highest gain is left at the end, as a share; not-a-number where there are no numbers."""
        gains = self.gains(WINDOW)
        if not np.isfinite(gains).all():
            return float("nan")
        return float(gains[-1] / gains.max()) if gains.max() > 0 else 0.0

    def on(self, places: Array) -> Line:
        """At those of other places where the team has been."""
        curve = self.curve.at(places)
        return Line(self.metric, curve, np.interp(curve.along, self.curve.along, self.times_s))


def line_of(run: Run) -> Line:
    """The line of a finished run."""
    metric = run.metrics[0]
    curve = metric_over(run, metric, "time")
    if curve is None:
        raise SystemExit(f"{run.folder}: the robots have looked at nothing in common; delete it to run it again")
    steps = parse_policy(run.policy).local_steps
    made = [
        np.interp(curve.along, np.append(0.0, robot.ends_s), steps * np.arange(len(robot.ends_s) + 1.0))
        for robot in run.robots
    ]
    gradients = np.sum(made, axis=0)
    own = np.append(np.diff(gradients) > 0, True)  # while nobody makes a gradient nothing is gained
    sign = 1.0 if metric.better == "higher" else -1.0
    return Line(metric, Curve(gradients[own], sign * curve.values[own]), curve.along[own])


def places_of(reference: Line, last: float) -> Array:
    """Gradients at which runs are read, up to ``last``: :data:`PLACES` over the reference, and as far apart beyond."""
    apart = reference.curve.along[-1] / PLACES
    places: Array = apart * np.arange(np.floor(last / apart + 1e-9) + 1)
    return places


def trains(reference: Line, usual_gain: float) -> bool:
    """Whether ``bsp`` trains in a cell, with one seed."""
    return reference.kept() >= TRAINS_KEPT and reference.gained >= TRAINS_GAIN * usual_gain


def diverged(line: Line, usual_gain: float) -> bool:
    """Whether a run has lost what it had learnt, or more, or is none of numbers any more.

    Args:
        usual_gain: what ``bsp`` gains in the base cell.
    """
    gains = line.gains()
    if not np.isfinite(gains).all():
        return True
    lost = gains.max() > GAINED * usual_gain and gains[-1] < KEPT * gains.max()
    return bool(lost or gains[-1] < -LOST * usual_gain)


def needed(line: Line, target: float) -> float:
    """Gradients of the team until a level is reached and kept; ``inf``: it is not."""
    values = smoothed(line.curve.values, SHORT_WINDOW)
    good = values >= target
    held = np.array([good[k : k + HOLD].all() for k in range(len(good) - HOLD + 1)], dtype=bool)
    if not held.any():
        return float("inf")
    k = int(held.argmax())
    along = line.curve.along
    if k == 0 or not np.isfinite(values[k - 1]):
        return float(along[k])
    share = (target - values[k - 1]) / (values[k] - values[k - 1])
    return float(along[k - 1] + share * (along[k] - along[k - 1]))


def target_of(reference: Line) -> float:
    """The level that time to accuracy is measured to."""
    return reference.start + WAY * reference.gained


def spread(values: Sequence[float]) -> str:
    """The interval of a mean over seeds, in words."""
    if not np.isfinite(values).all():
        return "not in all seeds"
    found = interval(values)
    return "one seed" if found.low is None else f"95 %: {found.low:.2f} .. {found.high:.2f}"


@dataclass(frozen=True)
class Judged:
    """A policy in a cell.

    Attributes:
        cell, metric: of the grid.
        trains: ``bsp`` trains there, with every seed.
        allowed: points below ``bsp``.
        end, worst: points below ``bsp`` by seed, at the end of the shorter run and where they are most in the mean,
            after the first tenth.
        worst_at: where that is, as a share of the reference; ``read``: how far the two could be read.
        values: of ``bsp`` and of the policy at the end, mean over the seeds.
        diverged: seeds with which the policy has, and ``bsp`` not.
        slower: time to accuracy over that of ``bsp``, by seed, on links that are fast; else empty.
    """

    cell: GridCell
    metric: Metric
    trains: bool
    allowed: float
    end: tuple[float, ...]
    worst: tuple[float, ...]
    worst_at: float
    read: float
    values: tuple[float, float]
    diverged: tuple[int, ...]
    slower: tuple[float, ...]

    @property
    def excess(self) -> float:
        """How far below ``bsp``, as a share of what is allowed, the cells are sorted by this."""
        if self.diverged:
            return float("inf")
        return float(max(np.mean(self.end), np.mean(self.worst)) / self.allowed) if self.trains else float("-inf")

    def figures(self) -> list[Figure]:
        """With the bounds, where ``bsp`` trains."""
        unit = "points" if self.metric.unit == "%" else self.metric.unit
        allowed = self.allowed if self.trains else None
        theirs, ours = self.values
        name = self.cell.name
        found = [
            Figure(f"{name}: below bsp at the end", float(np.mean(self.end)), unit, allowed, note=spread(self.end)),
            Figure(
                f"{name}: furthest below after the first tenth",
                float(np.mean(self.worst)),
                unit,
                allowed,
                note=f"{spread(self.worst)}; at {self.worst_at:.0%}; at the end bsp {theirs:.2f}, {ours:.2f}",
            ),
            Figure(
                f"{name}: seeds that diverge",
                len(self.diverged),
                "",
                0.0,
                note=", ".join(map(str, self.diverged)),
            ),
        ]
        if self.slower and self.trains:
            ratio = float(np.mean(self.slower))
            found.append(Figure(f"{name}: time to accuracy / bsp", ratio, "ratio", 1.05, note=spread(self.slower)))
        return found


def judge(
    cell: GridCell,
    references: Mapping[int, Line],
    lines: Mapping[int, Line],
    usual_gain: float,
    at_pace: Mapping[int, Line] | None = None,
) -> Judged:
    """A policy in a cell against ``bsp``.

    Args:
        references: ``bsp`` on links that never make anybody wait, by seed; ``lines``: the policy.
        usual_gain: what ``bsp`` gains in the base cell of the job.
        at_pace: ``bsp`` on the links and robots of the cell, where they are fast.
    """
    seeds = sorted(references)
    metric = references[seeds[0]].metric
    read = [_read_alike(references[seed], lines[seed]) for seed in seeds]
    shortest = min(len(theirs) for theirs, _ in read)
    theirs, ours = (np.array([pair[which][:shortest] for pair in read]) for which in (0, 1))
    # What is no number is as bad as can be.
    gaps = np.where(np.isfinite(theirs - ours), theirs - ours, np.inf)
    begin = min(PLACES // 10, shortest - 1)
    worst = begin + int(gaps[:, begin:].mean(axis=0).argmax())
    gained = float(np.mean([references[seed].gained for seed in seeds]))
    sign = 1.0 if metric.better == "higher" else -1.0
    return Judged(
        cell,
        metric,
        trains=all(trains(references[seed], usual_gain) for seed in seeds),
        allowed=max(POINTS if metric.unit == "%" else 0.0, SHARE * gained),
        end=tuple(gaps[:, -1].tolist()),
        worst=tuple(gaps[:, worst].tolist()),
        worst_at=worst / PLACES,
        read=(shortest - 1) / PLACES,
        values=(float(sign * theirs[:, -1].mean()), float(sign * ours[:, -1].mean())),
        diverged=tuple(
            seed for seed in seeds if diverged(lines[seed], usual_gain) and not diverged(references[seed], usual_gain)
        ),
        slower=tuple(_slower(references[seed], at_pace[seed], lines[seed]) for seed in seeds) if at_pace else (),
    )


def _read_alike(reference: Line, line: Line) -> tuple[Array, Array]:
    """Both at the same gradients, up to the end of the shorter, smoothed."""
    places = places_of(reference, min(reference.curve.along[-1], line.curve.along[-1]))
    return smoothed(reference.on(places).curve.values, WINDOW), smoothed(line.on(places).curve.values, WINDOW)


def gradients_to_target(reference: Line, line: Line) -> float:
    """Gradients of the team to the share :data:`WAY` of what ``bsp`` gains; ``inf``: it does not get there."""
    # At the same places for all, so that the moving average spans the same.
    return needed(line.on(places_of(reference, line.curve.along[-1])), target_of(reference))


def seconds_to_target(reference: Line, line: Line) -> float:
    """When that is."""
    gradients = gradients_to_target(reference, line)
    return float(np.interp(gradients, line.curve.along, line.times_s)) if np.isfinite(gradients) else float("inf")


def _slower(reference: Line, paced: Line, ours: Line) -> float:
    """Time to accuracy over that of ``bsp``; ``inf`` where it is not reached."""
    usual = seconds_to_target(reference, paced)
    return seconds_to_target(reference, ours) / usual if np.isfinite(usual) else float("nan")
