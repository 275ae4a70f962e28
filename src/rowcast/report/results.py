"""``results.jsonl``: one line for each finished cell, rebuilt from the journals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from rowcast.errors import ConfigError
from rowcast.report.cells import CellRun, Experiment, read_experiment
from rowcast.report.style import STATES

__all__ = ["RESULTS", "result_line", "write_results"]

RESULTS = "results.jsonl"


def write_results(experiment: Experiment | str | Path) -> Path:
    """Write ``results.jsonl`` into the folder of a comparison: what each finished cell came to.

    Raises:
        ConfigError: as :func:`rowcast.report.read_experiment`; or the file cannot be written.
    """
    if not isinstance(experiment, Experiment):
        experiment = read_experiment(experiment)
    path = experiment.folder / RESULTS
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as stream:
            for cell in experiment.cells:
                stream.write(json.dumps(result_line(cell), allow_nan=False) + "\n")
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"results {path}: cannot be written: {error.strerror}") from error
    return path


def result_line(cell: CellRun) -> dict[str, Any]:
    """The settings of a cell and its figures.

    ``steps`` is the mean over robots; seconds are means per step; bytes, skipped and joules are sums over robots.
    ``curve`` is what time and energy to an accuracy are computed from: seconds, percent (mean over robots) and joules
    (sum) at each look at the accuracy.
    """
    curve = cell.over_time
    points = None
    if curve is not None:
        points = {
            "elapsed_s": curve.along.tolist(),
            "accuracy": curve.accuracy.tolist(),
            "joules": cell.joules_at(curve.along).tolist(),
        }
    means = {field: _mean(cell, field) for field in (*(f"{state}_s" for state in STATES), "push_share")}
    sums = {field: int(cell.step_values(field).sum()) for field in ("push_bytes", "pull_bytes", "skipped")}
    return {
        "folder": cell.folder.name,
        "policy": cell.policy,
        "seed": cell.seed,
        "cell": dict(cell.settings),
        "versions": dict(cell.versions),
        "steps": cell.step_count / len(cell.robots),
        **means,
        **sums,
        "final_accuracy": cell.final_accuracy,
        "joules": float(cell.joules_at(np.array([cell.seconds]))[0]),
        "curve": points,
    }


def _mean(cell: CellRun, field: str) -> float | None:
    values = cell.step_values(field)
    return math.fsum(values) / len(values) if len(values) else None
