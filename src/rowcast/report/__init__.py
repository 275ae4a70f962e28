"""Reports: tables and figures of a run, made from the journals and from nothing else; and of plans of an inference.

One way for all of them: read (:mod:`.read`, :mod:`.journals`) > values (:mod:`.values`) > measures of a run
(:mod:`.measures`, :mod:`.curves`, :mod:`.samples`, :mod:`.timeline`) > tables over seeds (:mod:`.comparison`,
:mod:`.targets`, :mod:`.moments`; against one policy :mod:`.reference`, :mod:`.reference_tables`) > figures
(``*_figure.py``) > what one looks at (:mod:`.sections`, :mod:`.page`, :mod:`.terminal`, :mod:`.results`). What needs no
run stands beside: :mod:`.trace_figure`, and of split inference :mod:`.plans`, :mod:`.rates_figure` and
:mod:`.inference_figure`.

Runs of split inference go the same way: :mod:`.inferences` > :mod:`.methods_figure`, :mod:`.inference_figure` >
:mod:`.inference_sections` > :mod:`.page`.
"""

from __future__ import annotations

from rowcast.report.bars_figure import JOULES, SECONDS, draw_bars
from rowcast.report.comparison import composition_table, curve_table
from rowcast.report.curve_figure import CurvePanel, draw_curves
from rowcast.report.curves import Curve, joules_at, metric_at_equal_steps, metric_over
from rowcast.report.intervals import Interval, interval
from rowcast.report.measures import RunSummary, summarise
from rowcast.report.page import write_report
from rowcast.report.read import ACCURACY, read_experiment, read_run, worker_journals
from rowcast.report.results import write_results
from rowcast.report.table import Table
from rowcast.report.terminal import terminal_table
from rowcast.report.timeline import Timeline, state_shares, timeline_table
from rowcast.report.timeline_figure import draw_timeline
from rowcast.report.values import Conditions, Experiment, Robot, Run, Series

__all__ = [
    "ACCURACY",
    "JOULES",
    "SECONDS",
    "Conditions",
    "Curve",
    "CurvePanel",
    "Experiment",
    "Interval",
    "Robot",
    "Run",
    "RunSummary",
    "Series",
    "Table",
    "Timeline",
    "composition_table",
    "curve_table",
    "draw_bars",
    "draw_curves",
    "draw_timeline",
    "interval",
    "joules_at",
    "metric_at_equal_steps",
    "metric_over",
    "read_experiment",
    "read_run",
    "state_shares",
    "summarise",
    "terminal_table",
    "timeline_table",
    "worker_journals",
    "write_report",
    "write_results",
]
