"""The runs of a demo as a table for the terminal, by policy or by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from rich import box
from rich.table import Table

from rowcast.metric import Metric
from rowcast.report.measures import RunSummary, is_share, words_of
from rowcast.report.stream_tables import StreamSummary

__all__ = ["stream_terminal_table", "terminal_table"]

_Summary = TypeVar("_Summary")

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
        "steps": lambda run: _count(run.steps),
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
    return _table(columns, summaries, _notes(summaries, metrics))


def stream_terminal_table(summaries: Sequence[StreamSummary], metrics: Sequence[Metric], robots: int) -> Table:
    """One line for each rule of batches; fits a terminal of 80 columns.

    Args:
        summaries: one for each rule.
        metrics: of the job, the primary one first.
        robots: of the team.
    """
    primary = metrics[0]
    columns: dict[str, Callable[[StreamSummary], str]] = {
        "batch": lambda run: run.batch,
        "steps": lambda run: _count(run.steps),
        "samples\na second": lambda run: _number(run.samples_per_s),
        "step\ns": lambda run: _number(run.step_s),
        "starve": lambda run: f"{100 * run.starve_share:.0f}%",
        "age\ns": lambda run: _number(run.age_s),
        "largest\nqueue": lambda run: f"{run.largest_queue:,}",
        "dropped": lambda run: f"{run.dropped:,}",
        _heading(primary): lambda run: _value(run.final.get(primary.name), primary),
    }
    lines = [
        f"steps, step, starve: mean of {robots} robots; samples trained, dropped: of all of them",
        "age: of a sample, from its arrival until it is trained on; queue: of one robot",
        *_other_metrics([(run.batch, run.final) for run in summaries], metrics),
    ]
    return _table(columns, summaries, "\n".join(lines), padding=1)


def _table(
    columns: Mapping[str, Callable[[_Summary], str]], summaries: Sequence[_Summary], notes: str, padding: int = 0
) -> Table:
    result = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, padding, 0, 0), caption=notes, caption_justify="left"
    )
    for place, name in enumerate(columns):
        result.add_column(name, justify="right" if place else "left", no_wrap=True)
    for run in summaries:
        result.add_row(*(of_run(run) for of_run in columns.values()))
    return result


def _notes(summaries: Sequence[RunSummary], metrics: Sequence[Metric]) -> str:
    lines = [f"step to stall: mean of all steps; up, down: sum of all {_team(summaries)}"]
    beside = [f"{run.policy} {100 * run.overlap_s / run.compute_s:.0f} %" for run in summaries if run.overlap_s > 0]
    if beside:
        lines.append(f"computation of steps in which rows travelled meanwhile: {', '.join(beside)}")
    own = [f"{run.policy} {100 * run.own_s / run.step_s:.1f} %" for run in summaries if run.own_s is not None]
    if own:
        lines.append(f"of a step on the training thread, what Rowcast itself takes: {', '.join(own)}")
    skipped = [f"{run.policy} {run.skipped}" for run in summaries if run.skipped]
    if skipped:
        lines.append(f"steps without a contribution: {', '.join(skipped)}")
    return "\n".join([*lines, *_other_metrics([(run.policy, run.final) for run in summaries], metrics)])


def _other_metrics(
    finals: Sequence[tuple[str, Mapping[str, float | None]]], metrics: Sequence[Metric]
) -> Iterator[str]:
    """What the metrics beside the primary one came to, and of which lower is better."""
    for metric in metrics[1:]:
        each = ", ".join(f"{name} {metric.written(final.get(metric.name))}" for name, final in finals)
        yield f"{words_of(metric)} at the end: {each}"
    lower = [metric.label for metric in metrics if metric.better == "lower"]
    if lower:
        yield f"lower is better: {', '.join(lower)}"


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


def _count(mean: float) -> str:
    """A mean of whole numbers."""
    return f"{mean:.1f}".removesuffix(".0")


def _number(value: float) -> str:
    """Four digits or so, and never wider than 6 columns below a million."""
    digits = 0 if value >= 999.95 else 1 if value >= 99.995 else 2 if value >= 9.9995 else 3
    return f"{value:.{digits}f}"
