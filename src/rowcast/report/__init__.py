"""Reports: tables and figures of a run, made from the journals and from nothing else."""

from __future__ import annotations

from rowcast.report.cells import Experiment, read_experiment
from rowcast.report.curves import AccuracyCurve, accuracy_at_equal_steps, accuracy_curve
from rowcast.report.figures import draw_accuracy, draw_composition
from rowcast.report.hour_figure import draw_hour
from rowcast.report.intervals import Interval, interval
from rowcast.report.page import write_report
from rowcast.report.results import write_results
from rowcast.report.summary import PolicySummary, summarise, worker_journals
from rowcast.report.tables import table
from rowcast.report.timeline import Timeline, hour_sheet, state_shares

__all__ = [
    "AccuracyCurve",
    "Experiment",
    "Interval",
    "PolicySummary",
    "Timeline",
    "accuracy_at_equal_steps",
    "accuracy_curve",
    "draw_accuracy",
    "draw_composition",
    "draw_hour",
    "hour_sheet",
    "interval",
    "read_experiment",
    "state_shares",
    "summarise",
    "table",
    "worker_journals",
    "write_report",
    "write_results",
]
