"""Accuracy over a run: against the iteration, and against the time that passed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rowcast.errors import ConfigError
from rowcast.journal import read_journal
from rowcast.report.summary import measured_accuracy

__all__ = ["AccuracyCurve", "accuracy_at_equal_steps", "accuracy_curve"]


@dataclass(frozen=True)
class AccuracyCurve:
    """Mean accuracy of a team at the iterations that all its workers measured; three tuples of one length."""

    steps: tuple[int, ...]  #: iteration, increasing
    accuracy: tuple[float, ...]  #: percent, mean over the workers at this iteration
    seconds: tuple[float, ...]  #: since the first event of the run, mean over the workers


def accuracy_curve(worker_journals: Sequence[str | Path], seconds: float | None = None) -> AccuracyCurve:
    """The curve of one run from its workers' journals, one file per worker.

    Each worker counts with its own replica at the same iteration, however far apart in time the workers
    were there. Seconds count from the earliest event in these journals, which takes it that the workers'
    clocks agree: they do on one machine.

    Args:
        worker_journals: the files.
        seconds: leave out what was measured later than so many seconds after the earliest event; ``None`` takes all.

    Raises:
        ConfigError: a journal cannot be read, or there is no iteration that all workers measured.
    """
    start = min((record["t"] for path in worker_journals for record in read_journal(path)), default=0.0)
    end = math.inf if seconds is None else start + seconds
    measured = [{n: (t, value) for n, t, value in measured_accuracy(path) if t <= end} for path in worker_journals]
    common = sorted(set.intersection(*(set(of_worker) for of_worker in measured))) if measured else []
    if not common:
        found = ", ".join(f"{path}: {len(own)}" for path, own in zip(worker_journals, measured, strict=True)) or "none"
        raise ConfigError(f"no iteration at which every worker measured 'accuracy'; measurements found: {found}")
    workers = len(measured)
    return AccuracyCurve(
        steps=tuple(common),
        accuracy=tuple(math.fsum(own[n][1] for own in measured) / workers for n in common),
        seconds=tuple(math.fsum(own[n][0] for own in measured) / workers - start for n in common),
    )


def accuracy_at_equal_steps(curves: Mapping[str, AccuracyCurve]) -> tuple[int, dict[str, float]]:
    """The largest iteration that all policies reached and measured, and the accuracy of each there.

    Raises:
        ConfigError: no curves, or no iteration that is in all of them.
    """
    common = set.intersection(*(set(curve.steps) for curve in curves.values())) if curves else set()
    if not common:
        ranges = ", ".join(f"{policy}: {curve.steps[0]}..{curve.steps[-1]}" for policy, curve in curves.items())
        raise ConfigError(f"no iteration that all policies measured (found {ranges or 'no curves'})")
    step = max(common)
    return step, {policy: curve.accuracy[curve.steps.index(step)] for policy, curve in curves.items()}
