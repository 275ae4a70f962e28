"""Figures with a panel for each quantity: the steps of one robot, and what one setting does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rowcast.metric import Metric
from rowcast.report.curve_figure import direction
from rowcast.report.measures import sensitive_measures
from rowcast.report.style import FAINT, figure_legend, headline, line_styles, new_figure, plain_axes
from rowcast.report.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_micro", "draw_sensitivity"]

#: Values that are as near as this share of the largest differ by rounding.
ROUNDING = 1e-9

_MICRO_LABELS: Mapping[str, tuple[str, float]] = {
    "rate_bps": ("bandwidth (Mbit/s)", 1e-6),
    "push_share": ("rows sent (%)", 100.0),
    "staleness": ("behind the fastest\n(iterations)", 1.0),
}


def draw_micro(table: Table, title: str, path: str | Path) -> None:
    """Bandwidth, share of rows sent and staleness of one robot, one under the other, over the same seconds.

    Raises:
        ConfigError: matplotlib is not installed, or the file cannot be written.
    """
    policies = [policy for policy in table.distinct("policy") if policy]
    link = table.where(quantity="link_bps")
    with new_figure(path, width=9.0, height=6.0) as figure:
        panels = figure.subplots(len(_MICRO_LABELS), 1, sharex=True)
        if link.rows:
            rates = [value * 1e-6 for value in link.numbers("value")]
            panels[0].fill_between(
                link.numbers("time_s"), rates, step="post", color="#DDDDDD", label="link", linewidth=0
            )
        for axes, (quantity, (label, factor)) in zip(panels, _MICRO_LABELS.items(), strict=True):
            for policy, (colour, line, marker) in zip(policies, line_styles(policies), strict=True):
                own = table.where(policy=policy, quantity=quantity)
                axes.plot(
                    own.numbers("time_s"),
                    [value * factor for value in own.numbers("value")],
                    color=colour,
                    linestyle=line,
                    linewidth=1.0,
                    marker=marker,
                    markersize=3.0,
                    drawstyle="steps-pre",
                    label=policy,
                )
            axes.set_ylabel(label, fontsize=9)
            axes.set_ylim(bottom=0)
            if quantity == "staleness":
                axes.locator_params(axis="y", integer=True)
            plain_axes(axes, grid="both")
        panels[-1].set_xlabel("time (s)")
        figure_legend(figure, panels[0])
        headline(figure, title)


def draw_sensitivity(table: Table, axis: str, metrics: Sequence[Metric], path: str | Path) -> None:
    """One panel for each measure, one line for each policy, whiskers for the 95 % intervals.

    Args:
        table: one of :func:`~rowcast.report.comparison.sensitivity_tables`.
        axis: its second column.
        metrics: of the experiment; their panels say which way is better.
        path: file to write.

    Raises:
        ConfigError: as :func:`draw_micro`.
    """
    policies, measures = table.distinct("policy"), table.distinct("measure")
    better = {each.name: direction(each.metric) for each in sensitive_measures(metrics) if each.metric is not None}
    with new_figure(path, width=3.4 * len(measures), height=3.6) as figure:
        panels: Sequence[Axes] = figure.subplots(1, len(measures), squeeze=False)[0]
        for axes, measure in zip(panels, measures, strict=True):
            for policy, (colour, line, marker) in zip(policies, line_styles(policies), strict=True):
                own = table.where(policy=policy, measure=measure)
                means = own.numbers("mean")
                spread = [
                    high - mean if high == high else 0.0 for high, mean in zip(own.numbers("high"), means, strict=True)
                ]
                axes.errorbar(
                    own.numbers(axis),
                    means,
                    yerr=spread,
                    color=colour,
                    linestyle=line,
                    marker=marker,
                    markersize=5,
                    capsize=3,
                    linewidth=1.5,
                    label=policy,
                )
            axes.set_xticks(sorted(set(table.numbers(axis))))
            axes.set_xlabel(axis)
            _show_no_rounding(axes, table.where(measure=measure))
            axes.set_title(measure, loc="left", fontsize=10, color=FAINT)
            if measure in better:
                axes.set_ylabel(better[measure], fontsize=8, color=FAINT)
            plain_axes(axes, grid="both")
        figure_legend(figure, panels[0])
        headline(figure, f"What the {axis} does")


def _show_no_rounding(axes: Axes, own: Table) -> None:
    """Values that are the same but for rounding are on one line, with plain numbers beside it."""
    values = [value for name in ("mean", "low", "high") for value in own.numbers(name) if not math.isnan(value)]
    axes.ticklabel_format(axis="y", useOffset=False)
    scale = max(map(abs, values), default=0.0)
    if values and max(values) - min(values) <= ROUNDING * scale:
        middle = 0.5 * (max(values) + min(values))
        axes.set_ylim(middle - 0.05 * scale - (scale == 0), middle + 0.05 * scale + (scale == 0))
