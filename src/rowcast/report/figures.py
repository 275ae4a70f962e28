"""Figures of a comparison of policies, drawn from summaries and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rowcast.errors import ConfigError
from rowcast.report.curves import AccuracyCurve, accuracy_at_equal_steps
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
from rowcast.report.summary import PolicySummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_accuracy", "draw_composition"]


def draw_accuracy(curves: Mapping[str, AccuracyCurve], path: str | Path) -> None:
    """Draw accuracy against steps and against seconds, one line per policy, side by side.

    Args:
        curves: policy text -> its curve, at least one.
        path: file to write; its suffix gives the format (``.png``, ``.svg``, ``.pdf``).

    Raises:
        ConfigError: matplotlib is not installed, there are no curves, or the file cannot be written.
    """
    if not curves:
        raise ConfigError("no accuracy curves to draw")
    with new_figure(path, width=9.6, height=4.4) as figure:
        by_step, by_time = figure.subplots(1, 2, sharey=True)
        for policy, (colour, line, marker) in zip(curves, looks(curves), strict=True):
            curve = curves[policy]
            for axes, along in ((by_step, curve.steps), (by_time, curve.seconds)):
                axes.plot(
                    along,
                    curve.accuracy,
                    color=colour,
                    linestyle=line,
                    linewidth=1.8,
                    marker=marker,
                    markersize=5.5,
                    markevery=max(1, len(along) // 12),
                    markeredgecolor="white",
                    markeredgewidth=0.7,
                    label=policy,
                    clip_on=False,
                    zorder=3,
                )
        _mark_equal_steps(by_step, curves)
        by_step.set(xlabel="steps (iterations of each worker)", ylabel="accuracy (%), mean of the workers")
        by_time.set(xlabel="time (s)")
        by_step.set_title("… at equal steps", loc="left", fontsize=10, color=INK)
        by_time.set_title("… at equal time", loc="left", fontsize=10, color=INK)
        for axes in (by_step, by_time):
            axes.set_xlim(left=0)
            plain(axes, grid="both")
        handles, labels = by_step.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=legend_columns(len(labels)), frameon=False)
        headline(figure, "Accuracy of the team")


def draw_composition(summaries: Sequence[PolicySummary], path: str | Path) -> None:
    """Draw what a mean step is made of: compute, communicate and stall, one stacked bar per policy.

    A thin bar below shows in how much of the computation rows travelled as well, where a policy does that.

    Args:
        summaries: one per policy, drawn from top to bottom; at least one.
        path: file to write; its suffix gives the format (``.png``, ``.svg``, ``.pdf``).

    Raises:
        ConfigError: matplotlib is not installed, there are no summaries, or the file cannot be written.
    """
    if not summaries:
        raise ConfigError("no summaries to draw")
    longest = max(summary.step_s for summary in summaries) or 1.0
    with new_figure(path, width=9.0, height=1.7 + 0.55 * len(summaries)) as figure:
        axes = figure.subplots()
        for row, summary in enumerate(summaries):
            _draw_bar(axes, row, summary, longest)
        axes.set_yticks(range(len(summaries)), [summary.policy for summary in summaries])
        axes.set_ylim(len(summaries) - 0.45, -0.55)
        axes.set_xlim(0, 1.2 * longest)
        axes.set_xlabel("seconds per step, mean over steps and workers")
        axes.tick_params(axis="y", length=0)
        plain(axes, grid="x")
        for state, (colour, _) in STATES.items():
            axes.fill([], [], color=colour, label=state)
        entries = len(STATES)
        if any(summary.overlap_s for summary in summaries):
            axes.plot([], [], color=STATES["communicate"][0], linewidth=3, label="sent meanwhile")
            entries += 1
        figure.legend(loc="outside upper right", ncols=entries, frameon=False)
        headline(figure, "Where a step's time goes")


def _draw_bar(axes: Axes, row: int, summary: PolicySummary, longest: float) -> None:
    """One bar; a segment too narrow for its number has it behind the bar instead."""
    left, behind = 0.0, []
    for state, (colour, ink) in STATES.items():
        seconds = getattr(summary, f"{state}_s")
        axes.barh(row, seconds, left=left, height=0.62, color=colour, edgecolor="white", linewidth=0.8, zorder=2)
        if seconds >= 0.075 * longest:
            axes.text(left + seconds / 2, row, seconds_text(seconds), ha="center", va="center", color=ink, fontsize=9)
        else:
            behind.append(f"{state} {seconds_text(seconds)}")
        left += seconds
    if summary.overlap_s:
        axes.barh(row + 0.38, summary.overlap_s, height=0.08, color=STATES["communicate"][0], zorder=2)
    total = axes.annotate(
        f"{seconds_text(left)} s",
        (left, row),
        (5, 0),
        textcoords="offset points",
        va="center",
        color=INK,
        weight="bold",
    )
    if behind:
        axes.annotate(
            ", ".join(behind), (1, 0.5), (6, 0), xycoords=total, textcoords="offset points", va="center", color=FAINT
        ).set_fontsize(8)


def _mark_equal_steps(axes: Axes, curves: Mapping[str, AccuracyCurve]) -> None:
    """A line at the last step that all policies reached: there they can be compared step for step."""
    if len(curves) < 2:
        return
    try:
        step, _ = accuracy_at_equal_steps(curves)
    except ConfigError:  # nothing in common: nothing to mark
        return
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
