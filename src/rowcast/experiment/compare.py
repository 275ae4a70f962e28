"""Runs the cells of a comparison, some at a time, and remembers which are done.

The folder of a comparison::

    compare.json          the settings of the last call, the names of its cells in order, and the task's metrics
    cells/NAME/cell.json  what the cell is
    cells/NAME/*.jsonl    the journals
    cells/NAME/done.json  the cell's settings again, the task's metrics (name, unit, better, primary), and the
                          versions; written last and in one piece
    running/              a folder for each cell that runs, or whose process ended before the cell did

A cell is finished when its ``done.json`` is there. Whatever else is in the folder of a cell that is not finished is
thrown away, and the cell runs again from its start. So an interruption at any moment costs what was running, and
nothing else.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from rowcast.errors import ConfigError
from rowcast.experiment.cell import Cell
from rowcast.experiment.emulation import plan_emulation
from rowcast.experiment.emulation_settings import EmulationSettings
from rowcast.experiment.executors import Executor, Work, executor_for
from rowcast.experiment.folder import (
    cell_folder,
    claimed_folder,
    is_finished,
    opened_folder,
    refuse_another_version,
    write_whole,
)
from rowcast.experiment.plan import plan_cells
from rowcast.experiment.progress import ComparisonProgress, ProgressTracker
from rowcast.experiment.runners import RunCell, run_cell
from rowcast.experiment.settings import Comparison
from rowcast.metric import metrics_to_json
from rowcast.tasks import load_task
from rowcast.version import __version__

__all__ = ["find_keys", "pending_cells", "run_comparison", "run_some_cells"]

#: Keys that are named where one is unknown.
NEAR = 3
Found = TypeVar("Found")


def run_comparison(
    settings: Comparison | EmulationSettings,
    out: Path,
    *,
    jobs: int | None = None,
    progress: Callable[[ComparisonProgress], None] | None = None,
    run: RunCell = run_cell,
    on: str | Executor = "local",
) -> list[Cell]:
    """Run the cells that are not finished; each in a process with one thread, so that its result is always the same.

    Those of an emulation, which take real time and the processors, are run one after the other.

    Args:
        settings: what to compare.
        out: folder of the comparison; made if it is not there.
        jobs: cells that run at the same time, by default one for each processor. 0 runs one after the other in this
            process, for a debugger.
        progress: told where the cells are, a few times a second.
        run: runs one cell; a function of a module, since other processes import it.
        on: where they run, as :func:`rowcast.experiment.executors.executor_for` takes it; or an executor, which stays
            open, and has its own ``jobs``.

    Returns:
        The cells of the plan, all of them finished.

    Raises:
        ConfigError, DataError, TraceError: as :func:`rowcast.experiment.plan_cells`; also a folder that cannot be
            used, is in use, or holds the same cells with other settings; a place that is unknown, or not there.
        WorkerFailed: a cell failed for a reason that is not its settings; the others were ended.
        KeyboardInterrupt: Ctrl-C; everything that was finished stays so.
    """
    emulated = isinstance(settings, EmulationSettings)
    with _opened("local", 0) if emulated else _opened(on, jobs) as executor:
        cells = plan_emulation(settings) if isinstance(settings, EmulationSettings) else plan_cells(settings)
        with claimed_folder(out):
            refuse_another_version(out)
            todo = _unfinished(cells, out)
            order = [cell.name for cell in cells]
            metrics = metrics_to_json(load_task(cells[0].task).metrics)
            plan = {"settings": asdict(settings), "cells": order, "metrics": metrics, "version": __version__}
            write_whole(out / "compare.json", plan)
            _run(cells, todo, executor, run, progress)
    return cells


def run_some_cells(
    settings: Comparison,
    out: Path,
    keys: Sequence[str],
    *,
    jobs: int | None = None,
    progress: Callable[[ComparisonProgress], None] | None = None,
    run: RunCell = run_cell,
    on: str | Executor = "local",
) -> list[Cell]:
    """Run those cells of a comparison that have these keys and are not finished.

    Any number of processes, on any number of machines that share the folder, may do so at the same time, also with the
    same keys: a cell's folder appears whole, the first one counts, and nothing else is written. :func:`run_comparison`
    with the same settings then finds what is finished.

    Args:
        settings: of the whole comparison.
        out, jobs, progress, run, on: as of :func:`run_comparison`.
        keys: names of cells, as :func:`pending_cells` gives them; one that is there twice runs once.

    Returns:
        The cells with these keys, all of them finished.

    Raises:
        ConfigError: no cell has a key; the nearest are named. Else as :func:`run_comparison` has it.
    """
    with _opened(on, jobs) as executor:
        cells = find_keys({cell.name: cell for cell in plan_cells(settings)}, keys)
        with opened_folder(out):
            refuse_another_version(out)
            _run(cells, _unfinished(cells, out), executor, run, progress)
    return cells


def pending_cells(settings: Comparison, out: Path) -> list[Cell]:
    """The cells that are not finished, in the order of the plan; nothing is run or written.

    A cell's key is its name: letters, digits, ``.``, ``-`` and ``_``. It is always the same for the same settings.

    Raises:
        ConfigError, DataError, TraceError: as :func:`run_comparison`.
    """
    cells = plan_cells(settings)
    refuse_another_version(out)
    return [work.cell for work in _unfinished(cells, out)]


def find_keys(known: Mapping[str, Found], keys: Sequence[str]) -> list[Found]:
    """What is known by these keys, each once, in their order.

    Raises:
        ConfigError: one is not known; the nearest are named.
    """
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, NEAR, 0.5)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "none is near"
            raise ConfigError(
                f"cell: expected a key that --list-cells prints with the same arguments, got {key!r}; {hint}"
            )
    return [known[key] for key in dict.fromkeys(keys)]


def _opened(on: str | Executor, jobs: int | None) -> contextlib.AbstractContextManager[Executor]:
    return contextlib.nullcontext(on) if isinstance(on, Executor) else executor_for(on, jobs)


def _unfinished(cells: Sequence[Cell], out: Path) -> list[Work]:
    works = [Work(cell, cell_folder(out, cell)) for cell in cells]
    return [work for work in works if not is_finished(*work)]


def _run(
    cells: Sequence[Cell],
    todo: Sequence[Work],
    executor: Executor,
    run: RunCell,
    progress: Callable[[ComparisonProgress], None] | None,
) -> None:
    tracker = ProgressTracker(len(cells), len(cells) - len(todo), [work.cell for work in todo], progress)
    tracker.tell()
    executor.run_all(todo, run, tracker)
