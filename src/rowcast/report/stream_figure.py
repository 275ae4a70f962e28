"""The figure of queues: how many samples wait over time, and how old they are when they are trained on."""

from __future__ import annotations

from pathlib import Path

from rowcast.errors import ConfigError
from rowcast.report.style import figure_legend, headline, line_styles, new_figure, plain_axes
from rowcast.report.table import Table

__all__ = ["draw_queues"]


def draw_queues(table: Table, path: str | Path) -> None:
    """Queue and age side by side, logarithmic: a line for each batch, and a band up to the longest queue.

    Args:
        table: as :func:`~rowcast.report.stream_tables.queue_table` gives it.
        path: file to write; its suffix gives the format (``.png``, ``.svg``, ``.pdf``).

    Raises:
        ConfigError: matplotlib is not installed, there is nothing to draw, or the file cannot be written.
    """
    names = table.distinct("policy")
    if not names:
        raise ConfigError("no queues to draw")
    long = max(table.numbers("time_s")) >= 600
    unit, word = (60.0, "min") if long else (1.0, "s")
    with new_figure(path, width=9.6, height=4.4) as figure:
        from matplotlib.ticker import FuncFormatter

        panels = figure.subplots(1, 2, sharex=True)
        for name, (colour, line, marker) in zip(names, line_styles(names), strict=True):
            own = table.where(policy=name)
            times = [time / unit for time in own.numbers("time_s")]
            for axes, column in zip(panels, ("queued", "age_s"), strict=True):
                axes.plot(
                    times,
                    own.numbers(column),
                    color=colour,
                    linestyle=line,
                    linewidth=1.6,
                    marker=marker,
                    markersize=5,
                    markevery=max(1, len(times) // 8),
                    markeredgecolor="white",
                    markeredgewidth=0.7,
                    label=name,
                    zorder=3,
                )
            panels[0].fill_between(
                times, own.numbers("queued"), own.numbers("most_queued"), color=colour, alpha=0.13, linewidth=0
            )
        for axes, label in zip(
            panels,
            ("samples that wait, mean of the robots\n(band: up to the longest queue)", "age of a trained sample (s)"),
            strict=True,
        ):
            axes.set(yscale="log", xlabel=f"time ({word})", ylabel=label)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
            axes.set_xlim(left=0)
            plain_axes(axes, grid="both")
        figure_legend(figure, panels[0])
        headline(figure, "What waits, and for how long")
