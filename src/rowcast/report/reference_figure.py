"""The figures of policies against a reference: what they need of its time and energy, and how far they are behind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rowcast.errors import ConfigError
from rowcast.metric import Metric
from rowcast.report.measures import words_of
from rowcast.report.reference_tables import AT_END, ENERGY, ENERGY_SHARE, FURTHEST, TIME, TIME_SHARE, difference_unit
from rowcast.report.style import FAINT, INK, figure_legend, headline, line_styles, new_figure, plain_axes, plot_marked
from rowcast.report.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["can_draw", "draw_against", "draw_behind"]

#: Measure -> label of its axis, and the measure of the same in its own unit.
_SHARES = {
    TIME_SHARE: ("time to that level\n(% of the reference's)", TIME),
    ENERGY_SHARE: ("energy to that level\n(% of the reference's)", ENERGY),
}
#: Measure, without the unit -> label of its axis.
_BEHIND = {AT_END: "behind at the end", FURTHEST: "furthest behind"}
#: The most of an axis that an interval takes on either side, as a share of the reach of the means.
_ROOM = 0.6
_Style = tuple[str, str, str]


def can_draw(table: Table) -> bool:
    """Whether there is a share or a difference that is a number."""
    return any(_measure(table, measure).rows for measure in (*_SHARES, *_BEHIND))


def draw_against(table: Table, policies: Sequence[str], reference: str, metric: Metric, path: str | Path) -> None:
    """A panel for each measure, a line for each policy: the mean, its 95 % interval, and where the reference is.

    A hollow mark with an arrow is a lower bound.

    Args:
        table: as :func:`~rowcast.report.reference_tables.reference_table` gives it.
        policies: of the whole comparison, so that each looks as it does in the other figures.
        reference: the policy that all others are held against.
        metric: of the table.
        path: file to write; its suffix gives the format (``.png``, ``.svg``, ``.pdf``).

    Raises:
        ConfigError: matplotlib is not installed, there is nothing to draw, or the file cannot be written.
    """
    panels = [*_share_panels(table, reference), *_behind_panels(table, metric)]
    others = [policy for policy in policies if any(policy in panel.own.distinct("policy") for panel in panels)]
    if not others:
        raise ConfigError(f"no policy to draw against {reference}")
    looks = dict(zip(policies, line_styles(policies), strict=True))
    with new_figure(path, width=1.6 + 2.4 * len(panels), height=2.0 + 0.42 * len(others)) as figure:
        each: Sequence[Axes] = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, panel in zip(each, panels, strict=True):
            axes.axvline(panel.reference, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
            for row, policy in enumerate(others):
                _draw_mean(axes, row, panel.own.where(policy=policy), looks[policy])
            axes.set_xlim(*panel.reach)
            axes.set_xlabel(panel.label, fontsize=9)
            axes.set_title(panel.title, loc="left", fontsize=9, color=FAINT)
            axes.set_ylim(len(others) - 0.4, -0.7)
            axes.tick_params(axis="y", length=0)
            plain_axes(axes, grid="x")
        each[0].set_yticks(range(len(others)), others)
        headline(figure, f"Against {reference}: the {words_of(metric)} that it kept, and at equal samples")


@dataclass(frozen=True)
class _Panel:
    """One pair of axes: its rows of the table, where the reference is, what the axis shows, and texts."""

    own: Table
    reference: float
    reach: tuple[float, float]
    label: str
    title: str = ""


def _share_panels(table: Table, reference: str) -> list[_Panel]:
    """Shares of the reference's time and energy, on the same scale."""
    found = {measure: own for measure in _SHARES if (own := _measure(table, measure)).rows}
    _, high = _reach(list(found.values()), (0.0, 100.0))
    panels = []
    for measure, own in found.items():
        label, amount = _SHARES[measure]
        (value,) = table.where(policy=reference, measure=amount).numbers("mean")
        unit = amount.rpartition("(")[2].rstrip(")")
        panels.append(_Panel(own, 100.0, (0.0, high), label, f"{reference}: {_number(value)} {unit}"))
    return panels


def _behind_panels(table: Table, metric: Metric) -> list[_Panel]:
    """What is behind at equal samples, on the same scale."""
    found = {measure: own for measure in _BEHIND if (own := _measure(table, measure)).rows}
    reach = _reach(list(found.values()), (0.0,))
    labels = {measure: f"{label}\n({_unit(metric)})" for measure, label in _BEHIND.items()}
    return [_Panel(own, 0.0, reach, labels[measure], "at equal samples") for measure, own in found.items()]


