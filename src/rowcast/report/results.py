"""``results.jsonl``: one line for each finished run, rebuilt from the journals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from rowcast.errors import ConfigError
from rowcast.metric import Metric, metrics_to_json
from rowcast.report.curves import joules_at, metric_over
from rowcast.report.measures import final_value, step_count, step_mean, step_values, total_joules
from rowcast.report.read import ACCURACY, read_experiment
from rowcast.report.values import Experiment, Run, states_of

__all__ = ["RESULTS", "result_line", "write_results"]

RESULTS = "results.jsonl"


def write_results(experiment: Experiment | str | Path) -> Path:
    """Write ``results.jsonl`` into the folder of a comparison: what each finished run came to.

    Raises:
        ConfigError: as :func:`rowcast.report.read_experiment`; or the file cannot be written.
    """
    if not isinstance(experiment, Experiment):
        experiment = read_experiment(experiment)
    path = experiment.folder / RESULTS
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as stream:
            for run in experiment.runs:
                stream.write(json.dumps(result_line(run), allow_nan=False) + "\n")
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"results {path}: cannot be written: {error.strerror}") from error
    return path


def result_line(run: Run) -> dict[str, Any]:
    """The settings of a run and its figures.

    ``steps`` is the mean over robots; seconds are means per step; bytes, skipped and joules are sums over robots.
    ``final_NAME`` is a metric at the end. ``curve`` is what time and energy to a level of the primary metric are
    computed from: seconds, the metric (mean over robots) and joules (sum) at each measurement; ``curve_NAME`` is the
    same of each further metric. ``metrics`` has units and directions, of folders that name them. What is no number is
    null.
    """
    primary, *others = run.metrics
    means = {field: step_mean(run, field) for field in (*(f"{state}_s" for state in states_of([run])), "push_share")}
    line = {
        "folder": run.folder.name,
        "policy": run.policy,
        "seed": run.seed,
        "cell": dict(run.settings),
        "versions": dict(run.versions),
        "steps": step_count(run) / len(run.robots),
        **{field: _finite(mean) for field, mean in means.items()},
        **{field: int(step_values(run, field).sum()) for field in ("push_bytes", "pull_bytes", "skipped")},
        **{f"final_{metric.name}": _finite(final_value(run, metric)) for metric in run.metrics},
        "joules": total_joules(run),
        "curve": _points(run, primary),
        **{f"curve_{metric.name}": _points(run, metric) for metric in others},
    }
    return line if run.metrics == (ACCURACY,) else {**line, "metrics": metrics_to_json(run.metrics)}


def _points(run: Run, metric: Metric) -> dict[str, Any] | None:
    curve = metric_over(run, metric, "time")
    if curve is None:
        return None
    return {
        "elapsed_s": curve.along.tolist(),
        metric.name: [_finite(value) for value in curve.values.tolist()],
        "joules": joules_at(run, curve.along).tolist(),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
