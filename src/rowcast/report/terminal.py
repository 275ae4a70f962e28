"""The runs of a demo as a table for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich import box
from rich.table import Table

from rowcast.metric import Metric
from rowcast.report.measures import RunSummary, is_share, words_of

__all__ = ["terminal_table"]

_UNITS = ("B", "kB", "MB", "GB", "TB")
#: Characters of a line of a heading.
_HEADING = 6


def terminal_table(summaries: Sequence[RunSummary], metrics: Sequence[Metric]) -> Table:
    """One line per policy; fits a terminal of 80 columns.

    Seconds of compute, communicate and stall, and of starve where a robot waited for data, are means per step; bytes
    are sums over the workers. The last column is the primary metric at the end.
    Below the table stands, where there is any, in which share of the computation rows travelled as well, how many
    steps were skipped, what the other metrics came to, and of which metrics lower is better.

    Args:
        summaries: one for each policy.
        metrics: of the job, the primary one first.
    """
    primary = metrics[0]
    columns: dict[str, Callable[[RunSummary], str]] = {
        "policy": lambda run: run.policy,
        "steps": lambda run: f"{run.steps:.1f}".removesuffix(".0"),
        "time\ns": lambda run: _number(run.seconds),
        "step\ns": lambda run: _number(run.step_s),
        "starve\ns": lambda run: _number(run.starve_s),
        "compute\ns": lambda run: _number(run.compute_s),
        "commu-\nnicate s": lambda run: _number(run.communicate_s),
        "stall\ns": lambda run: _number(run.stall_s),
        "rows\nsent": lambda run: f"{100 * run.push_share:.0f}%",
        "up": lambda run: _bytes(run.push_bytes),
        "down": lambda run: _bytes(run.pull_bytes),
    }
    if not any(run.starve_s for run in summaries):
        del columns["starve\ns"]
    columns[_heading(primary)] = lambda run: _value(run.final.get(primary.name), primary)
    result = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=0,
        caption=_notes(summaries, metrics),
        caption_justify="left",
    )
    for name in columns:
        result.add_column(name, justify="left" if name == "policy" else "right", no_wrap=True)
    for run in summaries:
        result.add_row(*(of_run(run) for of_run in columns.values()))
    return result


def _notes(summaries: Sequence[RunSummary], metrics: Sequence[Metric]) -> str:
    lines = [f"step to stall: mean of all steps; up, down: sum of all {_team(summaries)}"]
    beside = [f"{run.policy} {100 * run.overlap_s / run.compute_s:.0f} %" for run in summaries if run.overlap_s > 0]
    if beside:
        lines.append(f"computation of steps in which rows travelled meanwhile: {', '.join(beside)}")
    skipped = [f"{run.policy} {run.skipped}" for run in summaries if run.skipped]
    if skipped:
        lines.append(f"steps without a contribution: {', '.join(skipped)}")
    for metric in metrics[1:]:
        each = ", ".join(f"{run.policy} {metric.written(run.final.get(metric.name))}" for run in summaries)
        lines.append(f"{words_of(metric)} at the end: {each}")
    lower = [metric.label for metric in metrics if metric.better == "lower"]
    if lower:
        lines.append(f"lower is better: {', '.join(lower)}")
    return "\n".join(lines)


def _heading(metric: Metric) -> str:
    """The name of a metric in a narrow column, and its unit below where the values do not have it."""
    lines: list[str] = []
    for word in metric.name.split("_"):
        parts = 1 if len(word) <= _HEADING else -(-len(word) // (_HEADING - 1))
        size = -(-len(word) // parts)
        pieces = [word[start : start + size] for start in range(0, len(word), size)]
        lines += [*(f"{piece}-" for piece in pieces[:-1]), *pieces[-1:]]
    return "\n".join([*lines, *([metric.unit] if metric.unit and not is_share(metric) else [])])


def _value(value: float | None, metric: Metric) -> str:
    """Percent with one decimal and its sign; all else as a number whose unit is in the heading."""
    if value is None:
        return "-"
    return f"{value:.1f}%" if is_share(metric) else f"{value:.4g}"


def _team(summaries: Sequence[RunSummary]) -> str:
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
