"""Figures of a comparison over seeds, each drawn from its sheet and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rowcast.report.sheet import Sheet
from rowcast.report.style import (
    FAINT,
    INK,
    STATES,
    headline,
    legend_columns,
    looks,
    new_figure,
    plain,
    seconds_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["JOULES", "SECONDS", "Bars", "draw_bars", "draw_curves", "draw_micro", "draw_sensitivity"]

#: State -> (colour, colour of text upon it).
COLOURS: Mapping[str, tuple[str, str]] = {
    **STATES,
    "overlap": ("#56B4E9", "black"),
    "uncovered": ("#EDEDED", "black"),
}


@dataclass(frozen=True)
class Bars:
    """What stacked bars show."""

    column: str  #: of the sheet, where the part stands
    title: str
    axis: str  #: text of the axis
    unit: str


SECONDS = Bars("seconds_per_step_in", "Where a step's time goes", "seconds per step", "s")
JOULES = Bars("joules_per_step_in", "Where a step's energy goes", "joules per step of a robot", "J")


def draw_bars(sheet: Sheet, bars: Bars, path: str | Path) -> None:
    """One stacked bar for each policy, with the interval of the whole.

    Raises:
        ConfigError: matplotlib is not installed, or the file cannot be written.
    """
    policies = sheet.distinct("policy")
    parts = [part for part in sheet.distinct(bars.column) if part != "whole" and _is_there(sheet, bars, part)]
    reach = [value for name in ("mean", "high") for value in sheet.numbers(name) if value == value]
    longest = max(reach, default=0.0) or 1.0
    with new_figure(path, width=9.0, height=1.7 + 0.55 * len(policies)) as figure:
        axes = figure.subplots()
        for row, policy in enumerate(policies):
            _draw_bar(axes, row, sheet.where(policy=policy), bars, parts, longest)
        axes.set_yticks(range(len(policies)), policies)
        axes.set_ylim(len(policies) - 0.45, -0.55)
        axes.set_xlim(0, 1.2 * longest)
        axes.set_xlabel(f"{bars.axis}, mean over seeds; whisker: 95 % interval of the whole")
        axes.tick_params(axis="y", length=0)
        plain(axes, grid="x")
        for part in parts:
            axes.fill([], [], color=COLOURS[part][0], label=part)
        figure.legend(loc="outside upper right", ncols=max(len(parts), 1), frameon=False)
        headline(figure, bars.title)


def _is_there(sheet: Sheet, bars: Bars, part: str) -> bool:
    return any(value > 0 for value in sheet.where(**{bars.column: part}).numbers("mean"))


def _draw_bar(axes: Axes, row: int, sheet: Sheet, bars: Bars, parts: Sequence[str], longest: float) -> None:
    left = 0.0
    for part in parts:
        (width,) = sheet.where(**{bars.column: part}).numbers("mean")
        if not width > 0:
            continue
        colour, ink = COLOURS[part]
        axes.barh(row, width, left=left, height=0.62, color=colour, edgecolor="white", linewidth=0.8, zorder=2)
        if width >= 0.075 * longest:
            text = seconds_text(width)
            axes.text(left + width / 2, row, text, ha="center", va="center", color=ink, fontsize=9)
        left += width
    whole = sheet.where(**{bars.column: "whole"})
    (mean,), (low,), (high,) = (whole.numbers(name) for name in ("mean", "low", "high"))
    if high == high:
        # Below the middle, so that it does not run through the numbers.
        axes.errorbar(
            mean, row + 0.22, xerr=[[mean - low], [high - mean]], color=INK, capsize=3, linewidth=1.2, zorder=4
        )
    axes.annotate(
        f"{seconds_text(left)} {bars.unit}",
        (high if high == high else left, row),
        (7, 0),
        textcoords="offset points",
        va="center",
        color=INK,
        weight="bold",
    )


def draw_curves(sheet: Sheet, label: str, path: str | Path) -> None:
    """Accuracy against what the second column holds: a line and a band of the 95 % interval for each policy.

    Raises:
        ConfigError: as :func:`draw_bars`.
    """
    column = sheet.columns[1]
    policies = sheet.distinct("policy")
    with new_figure(path, width=8.0, height=4.4) as figure:
        axes = figure.subplots()
        for policy, (colour, line, marker) in zip(policies, looks(policies), strict=True):
            own = sheet.where(policy=policy)
            along = own.numbers(column)
            axes.fill_between(along, own.numbers("low"), own.numbers("high"), color=colour, alpha=0.16, linewidth=0)
            axes.plot(
                along,
                own.numbers("mean"),
                color=colour,
                linestyle=line,
                linewidth=1.8,
                marker=marker,
                markersize=5.5,
                markevery=max(1, len(along) // 10),
                markeredgecolor="white",
                markeredgewidth=0.7,
                label=policy,
                zorder=3,
            )
        axes.set(xlabel=label, ylabel="accuracy (%), mean of robots and seeds")
        axes.set_xlim(left=0)
        axes.set_ylim(*_accuracy_range(sheet))
        plain(axes, grid="both")
        figure.legend(loc="outside upper right", ncols=legend_columns(len(policies)), frameon=False)
        headline(figure, "Accuracy of the team")


def _accuracy_range(sheet: Sheet) -> tuple[float, float]:
    """What the axis shows: the lines, and of the bands no more than half as much again on each side.

    The band of two or three seeds may be wider than all that accuracy can be; the lines must stay readable.
    """
    means = sheet.numbers("mean")
    ends = [value for name in ("low", "high") for value in sheet.numbers(name) if value == value]
    room = 0.5 * (max(means) - min(means)) or 1.0
    low = max(min([*means, *ends]), min(means) - room, 0.0)
    high = min(max([*means, *ends]), max(means) + room, 100.0)
    edge = 0.03 * (high - low) or 1.0
    return low - edge, high + edge


_MICRO_LABELS: Mapping[str, tuple[str, float]] = {
    "rate_bps": ("bandwidth (Mbit/s)", 1e-6),
    "push_share": ("rows sent (%)", 100.0),
    "staleness": ("behind the fastest\n(iterations)", 1.0),
}


def draw_micro(sheet: Sheet, title: str, path: str | Path) -> None:
    """Bandwidth, share of rows sent and staleness of one robot, one under the other, over the same seconds.

    Raises:
        ConfigError: as :func:`draw_bars`.
    """
    policies = [policy for policy in sheet.distinct("policy") if policy]
    link = sheet.where(quantity="link_bps")
    with new_figure(path, width=9.0, height=6.0) as figure:
        panels = figure.subplots(len(_MICRO_LABELS), 1, sharex=True)
        if link.rows:
            rates = [value * 1e-6 for value in link.numbers("value")]
            panels[0].fill_between(
                link.numbers("time_s"), rates, step="post", color="#DDDDDD", label="link", linewidth=0
            )
        for axes, (quantity, (label, factor)) in zip(panels, _MICRO_LABELS.items(), strict=True):
            for policy, (colour, line, marker) in zip(policies, looks(policies), strict=True):
                own = sheet.where(policy=policy, quantity=quantity)
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
            plain(axes, grid="both")
        panels[-1].set_xlabel("time (s)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=legend_columns(len(labels)), frameon=False)
        headline(figure, title)


def draw_sensitivity(sheet: Sheet, axis: str, path: str | Path) -> None:
    """One panel for each measure, one line for each policy, whiskers for the 95 % intervals.

    Raises:
        ConfigError: as :func:`draw_bars`.
    """
    policies, measures = sheet.distinct("policy"), sheet.distinct("measure")
    with new_figure(path, width=3.4 * len(measures), height=3.6) as figure:
        panels = figure.subplots(1, len(measures), squeeze=False)[0]
        for axes, measure in zip(panels, measures, strict=True):
            for policy, (colour, line, marker) in zip(policies, looks(policies), strict=True):
                own = sheet.where(policy=policy, measure=measure)
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
            axes.set_xticks(sorted(set(sheet.numbers(axis))))
            axes.set_xlabel(axis)
            axes.set_title(measure, loc="left", fontsize=10, color=FAINT)
            plain(axes, grid="both")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=legend_columns(len(labels)), frameon=False)
        headline(figure, f"What the {axis} does")
