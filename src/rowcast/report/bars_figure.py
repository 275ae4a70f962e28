"""The figure of what a mean step is made of: one stacked bar for each policy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rowcast.errors import ConfigError
from rowcast.report.comparison import MEANWHILE
from rowcast.report.style import (
    FAINT,
    INK,
    STARVE_COLOUR,
    STATE_COLOURS,
    figure_legend,
    headline,
    new_figure,
    plain_axes,
    seconds_text,
)
from rowcast.report.table import Table
from rowcast.report.values import STARVE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["JOULES", "SECONDS", "Bars", "draw_bars"]

#: Part of a bar -> (colour, colour of text upon it).
COLOURS: Mapping[str, tuple[str, str]] = {
    STARVE: STARVE_COLOUR,
    **STATE_COLOURS,
    "overlap": ("#56B4E9", "black"),
    "uncovered": ("#EDEDED", "black"),
}
#: A part that is shorter than this share of the longest bar has no room for its number.
_NARROW = 0.075


@dataclass(frozen=True)
class Bars:
    """What stacked bars show."""

    column: str  #: of the table, where the part stands
    title: str
    axis: str  #: text of the axis
    unit: str
    over: str = "mean over steps and robots"  #: what means are over, where there are no seeds


SECONDS = Bars("seconds_per_step_in", "Where a step's time goes", "seconds per step", "s")
JOULES = Bars("joules_per_step_in", "Where a step's energy goes", "joules per step of a robot", "J")


def draw_bars(table: Table, bars: Bars, path: str | Path) -> None:
    """One stacked bar for each policy, with the interval of the whole where there is one.

    A thin bar below shows in how much of the computation rows travelled as well, where the table has that.

    Args:
        table: as :func:`~rowcast.report.comparison.composition_table` gives it.
        bars: what it shows.
        path: file to write; its suffix gives the format (``.png``, ``.svg``, ``.pdf``).

    Raises:
        ConfigError: matplotlib is not installed, the table is empty, or the file cannot be written.
    """
    policies = table.distinct("policy")
    if not policies:
        raise ConfigError("no policy to draw the steps of")
    found = table.distinct(bars.column)
    parts = [part for part in found if part not in ("whole", MEANWHILE) and _is_there(table, bars, part)]
    thin = MEANWHILE in found and _is_there(table, bars, MEANWHILE)
    certain = any(not math.isnan(value) for value in table.numbers("high"))
    reach = [value for name in ("mean", "high") for value in table.numbers(name) if not math.isnan(value)]
    longest = max(reach, default=0.0) or 1.0
    with new_figure(path, width=9.0, height=1.7 + 0.55 * len(policies)) as figure:
        axes = figure.subplots()
        for row, policy in enumerate(policies):
            _draw_bar(axes, row, table.where(policy=policy), bars, parts, longest)
        axes.set_yticks(range(len(policies)), policies)
        axes.set_ylim(len(policies) - 0.45, -0.55)
        axes.set_xlim(0, 1.2 * longest)
        over = "mean over seeds; whisker: 95 % interval of the whole" if certain else bars.over
        axes.set_xlabel(f"{bars.axis}, {over}")
        axes.tick_params(axis="y", length=0)
        plain_axes(axes, grid="x")
        for part in parts:
            axes.fill([], [], color=COLOURS[part][0], label=part)
        if thin:
            axes.plot([], [], color=STATE_COLOURS["communicate"][0], linewidth=3, label=MEANWHILE)
        figure_legend(figure, axes)
        headline(figure, bars.title)


def _is_there(table: Table, bars: Bars, part: str) -> bool:
    return any(value > 0 for value in table.where(**{bars.column: part}).numbers("mean"))


def _draw_bar(axes: Axes, row: int, own: Table, bars: Bars, parts: Sequence[str], longest: float) -> None:
    """One bar; without an interval, a part too narrow for its number has it behind the bar instead."""
    (mean,), (low,), (high,) = (own.where(**{bars.column: "whole"}).numbers(name) for name in ("mean", "low", "high"))
    left, behind = _draw_parts(axes, row, own, bars, parts, longest)
    for width in own.where(**{bars.column: MEANWHILE}).numbers("mean"):
        axes.barh(row + 0.38, width, height=0.08, color=STATE_COLOURS["communicate"][0], zorder=2)
    certain = not math.isnan(high)
    if certain:
        # Below the middle, so that it does not run through the numbers.
        axes.errorbar(
            mean, row + 0.22, xerr=[[mean - low], [high - mean]], color=INK, capsize=3, linewidth=1.2, zorder=4
        )
    total = axes.annotate(
        f"{seconds_text(left)} {bars.unit}" if not math.isnan(mean) else "no step was finished",
        (high if certain else left, row),
        (7, 0),
        textcoords="offset points",
        va="center",
        color=INK,
        weight="bold",
    )
    if behind and not certain:
        note = axes.annotate(
            ", ".join(behind), (1, 0.5), (6, 0), xycoords=total, textcoords="offset points", va="center", color=FAINT
        )
        note.set_fontsize(8)


def _draw_parts(
    axes: Axes, row: int, own: Table, bars: Bars, parts: Sequence[str], longest: float
) -> tuple[float, list[str]]:
    """Gives where the bar ends, and the parts that have no number upon them."""
    left, behind = 0.0, []
    for part in parts:
        (width,) = own.where(**{bars.column: part}).numbers("mean")
        if not width > 0:
            continue
        colour, ink = COLOURS[part]
        axes.barh(row, width, left=left, height=0.62, color=colour, edgecolor="white", linewidth=0.8, zorder=2)
        text = seconds_text(width)
        if width >= _NARROW * longest:
            axes.text(left + width / 2, row, text, ha="center", va="center", color=ink, fontsize=9)
        else:
            behind.append(f"{part} {text}")
        left += width
    return left, behind
