"""Runs with streams, by batch, buffer, injection and top-k: what they came to, and their queues over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from rowcast.errors import ConfigError
from rowcast.metric import Metric
from rowcast.report.comparison import over_seeds
from rowcast.report.measures import (
    Measure,
    at_the_end,
    final_value,
    seconds_in,
    step_count,
    step_values,
    total_joules,
)
from rowcast.report.table import BOUNDS, Table, Value, table_of
from rowcast.report.values import STARVE, Array, Conditions, Experiment, Groups, Run, states_of

__all__ = [
    "PARTS",
    "StreamGroup",
    "StreamSummary",
    "queue_table",
    "stream_groups",
    "stream_measures",
    "stream_table",
    "summarise_stream",
]

#: What runs of one team and stream may differ in.
PARTS = ("batch", "buffer", "injection", "top-k", "policy")
#: Points of a queue over time.
POINTS = 200


@dataclass(frozen=True)
class StreamGroup:
    """Runs that differ in policy, batch, buffer, injection and top-k only.

    Attributes:
        team: links, robots, devices and stream, in words.
        stream: its rates; '' where there were always enough samples.
        groups: the runs of each, by a name: the batch, then what differs of the others.
        parts: of each name the batch, buffer, injection, top-k and policy.
    """

    team: str
    stream: str
    groups: Groups
    parts: Mapping[str, tuple[str, ...]]


def stream_groups(experiment: Experiment) -> list[StreamGroup]:
    """The runs whose batches a rule makes, by team and stream; in the order of the settings."""
    teams: dict[tuple[Conditions, str], dict[tuple[str, ...], list[Run]]] = {}
    for run in experiment.runs:
        fed = run.conditions.feeding
        if fed is not None:
            alike = replace(run.conditions, feeding=None, topk=""), fed.rates
            parts = (fed.batch, fed.buffer, fed.inject, run.conditions.topk, run.policy)
            teams.setdefault(alike, {}).setdefault(parts, []).append(run)
    found = []
    for by_parts in teams.values():
        # A buffer that goes with the batch is not said again.
        kinds = [{(parts[0], parts[k]) for parts in by_parts} for k in range(1, len(PARTS))]
        several = [len(each) > len({batch for batch, _ in each}) for each in kinds]
        names = {_label(parts, several): parts for parts in by_parts}
        groups = {name: sorted(by_parts[parts], key=lambda run: run.seed) for name, parts in names.items()}
        (first, *_), *_ = groups.values()
        assert first.conditions.feeding is not None
        found.append(StreamGroup(first.conditions.team, first.conditions.feeding.stream, groups, names))
    return found


def _label(parts: tuple[str, ...], several: Sequence[bool]) -> str:
    """The batch, and what else differs within the group."""
    batch, buffer, inject, topk, policy = parts
    others = (buffer, inject and f"injection {inject}", topk and f"top-k {topk}", policy)
    return ", ".join([batch, *(text for text, differs in zip(others, several, strict=True) if differs and text)])


# -- what the runs came to ---------------------------------------------------------------------------------------------


def stream_measures(metrics: Sequence[Metric]) -> tuple[Measure, ...]:
    """What the table of streams lists of each run."""
    return (
        *map(at_the_end, metrics),
        Measure("samples trained", partial(_sum, field="samples")),
        Measure("samples dropped", partial(_sum, field="dropped")),
        Measure("mean queue (samples)", _mean_queue),
        Measure("largest queue (samples)", _largest_queue),
        Measure("mean age (s)", _mean_age),
        Measure("starve (%)", _starve_share, differs=True),
        Measure("exposed samples", partial(_sum, field="exposed")),
        Measure("exposed (MB)", lambda run: _sum(run, "exposed_bytes") / 1e6),
        Measure("energy of the team (kJ)", lambda run: total_joules(run) / 1e3),
    )


def _known(run: Run, field: str) -> Array:
    """A field of all steps of all robots that have a stream."""
    values = step_values(run, field)
    return values[np.isfinite(values)]


def _sum(run: Run, field: str) -> float:
    return float(_known(run, field).sum())


def _mean_queue(run: Run) -> float | None:
    values = _known(run, "queued")
    return float(values.mean()) if len(values) else None


def _largest_queue(run: Run) -> float | None:
    return float(_known(run, "queued").max(initial=0.0)) if len(_known(run, "queued")) else None


def _mean_age(run: Run) -> float | None:
    """Over samples, not over steps."""
    samples = _known(run, "samples")
    total = samples.sum()
    return float(np.dot(_known(run, "age_s"), samples) / total) if total else None


def _starve_share(run: Run) -> float | None:
    """Of the time of all finished steps."""
    spent = {state: float(np.nan_to_num(step_values(run, f"{state}_s")).sum()) for state in states_of([run])}
    whole = math.fsum(spent.values())
    return 100 * spent.get(STARVE, 0.0) / whole if whole else None


def stream_table(group: StreamGroup, metrics: Sequence[Metric]) -> Table:
    """What the runs came to."""
    measures = stream_measures(metrics)
    rows = (
        (group.stream, *group.parts[name], each.name, *over_seeds(own, each.of))
        for name, own in group.groups.items()
        for each in measures
    )
    return table_of(("stream", *PARTS, "measure", *BOUNDS), rows)


@dataclass(frozen=True)
class StreamSummary:
    """A run with streams as ``rowcast stream demo`` tells it."""

    batch: str  #: rule of the batches
    steps: float  #: mean over robots of the number of steps
    samples_per_s: float  #: that the team was trained on, over the whole run
    step_s: float  #: mean seconds of a step
    starve_share: float  #: of the time of all steps, in which a robot waited for data; 0..1
    age_s: float  #: mean seconds from the arrival of a sample until its batch began
    largest_queue: int  #: samples of one robot
    dropped: int  #: samples that nobody was trained on because newer ones came
    final: Mapping[str, float | None]  #: of each metric, the primary first: its value at the end; None if none was

    def to_json(self) -> dict[str, float | str | None]:
        """The fields, with ``final_NAME`` for each metric; ``None`` where a value is not a number."""
        fields = dict(vars(self))
        final = fields.pop("final")
        fields |= {f"final_{name}": value for name, value in final.items()}
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in fields.items()
        }


def summarise_stream(run: Run) -> StreamSummary:
    """Numbers of one run whose batches a rule makes; nothing but its journals is looked at.

    Raises:
        ConfigError: no robot finished a step, so that there is nothing to tell.
    """
    fed = run.conditions.feeding
    batch = fed.batch if fed is not None else ""
    if not step_count(run):
        raise ConfigError(
            f"{run.folder}: no robot finished a step with batches {batch} in {run.seconds:.3g} s; train for longer, or "
            "take smaller batches"
        )
    age_s, starve = _mean_age(run), _starve_share(run)
    return StreamSummary(
        batch=batch,
        steps=step_count(run) / len(run.robots),
        samples_per_s=_sum(run, "samples") / run.seconds,
        step_s=seconds_in(run),
        starve_share=0.0 if starve is None else starve / 100,
        age_s=math.nan if age_s is None else age_s,
        largest_queue=int(_largest_queue(run) or 0),
        dropped=int(_sum(run, "dropped")),
        final={metric.name: final_value(run, metric) for metric in run.metrics},
    )


# -- over time ---------------------------------------------------------------------------------------------------------


def queue_table(group: StreamGroup) -> Table:
    """Queue and age over time, of the first seed: means and largest over the robots, as of their newest steps.

    ``queued`` is the most that waited at one time since the batch before; empty before all robots finished a step.
    """
    rows = (row for name, own in group.groups.items() for row in _over_time(name, own[0]))
    return table_of(("policy", "time_s", "queued", "most_queued", "age_s"), rows)


def _over_time(name: str, run: Run) -> Iterator[tuple[Value, ...]]:
    robots = [robot for robot in run.robots if np.isfinite(robot.steps["samples"]).any()]
    if not robots:
        return
    times = np.linspace(0.0, run.seconds, POINTS + 1)[1:]

    def newest(field: str) -> Array:
        """float64 [robots, times]; not-a-number before the first step."""
        return np.array([_held(robot.ends_s, robot.steps[field], times) for robot in robots])

    queued, age = newest("queued"), newest("age_s")
    reduce: tuple[tuple[Array, Callable[..., Array]], ...] = ((queued, np.mean), (queued, np.max), (age, np.mean))
    columns = [of(values, axis=0).tolist() for values, of in reduce]
    for time_s, *values in zip(times.tolist(), *columns, strict=True):
        yield name, time_s, *(value if math.isfinite(value) else None for value in values)


def _held(ends_s: Array, values: Array, times_s: Array) -> Array:
    """The value of the newest step at each time."""
    place = np.searchsorted(ends_s, times_s, side="right") - 1
    return np.where(place >= 0, np.append(values, math.nan)[place], math.nan)
