"""Where cells of a comparison run: in this process, in processes of this machine, or on a cluster.

All of them run a cell by :func:`rowcast.experiment.folder.run_into_folder`, with one thread, so that the files of a
cell are the same wherever it ran.
"""

from __future__ import annotations

import os
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from rowcast.errors import ConfigError, RowcastError, WorkerFailed, near_match
from rowcast.experiment.cell import Cell
from rowcast.experiment.folder import run_into_folder
from rowcast.experiment.preparing import Preparing
from rowcast.experiment.progress import ProgressTracker
from rowcast.experiment.runners import RunCell

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "PLACES",
    "Executor",
    "InThisProcess",
    "Work",
    "executor_for",
    "failure_of",
    "now_and_again",
    "take_one_thread",
]

#: What ``--on`` names: where cells run.
PLACES = ("local", "ray")


class Work(NamedTuple):
    """A cell, and the folder ``OUT/cells/NAME`` that receives its files when it is finished."""

    cell: Cell
    folder: Path


class Executor(ABC):
    """Runs cells. Use it in a ``with`` block, or call :meth:`close` at the end."""

    @abstractmethod
    def run_all(self, todo: Sequence[Work], run: RunCell, tracker: ProgressTracker) -> None:
        """Run cells, some at a time, begun in this order; each has its folder when this returns.

        Args:
            todo: the cells.
            run: runs one of them; a function of a module, since other processes import it.
            tracker: told which began, how far they are, and which ended.

        Raises:
            RowcastError: a cell failed; those under way are ended, what is finished stays.
            WorkerFailed: for a reason that is not its settings.
            KeyboardInterrupt: Ctrl-C; the same holds.
        """

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Give back what it holds; it may be closed twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class InThisProcess(Executor):
    """One cell after the other, here: for a debugger. An error of a cell is raised as it is."""

    def run_all(self, todo: Sequence[Work], run: RunCell, tracker: ProgressTracker) -> None:
        """Run the cells."""
        for cell, folder in todo:
            tracker.began(cell)
            run_into_folder(cell, folder, run, tracker.telling(cell))
            tracker.ended(cell)


def executor_for(on: str = "local", jobs: int | None = None) -> Executor:
    """The executor that a text stands for.

    Args:
        on: ``local``; ``ray``, a Ray cluster of this machine that lasts as long as the executor; or ``ray:ADDRESS``, a
            Ray cluster that is there, as ``ray.init`` takes its address: ``auto``, or ``HOST:PORT`` of its head.
        jobs: cells at the same time; ``None``: one for each processor of this machine, of a cluster that is there as
            many as it has processors. 0, of ``local`` only: one after the other in this process.

    Raises:
        ConfigError: an unknown place, a number that is not one, or Ray is not installed.
    """
    place, colon, address = on.partition(":")
    if place not in PLACES:
        raise ConfigError(f"on: expected local, ray or ray:ADDRESS, got {on!r}; {near_match(place, PLACES)}")
    if colon and (place == "local" or not address):
        raise ConfigError(f"on: expected local, ray or ray:ADDRESS (as ray:auto or ray:10.0.0.1:6379), got {on!r}")
    least = 0 if place == "local" else 1
    if jobs is not None and jobs < least:
        raise ConfigError(f"jobs: expected {least} or more{'' if least == 0 else f' on {place}'}, got {jobs}")
    if place == "ray":
        from rowcast.experiment.ray_cluster import RayCluster  # late: it needs what few have installed

        return RayCluster(address or None, jobs)
    if jobs == 0:
        return InThisProcess()
    from rowcast.experiment.pool import Processes

    return Processes(processors() if jobs is None else jobs)


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def failure_of(work: Work, run: RunCell, tell: Callable[[float | Preparing], None]) -> RowcastError | None:
    """Run a cell in a process that is there for cells; what it failed with, or ``None``."""
    try:
        run_into_folder(work.cell, work.folder, run, tell)
    except RowcastError as error:
        return error
    except Exception:
        return WorkerFailed(f"{work.cell.name}: {traceback.format_exc()}")
    return None


def take_one_thread() -> None:
    """The processors are shared by cells."""
    import torch

    from rowcast.rows import kernels

    torch.set_num_threads(1)
    kernels.limit_threads(1)


def now_and_again(send: Callable[[float | Preparing], object], every_s: float) -> Callable[[float | Preparing], None]:
    """A listener of a cell that passes on what it is told at once, and then no more often than every ``every_s``."""
    next_at = 0.0

    def tell(done: float | Preparing) -> None:
        nonlocal next_at
        if time.monotonic() >= next_at:
            next_at = time.monotonic() + every_s
            send(done)

    return tell
