"""The runs of ``grid.py``: what trains, for how long, where it is kept, and on how many processors.

A run is a cell of a comparison (:class:`rowcast.experiment.Cell`). Runs with one job, optimizer, rate and kind of
shards lie in one folder, as ``rowcast compare`` would leave them, so that ``rowcast report`` draws it.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from grid_cells import GridCell
from grid_judge import Line, line_of
from rowcast.experiment import Cell, Comparison, plan_cells
from rowcast.experiment.devices import place_in_recording
from rowcast.experiment.folder import claimed_folder, is_finished, run_into_folder
from rowcast.experiment.pool import uninterrupted
from rowcast.experiment.runners import run_cell
from rowcast.links import Trace, save_csv
from rowcast.report import Curve, read_run
from rowcast.tasks import load_task

__all__ = ["GRADIENT_S", "LINKS", "Grid", "Wanted", "each_done", "run_all", "save_json"]

JOBS_FILE = Path(__file__).with_name("grid_jobs.py")
FASHION_FOLDER = "fashion_mnist"
#: Seconds of a gradient, and how much longer the slow one of unequal robots takes.
GRADIENT_S, SLOWER = 2.18, 4.0
#: Gradients of each robot in a run, by size of team; with unequal robots half as many of the slow one.
GRADIENTS = {1: 400, 2: 300, 4: 240, 16: 120}
#: Looks of a run.
LOOKS = 60
NEVER_WAITS = "constant:1000"
LINKS = {"fast": NEVER_WAITS, "outdoor": "outdoor", "slow": "constant:0.2"}
#: A robot is silent from here, for so long, as shares of the run.
SILENT_AT, SILENT_FOR = 0.35, 0.16
GOOD_BPS = 30e6


@dataclass(frozen=True)
class Wanted:
    """A run that is wanted.

    Attributes:
        cell: of the grid.
        lr: learning rate.
        policy, seed: what trains.
        longer: times the usual length.
        links: others than those of the cell; '' for its own.
    """

    cell: GridCell
    lr: float
    policy: str
    seed: int
    longer: float = 1.0
    links: str = ""


def devices_of(cell: GridCell) -> str:
    """What computing costs the robots, as ``rowcast compare --devices`` takes it."""
    if cell.robots == "equal":
        return f"{GRADIENT_S:g}"
    return "/".join([f"{GRADIENT_S * SLOWER:g}", *[f"{GRADIENT_S:g}"] * (cell.team - 1)])


class Grid:
    """The folder of the grid.

    Args:
        out: where runs are kept.
        data: parent of the data sets' folders.
        shorter: all runs are so many times shorter.
    """

    def __init__(self, out: Path, data: Path, shorter: float = 1.0) -> None:
        self.out, self.data, self._shorter = out, data, shorter
        self._lines: dict[Wanted, Line] = {}
        self._plans: dict[Wanted, tuple[Cell, Path]] = {}

    def has(self, job: str) -> bool:
        """Whether the data of a job are there."""
        return job != "Fashion" or (self.data / FASHION_FOLDER).is_dir()

    def folder_of(self, job: str) -> str | None:
        """Of the data of a job, where it needs one."""
        return str(self.data / FASHION_FOLDER) if job == "Fashion" else None

    def seconds(self, wanted: Wanted) -> float:
        """Virtual time of a run."""
        cell = wanted.cell
        stretched = SLOWER / 2 if cell.robots == "unequal" else 1.0
        return GRADIENT_S * GRADIENTS[cell.team] * stretched * wanted.longer / self._shorter

    def plan(self, wanted: Wanted) -> tuple[Cell, Path]:
        """The run, and its folder."""
        if wanted not in self._plans:
            self._plans[wanted] = self._planned(wanted)
        return self._plans[wanted]

    def _planned(self, wanted: Wanted) -> tuple[Cell, Path]:
        cell = wanted.cell
        seconds = self.seconds(wanted)
        settings = Comparison(
            task=f"{JOBS_FILE}:{cell.job}",
            data=self.folder_of(cell.job),
            task_options=(
                f"optimizer={cell.optimizer}",
                f"lr={wanted.lr!r}",
                f"skew={'true' if cell.shards == 'skew' else 'false'}",
            ),
            policies=(wanted.policy,),
            workers=(cell.team,),
            links=(wanted.links or self._links(cell, wanted.seed, seconds),),
            devices=(devices_of(cell),),
            seeds=(wanted.seed,),
            hours=seconds / 3600,
            eval_every_s=max(seconds / wanted.longer / LOOKS, 0.1),
        )
        planned = plan_cells(settings)[0]
        group = f"{cell.job.lower()}-{cell.optimizer}-{wanted.lr:g}-{cell.shards}"
        if wanted.longer != 1:
            group += f"-x{wanted.longer:g}"
        return planned, self.out / group / "cells" / planned.name

    def line(self, wanted: Wanted) -> Line:
        """The metric of a finished run."""
        if wanted not in self._lines:
            self._lines[wanted] = read_line(*self.plan(wanted))
        return self._lines[wanted]

    def _links(self, cell: GridCell, seed: int, seconds: float) -> str:
        if cell.links != "silent":
            return LINKS[cell.links]
        folder = self.out / "links" / f"silent-{cell.team}-{round(seconds)}-{seed}"
        if not folder.is_dir():
            _save_silence(folder, cell.team, seed, seconds)
        return str(folder)


def _save_silence(folder: Path, team: int, seed: int, seconds: float) -> None:
    """Traces of which the first robot's carries nothing for a while."""
    times = np.array([0.0, SILENT_AT, SILENT_AT + SILENT_FOR]) * seconds
    part = folder.with_name(folder.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    for index in range(team):
        rates = np.array([GOOD_BPS, 0.0 if index == 0 else GOOD_BPS, GOOD_BPS])
        trace = Trace(times, rates, folder.name, duration_s=2 * seconds)
        # Every seed enters a recording at another moment; the silence is to be at the same.
        back_s = (1 - place_in_recording(0, 1, seed)) * trace.duration_s
        save_csv(trace.shifted(back_s), part / f"robot{index:02}.csv")
    part.rename(folder)


def run_all(grid: Grid, wanted: Sequence[Wanted], jobs: int, title: str, *, again: str = "") -> None:
    """Run what is not finished, a process with one thread for each of ``jobs``; 0: in this process.

    Ctrl-C ends it when the runs under way are over; what is finished is kept.

    Args:
        again: a policy whose finished runs are run again, since its code has changed.

    Raises:
        ConfigError: a run that is there has other settings, or another call works in the folder.
        RowcastError: as a run has it.
    """
    with claimed_folder(grid.out):
        planned = {folder: cell for cell, folder in map(grid.plan, dict.fromkeys(wanted))}
        todo = [
            (cell, folder)
            for folder, cell in planned.items()
            if (again and cell.policy == again) or not is_finished(cell, folder)
        ]
        if not todo:
            return
        # The longest first: no processor is left with one of them at the end.
        todo.sort(key=lambda each: each[0].workers * each[0].hours, reverse=True)
        for _ in each_done(_run, todo, jobs, title):
            pass


def each_done(function: Callable[..., Any], todo: Sequence[tuple[Any, ...]], jobs: int, title: str) -> Iterator[Any]:
    """What a function of a module gives for each of some arguments, as it is done: their place, and the result.

    Args:
        jobs: processes, each with one thread; 0: in this one.
        title: beside the bar.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress(*columns))
        bar = progress.add_task(title, total=len(todo))
        if jobs == 0:
            for place, each in enumerate(todo):
                yield place, function(*each)
                progress.advance(bar)
            return
        context = multiprocessing.get_context("spawn")  # never fork: PyTorch's threads do not survive it
        count = min(jobs, len(todo))
        pool = stack.enter_context(ProcessPoolExecutor(count, mp_context=context, initializer=_quiet_single_thread))
        with uninterrupted():
            futures = {pool.submit(function, *each): place for place, each in enumerate(todo)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
                progress.advance(bar)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _quiet_single_thread() -> None:
    import torch

    from rowcast.rows import kernels

    torch.set_num_threads(1)
    kernels.limit_threads(1)


def _run(cell: Cell, folder: Path) -> None:
    with warnings.catch_warnings():
        # Some cells are there to see who diverges.
        warnings.filterwarnings(
            "ignore", "gradient of .*: expected finite numbers|the updates of this worker have grown"
        )
        run_into_folder(cell, folder, run_cell, lambda done: None)
    read_line(cell, folder)
    # Of thousand runs the bandwidth would take gigabytes; it follows from links and seed.
    for path in [*folder.glob("link-*.csv"), folder / "links.json", folder / "server.jsonl"]:
        path.unlink(missing_ok=True)


def read_line(cell: Cell, folder: Path) -> Line:
    """The metric of a finished run; kept beside its journals, which take long to read."""
    metric = load_task(cell.task).metrics[0]
    kept = folder / "line.npz"
    if not kept.exists():
        line = line_of(read_run(cell.policy, sorted(folder.glob("robot-*.jsonl")), cell.seconds, (metric,)))
        part = folder / "line.part.npz"
        np.savez(part, along=line.curve.along, values=line.curve.values, times_s=line.times_s)
        part.replace(kept)
    with np.load(kept) as found:
        return Line(metric, Curve(found["along"], found["values"]), found["times_s"])


def save_json(path: Path, content: Any) -> None:
    """The file is there with all of its content, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
