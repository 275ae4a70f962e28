"""Runs the cells of a comparison, some at a time, and remembers which are done.

The folder of a comparison::

    compare.json          the settings of the last call, and the names of its cells in order
    cells/NAME/cell.json  what the cell is; written before it runs
    cells/NAME/*.jsonl    the journals
    cells/NAME/done.json  the cell's settings again, and the versions; written last and in one piece

A cell is finished when its ``done.json`` is there. Whatever else is in the folder of a cell that is not finished is
thrown away, and the cell runs again from its start. So an interruption at any moment costs what was running, and
nothing else.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import platform
import shutil
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rowcast.errors import ConfigError, RowcastError, WorkerFailed
from rowcast.experiment.claim import claimed
from rowcast.experiment.plan import Cell, plan_cells
from rowcast.experiment.preparing import Preparing
from rowcast.experiment.settings import Comparison
from rowcast.version import __version__

__all__ = ["ComparisonProgress", "RunCell", "run_cell", "run_comparison"]

#: Runs one cell: the cell, its folder, and whom to tell how many virtual seconds are done, or how far its starting
#: model is.
RunCell = Callable[[Cell, Path, Callable[[float | Preparing], None]], None]

#: How often whoever watches is told where the cells are (s).
TICK_S = 0.25
#: A process that was told to end may take so long (s) before it is killed.
END_LIMIT_S = 5.0


@dataclass(frozen=True)
class ComparisonProgress:
    """Where a comparison is.

    Attributes:
        total: cells of the plan; ``finished``: those that are done, earlier ones included.
        running: cells under way, with the virtual seconds that each has done.
        passed_s: real time since the call; ``left_s``: real time that it will go on, at the pace so far, or ``None``
            while nothing is known.
        preparing: those cells under way whose starting model is being trained, with the share that is done.
    """

    total: int
    finished: int
    running: tuple[tuple[Cell, float], ...]
    passed_s: float
    left_s: float | None
    preparing: tuple[tuple[Cell, float], ...] = ()


def run_cell(cell: Cell, folder: Path, progress: Callable[[float | Preparing], None]) -> None:
    """Run a cell on the driver in virtual time; writes its journals to ``folder``."""
    from rowcast.experiment.virtual_run import run_virtual

    run_virtual(cell, folder, progress)


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
    with _claimed(out):
        _refuse_another_version(out)
        todo = [cell for cell in cells if not _is_finished(cell, _folder(out, cell))]
        order = [cell.name for cell in cells]
        _write_whole(out / "compare.json", {"settings": asdict(settings), "cells": order, "version": __version__})
        tally = _Tally(len(cells), len(cells) - len(todo), todo, progress)
        tally.tell()
        if jobs == 0:
            for cell in todo:
                tally.began(cell)
                _run(cell, _folder(out, cell), run, tally.telling(cell))
                tally.ended(cell)
        elif todo:
            _run_in_processes(todo, out, min(jobs, len(todo)), run, tally)
    return cells


def _folder(out: Path, cell: Cell) -> Path:
    return out / "cells" / cell.name


@contextlib.contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """The folder is there, and no other call works on it."""
    try:
        (out / "cells").mkdir(parents=True, exist_ok=True)
        with claimed(out / ".lock", f"out {out}: another comparison runs in this folder; wait for its end"):
            yield
    except OSError as error:
        raise ConfigError(f"out {out}: cannot be used: {error.filename or ''} {error.strerror}") from error


def _refuse_another_version(out: Path) -> None:
    """Nothing is added to runs whose settings have other names: no report could set the two side by side.

    Raises:
        ConfigError: there is such a run; the message names those settings.
    """
    wanted = {field.name for field in fields(Cell)}
    for path in sorted(out.glob("cells/*/done.json")):
        try:
            found = set(json.loads(path.read_text(encoding="utf-8"))["cell"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # said when that run is wanted, or drawn
        words = [f"no {name}" for name in sorted(wanted - found)] + [f"a {name}" for name in sorted(found - wanted)]
        if words:
            raise ConfigError(
                f"{path.parent}: was run by another version of Rowcast, for which a run has {', '.join(words)}; "
                "choose another folder"
            )


def _is_finished(cell: Cell, folder: Path) -> bool:
    """Whether the cell ran to its end before.

    Raises:
        ConfigError: it did, with other settings.
    """
    path = folder / "done.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["cell"]
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); delete {folder} to run this cell again") from error
    wanted = asdict(cell)
    changed = [
        f"{key} = {found.get(key)!r}, now {wanted.get(key)!r}"
        for key in {**wanted, **found}
        if found.get(key) != wanted.get(key)
    ]
    if changed:
        raise ConfigError(
            f"{folder}: was run with other settings ({'; '.join(changed)}); choose another folder for the new ones, "
            "or put them back"
        )
    return True


def _run(cell: Cell, folder: Path, run: RunCell, tell: Callable[[float | Preparing], None]) -> None:
    """Run a cell from an empty folder to its ``done.json``."""
    began = time.monotonic()
    try:
        if folder.exists():
            if any(folder.iterdir()) and not (folder / "cell.json").is_file():
                raise ConfigError(f"{folder}: holds files that no comparison wrote; move them away")
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        _write_whole(folder / "cell.json", {"cell": asdict(cell)})
        run(cell, folder, tell)
        done = {"cell": asdict(cell), "versions": _versions(), "real_s": round(time.monotonic() - began, 3)}
        _write_whole(folder / "done.json", done)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be used: {error}") from error


def _write_whole(path: Path, content: Mapping[str, Any]) -> None:
    """The file is there with all of its content, or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def _versions() -> dict[str, str]:
    found = {"rowcast": __version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "numba"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


class _Tally:
    """Counts what is done, and tells."""

    def __init__(
        self,
        total: int,
        finished: int,
        todo: Sequence[Cell],
        progress: Callable[[ComparisonProgress], None] | None,
    ) -> None:
        self._total, self._finished, self._progress = total, finished, progress
        self._all_s = sum(cell.seconds for cell in todo)
        self._done_s = 0.0
        self._running: dict[Cell, float] = {}
        self._preparing: dict[Cell, float] = {}
        self._began = time.monotonic()
        self._next = 0.0
        self._first: tuple[float, float] | None = None

    def began(self, cell: Cell) -> None:
        self._running[cell] = 0.0
        self.tell()

    def telling(self, cell: Cell) -> Callable[[float | Preparing], None]:
        """For a cell that runs in this process."""

        def tell(done: float | Preparing) -> None:
            self.advanced(cell, done)
            self.tell(seldom=True)

        return tell

    def advanced(self, cell: Cell, done: float | Preparing) -> None:
        if isinstance(done, Preparing):
            self._preparing[cell] = done.share
        else:
            self._preparing.pop(cell, None)
            self._running[cell] = min(done, cell.seconds)

    def ended(self, cell: Cell) -> None:
        del self._running[cell]
        self._preparing.pop(cell, None)
        self._done_s += cell.seconds
        self._finished += 1
        self.tell()

    def tell(self, *, seldom: bool = False) -> None:
        now = time.monotonic()
        if self._progress is None or (seldom and now < self._next):
            return
        self._next = now + TICK_S
        passed_s = now - self._began
        done_s = self._done_s + sum(self._running.values())
        running = tuple(self._running.items())
        left_s = self._left_s(now, done_s)
        preparing = tuple(self._preparing.items())
        self._progress(ComparisonProgress(self._total, self._finished, running, passed_s, left_s, preparing))

    def _left_s(self, now: float, done_s: float) -> float | None:
        """By the pace since the first word of any cell: what the processes needed to start tells nothing."""
        if done_s >= self._all_s:
            return 0.0
        if self._first is None:
            if done_s > 0:
                self._first = (now, done_s)
            return None
        since, before_s = self._first
        return (now - since) * (self._all_s - done_s) / (done_s - before_s) if done_s > before_s else None


# -- processes ---------------------------------------------------------------------------------------------------------


@dataclass
class _Hand:
    """A process that runs cells, and the one that it has now."""

    process: BaseProcess
    cell: Cell | None = None


def _run_in_processes(todo: Sequence[Cell], out: Path, jobs: int, run: RunCell, tally: _Tally) -> None:
    """Run the cells on so many processes; the first failure, or Ctrl-C, ends all of them."""
    # Never fork: the threads with which PyTorch computes do not survive it.
    context = multiprocessing.get_context("spawn")
    waiting = deque(todo)
    crew: dict[Connection, _Hand] = {}

    def give(connection: Connection) -> None:
        hand = crew[connection]
        hand.cell = waiting.popleft() if waiting else None
        if hand.cell is None:
            connection.send(None)
            return
        try:
            connection.send((hand.cell, _folder(out, hand.cell)))
        except OSError:
            raise _gone(hand.process, hand.cell) from None
        tally.began(hand.cell)

    try:
        for _ in range(jobs):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, run), name="rowcast-cell", daemon=True)
            with _uninterrupted():
                process.start()
            theirs.close()
            crew[ours] = _Hand(process)
            give(ours)
        while any(hand.cell is not None for hand in crew.values()):
            busy = [connection for connection, hand in crew.items() if hand.cell is not None]
            for connection in wait(busy, TICK_S):
                assert isinstance(connection, Connection)
                hand = crew[connection]
                assert hand.cell is not None
                kind, value = _hear(connection, hand)
                if kind == "failed":
                    raise value
                if kind == "advanced":
                    tally.advanced(hand.cell, value)
                else:
                    tally.ended(hand.cell)
                    give(connection)
            tally.tell(seldom=True)
    finally:
        _end(crew)


