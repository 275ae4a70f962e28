"""One experiment: a task, a policy, links, and the proof that every update arrived once."""

from rowcast.experiment.audit import AuditReport, ServerAudit, WorkerAudit, prove
from rowcast.experiment.compare import ComparisonProgress, run_comparison
from rowcast.experiment.demo import DemoObserver, DemoSettings, PolicyRun, run_demo
from rowcast.experiment.measured import MeasuredRun, read_run, read_runs
from rowcast.experiment.plan import Cell, Comparison, plan_cells
from rowcast.experiment.robot import Progress, RobotSettings, ShapeSettings, run_robot, shaped_trace
from rowcast.experiment.run_table import RunSettings, run_settings
from rowcast.experiment.validate import Bounds, Replay, validate_run

__all__ = [
    "AuditReport",
    "Bounds",
    "Cell",
    "Comparison",
    "ComparisonProgress",
    "DemoObserver",
    "DemoSettings",
    "MeasuredRun",
    "PolicyRun",
    "Progress",
    "Replay",
    "RobotSettings",
    "RunSettings",
    "ServerAudit",
    "ShapeSettings",
    "WorkerAudit",
    "plan_cells",
    "prove",
    "read_run",
    "read_runs",
    "run_comparison",
    "run_demo",
    "run_robot",
    "run_settings",
    "shaped_trace",
    "validate_run",
]