def _measure(table: Table, start: str) -> Table:
    """The rows of a measure that have a mean."""
    rows = (row for row in table.rows if str(row[1]).startswith(start) and row[4] is not None)
    return Table(table.columns, tuple(rows))


def _unit(metric: Metric) -> str:
    return difference_unit(metric) or words_of(metric)


def _draw_mean(axes: Axes, row: int, own: Table, style: _Style) -> None:
    """One mean with its interval, and its number above."""
    if not own.rows:
        return
    (mean,), (low,), (high,) = (own.numbers(name) for name in ("mean", "low", "high"))
    colour, _, marker = style
    bound = own.values("bound")[0] == ">"
    if not math.isnan(high):
        axes.errorbar(mean, row, xerr=[[mean - low], [high - mean]], color=colour, capsize=3, linewidth=1.4, zorder=3)
    axes.plot(
        mean,
        row,
        marker=marker,
        markersize=7,
        color=colour,
        markerfacecolor="white" if bound else colour,
        markeredgecolor=colour if bound else "white",
        linestyle="",
        zorder=4,
    )
    axes.annotate(
        f"> {_number(mean)}" if bound else _number(mean),
        (mean, row),
        (0, 6),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=8.5,
        color=INK,
        bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        zorder=5,
    )
    if bound:
        axes.annotate(
            "",
            (mean, row),
            (26, 0),
            textcoords="offset points",
            arrowprops={"arrowstyle": "<-", "color": colour, "linewidth": 1.4, "shrinkA": 0, "shrinkB": 5},
        )


def _number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def _reach(tables: Sequence[Table], seen: Sequence[float], edge: float = 0.22) -> tuple[float, float]:
    """What an axis shows: the means, and of the intervals no more than the room on each side.

    Args:
        tables: of means.
        seen: what must be seen as well, at least one.
        edge: what stays free on each side, as a share.
    """
    means = [value for own in tables for value in own.numbers("mean") if not math.isnan(value)] + [*seen]
    ends = [value for own in tables for name in ("low", "high") for value in own.numbers(name) if not math.isnan(value)]
    width = (max(means) - min(means)) or 1.0
    low = max(min(means + ends), min(means) - _ROOM * width)
    high = min(max(means + ends), max(means) + _ROOM * width)
    free = edge * ((high - low) or width)
    return low - free, high + free


def draw_behind(
    table: Table, policies: Sequence[str], reference: str, metric: Metric, marks: Table, path: str | Path
) -> None:
    """How far each policy is behind the reference against samples: a line, and a band of its 95 % interval.

    Args:
        table: as :func:`~rowcast.report.reference_tables.behind_table` gives it.
        policies, reference, metric, path: as :func:`draw_against`.
        marks: as :func:`~rowcast.report.reference_tables.reference_table` gives it: where it is furthest.

    Raises:
        ConfigError: as :func:`draw_against`.
    """
    if not table.rows:
        raise ConfigError(f"no policy to draw against {reference}")
    with new_figure(path, width=8.0, height=4.0) as figure:
        axes = figure.subplots()
        axes.axhline(0.0, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
        for policy, style in zip(policies, line_styles(policies), strict=True):
            own = table.where(policy=policy)
            if not own.rows:
                continue
            along = own.numbers(table.columns[1])
            axes.fill_between(along, own.numbers("low"), own.numbers("high"), color=style[0], alpha=0.16, linewidth=0)
            plot_marked(axes, along, own.numbers("mean"), policy, style)
            furthest = _measure(marks.where(policy=policy), FURTHEST)
            axes.plot(
                furthest.numbers(marks.columns[3]),
                furthest.numbers("mean"),
                marker="o",
                markersize=11,
                markerfacecolor="none",
                markeredgecolor=style[0],
                markeredgewidth=1.4,
                linestyle="",
                zorder=4,
            )
        axes.set_ylim(*_reach([table], (0.0,), edge=0.05))
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{table.columns[1]} of the team (ring: furthest behind, after the first tenth)")
        axes.set_ylabel(f"{words_of(metric)} behind {reference}\n({_unit(metric)}), ↓ lower is better")
        plain_axes(axes, grid="both")
        figure_legend(figure, axes)
        words = words_of(metric)
        headline(figure, f"{words[:1].upper()}{words[1:]} behind {reference} at equal samples")