def _hear(connection: Connection, hand: _Hand) -> tuple[str, Any]:
    try:
        kind, value = connection.recv()
    except (EOFError, OSError):
        assert hand.cell is not None
        raise _gone(hand.process, hand.cell) from None
    return kind, value


def _gone(process: BaseProcess, cell: Cell) -> WorkerFailed:
    process.join(END_LIMIT_S)
    return WorkerFailed(
        f"{cell.name}: its process ended with code {process.exitcode} before the cell was finished; "
        "if the memory was used up, take fewer jobs"
    )


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """A process that is started here never sees Ctrl-C, which reaches the whole group: the parent ends it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(crew: Mapping[Connection, _Hand]) -> None:
    """No process is left, whatever it was doing."""
    for hand in crew.values():
        if hand.cell is not None:
            hand.process.terminate()
    for connection, hand in crew.items():
        hand.process.join(END_LIMIT_S)
        if hand.process.is_alive():
            hand.process.kill()
            hand.process.join()
        connection.close()


def _work(connection: Connection, run: RunCell) -> None:
    """What a process does: cells, until there are no more or nobody listens."""
    _take_one_thread()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while (task := connection.recv()) is not None:
            cell, folder = task
            try:
                _run(cell, folder, run, _teller(connection))
            except RowcastError as error:
                connection.send(("failed", error))
            except Exception:
                connection.send(("failed", WorkerFailed(f"{cell.name}: {traceback.format_exc()}")))
            else:
                connection.send(("ended", None))


def _take_one_thread() -> None:
    """The processors are shared by cells."""
    import torch

    from rowcast.rows import kernels

    torch.set_num_threads(1)
    kernels.limit_threads(1)


def _teller(connection: Connection) -> Callable[[float | Preparing], None]:
    """Tells the parent how far a cell is, now and then."""
    next_at = 0.0

    def tell(done: float | Preparing) -> None:
        nonlocal next_at
        if time.monotonic() >= next_at:
            next_at = time.monotonic() + TICK_S
            connection.send(("advanced", done))

    return tell
