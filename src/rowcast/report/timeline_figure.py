"""The picture of a run: who computed, sent and stalled, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rowcast.errors import ConfigError
from rowcast.report.style import FAINT, INK, STARVE_COLOUR, STATE_COLOURS, headline, new_figure
from rowcast.report.table import Table
from rowcast.report.timeline import state_shares
from rowcast.report.values import STARVE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_timeline"]

#: Where things stand within a lane, of which the height is 1: bottom and height.
_STATES_AT, _OVERLAP_AT, _LINK_AT = (0.14, 0.46), (0.02, 0.08), (0.64, 0.30)
#: Inches: a lane, what a panel has around its lanes, and what stands between the two views.
_LANE, _AROUND, _BETWEEN = 0.32, 0.30, 0.30
#: The colour of sending while nothing else is done, and of sending beside it.
_SENT = STATE_COLOURS["communicate"][0]
_STATES = (STARVE, *STATE_COLOURS)
#: Colour of the line of a link, darker than a stall.
_LINK = "#666666"

Array = npt.NDArray[np.float64]


def draw_timeline(table: Table, path: str | Path) -> None:
    """Draw what each robot did, and when: above the whole run, below a close-up; a panel for each policy.

    Args:
        table: what :func:`~rowcast.report.timeline_table` gave.
        path: file to write; its suffix gives the format (``.png``, ``.svg``, ``.pdf``).

    Raises:
        ConfigError: matplotlib is not installed, the table has no policy, or the file cannot be written.
    """
    policies = [policy for policy in table.distinct("policy") if policy]
    if not policies:
        raise ConfigError("no steps of any policy to draw")
    titles = _titles(state_shares(table))
    robots = {policy: len(table.where(policy=policy).distinct("robot")) for policy in policies}
    heights = [_LANE * robots[policy] + _AROUND for policy in policies]
    best = max((rate for rate in table.numbers("link_bps") if rate == rate), default=0.0)
    with new_figure(path, width=9.6, height=2 * sum(heights) + _BETWEEN + 1.3) as figure:
        panels: Sequence[Axes] = figure.subplots(
            2 * len(heights) + 1, 1, height_ratios=[*heights, _BETWEEN, *heights], gridspec_kw={"hspace": 0.0}
        )
        above, between, below = panels[: len(policies)], panels[len(policies)], panels[len(policies) + 1 :]
        between.set_axis_off()
        whole, close = table.where(view="whole"), table.where(view="close-up")
        unit, name = (60.0, "min") if max(whole.numbers("to_s")) >= 600 else (1.0, "s")
        start, end = min(close.numbers("from_s")), max(close.numbers("to_s"))
        for view, seconds, axes_of in ((whole, unit, above), (close, 1.0, below)):
            for policy, axes in zip(policies, axes_of, strict=True):
                _draw_panel(axes, view, policy, seconds, best)
                axes.set_title(titles[policy] if view is whole else policy, loc="left", fontsize=10, color=INK, pad=3)
            for axes in axes_of[:-1]:
                axes.tick_params(labelbottom=False)
        for axes in above:
            for edge in (start, end):
                axes.axvline(edge / unit, color=INK, linewidth=0.9, linestyle=(0, (3, 2)), zorder=6)
        above[-1].set_xlabel(f"time ({name})", fontsize=9)
        below[-1].set_xlabel("time (s)", fontsize=9)
        text = f"Close-up, between the dashed lines: {end - start:.3g} s; a white mark is the end of a step"
        between.text(0, 0.2, text, transform=between.transAxes, fontsize=10, fontweight="bold", color=INK)
        for state, (colour, _) in _colours(table).items():
            above[0].fill([], [], color=colour, label=state)
        above[0].plot([], [], color=_SENT, linewidth=3, label="rows travel while it computes")
        if best > 0:
            above[0].plot([], [], color=_LINK, linewidth=0.9, label=f"bandwidth, 0 to {best / 1e6:.3g} Mbit/s")
        handles, labels = above[0].get_legend_handles_labels()
        # Across the page, as there are more entries than beside a headline.
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
        headline(figure, "Who computed, sent and stalled, and when")


def _colours(table: Table) -> Mapping[str, tuple[str, str]]:
    """The states of a table in their order, with their colours."""
    return {STARVE: STARVE_COLOUR, **STATE_COLOURS} if STARVE in table.columns else STATE_COLOURS


def _titles(shares: Table) -> dict[str, str]:
    found = {}
    for policy in shares.distinct("policy"):
        own = shares.where(policy=policy)
        (steps,) = own.numbers("steps of a robot")
        parts = {state: own.numbers(column)[0] for state in _STATES if (column := f"{state} (%)") in shares.columns}
        text = ", ".join(f"{state} {share:.1f} %" for state, share in parts.items())
        found[policy] = f"{policy}: {steps:.0f} steps; {text}" if steps else f"{policy}: no step was finished"
    return found


def _draw_panel(axes: Axes, view: Table, policy: str, unit: float, best_bps: float) -> None:
    """The lanes of a team, from top to bottom."""
    own = view.where(policy=policy)
    robots = own.distinct("robot")
    for place, robot in enumerate(robots):
        base = float(len(robots) - 1 - place)
        _draw_lane(axes, own.where(robot=robot), base, unit)
        link = view.where(policy="", robot=robot)
        if link.rows and best_bps > 0:
            _draw_link(axes, link, base, unit, best_bps)
    axes.set_yticks([len(robots) - 1 - k + _STATES_AT[0] + _STATES_AT[1] / 2 for k in range(len(robots))], robots)
    axes.set_ylim(0, len(robots))
    axes.set_xlim(min(view.numbers("from_s")) / unit, max(view.numbers("to_s")) / unit)
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.tick_params(axis="x", labelsize=9, color=FAINT, labelcolor=INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)


def _draw_lane(axes: Axes, lane: Table, base: float, unit: float) -> None:
    """States stacked in their share of each bin, and beneath them what was sent meanwhile."""
    edges = np.append(lane.numbers("from_s"), lane.numbers("to_s")[-1]) / unit
    bottom, height = base + _STATES_AT[0], _STATES_AT[1]
    colours = _colours(lane)
    shares = {state: np.array(lane.numbers(state)) for state in colours}
    tops = dict(zip(shares, np.cumsum(list(shares.values()), axis=0), strict=True))
    # From behind: so no seam shows between two that lie upon each other.
    for state in reversed(shares):
        axes.stairs(
            bottom + height * tops[state],
            edges,
            baseline=bottom,
            fill=True,
            color=colours[state][0],
            linewidth=0,
            zorder=3,
        )
    below = base + _OVERLAP_AT[0]
    overlap = below + _OVERLAP_AT[1] * np.array(lane.numbers("overlap"))
    axes.stairs(overlap, edges, baseline=below, fill=True, color=_SENT, linewidth=0, zorder=3)
    if "close-up" in lane.distinct("view"):
        ended = edges[1:][np.array(lane.numbers("steps")) > 0]
        axes.vlines(ended, bottom, bottom + height, color="white", linewidth=0.8, zorder=4)


def _draw_link(axes: Axes, link: Table, base: float, unit: float, best_bps: float) -> None:
    edges = np.append(link.numbers("from_s"), link.numbers("to_s")[-1]) / unit
    bottom, height = base + _LINK_AT[0], _LINK_AT[1]
    tops = bottom + height * np.array(link.numbers("link_bps")) / best_bps
    axes.stairs(tops, edges, baseline=bottom, fill=True, color=_LINK, alpha=0.13, linewidth=0, zorder=1)
    axes.stairs(tops, edges, baseline=None, color=_LINK, linewidth=0.8, zorder=2)
