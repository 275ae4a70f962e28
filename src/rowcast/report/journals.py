"""Reads the journals of the workers of one run, to values; what is wrong is said with the file and the field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rowcast.energy import PowerStates, worker_energy
from rowcast.errors import ConfigError
from rowcast.journal import read_journal, session_count
from rowcast.metric import Metric
from rowcast.report.values import STEP_FIELDS, Array, Robot, Series, Told

__all__ = ["TeamJournals", "complete_step", "read_robots", "step_columns"]

Record = Mapping[str, Any]

_NUMBERS = ("compute_s", "communicate_s", "stall_s", "push_share", "push_bytes", "pull_bytes")


@dataclass(frozen=True)
class TeamJournals:
    """All workers of a run.

    Attributes:
        robots: in the order of the files.
        seconds: from the first event of any to the end of the run.
        notes: what the files hold beside the run, a sentence each.
    """

    robots: tuple[Robot, ...]
    seconds: float
    notes: tuple[str, ...]


def read_robots(
    files: Sequence[Path],
    power: PowerStates,
    metrics: Sequence[Metric],
    *,
    start_s: float | None = None,
    run_s: float | None = None,
    training_s: float | None = None,
) -> TeamJournals:
    """The journals of all workers of a run; their clocks agree.

    What ended after the run did is not part of it: a robot goes on for a moment, to deliver what it owes.

    Args:
        files: one for each worker.
        power: what a robot draws.
        metrics: what is read of the events ``metric``.
        start_s: the run starts then, on the clock of the journals; ``None``: with the first event of any.
        run_s: the run ends so many seconds after its start; or
        training_s: so many after its first step began; with neither, with the last event.

    Raises:
        ConfigError: a journal that cannot be read, that is empty, or in which a number is missing.
    """
    records = {path: list(read_journal(path)) for path in files}
    empty = [path for path, own in records.items() if not own]
    if empty:
        raise ConfigError(f"{empty[0]}: an empty journal; expected the events of a worker")
    for path, own in records.items():
        _check_times(path, own)
    if start_s is None:
        start_s = min(float(record["t"]) for own in records.values() for record in own)
    end_s = _end_of(records, start_s, run_s, training_s)
    robots = tuple(_read_robot(path, own, power, metrics, (start_s, end_s)) for path, own in records.items())
    sessions = ((path, session_count(path)) for path in files)
    notes = tuple(
        f"{path}: the robot was started {count} times; its last session is shown, the others are not"
        for path, count in sessions
        if count > 1
    )
    return TeamJournals(robots, end_s - start_s, notes)


def _check_times(path: Path, records: Sequence[Record]) -> None:
    for record in records:
        if isinstance(record["t"], bool) or not isinstance(record["t"], int | float):
            raise ConfigError(f"journal {path}: an event {record['event']!r} has t = {record['t']!r}, expected seconds")


def _end_of(
    records: Mapping[Path, Sequence[Record]], start_s: float, run_s: float | None, training_s: float | None
) -> float:
    if run_s is not None:
        return start_s + run_s
    if training_s is None:
        return max(float(record["t"]) for own in records.values() for record in own)
    first_steps = (next((record for record in own if record["event"] == "step"), None) for own in records.values())
    begins = [
        float(step["t"]) - sum(float(step.get(name, 0.0)) for name in ("starve_s", *_NUMBERS[:3]))
        for path, step in zip(records, first_steps, strict=True)
        if step is not None and complete_step(step, path)
    ]
    return min(begins, default=start_s) + training_s


def _read_robot(
    path: Path, records: Sequence[Record], power: PowerStates, metrics: Sequence[Metric], span_s: tuple[float, float]
) -> Robot:
    start_s, end_s = span_s
    inside = [record for record in records if start_s <= record["t"] <= end_s]
    steps = [complete_step(record, path) for record in inside if record["event"] == "step"]
    ends_s = np.array([step["t"] - start_s for step in steps], dtype=np.float64)
    measured = {metric.name: _read_series(path, inside, metric.name, start_s) for metric in metrics}
    energy = worker_energy(records, power, start_s=start_s, end_s=end_s)
    told = tuple(_read_told(path, record, start_s) for record in inside if record["event"] == "task")
    return Robot(path.stem, ends_s, step_columns(steps, STEP_FIELDS), measured, energy, told)


def _read_told(path: Path, record: Record, start_s: float) -> Told:
    what, detail = record.get("what"), record.get("detail")
    if not isinstance(what, str) or not isinstance(detail, str):
        raise ConfigError(
            f"journal {path}: an event of the task at {record['t']:g} s has what = {what!r} and detail = {detail!r}, "
            "expected texts"
        )
    return Told(record["t"] - start_s, what, detail)


def complete_step(step: Record, path: str | Path) -> Record:
    """A ``step`` event that has all numbers a report needs.

    Raises:
        ConfigError: it lacks one; journal, iteration and field are named.
    """
    for field in _NUMBERS:
        if not isinstance(step.get(field), int | float):
            raise ConfigError(
                f"journal {path}: the step of iteration {step.get('iteration')} has {field} = {step.get(field)!r},"
                " expected a number (the schema is rowcast.journal.EVENTS)"
            )
    return {"skipped": False, **step}


def step_columns(steps: Sequence[Record], fields: Sequence[str]) -> dict[str, Array]:
    """For each field float64 [steps]; not-a-number where a step has null or nothing."""

    def column(field: str) -> Array:
        values = (step.get(field) for step in steps)
        return np.array([math.nan if value is None else value for value in values], dtype=np.float64)

    return {field: column(field) for field in fields}


def _read_series(path: Path, records: Sequence[Record], name: str, start_s: float) -> Series:
    """What was measured of a metric. A journal has null for a value that was not a number."""
    found = [record for record in records if record["event"] == "metric" and record.get("name") == name]
    for record in found:
        for field, may_lack in (("iteration", False), ("value", True)):
            value = record.get(field)
            if isinstance(value, bool) or (not isinstance(value, int | float) and not (may_lack and value is None)):
                raise ConfigError(
                    f"journal {path}: a measurement of {name} at {record['t']:g} s has {field} = {value!r}, "
                    "expected a number"
                )
    values = step_columns(found, ("iteration", "value"))
    times_s = np.array([record["t"] - start_s for record in found], dtype=np.float64)
    return Series(times_s, values["iteration"], values["value"])
