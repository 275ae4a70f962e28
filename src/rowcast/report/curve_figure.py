"""The figures of a metric of the team: against steps, time or energy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rowcast.errors import ConfigError
from rowcast.metric import Metric
from rowcast.report.measures import is_share, words_of
from rowcast.report.style import FAINT, INK, figure_legend, headline, line_styles, new_figure, plain_axes, plot_marked
from rowcast.report.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["CurvePanel", "direction", "draw_curves", "value_range"]


@dataclass(frozen=True)
class CurvePanel:
    """One pair of axes.

    Attributes:
        table: as :func:`~rowcast.report.comparison.curve_table` gives it; its second column is the place.
        label: of the axis of places.
        title: above it, if any.
        reached: an iteration to mark: all policies came so far, and can be compared step for step.
    """

    table: Table
    label: str
    title: str = ""
    reached: int | None = None


def direction(metric: Metric) -> str:
    """Which way is better, with an arrow."""
    return "↑ higher is better" if metric.better == "higher" else "↓ lower is better"


def draw_curves(panels: Sequence[CurvePanel], metric: Metric, path: str | Path) -> None:
    """A metric side by side: in each panel a line for each policy, and a band of its 95 % interval.

    Args:
        panels: one or more; the values have one axis.
        metric: what is drawn.
        path: file to write; its suffix gives the format (``.png``, ``.svg``, ``.pdf``).

    Raises:
        ConfigError: matplotlib is not installed, there is nothing to draw, or the file cannot be written.
    """
    policies = list(dict.fromkeys(policy for panel in panels for policy in panel.table.distinct("policy")))
    if not policies:
        raise ConfigError(f"no curves of {metric.name} to draw")
    width = 8.0 if len(panels) == 1 else 4.8 * len(panels)
    with new_figure(path, width=width, height=4.4) as figure:
        each: Sequence[Axes] = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, panel in zip(each, panels, strict=True):
            _draw_lines(axes, panel.table, policies)
            axes.set(xlabel=panel.label)
            axes.set_title(panel.title, loc="left", fontsize=10, color=INK)
            axes.set_xlim(left=0)
            plain_axes(axes, grid="both")
            if panel.reached is not None:
                _mark_equal_steps(axes, panel.reached)
        each[0].set_ylabel(f"{metric.label}, {_over(panels)}\n{direction(metric)}")
        each[0].set_ylim(*value_range([panel.table for panel in panels], metric))
        figure_legend(figure, each[0])
        words = words_of(metric)
        headline(figure, f"{words[:1].upper()}{words[1:]} of the team")


def _over(panels: Sequence[CurvePanel]) -> str:
    seeds = max((count for panel in panels for count in panel.table.numbers("seeds")), default=1.0)
    return "mean of robots and seeds" if seeds > 1 else "mean of the robots"


def _draw_lines(axes: Axes, table: Table, policies: Sequence[str]) -> None:
    for policy, style in zip(policies, line_styles(policies), strict=True):
        own = table.where(policy=policy)
        along = own.numbers(table.columns[1])
        axes.fill_between(along, own.numbers("low"), own.numbers("high"), color=style[0], alpha=0.16, linewidth=0)
        plot_marked(axes, along, own.numbers("mean"), policy, style)


def value_range(tables: Sequence[Table], metric: Metric) -> tuple[float, float]:
    """What the axis shows: the lines, and of the bands no more than half as much again on each side.

    The band of two or three seeds may be wider than all that the metric can be; the lines must stay readable. A
    share lies in 0 .. 100, and a metric that was never negative is not shown there.
    """
    values = {
        name: [v for table in tables for v in table.numbers(name) if not math.isnan(v)]
        for name in ("mean", "low", "high")
    }
    means, ends = values["mean"], [*values["low"], *values["high"]]
    if not means:
        return 0.0, 1.0
    scale = max(map(abs, means)) or 1.0
    room = 0.5 * (max(means) - min(means)) or (1.0 if is_share(metric) else 0.05 * scale)
    low, high = max(min([*means, *ends]), min(means) - room), min(max([*means, *ends]), max(means) + room)
    if min(means) >= 0:
        low = max(low, 0.0)
    if is_share(metric):
        high = min(high, 100.0)
    edge = 0.03 * (high - low) or room
    return low - edge, high + edge


def _mark_equal_steps(axes: Axes, step: int) -> None:
    """A line at the last step that all policies reached."""
    axes.axvline(step, color=FAINT, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    # Before the line, unless there is no room.
    before = step > 0.25 * axes.get_xlim()[1]
    axes.annotate(
        f"all reached {step}",
        (step, 0.02),
        (-4 if before else 4, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right" if before else "left",
        va="bottom",
        fontsize=8,
        color=FAINT,
    )
