"""What ``beyond.py`` trains, as cells of comparisons: listed, run by their keys, or all of them at a place.

A key is ``FOLDER/NAME``: the folder of the comparison within ``--out``, and the name of the cell.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rowcast.cli.progress import ComparisonDisplay
from rowcast.cli.streams import PlainConsole
from rowcast.experiment import Cell, Comparison, pending_cells, plan_cells, run_comparison
from rowcast.experiment.compare import find_keys
from rowcast.experiment.executors import Executor, Work
from rowcast.experiment.folder import cell_folder, opened_folder
from rowcast.experiment.progress import ProgressTracker
from rowcast.experiment.runners import RunCell, run_cell

__all__ = ["Sweep", "cell_arguments", "print_keys", "run_keys", "settle"]


@dataclass(frozen=True)
class Sweep:
    """Cells that one comparison plans.

    Attributes:
        settings: of the comparison.
        place: its folder.
        run: runs one of them; a function of a module.
    """

    settings: Comparison
    place: Path
    run: RunCell = run_cell


def cell_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of whoever runs cells elsewhere; as of ``rowcast compare``."""
    parser.add_argument("--list-cells", action="store_true", help="print the key of each run that is to be trained yet")
    parser.add_argument("--cell", action="append", default=[], metavar="KEY", help="train only this; repeatable")
    parser.add_argument("--on", default="local", metavar="PLACE", help="where runs train: local, ray or ray:ADDRESS")
    parser.add_argument("--jobs", type=int, help="runs at the same time; one for each processor if not given")


def key(out: Path, place: Path, cell: Cell) -> str:
    return f"{place.relative_to(out).as_posix()}/{cell.name}"


def print_keys(sweeps: Iterable[Sweep], out: Path) -> None:
    """A line for each cell that is not finished."""
    for sweep in sweeps:
        for cell in pending_cells(sweep.settings, sweep.place):
            print(key(out, sweep.place, cell))


def run_keys(sweeps: Sequence[Sweep], out: Path, keys: Sequence[str], executor: Executor) -> None:
    """Run the cells with these keys, or all if there are none; those of all sweeps at the same time.

    Raises:
        ConfigError: a key that none has.
    """
    planned = {key(out, sweep.place, cell): (sweep, cell) for sweep in sweeps for cell in plan_cells(sweep.settings)}
    wanted = find_keys(planned, keys) if keys else list(planned.values())
    pending = {(sweep.place, cell.name) for sweep in sweeps for cell in pending_cells(sweep.settings, sweep.place)}
    todo = [(sweep, cell) for sweep, cell in wanted if (sweep.place, cell.name) in pending]
    for place in {sweep.place for sweep, _ in todo}:
        with opened_folder(place):  # may be used by others, too
            pass
    with ComparisonDisplay(PlainConsole()) as display:
        cells = [cell for _, cell in todo]
        tracker = ProgressTracker(len(wanted), len(wanted) - len(todo), cells, display.shows)
        for run in dict.fromkeys(sweep.run for sweep, _ in todo):
            works = [Work(cell, cell_folder(sweep.place, cell)) for sweep, cell in todo if sweep.run is run]
            executor.run_all(works, run, tracker)


def settle(sweeps: Iterable[Sweep]) -> None:
    """Run here what is not finished, and note in each folder which comparison it is of."""
    for sweep in sweeps:
        run_comparison(sweep.settings, sweep.place, run=sweep.run)
