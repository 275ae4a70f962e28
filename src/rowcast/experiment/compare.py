"""Runs the cells of a comparison, some at a time, and remembers which are done.

The folder of a comparison::

    compare.json          the settings of the last call, the names of its cells in order, and the task's metrics
    cells/NAME/cell.json  what the cell is; written before it runs
    cells/NAME/*.jsonl    the journals
    cells/NAME/done.json  the cell's settings again, the task's metrics (name, unit, better, primary), and the
                          versions; written last and in one piece

A cell is finished when its ``done.json`` is there. Whatever else is in the folder of a cell that is not finished is
thrown away, and the cell runs again from its start. So an interruption at any moment costs what was running, and
nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rowcast.errors import ConfigError
from rowcast.experiment.cell import Cell
from rowcast.experiment.folder import (
    cell_folder,
    claimed_folder,
    is_finished,
    refuse_another_version,
    run_into_folder,
    write_whole,
)
from rowcast.experiment.plan import plan_cells
from rowcast.experiment.pool import run_in_processes
from rowcast.experiment.progress import ComparisonProgress, ProgressTracker
from rowcast.experiment.runners import RunCell, run_cell
from rowcast.experiment.settings import Comparison
from rowcast.metric import metrics_to_json
from rowcast.tasks import load_task
from rowcast.version import __version__

__all__ = ["run_comparison"]


def run_comparison(
    settings: Comparison,
    out: Path,
    *,
    jobs: int | None = None,
    progress: Callable[[ComparisonProgress], None] | None = None,
    run: RunCell = run_cell,
) -> list[Cell]:
    """Run the cells that are not finished; each in a process with one thread, so that its result is always the same.

    Args:
        settings: what to compare.
        out: folder of the comparison; made if it is not there.
        jobs: cells that run at the same time, by default one for each processor. 0 runs one after the other in this
            process, for a debugger.
        progress: told where the cells are, a few times a second.
        run: runs one cell; a function of a module, since other processes import it.

    Returns:
        The cells of the plan, all of them finished.

    Raises:
        ConfigError, DataError, TraceError: as :func:`rowcast.experiment.plan_cells`; also a folder that cannot be
            used, is in use, or holds the same cells with other settings.
        WorkerFailed: a cell failed for a reason that is not its settings; the others were ended.
        KeyboardInterrupt: Ctrl-C; everything that was finished stays so.
    """
    jobs = len(os.sched_getaffinity(0)) if jobs is None else jobs
    if jobs < 0:
        raise ConfigError(f"jobs: expected 0 or more, got {jobs}")
    cells = plan_cells(settings)
    with claimed_folder(out):
        refuse_another_version(out)
        todo = [cell for cell in cells if not is_finished(cell, cell_folder(out, cell))]
        order = [cell.name for cell in cells]
        metrics = metrics_to_json(load_task(cells[0].task).metrics)
        plan = {"settings": asdict(settings), "cells": order, "metrics": metrics, "version": __version__}
        write_whole(out / "compare.json", plan)
        tracker = ProgressTracker(len(cells), len(cells) - len(todo), todo, progress)
        tracker.tell()
        if jobs == 0:
            for cell in todo:
                tracker.began(cell)
                run_into_folder(cell, cell_folder(out, cell), run, tracker.telling(cell))
                tracker.ended(cell)
        elif todo:
            run_in_processes(todo, out, min(jobs, len(todo)), run, tracker)
    return cells
