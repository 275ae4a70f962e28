"""The comparison of policies as a table for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich import box
from rich.table import Table

from rowcast.report.summary import PolicySummary

__all__ = ["table"]

_UNITS = ("B", "kB", "MB", "GB", "TB")


def table(summaries: Sequence[PolicySummary]) -> Table:
    """One line per policy; fits a terminal of 80 columns.

    Seconds of compute, communicate and stall are means per step; bytes are sums over the workers.
    Below the table stands, where there is any, in which share of the computation rows travelled as well, and how many
    steps were skipped.
    """
    columns: dict[str, Callable[[PolicySummary], str]] = {
        "policy": lambda run: run.policy,
        "steps": lambda run: f"{run.steps:.1f}".removesuffix(".0"),
        "time\ns": lambda run: _number(run.seconds),
        "step\ns": lambda run: _number(run.step_s),
        "compute\ns": lambda run: _number(run.compute_s),
        "commu-\nnicate s": lambda run: _number(run.communicate_s),
        "stall\ns": lambda run: _number(run.stall_s),
        "rows\nsent": lambda run: f"{100 * run.push_share:.0f}%",
        "up": lambda run: _bytes(run.push_bytes),
        "down": lambda run: _bytes(run.pull_bytes),
        "accu-\nracy": lambda run: "-" if run.final_accuracy is None else f"{run.final_accuracy:.1f}%",
    }
    notes = f"step to stall: mean of all steps; up, down: sum of all {_team(summaries)}"
    beside = ", ".join(
        f"{run.policy} {100 * run.overlap_s / run.compute_s:.0f} %" for run in summaries if run.overlap_s > 0
    )
    if beside:
        notes += f"\ncomputation of steps in which rows travelled meanwhile: {beside}"
    skipped = ", ".join(f"{run.policy} {run.skipped}" for run in summaries if run.skipped)
    if skipped:
        notes += f"\nsteps without a contribution: {skipped}"
    result = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=0,
        caption=notes,
        caption_justify="left",
    )
    for name in columns:
        result.add_column(name, justify="left" if name == "policy" else "right", no_wrap=True)
    for run in summaries:
        result.add_row(*(of_run(run) for of_run in columns.values()))
    return result


def _team(summaries: Sequence[PolicySummary]) -> str:
    sizes = sorted({run.workers for run in summaries})
    return f"{' or '.join(map(str, sizes))} worker{'' if sizes == [1] else 's'}"


def _bytes(count: float) -> str:
    """Decimal units, three digits: 950 B, 12.3 kB, 4.56 MB."""
    power = 0
    while count >= 999.5 and power < len(_UNITS) - 1:
        count, power = count / 1000, power + 1
    digits = 0 if power == 0 or count >= 99.95 else 1 if count >= 9.995 else 2
    return f"{count:.{digits}f} {_UNITS[power]}"


def _number(value: float) -> str:
    """Four digits or so, and never wider than 6 columns below a million."""
    digits = 0 if value >= 999.95 else 1 if value >= 99.995 else 2 if value >= 9.9995 else 3
    return f"{value:.{digits}f}"
