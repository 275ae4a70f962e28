"""Cells on several processes: each process runs one cell after the other, with one thread."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from rowcast.errors import WorkerFailed
from rowcast.experiment.cell import Cell
from rowcast.experiment.executors import Executor, Work, failure_of, now_and_again, take_one_thread
from rowcast.experiment.preparing import Preparing
from rowcast.experiment.progress import TICK_S, ProgressTracker
from rowcast.experiment.runners import RunCell

__all__ = ["Processes", "uninterrupted"]

#: A process that was told to end may take so long (s) before it is killed.
END_LIMIT_S = 5.0


@dataclass
class _PoolProcess:
    """A process that runs cells, and the one that it has now."""

    process: BaseProcess
    cell: Cell | None = None


class Processes(Executor):
    """Processes of this machine; they are started for each call.

    Args:
        jobs: how many at most.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs

    def run_all(self, todo: Sequence[Work], run: RunCell, tracker: ProgressTracker) -> None:
        """Run the cells; the first failure, or Ctrl-C, ends all of them."""
        if todo:
            _run_in_processes(todo, min(self._jobs, len(todo)), run, tracker)


def _run_in_processes(todo: Sequence[Work], jobs: int, run: RunCell, tracker: ProgressTracker) -> None:
    # Never fork: the threads with which PyTorch computes do not survive it.
    context = multiprocessing.get_context("spawn")
    waiting = deque(todo)
    pool: dict[Connection, _PoolProcess] = {}

    def assign(connection: Connection) -> None:
        member = pool[connection]
        work = waiting.popleft() if waiting else None
        member.cell = None if work is None else work.cell
        if work is None:
            connection.send(None)
            return
        try:
            connection.send(work)
        except OSError:
            raise _gone(member.process, work.cell) from None
        tracker.began(work.cell)

    try:
        for _ in range(jobs):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, run), name="rowcast-cell", daemon=True)
            with uninterrupted():
                process.start()
            theirs.close()
            pool[ours] = _PoolProcess(process)
            assign(ours)
        while any(member.cell is not None for member in pool.values()):
            busy = [connection for connection, member in pool.items() if member.cell is not None]
            for connection in wait(busy, TICK_S):
                assert isinstance(connection, Connection)
                member = pool[connection]
                assert member.cell is not None
                kind, value = _receive(connection, member)
                if kind == "failed":
                    raise value
                if kind == "advanced":
                    tracker.advanced(member.cell, value)
                else:
                    tracker.ended(member.cell)
                    assign(connection)
            tracker.tell(seldom=True)
    finally:
        _end(pool)


def _receive(connection: Connection, member: _PoolProcess) -> tuple[str, Any]:
    try:
        kind, value = connection.recv()
    except (EOFError, OSError):
        assert member.cell is not None
        raise _gone(member.process, member.cell) from None
    return kind, value


def _gone(process: BaseProcess, cell: Cell) -> WorkerFailed:
    process.join(END_LIMIT_S)
    return WorkerFailed(
        f"{cell.name}: its process ended with code {process.exitcode} before the cell was finished; "
        "if the memory was used up, take fewer jobs"
    )


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """A process that is started here never sees Ctrl-C, which reaches the whole group: the parent ends it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(pool: Mapping[Connection, _PoolProcess]) -> None:
    """No process is left, whatever it was doing."""
    for member in pool.values():
        if member.cell is not None:
            member.process.terminate()
    for connection, member in pool.items():
        member.process.join(END_LIMIT_S)
        if member.process.is_alive():
            member.process.kill()
            member.process.join()
        connection.close()


def _work(connection: Connection, run: RunCell) -> None:
    """What a process does: cells, until there are no more or nobody listens."""
    take_one_thread()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while (work := connection.recv()) is not None:
            failure = failure_of(work, run, _teller(connection))
            connection.send(("ended", None) if failure is None else ("failed", failure))


def _teller(connection: Connection) -> Callable[[float | Preparing], None]:
    """Tells the parent how far a cell is, now and then."""
    return now_and_again(lambda done: connection.send(("advanced", done)), TICK_S)
