"""One experiment: a task, a policy, links, and the proof that every update arrived once.

A name is imported when it is needed: the command line knows the settings without loading torch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rowcast.experiment.audit import AuditReport, ServerAudit, WorkerAudit, prove
    from rowcast.experiment.cell import Cell
    from rowcast.experiment.compare import pending_cells, run_comparison, run_some_cells
    from rowcast.experiment.demo import DemoObserver, PolicyRun, run_demo
    from rowcast.experiment.measured import MeasuredRun, read_run, read_runs
    from rowcast.experiment.plan import plan_cells
    from rowcast.experiment.progress import ComparisonProgress
    from rowcast.experiment.robot import Progress, run_robot, shaped_trace
    from rowcast.experiment.run_table import RunSettings, run_settings
    from rowcast.experiment.settings import Comparison, DemoSettings, RobotSettings, ShapeSettings
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
    "pending_cells",
    "plan_cells",
    "prove",
    "read_run",
    "read_runs",
    "run_comparison",
    "run_demo",
    "run_robot",
    "run_settings",
    "run_some_cells",
    "shaped_trace",
    "validate_run",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'rowcast.experiment' has no attribute {name!r}")
    from rowcast.experiment import (
        audit,
        cell,
        compare,
        demo,
        measured,
        plan,
        progress,
        robot,
        run_table,
        settings,
        validate,
    )

    homes = (audit, cell, compare, demo, measured, plan, progress, robot, run_table, settings, validate)
    return next(getattr(home, name) for home in homes if name in home.__all__)
