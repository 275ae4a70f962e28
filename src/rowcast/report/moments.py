"""One robot step by step, and the links of a run: the numbers behind the figures of single runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from rowcast.errors import ConfigError
from rowcast.links import Trace, load_trace
from rowcast.report.table import Table, Value, table_of
from rowcast.report.timeline import Timeline, timeline_table
from rowcast.report.values import Groups, Run

__all__ = ["MICRO_SPAN_S", "MOST_LANES", "first_seed_timeline", "micro_table"]

#: Seconds that the figure of micro-events shows.
MICRO_SPAN_S = 300.0
#: Quantities of the micro-events, in the unit of the journal.
MICRO = ("rate_bps", "push_share", "staleness")
#: The picture has room for so many lanes in a panel.
MOST_LANES = 8


def first_seed_timeline(groups: Groups) -> Table:
    """What the robots of one run of each policy did, and when; see :func:`~rowcast.report.timeline_table`.

    The seed is the first; of a large team it has the first robots by name. Links are those of the first policy.
    """
    runs = {policy: own[0] for policy, own in groups.items()}
    teams = {
        policy: [Timeline.of(robot.name, robot.ends_s, robot.steps) for robot in run.robots[:MOST_LANES]]
        for policy, run in runs.items()
    }
    one = next(iter(runs.values()))
    found = {robot.name: trace_under(one, robot.name) for robot in one.robots[:MOST_LANES]}
    links = {name: trace for name, trace in found.items() if trace is not None}
    return timeline_table(teams, max(run.seconds for run in runs.values()), links)


def micro_table(groups: Groups, span_s: float = MICRO_SPAN_S) -> Table:
    """What one robot met in the middle of one seed: its link, and each step of each policy.

    The seed is the first, the robot the first by name. ``link_bps`` is the trace under its link (towards the
    server) wherever it changes, if the run left it in ``links.json``; the others are what the journal says of the
    step that ended at ``time_s``.
    """
    columns = ("policy", "quantity", "time_s", "value")
    runs = {policy: own[0] for policy, own in groups.items()}
    if not runs:
        return table_of(columns, ())
    length = max(run.seconds for run in runs.values())
    start = max(0.0, (length - span_s) / 2)
    end = min(length, start + span_s)
    rows: list[tuple[Value, ...]] = []
    one = next(iter(runs.values()))
    trace = trace_under(one, one.robots[0].name)
    if trace is not None:
        times = [start, *_changes(trace, start, end), end]
        rows += [("", "link_bps", t, trace.rate(min(t, np.nextafter(end, start)))) for t in times]
    for policy, run in runs.items():
        robot = run.robots[0]
        inside = (robot.ends_s >= start) & (robot.ends_s <= end)
        for quantity in MICRO:
            pairs = zip(robot.ends_s[inside].tolist(), robot.steps[quantity][inside].tolist(), strict=True)
            rows += [(policy, quantity, t, value) for t, value in pairs if math.isfinite(value)]
    return table_of(columns, rows)


def trace_under(run: Run, robot: str) -> Trace | None:
    """The trace under a robot's link towards the server, if the run left it in ``links.json``."""
    path = run.folder / "links.json"
    if not path.is_file():
        return None
    try:
        name = json.loads(path.read_text(encoding="utf-8"))[robot]["up"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: expected {{worker: {{'up': trace file, 'down': ...}}}}, got {error!r}") from error
    return load_trace(path.parent / Path(name).name)  # beside the journals, whatever the file says


def _changes(trace: Trace, start: float, end: float) -> list[float]:
    """When the rate changes, between the two times."""
    found: list[float] = []
    t = trace.next_change(start)
    while t < end:
        found.append(t)
        t = trace.next_change(t)
    return found
