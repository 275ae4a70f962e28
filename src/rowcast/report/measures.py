"""Measures of one run: pure functions from what its journals say to a number, each defined here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from rowcast.energy import CensoredValue, energy_to_metric, time_to_metric
from rowcast.energy.reaching import WINDOW
from rowcast.errors import ConfigError
from rowcast.metric import Metric
from rowcast.report.curves import Curve, joules_at
from rowcast.report.values import STARVE, Array, Run, states_of

__all__ = [
    "Measure",
    "RunSummary",
    "at_the_end",
    "energy_of_a_step",
    "energy_to",
    "final_value",
    "is_share",
    "measures_of",
    "own_s",
    "seconds_in",
    "sensitive_measures",
    "sent_meanwhile_s",
    "starved_s",
    "step_count",
    "step_mean",
    "step_values",
    "summarise",
    "time_to",
    "total_joules",
    "words_of",
]


@dataclass(frozen=True)
class Measure:
    """A number of a run, as tables have it.

    Attributes:
        name: with its unit.
        of: the number; ``None`` or not-a-number where the run has none.
        differs: two runs are compared by their difference, not by their ratio: shares and metrics are.
        metric: whose value it is, if it is one of a metric.
    """

    name: str
    of: Callable[[Run], float | None]
    differs: bool = False
    metric: Metric | None = None


def is_share(metric: Metric) -> bool:
    """Whether a metric is in percent, so that it lies in 0 .. 100."""
    return metric.unit == "%"


def words_of(metric: Metric) -> str:
    """The name of a metric in a sentence: its label without the unit."""
    return metric.label.removesuffix(f" ({metric.unit})")


# -- steps -------------------------------------------------------------------------------------------------------------


def step_values(run: Run, field: str) -> Array:
    """A field of all steps of all robots."""
    return np.concatenate([robot.steps[field] for robot in run.robots])


def step_mean(run: Run, field: str) -> float:
    """The mean of a field over all steps of all robots; not-a-number without a step."""
    values = step_values(run, field)
    if field == f"{STARVE}_s":
        values = np.nan_to_num(values)  # of a robot that has no stream
    return math.fsum(values) / len(values) if len(values) else math.nan


def step_count(run: Run) -> int:
    """Steps of all robots together."""
    return sum(len(robot.ends_s) for robot in run.robots)


def seconds_in(run: Run, states: Sequence[str] | None = None) -> float:
    """Mean seconds per step in these states together, by default in all; not-a-number without a step."""
    return sum(step_mean(run, f"{state}_s") for state in (states_of([run]) if states is None else states))


def starved_s(run: Run) -> float:
    """Mean seconds per step in which a robot waited for data; 0 without a stream."""
    return seconds_in(run, (STARVE,)) if run.streams else 0.0


def sent_meanwhile_s(run: Run) -> float:
    """Mean seconds per step, of those of the computation, in which rows may have travelled as well."""
    overlap = np.nan_to_num(step_values(run, "overlap_s"))
    return math.fsum(overlap) / len(overlap) if len(overlap) else 0.0


def own_s(run: Run) -> float | None:
    """Mean seconds per step that Rowcast itself took on the training thread; ``None`` where it was not measured."""
    measured = [seconds for seconds in step_values(run, "own_s") if not math.isnan(seconds)]
    return math.fsum(measured) / len(measured) if measured else None


# -- energy ------------------------------------------------------------------------------------------------------------


def total_joules(run: Run) -> float:
    """J of the team until the end of the run."""
    return float(joules_at(run, np.array([run.seconds]))[0])


def energy_of_a_step(run: Run) -> float | None:
    """J of the team by the steps that it finished; ``None`` without a step."""
    count = step_count(run)
    return total_joules(run) / count if count else None


# -- metrics -----------------------------------------------------------------------------------------------------------


def final_value(run: Run, metric: Metric) -> float | None:
    """The mean over the robots of the last value that each measured; ``None`` if one measured none.

    Not-a-number if that is what one of them came to.
    """
    last = [
        float(robot.measured[metric.name].values[-1])
        for robot in run.robots
        if metric.name in robot.measured and len(robot.measured[metric.name].values)
    ]
    return math.fsum(last) / len(last) if len(last) == len(run.robots) else None


def time_to(curve: Curve, metric: Metric, target: float, window: int = WINDOW) -> CensoredValue:
    """Seconds until the team keeps a level of a metric; see :func:`rowcast.energy.time_to_metric`."""
    return time_to_metric(curve.along, curve.values, target, better=metric.better, window=window)


def energy_to(run: Run, curve: Curve, metric: Metric, target: float, window: int = WINDOW) -> CensoredValue:
    """Joules of the team until then; see :func:`rowcast.energy.energy_to_metric`."""
    workers = [robot.energy for robot in run.robots]
    return energy_to_metric(curve.along, curve.values, target, workers, better=metric.better, window=window)


# -- what tables list --------------------------------------------------------------------------------------------------


def at_the_end(metric: Metric) -> Measure:
    """A metric at the end of a run."""
    unit = f" ({metric.unit})" if metric.unit else ""
    name = f"{words_of(metric)} at the end{unit}"
    return Measure(name, partial(final_value, metric=metric), differs=True, metric=metric)


STEP = Measure("step (s)", seconds_in)


def measures_of(metrics: Sequence[Metric]) -> tuple[Measure, ...]:
    """What the summary of a comparison lists of each run."""
    return (
        Measure("steps of a robot", lambda run: step_count(run) / len(run.robots)),
        STEP,
        Measure("rows sent (%)", lambda run: 100 * step_mean(run, "push_share"), differs=True),
        Measure("rows with payload a step", lambda run: step_mean(run, "push_rows")),
        Measure("sent by the team (MB)", lambda run: float(step_values(run, "push_bytes").sum()) / 1e6),
        Measure("received by the team (MB)", lambda run: float(step_values(run, "pull_bytes").sum()) / 1e6),
        Measure("energy of the team (kJ)", lambda run: total_joules(run) / 1e3),
        *map(at_the_end, metrics),
    )


def sensitive_measures(metrics: Sequence[Metric]) -> tuple[Measure, ...]:
    """What the figures of sensitivity show of each run."""
    return (STEP, *map(at_the_end, metrics), Measure("energy of a step (J)", energy_of_a_step))


@dataclass(frozen=True)
class RunSummary:
    """A run as ``rowcast demo`` tells it. Means per step are over all steps of all workers."""

    policy: str  #: policy text, as in ``rog:4``
    workers: int  #: robots of the team
    steps: float  #: mean over workers of the number of steps
    seconds: float  #: mean over workers of the time from the start of the first step to the end of the last
    final: Mapping[str, float | None]  #: of each metric, the primary first: its value at the end; None if none was
    compute_s: float  #: mean seconds per step until the update was computed
    communicate_s: float  #: mean seconds per step of push and pull
    stall_s: float  #: mean seconds per step held at the gate
    push_share: float  #: mean share of the rows that a push settled, 0..1
    push_bytes: int  #: row frames sent by all workers
    pull_bytes: int  #: row frames received by all workers
    skipped: int  #: steps of all workers that made no contribution
    overlap_s: float = 0.0  #: mean seconds per step, of those of compute_s, in which rows may have travelled as well
    starve_s: float = 0.0  #: mean seconds per step in which a robot waited for data; 0 without a stream
    own_s: float | None = None  #: mean seconds per step that Rowcast took on the training thread; None: not measured

    @property
    def step_s(self) -> float:
        """Mean seconds per step: starve, compute, communicate and stall together."""
        return self.starve_s + self.compute_s + self.communicate_s + self.stall_s

    def to_json(self) -> dict[str, Any]:
        """The fields, with ``final_NAME`` for each metric; ``None`` where a value is not a number.

        Without a stream there is no ``starve_s``, and no ``own_s`` where it was not measured.
        """
        fields = dict(vars(self))
        fields.pop("final")
        if not self.starve_s:
            fields.pop("starve_s")
        if self.own_s is None:
            fields.pop("own_s")
        known = {
            name: value if value is not None and math.isfinite(value) else None for name, value in self.final.items()
        }
        return {**fields, **{f"final_{name}": value for name, value in known.items()}, "step_s": self.step_s}


def summarise(run: Run) -> RunSummary:
    """Numbers of one run. A worker that finished no step counts as one with 0 steps; it has no say in the means.

    Raises:
        ConfigError: no worker finished a step.
    """
    if not step_count(run):
        files = ", ".join(str(run.folder / f"{robot.name}.jsonl") for robot in run.robots)
        raise ConfigError(f"policy {run.policy!r}: no 'step' event in {files}; expected journals of workers that ran")
    states = states_of([run])
    spans = [
        float(robot.ends_s[-1] - robot.ends_s[0])
        + math.fsum(float(np.nan_to_num(robot.steps[f"{state}_s"][0])) for state in states)
        for robot in run.robots
        if len(robot.ends_s)
    ]
    return RunSummary(
        policy=run.policy,
        workers=len(run.robots),
        steps=step_count(run) / len(run.robots),
        seconds=math.fsum(spans) / len(spans),
        final={metric.name: final_value(run, metric) for metric in run.metrics},
        compute_s=step_mean(run, "compute_s"),
        communicate_s=step_mean(run, "communicate_s"),
        stall_s=step_mean(run, "stall_s"),
        push_share=step_mean(run, "push_share"),
        push_bytes=int(step_values(run, "push_bytes").sum()),
        pull_bytes=int(step_values(run, "pull_bytes").sum()),
        skipped=int(step_values(run, "skipped").sum()),
        overlap_s=sent_meanwhile_s(run),
        starve_s=starved_s(run),
        own_s=own_s(run),
    )
