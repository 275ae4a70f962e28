"""The picture of an hour: who computed, sent and stalled, and when."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rowcast.errors import ConfigError
from rowcast.report.sheet import Sheet
from rowcast.report.style import FAINT, INK, STATES, headline, new_figure
from rowcast.report.timeline import state_shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_hour"]

#: Where things stand within a lane, of which the height is 1: bottom and height.
_STATES_AT, _OVERLAP_AT, _LINK_AT = (0.16, 0.50), (0.03, 0.10), (0.71, 0.24)
#: Inches: a lane of the whole and of the close-up, and what a panel has around its lanes.
_LANE, _CLOSE_LANE, _AROUND = 0.31, 0.27, 0.34
#: The colour of sending while nothing else is done, and of sending beside it.
_SENT = STATES["communicate"][0]
#: Rates are drawn by their logarithm, from here to the best one (bit/s); a slower link counts as none.
_LOWEST_BPS = 1e5
_LINK = "#A0A0A0"

Array = npt.NDArray[np.float64]


def draw_hour(sheet: Sheet, path: str | Path) -> None:
    """Draw what each robot did, and when: above the whole run, below a close-up; a panel for each policy.

    Args:
        sheet: what :func:`~rowcast.report.hour_sheet` gave.
        path: file to write; its suffix gives the format (``.png``, ``.svg``, ``.pdf``).

    Raises:
        ConfigError: matplotlib is not installed, the sheet has no policy, or the file cannot be written.
    """
    policies = [policy for policy in sheet.distinct("policy") if policy]
    if not policies:
        raise ConfigError("no steps of any policy to draw")
    titles = _titles(state_shares(sheet))
    robots = {policy: len(sheet.where(policy=policy).distinct("robot")) for policy in policies}
    heights = [lane * robots[policy] + _AROUND for lane in (_LANE, _CLOSE_LANE) for policy in policies]
    # Between the two views stands the axis of the first.
    heights.insert(len(policies), 0.42)
    best = max((rate for rate in sheet.numbers("link_bps") if rate == rate), default=0.0)
    with new_figure(path, width=9.6, height=sum(heights) + 1.25) as figure:
        panels: Sequence[Axes] = figure.subplots(len(heights), 1, height_ratios=heights)
        panels[len(policies)].set_axis_off()
        whole, close = sheet.where(view="whole"), sheet.where(view="close-up")
        start, end = min(close.numbers("from_s")), max(close.numbers("to_s"))
        unit, name = (60.0, "min") if max(whole.numbers("to_s")) >= 600 else (1.0, "s")
        for view, seconds, axes_of in ((whole, unit, panels[: len(policies)]), (close, 1.0, panels[-len(policies) :])):
            for policy, axes in zip(policies, axes_of, strict=True):
                _draw_panel(axes, view, policy, seconds, best)
            for axes in axes_of[:-1]:
                axes.tick_params(labelbottom=False)
        for policy, above, below in zip(policies, panels, panels[-len(policies) :], strict=False):
            above.set_title(titles[policy], loc="left", fontsize=10, color=INK, pad=4)
            below.set_title(policy, loc="left", fontsize=10, color=INK, pad=4)
            for edge in (start, end):
                above.axvline(edge / unit, color=INK, linewidth=0.9, linestyle=(0, (3, 2)), zorder=6)
        panels[len(policies) - 1].set_xlabel(f"time ({name}); between the dashed lines: the close-up below")
        panels[-1].set_xlabel("time (s); white marks: a step ends")
        for state, (colour, _) in STATES.items():
            panels[0].fill([], [], color=colour, label=state)
        panels[0].plot([], [], color=_SENT, linewidth=3, label="rows travel while it computes")
        if best > 0:
            panels[0].fill([], [], color=_LINK, alpha=0.45, label=f"link, {_span(best)} Mbit/s, log. scale")
        handles, labels = panels[0].get_legend_handles_labels()
        # Across the page, as there are more entries than beside a headline.
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
        headline(figure, "Who computed, sent and stalled, and when")


def _titles(shares: Sheet) -> dict[str, str]:
    found = {}
    for policy in shares.distinct("policy"):
        own = shares.where(policy=policy)
        (steps,) = own.numbers("steps of a robot")
        parts = {state: own.numbers(f"{state} (%)")[0] for state in STATES}
        text = ", ".join(f"{state} {share:.1f} %" for state, share in parts.items())
        found[policy] = f"{policy}: {steps:.0f} steps; {text}" if steps else f"{policy}: no step was finished"
    return found


def _span(best_bps: float) -> str:
    return f"{_LOWEST_BPS / 1e6:g} to {best_bps / 1e6:.3g}"


def _draw_panel(axes: Axes, view: Sheet, policy: str, unit: float, best_bps: float) -> None:
    """The lanes of a team, from top to bottom."""
    own = view.where(policy=policy)
    robots = own.distinct("robot")
    for place, robot in enumerate(robots):
        base = float(len(robots) - 1 - place)
        _draw_lane(axes, own.where(robot=robot), base, unit)
        link = view.where(policy="", robot=robot)
        if link.rows and best_bps > _LOWEST_BPS:
            _draw_link(axes, link, base, unit, best_bps)
    axes.set_yticks([len(robots) - 1 - k + _STATES_AT[0] + _STATES_AT[1] / 2 for k in range(len(robots))], robots)
    axes.set_ylim(0, len(robots))
    axes.set_xlim(min(view.numbers("from_s")) / unit, max(view.numbers("to_s")) / unit)
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.tick_params(axis="x", labelsize=9, color=FAINT, labelcolor=INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)


def _draw_lane(axes: Axes, lane: Sheet, base: float, unit: float) -> None:
    """States stacked in their share of each bin, and beneath them what was sent meanwhile."""
    edges = np.append(lane.numbers("from_s"), lane.numbers("to_s")[-1]) / unit
    bottom, height = base + _STATES_AT[0], _STATES_AT[1]
    shares = {state: np.array(lane.numbers(state)) for state in STATES}
    tops = dict(zip(shares, np.cumsum(list(shares.values()), axis=0), strict=True))
    # From behind: so no seam shows between two that lie upon each other.
    for state in reversed(shares):
        axes.stairs(
            bottom + height * tops[state],
            edges,
            baseline=bottom,
            fill=True,
            color=STATES[state][0],
            linewidth=0,
            zorder=3,
        )
    below = base + _OVERLAP_AT[0]
    overlap = below + _OVERLAP_AT[1] * np.array(lane.numbers("overlap"))
    axes.stairs(overlap, edges, baseline=below, fill=True, color=_SENT, linewidth=0, zorder=3)
    if "close-up" in lane.distinct("view"):
        ended = edges[1:][np.array(lane.numbers("steps")) > 0]
        axes.vlines(ended, bottom, bottom + height, color="white", linewidth=0.8, zorder=4)


def _draw_link(axes: Axes, link: Sheet, base: float, unit: float, best_bps: float) -> None:
    edges = np.append(link.numbers("from_s"), link.numbers("to_s")[-1]) / unit
    rates = np.clip(link.numbers("link_bps"), _LOWEST_BPS, None)
    heights = np.log(rates / _LOWEST_BPS) / np.log(best_bps / _LOWEST_BPS)
    bottom, height = base + _LINK_AT[0], _LINK_AT[1]
    tops = bottom + height * heights
    axes.stairs(tops, edges, baseline=bottom, fill=True, color=_LINK, alpha=0.45, linewidth=0, zorder=2)
