"""Reports: tables and figures of a run, made from the journals and from nothing else."""

from __future__ import annotations

from rowcast.report.curves import AccuracyCurve, accuracy_at_equal_steps, accuracy_curve
from rowcast.report.figures import draw_accuracy, draw_composition
from rowcast.report.summary import PolicySummary, summarise, worker_journals
from rowcast.report.tables import table

__all__ = [
    "AccuracyCurve",
    "PolicySummary",
    "accuracy_at_equal_steps",
    "accuracy_curve",
    "draw_accuracy",
    "draw_composition",
    "summarise",
    "table",
    "worker_journals",
]
