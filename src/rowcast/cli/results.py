"""What a comparison ends with: the table, ``summary.json`` and two figures."""

from __future__ import annotations

import dataclasses
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from rowcast.errors import ConfigError
from rowcast.experiment import DemoSettings, PolicyRun
from rowcast.metric import Metric
from rowcast.report import (
    ACCURACY,
    SECONDS,
    CurvePanel,
    Run,
    RunSummary,
    composition_table,
    curve_table,
    draw_bars,
    draw_curves,
    metric_at_equal_steps,
    metric_over,
    read_run,
    summarise,
    terminal_table,
)
from rowcast.version import __version__

__all__ = ["finish", "summary_of"]


def finish(settings: DemoSettings, runs: list[PolicyRun], out: Path, console: Console) -> None:
    """Print the table and write ``summary.json``, ``accuracy.png`` and ``composition.png``.

    Raises:
        ConfigError: a file cannot be written.
    """
    read = {run.policy: read_run(run.policy, run.journals, settings.seconds) for run in runs}
    summaries = [summarise(run) for run in read.values()]
    metric = ACCURACY
    equal = metric_at_equal_steps({policy: metric_over(run, metric, "steps") for policy, run in read.items()})
    summary = summary_of(settings, runs, summaries, metric, equal)
    try:
        (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"summary {out / 'summary.json'}: cannot be written: {error.strerror}") from error
    _draw(read, metric, equal[0] if equal is not None else None, out)
    console.print(terminal_table(summaries, [metric]))
    for line in _sentences(runs, summary, metric):
        console.print(Text(line), soft_wrap=True)


def _draw(runs: dict[str, Run], metric: Metric, reached: int | None, out: Path) -> None:
    """The metric against steps and time, and what a step's time goes into."""
    groups = {policy: [run] for policy, run in runs.items()}
    panels = [
        CurvePanel(
            curve_table(groups, metric, "steps"),
            "steps (iterations of each worker)",
            "… at equal steps",
            reached if len(runs) > 1 else None,
        ),
        CurvePanel(curve_table(groups, metric, "time"), "time (s)", "… at equal time"),
    ]
    draw_curves(panels, metric, out / f"{metric.name}.png")
    draw_bars(composition_table(groups, meanwhile=True), SECONDS, out / "composition.png")


def summary_of(
    settings: DemoSettings,
    runs: list[PolicyRun],
    summaries: list[RunSummary],
    metric: Metric,
    equal: tuple[int, dict[str, float]] | None,
) -> dict[str, Any]:
    """Everything in the table and what stands behind it, ready for JSON.

    Args:
        settings, runs, summaries: of the demo; a summary for each run.
        metric: what the job is judged by.
        equal: the last iteration that all policies reached, and the metric of each there; ``None`` of runs so short
            that they have no step in common.
    """
    step, values = equal if equal is not None else (None, {})
    policies = {
        summary.policy: {
            **summary.to_json(),
            "steps_ratio": summary.steps / summaries[0].steps if summaries[0].steps else None,
            f"{metric.name}_at_equal_steps": values.get(summary.policy),
            "drained_accuracy": run.drained_accuracy,
            "updates_sent": run.audit.frames_sent,
            "updates_lost": run.audit.lost,
            "updates_doubled": run.audit.doubled,
            "audit": {**dataclasses.asdict(run.audit), "clean": run.audit.clean},
            "computed_s": run.busy_s,
            "late_share": run.late_share,
            "congestion_control": run.congestion_control,
        }
        for summary, run in zip(summaries, runs, strict=True)
    }
    return {
        "seed": settings.seed,
        "settings": dataclasses.asdict(settings),
        "model_bytes": runs[0].model_bytes,
        "best_bps": runs[0].best_bps,
        "equal_steps": step,
        "policies": policies,
        "versions": {
            "rowcast": __version__,
            "python": platform.python_version(),
            "system": platform.platform(),
            **{name: _version(name) for name in ("torch", "numpy", "numba")},
        },
    }


def _sentences(runs: list[PolicyRun], summary: dict[str, Any], metric: Metric) -> list[str]:
    """What the table does not say."""
    first = runs[0].policy
    lines = []
    for run in runs:
        audit, numbers = run.audit, summary["policies"][run.policy]
        verdict = "all replicas agree" if audit.clean else "THE AUDIT FAILED"
        lines.append(
            f"{run.policy}: {audit.frames_sent} row frames sent, {audit.lost} lost, {audit.doubled} doubled; "
            f"{verdict} (to {audit.replica_error:.1e}; row sums to {audit.row_error:.1e}); "
            f"{run.drained_accuracy:.1f} % after delivery"
        )
        if run.policy != first and numbers["steps_ratio"] is not None:
            lines.append(f"{run.policy}: {numbers['steps_ratio']:.2f} times the steps of {first} in the same time")
        if run.late_share > 0.1:
            lines.append(
                f"{run.policy}: {100 * run.late_share:.0f} % of the gradients took longer than the pace: this machine "
                "is too slow for the comparison; raise --pace"
            )
    if summary["equal_steps"] is not None and len(runs) > 1:
        each = ", ".join(
            f"{name} {metric.written(value[f'{metric.name}_at_equal_steps'])}"
            for name, value in summary["policies"].items()
        )
        lines.append(f"{metric.name.replace('_', ' ')} after {summary['equal_steps']} steps: {each}")
    return lines


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
