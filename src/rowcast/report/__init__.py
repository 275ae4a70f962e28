"""Reports: tables and figures of a run, made from the journals and from nothing else."""

from __future__ import annotations

from rowcast.report.cells import Experiment, read_experiment
from rowcast.report.curves import AccuracyCurve, accuracy_at_equal_steps, accuracy_curve
from rowcast.report.figures import draw_accuracy, draw_composition
from rowcast.report.intervals import Interval, interval
from rowcast.report.page import write_report
from rowcast.report.results import write_results
from rowcast.report.summary import PolicySummary, summarise, worker_journals
from rowcast.report.tables import table

__all__ = [
    "AccuracyCurve",
    "Experiment",
    "Interval",
    "PolicySummary",
    "accuracy_at_equal_steps",
    "accuracy_curve",
    "draw_accuracy",
    "draw_composition",
    "interval",
    "read_experiment",
    "summarise",
    "table",
    "worker_journals",
    "write_report",
    "write_results",
]
