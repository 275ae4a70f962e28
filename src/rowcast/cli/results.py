"""What a comparison ends with: the table, ``summary.json`` and two figures."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from rowcast.errors import ConfigError
from rowcast.experiment import DemoSettings, PolicyRun
from rowcast.metric import Metric, metrics_to_json
from rowcast.report import (
    SECONDS,
    CurvePanel,
    Run,
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
from rowcast.report.exhibits_sections import draw_exhibits
from rowcast.report.style import WHY_NO_FIGURES, can_draw
from rowcast.report.told_sections import told_line
from rowcast.version import __version__

__all__ = ["finish", "summary_of"]


def finish(settings: DemoSettings, runs: list[PolicyRun], out: Path, console: Console) -> None:
    """Print the table and write ``summary.json``, ``composition.png``, and ``METRIC.png`` for each metric.

    Without matplotlib there are no figures, and a line says so.

    Raises:
        ConfigError: a file cannot be written.
    """
    metrics = runs[0].metrics
    read = {run.policy: read_run(run.policy, run.journals, settings.seconds, metrics) for run in runs}
    summary = summary_of(settings, runs, read)
    try:
        (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"summary {out / 'summary.json'}: cannot be written: {error.strerror}") from error
    about = _figures(read, metrics, out) if can_draw() else [WHY_NO_FIGURES]
    console.print(terminal_table([summarise(run) for run in read.values()], metrics))
    told = filter(None, map(told_line, read.values()))
    for line in [*_sentences(runs, summary), *_at_equal_steps(read), *told, *about]:
        console.print(Text(line), soft_wrap=True)


def _figures(read: Mapping[str, Run], metrics: Sequence[Metric], out: Path) -> list[str]:
    """Draw them; what is to be said about them."""
    undrawn = [metric for metric in metrics if not _draw(read, metric, out / f"{metric.name}.png")]
    groups = {policy: [run] for policy, run in read.items()}
    draw_bars(composition_table(groups, meanwhile=True), SECONDS, out / "composition.png")
    notes: list[str] = []
    shown = draw_exhibits(read, out, notes)
    drawn = [f"what the replicas show at the end: {', '.join(map(str, shown))}"] if shown else []
    left_out = [f"left out of the figures: {note}" for note in notes]
    without = [f"{metric.name}: no policy has measurements that all robots share; no figure" for metric in undrawn]
    return [*drawn, *left_out, *without]


def _draw(runs: Mapping[str, Run], metric: Metric, path: Path) -> bool:
    """A metric against steps and against time, side by side; tells whether there was anything to draw."""
    groups = {policy: [run] for policy, run in runs.items()}
    equal = metric_at_equal_steps({policy: metric_over(run, metric, "steps") for policy, run in runs.items()})
    panels = [
        CurvePanel(
            curve_table(groups, metric, "steps"),
            "steps (iterations of each worker)",
            "… at equal steps",
            equal[0] if equal is not None and len(runs) > 1 else None,
        ),
        CurvePanel(curve_table(groups, metric, "time"), "time (s)", "… at equal time"),
    ]
    if not any(panel.table.rows for panel in panels):
        return False
    draw_curves(panels, metric, path)
    return True


def summary_of(settings: DemoSettings, runs: Sequence[PolicyRun], read: Mapping[str, Run]) -> dict[str, Any]:
    """Everything in the table and what stands behind it, ready for JSON.

    Args:
        settings, runs: of the demo.
        read: what the journals of each policy say.
    """
    summaries = [summarise(read[run.policy]) for run in runs]
    metrics = read[runs[0].policy].metrics
    equal = {
        metric.name: metric_at_equal_steps({policy: metric_over(run, metric, "steps") for policy, run in read.items()})
        for metric in metrics
    }
    primary = equal[metrics[0].name]
    policies = {
        summary.policy: {
            **summary.to_json(),
            "steps_ratio": summary.steps / summaries[0].steps if summaries[0].steps else None,
            **{
                f"{name}_at_equal_steps": _known(found[1][summary.policy]) if found is not None else None
                for name, found in equal.items()
            },
            "drained": dict(run.drained),
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
        "task_options": dict(runs[0].task_options),
        "model_bytes": runs[0].model_bytes,
        "best_bps": runs[0].best_bps,
        "equal_steps": primary[0] if primary is not None else None,
        "metrics": metrics_to_json(metrics),
        "policies": policies,
        "versions": {
            "rowcast": __version__,
            "python": platform.python_version(),
            "system": platform.platform(),
            **{name: _version(name) for name in ("torch", "numpy", "numba")},
        },
    }


def _sentences(runs: list[PolicyRun], summary: dict[str, Any]) -> list[str]:
    """What the table does not say."""
    first = runs[0].policy
    lines = []
    for run in runs:
        audit, numbers = run.audit, summary["policies"][run.policy]
        verdict = "all replicas agree" if audit.clean else "THE AUDIT FAILED"
        lines.append(
            f"{run.policy}: {audit.frames_sent} row frames sent, {audit.lost} lost, {audit.doubled} doubled; "
            f"{verdict} (to {audit.replica_error:.1e}; row sums to {audit.row_error:.1e}); "
            f"{run.metrics[0].name} {run.metrics[0].written(run.drained.get(run.metrics[0].name))} after delivery"
        )
        if run.policy != first and numbers["steps_ratio"] is not None:
            lines.append(f"{run.policy}: {numbers['steps_ratio']:.2f} times the steps of {first} in the same time")
        if run.late_share > 0.1:
            lines.append(
                f"{run.policy}: {100 * run.late_share:.0f} % of the gradients took longer than the pace: this machine "
                "is too slow for the comparison; raise --pace"
            )
    return lines


def _at_equal_steps(read: Mapping[str, Run]) -> Iterator[str]:
    """Each metric of the policies where they can be compared step for step."""
    for metric in next(iter(read.values())).metrics:
        found = metric_at_equal_steps({policy: metric_over(run, metric, "steps") for policy, run in read.items()})
        if found is not None and len(read) > 1:
            step, values = found
            each = ", ".join(f"{policy} {metric.written(value)}" for policy, value in values.items())
            yield f"{metric.name.replace('_', ' ')} after {step} steps: {each}"


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
