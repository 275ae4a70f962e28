"""The figures of streams: how many samples wait over time, how old they are, and how well the model does meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from rowcast.errors import ConfigError
from rowcast.metric import Metric
from rowcast.report.curve_figure import direction, value_range
from rowcast.report.measures import words_of
from rowcast.report.style import figure_legend, headline, line_styles, new_figure, plain_axes, plot_marked
from rowcast.report.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_queues", "draw_streams"]


def draw_queues(table: Table, path: str | Path) -> None:
    """Queue and age side by side, logarithmic: a line for each batch, and a band up to the longest queue.

    Args:
        table: as :func:`~rowcast.report.stream_tables.queue_table` gives it.
        path: file to write; its suffix gives the format (``.png``, ``.svg``, ``.pdf``).

    Raises:
        ConfigError: matplotlib is not installed, there is nothing to draw, or the file cannot be written.
    """
    if not table.rows:
        raise ConfigError("no queues to draw")
    unit = _unit(table)
    with new_figure(path, width=9.6, height=4.4) as figure:
        panels = figure.subplots(1, 2, sharex=True)
        _draw_queues(panels[0], table, unit)
        _draw_lines(panels[1], table, "age_s", unit)
        panels[1].set(yscale="log", ylabel="age of a trained sample (s)")
        _plain_numbers(panels[1])
        _finish(figure, panels, unit, "What waits, and for how long")


def draw_streams(queues: Table, curves: Table, metric: Metric, path: str | Path) -> None:
    """Queue over time, logarithmic, and beside it a metric over time: a line for each batch.

    Args:
        queues: as :func:`~rowcast.report.stream_tables.queue_table` gives it.
        curves: as :func:`~rowcast.report.comparison.curve_table` gives it of the metric against time.
        metric: what the second panel shows.
        path: file to write; its suffix gives the format (``.png``, ``.svg``, ``.pdf``).

    Raises:
        ConfigError: matplotlib is not installed, there is nothing to draw, or the file cannot be written.
    """
    if not queues.rows or not curves.rows:
        raise ConfigError(f"no queues, or no curves of {metric.name}, to draw")
    unit = _unit(queues)
    with new_figure(path, width=9.6, height=4.4) as figure:
        panels = figure.subplots(1, 2, sharex=True)
        _draw_queues(panels[0], queues, unit)
        _draw_lines(panels[1], curves, "mean", unit)
        panels[1].set(
            ylim=value_range([curves], metric), ylabel=f"{metric.label}, mean of the robots\n{direction(metric)}"
        )
        _finish(figure, panels, unit, f"What waits, and the {words_of(metric)} meanwhile")


#: Seconds, and their name.
_Unit: TypeAlias = tuple[float, str]


def _unit(table: Table) -> _Unit:
    """In what times are drawn."""
    return (60.0, "min") if max(table.numbers(table.columns[1])) >= 600 else (1.0, "s")


def _draw_queues(axes: Axes, table: Table, unit: _Unit) -> None:
    """The mean queue of the robots, logarithmic, and a band up to the longest."""
    _draw_lines(axes, table, "queued", unit)
    for name, times, (colour, _, _) in _lines(table, unit):
        own = table.where(policy=name)
        axes.fill_between(
            times, own.numbers("queued"), own.numbers("most_queued"), color=colour, alpha=0.13, linewidth=0
        )
    axes.set(yscale="log", ylabel="samples that wait, mean of the robots\n(band: up to the longest queue)")
    _plain_numbers(axes)


def _draw_lines(axes: Axes, table: Table, column: str, unit: _Unit) -> None:
    """A column over time."""
    for name, times, style in _lines(table, unit):
        plot_marked(axes, times, table.where(policy=name).numbers(column), name, style)


def _lines(table: Table, unit: _Unit) -> Iterator[tuple[str, list[float], tuple[str, str, str]]]:
    """Name, times and style of each line."""
    names = table.distinct("policy")
    for name, style in zip(names, line_styles(names), strict=True):
        yield name, [time / unit[0] for time in table.where(policy=name).numbers(table.columns[1])], style


def _plain_numbers(axes: Axes) -> None:
    """Numbers at a logarithmic axis as one writes them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _finish(figure: Figure, panels: Sequence[Axes], unit: _Unit, title: str) -> None:
    for axes in panels:
        axes.set(xlabel=f"time ({unit[1]})")
        axes.set_xlim(left=0)
        plain_axes(axes, grid="both")
    figure_legend(figure, panels[0])
    headline(figure, title)
