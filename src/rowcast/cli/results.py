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
from rowcast.report import (
    AccuracyCurve,
    PolicySummary,
    accuracy_at_equal_steps,
    accuracy_curve,
    draw_accuracy,
    draw_composition,
    summarise,
    table,
)
from rowcast.version import __version__

__all__ = ["finish", "summary_of"]


def finish(settings: DemoSettings, runs: list[PolicyRun], out: Path, console: Console) -> None:
    """Print the table and write ``summary.json``, ``accuracy.png`` and ``composition.png``.

    Raises:
        ConfigError: a file cannot be written.
    """
    summaries = [summarise(run.policy, run.journals, settings.seconds) for run in runs]
    curves = {run.policy: accuracy_curve(run.journals, settings.seconds) for run in runs}
    summary = summary_of(settings, runs, summaries, curves)
    try:
        (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"summary {out / 'summary.json'}: cannot be written: {error.strerror}") from error
    draw_accuracy(curves, out / "accuracy.png")
    draw_composition(summaries, out / "composition.png")
    console.print(table(summaries))
    for line in _sentences(runs, summary):
        console.print(Text(line), soft_wrap=True)


def summary_of(
    settings: DemoSettings,
    runs: list[PolicyRun],
    summaries: list[PolicySummary],
    curves: dict[str, AccuracyCurve],
) -> dict[str, Any]:
    """Everything in the table and what stands behind it, ready for JSON."""
    step, accuracies = _at_equal_steps(curves)
    policies = {
        summary.policy: {
            **dataclasses.asdict(summary),
            "step_s": summary.step_s,
            "steps_ratio": summary.steps / summaries[0].steps if summaries[0].steps else None,
            "accuracy_at_equal_steps": accuracies.get(summary.policy),
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


def _at_equal_steps(curves: dict[str, AccuracyCurve]) -> tuple[int | None, dict[str, float]]:
    try:
        return accuracy_at_equal_steps(curves)
    except ConfigError:  # so short that the policies have no step in common
        return None, {}


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
            f"{name} {value['accuracy_at_equal_steps']:.1f} %" for name, value in summary["policies"].items()
        )
        lines.append(f"accuracy after {summary['equal_steps']} steps: {each}")
    return lines


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
