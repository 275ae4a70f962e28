"""The picture of methods side by side: latency over time, who answered, and the link below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rowcast.errors import ConfigError
from rowcast.links import Trace
from rowcast.report.inferences import Comparison, InferenceRun, methods_table
from rowcast.report.style import FAINT, INK, headline, new_figure, plain_axes
from rowcast.report.table import Table, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

__all__ = ["draw_methods"]

#: Outcome -> colour, marker, size, and what the legend says. In the order of the bars.
_OUTCOMES = {
    "server": ("#009E73", "o", 3.6, "server answered"),
    "both": ("#CC79A7", "D", 3.4, "both answered"),
    "robot": ("#0072B2", "s", 3.2, "robot answered"),
    "late": ("#D55E00", "X", 6.5, "after the deadline"),
    "none": ("#D55E00", "v", 6.5, "no answer"),
    "superseded": ("#B8B8B8", "|", 5.0, "skipped for a newer image"),
}
#: Inches of a method, of the link, and around.
_PANEL, _LINK, _AROUND = 1.25, 1.05, 1.5


def draw_methods(comparison: Comparison, path: str | Path) -> None:
    """A panel of latencies for each method with the share of each outcome beside it, and the rate of the link.

    Args:
        comparison: what :func:`~rowcast.report.inferences.read_comparison` gave.
        path: file to write; its suffix gives the format (``.png``, ``.svg``, ``.pdf``).

    Raises:
        ConfigError: matplotlib is not installed, there is no answer to draw, or the file cannot be written.
    """
    runs = comparison.runs
    latencies = [1e3 * value for run in runs for value in run.answered.numbers("latency_s")]
    if not latencies:
        raise ConfigError("no answer of any method to draw")
    low, high = 0.6 * min(latencies), 1.7 * max(latencies)
    numbers = methods_table(runs)
    with new_figure(path, width=10.0, height=_PANEL * len(runs) + _LINK + _AROUND) as figure:
        grid = figure.add_gridspec(
            len(runs) + 1, 2, width_ratios=[3.4, 1.0], height_ratios=[*[_PANEL] * len(runs), _LINK]
        )
        panels: list[Axes] = []
        for row, run in enumerate(runs):
            axes = figure.add_subplot(grid[row, 0], sharex=panels[0] if panels else None)
            panels.append(axes)
            _draw_latencies(axes, run, (low, high), comparison.trace)
            _draw_shares(figure.add_subplot(grid[row, 1]), run, numbers.where(method=run.method))
        link = figure.add_subplot(grid[len(runs), 0], sharex=panels[0])
        _draw_link(link, comparison)
        for axes in panels:
            axes.tick_params(labelbottom=False)
        handles, labels = _legend(runs)
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
        headline(figure, comparison.title)


def _draw_latencies(axes: Axes, run: InferenceRun, reach: tuple[float, float], trace: Trace | None) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = reach
    for name, (colour, marker, size, _) in _OUTCOMES.items():
        own = run.inferences.where(outcome=name)
        if not own.rows:
            continue
        times = own.numbers("asked_s")
        answered = name not in ("none", "superseded")
        values = [1e3 * value for value in own.numbers("latency_s")] if answered else [low * 1.18] * len(times)
        axes.plot(times, values, marker, color=colour, markersize=size, markeredgewidth=0.9, linestyle="", zorder=3)
    if run.deadline_s is not None:
        axes.axhline(1e3 * run.deadline_s, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=2)
    _shade_outages(axes, trace, run.seconds)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.set_xlim(-0.01 * run.seconds, 1.01 * run.seconds)
    axes.set_ylabel("latency (ms)", fontsize=9)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    meaning = f": {run.meaning}" if run.meaning else ""
    axes.set_title(f"{run.method}{meaning}", loc="left", fontsize=10.5, color=INK, pad=3)
    plain_axes(axes, grid="both")


def _shade_outages(axes: Axes, trace: Trace | None, seconds: float) -> None:
    for begin, end in _outages(trace, seconds):
        axes.axvspan(begin, end, color=FAINT, alpha=0.18, linewidth=0, zorder=0)


def _outages(trace: Trace | None, seconds: float) -> Iterator[tuple[float, float]]:
    """When nothing passes."""
    if trace is None:
        return
    edges = [*trace.times_s.tolist(), seconds]
    for begin, end, rate in zip(edges, edges[1:], trace.rates_bps.tolist(), strict=False):
        if rate == 0 and begin < seconds:
            yield begin, min(end, seconds)


def _draw_shares(axes: Axes, run: InferenceRun, numbers: Table) -> None:
    """Outcomes of all inputs as one bar, and the figures of the method."""
    total, left = max(len(run.inferences.rows), 1), 0.0
    for name, (colour, *_) in _OUTCOMES.items():
        share = 100 * run.count(name) / total
        axes.barh(0, share, left=left, height=0.5, color=colour, edgecolor="white", linewidth=0.8)
        if share >= 14:
            ink = "black" if name == "superseded" else "white"
            axes.text(left + share / 2, 0, f"{share:.0f} %", ha="center", va="center", color=ink, fontsize=8.5)
        left += share
    (row,) = numbers.rows
    values = dict(zip(numbers.columns, row, strict=True))
    missed = f"{shown(values['late'])} of {shown(values['inputs'])} missed the deadline"
    lines = [
        missed if run.deadline_s is not None else f"{shown(values['inputs'])} inputs",
        f"mean {_number(values['mean_ms'])} ms, p99 {_number(values['p99_ms'])} ms",
        f"newest answer {_number(values['age_ms'])} ms old",
        f"{_number(values['J'])} J and {_number(values['up_kB'])} kB each",
    ]
    axes.text(0, -0.42, "\n".join(lines), va="top", ha="left", fontsize=8.5, color=INK, linespacing=1.35)
    axes.set(xlim=(0, 100), ylim=(-2.35, 0.45))
    axes.set_axis_off()


def _number(value: object) -> str:
    if not isinstance(value, float):
        return shown(value)
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def _draw_link(axes: Axes, comparison: Comparison) -> None:
    """The rate of the link: the trace, or what robots have measured."""
    trace, seconds = comparison.trace, comparison.runs[0].seconds
    if trace is not None:
        edges = np.append(trace.times_s, max(seconds, float(trace.times_s[-1]) + 1e-6))
        axes.stairs(trace.rates_bps / 1e6, edges, fill=True, color="#666666", alpha=0.25, linewidth=0)
        axes.stairs(trace.rates_bps / 1e6, edges, baseline=None, color="#666666", linewidth=0.9)
        _shade_outages(axes, trace, seconds)
        title = "link, the same for each (grey: nothing passes)"
    else:
        title = "link, as the robots measured it"
        for run, line in zip(comparison.runs, ("-", "--", "-.", ":", "-"), strict=False):
            rates = [value / 1e6 for value in run.inferences.numbers("rate_bps")]
            if any(rates):
                axes.plot(run.inferences.numbers("done_s"), rates, line, color="#666666", linewidth=1)
    axes.set_ylim(bottom=0)
    axes.set_title(title, loc="left", fontsize=10.5, color=INK, pad=3)
    axes.set_xlabel("time from the begin of each method's run (s)")
    axes.set_ylabel("Mbit/s", fontsize=9)
    plain_axes(axes, grid="both")


def _legend(runs: Sequence[InferenceRun]) -> tuple[list[Line2D], list[str]]:
    from matplotlib.lines import Line2D

    handles: list[Line2D] = []
    labels: list[str] = []
    for name, (colour, marker, size, text) in _OUTCOMES.items():
        if any(run.count(name) for run in runs):
            handles.append(Line2D([], [], marker=marker, color=colour, linestyle="", markersize=size + 1))
            labels.append(text)
    deadlines = {run.deadline_s for run in runs if run.deadline_s is not None}
    if deadlines:
        handles.append(Line2D([], [], color=INK, linewidth=1, linestyle=(0, (4, 3))))
        labels.append(f"deadline {1e3 * max(deadlines):g} ms")
    return handles, labels
