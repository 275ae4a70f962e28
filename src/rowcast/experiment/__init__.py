"""One experiment: a task, a policy, links, and the proof that every update arrived once."""

from rowcast.experiment.audit import AuditReport, ServerAudit, WorkerAudit, prove
from rowcast.experiment.compare import ComparisonProgress, run_comparison
from rowcast.experiment.demo import DemoObserver, DemoSettings, PolicyRun, run_demo
from rowcast.experiment.plan import Cell, Comparison, plan_cells
from rowcast.experiment.robot import Progress, RobotSettings, ShapeSettings, run_robot, shaped_trace

__all__ = [
    "AuditReport",
    "Cell",
    "Comparison",
    "ComparisonProgress",
    "DemoObserver",
    "DemoSettings",
    "PolicyRun",
    "Progress",
    "RobotSettings",
    "ServerAudit",
    "ShapeSettings",
    "WorkerAudit",
    "plan_cells",
    "prove",
    "run_comparison",
    "run_demo",
    "run_robot",
    "shaped_trace",
]
