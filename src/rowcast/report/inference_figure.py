"""The time line of one inference: what robot, link and server do, and when."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rowcast.errors import ConfigError
from rowcast.links import Trace
from rowcast.planning import PLACES, CostModel, Plan, course, follow
from rowcast.report.style import FAINT, INK, headline, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["LANES", "LaneSpan", "draw_inference", "plan_spans"]

LANES = ("robot", "link up", "server", "link down")
_COLOURS = {"robot": "#0072B2", "link up": "#E69F00", "server": "#009E73", "link down": "#CC79A7"}
#: Behind the last byte of a direction: half of a round trip.
ON_THE_WAY = "on the way"
#: What is drawn lighter than the rest of its lane.
_LIGHT = ("encode", "decode", ON_THE_WAY)
#: A bar narrower than this share of the axis has no room for its text.
_NARROW = 0.07
#: And one narrower than this none for a seam.
_SEAM = 0.005


class LaneSpan(NamedTuple):
    """A bar: one of :data:`LANES`, its text, and when it begins and ends (s, from the input on)."""

    lane: str
    label: str
    start_s: float
    end_s: float


def plan_spans(costs: CostModel, plan: Plan, trace: Trace | None = None, start_s: float = 0.0) -> list[LaneSpan]:
    """A plan's bars: at the rate of ``costs``, or over a trace for an input at ``start_s`` (s).

    Raises:
        LocalProtocolError: a plan without a course: of several inputs, or one that splits operators.
    """
    link = trace or Trace.constant(costs.link.up_bps)
    found = []
    on_the_way: dict[str, tuple[float, float]] = {}
    for span in follow(course(costs, plan), costs, link, start_s):
        lane = PLACES[span.job.place]
        if span.end_s > span.start_s:
            lane = lane if lane in LANES else "robot"
            found.append(LaneSpan(lane, span.job.what, span.start_s - start_s, span.end_s - start_s))
        if span.there_s > span.end_s:
            on_the_way[lane] = span.end_s - start_s, span.there_s - start_s
    return found + [LaneSpan(lane, ON_THE_WAY, *times) for lane, times in on_the_way.items()]


def draw_inference(panels: Mapping[str, Sequence[tuple[str, str, float, float]]], path: str | Path, title: str) -> None:
    """One panel for each plan, lanes from the input to the answer; all panels have one axis.

    Args:
        panels: title of the panel -> bars as :class:`LaneSpan` has them: lane, label, start and end (s).
        path: file to write; its suffix gives the format (``.png``, ``.svg``, ``.pdf``).
        title: the headline.

    Raises:
        ConfigError: matplotlib is not installed, there is nothing to draw, a lane that there is not, a bar without an
            end, or the file cannot be written.
    """
    bars = {name: [LaneSpan(*bar) for bar in own] for name, own in panels.items()}
    _check(bar for own in bars.values() for bar in own)
    if not any(bars.values()):
        raise ConfigError("no part of an inference to draw")
    latest_ms = 1e3 * max(bar.end_s for own in bars.values() for bar in own)
    with new_figure(path, width=9.6, height=0.9 + 1.35 * len(bars)) as figure:
        each: list[Axes] = figure.subplots(len(bars), 1, sharex=True, squeeze=False)[:, 0].tolist()
        for axes, (name, own) in zip(each, bars.items(), strict=True):
            _draw_panel(axes, name, own, latest_ms)
        each[-1].set_xlabel("time from the input on (ms)")
        headline(figure, title)


def _check(bars: Iterable[LaneSpan]) -> None:
    for bar in bars:
        if bar.lane not in LANES:
            raise ConfigError(f"time line: expected a lane of {', '.join(LANES)}, got {bar.lane!r}")
        if not 0 <= bar.start_s <= bar.end_s < math.inf:
            raise ConfigError(f"time line: {bar.label}: expected 0 <= start <= end, got {bar.start_s} .. {bar.end_s} s")


def _draw_panel(axes: Axes, name: str, bars: Sequence[LaneSpan], latest_ms: float) -> None:
    for bar in bars:
        row, start, width = LANES.index(bar.lane), 1e3 * bar.start_s, 1e3 * (bar.end_s - bar.start_s)
        light, wide = bar.label in _LIGHT, width >= _SEAM * latest_ms
        axes.barh(
            row,
            width,
            left=start,
            height=0.72,
            color=_COLOURS[bar.lane],
            alpha=0.4 if light else 1.0,
            edgecolor="white" if wide else _COLOURS[bar.lane],
            linewidth=0.6,
            zorder=3,
        )
        if width >= _NARROW * latest_ms and not light:
            axes.text(
                start + width / 2,
                row,
                bar.label,
                ha="center",
                va="center",
                fontsize=8,
                color="white",
                zorder=4,
                clip_on=True,
            )
    answer_ms = 1e3 * max((bar.end_s for bar in bars), default=0.0)
    axes.axvline(answer_ms, color=INK, linewidth=1, linestyle=(0, (2, 2)), zorder=2)
    axes.set_title(f"{name}: {answer_ms:.3g} ms", loc="left", fontsize=10, color=INK, pad=3)
    axes.set_yticks(range(len(LANES)), LANES, fontsize=8)
    axes.set_ylim(len(LANES) - 0.4, -0.6)
    axes.set_xlim(0, 1.02 * latest_ms)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", color=FAINT, labelcolor=INK)
    axes.grid(axis="x", color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
