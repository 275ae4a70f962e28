"""The figure of plans: latency and energy of each method over the rate of the link."""

from __future__ import annotations

import math
from pathlib import Path

from rowcast.errors import ConfigError
from rowcast.links import Trace
from rowcast.report.plans import BOUND
from rowcast.report.style import FAINT, INK, headline, new_figure, plain_axes
from rowcast.report.table import Table

__all__ = ["METHOD_STYLES", "draw_rates"]

#: Method -> colour, line, width; a line that is drawn later, and may lie upon another, is thinner.
METHOD_STYLES = {
    "local": ("#000000", "-", 1.6),
    "offload": ("#E69F00", "-", 4.0),
    "data": ("#56B4E9", "-", 2.6),
    "tensor": ("#CC79A7", "-", 1.6),
    "chain": ("#009E73", "--", 3.0),
    "pipeline": ("#0072B2", "-", 2.4),
    "heavy load": ("#8A8A8A", "-.", 1.6),
    "streamed": ("#D55E00", "-", 1.4),
    BOUND: (INK, ":", 1.4),
}
_OTHER = ("#009E73", "-", 1.6)
#: What is more than so many times the slowest that a user would choose is beyond the axis.
_BEYOND = 4.0


def draw_rates(table: Table, path: str | Path, title: str, trace: Trace | None = None) -> None:
    """Latency and energy of all methods over the rate, both axes logarithmic.

    Args:
        table: what :func:`~rowcast.report.plans.rates_table` gave.
        path: file to write; its suffix gives the format (``.png``, ``.svg``, ``.pdf``).
        title: the model, for the headline.
        trace: a recorded link; the rates between its 5th and 95th percentile are shaded.

    Raises:
        ConfigError: matplotlib is not installed, the table is empty, or the file cannot be written.
    """
    methods = table.distinct("method")
    if not table.rows:
        raise ConfigError("no rates to draw plans for")
    with new_figure(path, width=9.6, height=4.8) as figure:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        panels = figure.subplots(1, 2, sharex=True)
        for axes, column, label in zip(
            panels, ("latency_ms", "energy_j"), ("latency (ms)", "energy of the robot (J)"), strict=True
        ):
            lowest, highest = _reach(table, column)
            for method in methods:
                own = table.where(method=method)
                values = own.numbers(column)
                if all(math.isnan(value) for value in values):
                    continue
                colour, line, width = METHOD_STYLES.get(method, _OTHER)
                beyond = " (beyond)" if min(values) > highest else ""
                axes.plot(
                    own.numbers("mbps"), values, color=colour, linestyle=line, linewidth=width, label=method + beyond
                )
            if trace is not None:
                found = trace.stats()
                axes.axvspan(found.p5_bps / 1e6, found.p95_bps / 1e6, color=FAINT, alpha=0.13, linewidth=0, zorder=0)
                axes.axvline(found.p50_bps / 1e6, color=FAINT, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
            axes.set(xscale="log", yscale="log", xlabel="rate of the link (Mbit/s)", ylabel=label)
            axes.set_xlim(min(table.numbers("mbps")), max(table.numbers("mbps")))
            axes.set_ylim(lowest, highest)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axis.set_minor_formatter(NullFormatter())
            plain_axes(axes, grid="both")
        if trace is not None:
            panels[0].set_title(
                "shaded: 5 to 95 % of the trace; dashed: its median", loc="left", fontsize=9, color=FAINT
            )
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
        headline(figure, title)


def _reach(table: Table, column: str) -> tuple[float, float]:
    """From the lowest value to some times that of the robot alone: beyond it nobody would go."""
    values = [value for value in table.numbers(column) if value > 0]
    alone = max((value for value in table.where(method="local").numbers(column)), default=max(values))
    return 0.8 * min(values), min(1.2 * max(values), _BEYOND * alone)
