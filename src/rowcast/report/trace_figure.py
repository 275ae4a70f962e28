"""The figure of a bandwidth trace: its rate over time, and how often it is how high."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rowcast.links import Trace
from rowcast.report.style import FAINT, FAMILIES, INK, headline, new_figure, plain_axes

__all__ = ["draw_trace"]

_LINE, _LOW = FAMILIES["rog"], FAMILIES["ssp"]


def draw_trace(trace: Trace, path: str | Path, low_bps: float | None = None) -> None:
    """Draw one pass through a trace; on the left the rate over time, on the right the share of time below each rate.

    Low bandwidth is shaded.

    Args:
        trace: what to draw; it has an end.
        path: file to write; its suffix gives the format (``.png``, ``.svg``, ``.pdf``).
        low_bps: what counts as low, bit/s; default 5 % of the best rate.

    Raises:
        ConfigError: matplotlib is not installed, or the file cannot be written.
        LocalProtocolError: the trace has no end; :meth:`~rowcast.links.Trace.cut` it first.
    """
    stats = trace.stats(low_bps)
    if trace.duration_s == np.inf:  # one rate for ever: a minute of it shows as much
        trace = trace.cut(0.0, 60.0)
    edges_s = np.append(trace.times_s, trace.duration_s)
    mbps = trace.rates_bps / 1e6
    order = np.argsort(mbps, kind="stable")
    shares = np.concatenate(([0.0], np.cumsum(np.diff(edges_s)[order]) / trace.duration_s))
    with new_figure(path, width=9.6, height=3.6) as figure:
        over_time, share = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
        over_time.stairs(mbps, edges_s, color=_LINE, linewidth=1.0, baseline=None, zorder=3)
        low = trace.rates_bps < stats.low_bps
        starts = np.flatnonzero(np.diff(np.concatenate(([False], low, [False])).astype(np.int8)))
        for start, end in zip(edges_s[starts[::2]].tolist(), edges_s[starts[1::2]].tolist(), strict=True):
            over_time.axvspan(start, end, color=_LOW, alpha=0.35, linewidth=0, zorder=1)
        share.step(100 * shares, np.append(mbps[order], mbps.max()), where="post", color=_LINE, linewidth=1.8)
        over_time.axhline(stats.mean_bps / 1e6, color=FAINT, linewidth=1, linestyle=(0, (2, 2)), zorder=4)
        over_time.set(xlabel="time (s)", ylabel="rate (Mbit/s)", xlim=(0, trace.duration_s))
        over_time.set_ylim(bottom=0)
        over_time.set_title(
            f"mean {stats.mean_bps / 1e6:.3g} Mbit/s (dashed); below {stats.low_bps / 1e6:.3g} Mbit/s"
            f" {100 * stats.share_low:.1f} % of the time (shaded)",
            loc="left",
            fontsize=10,
            color=INK,
        )
        share.set(xlabel="share of time at or below (%)", xlim=(0, 100))
        for axes in (over_time, share):
            plain_axes(axes, grid="both")
        headline(figure, trace.name)
