"""Cells as tasks of a Ray cluster: one processor each, their files sent back to whoever asked.

A task runs its cell in a temporary folder of its node and returns the files; the driver puts them into the folder of
the comparison. So no folder is shared. What a cell reads is not sent: the file of a user's task and the modules beside
it, the data folder, files of traces and recordings have to be at the same place on each node, and Rowcast, PyTorch and
NumPy of the same versions installed there. A starting model is kept in the cache of the user of each node.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rowcast.errors import ConfigError, RowcastError, WorkerFailed
from rowcast.experiment.cell import Cell
from rowcast.experiment.executors import Executor, Work, failure_of, now_and_again, processors, take_one_thread
from rowcast.experiment.folder import cell_folder, files_of, receive_folder, versions
from rowcast.experiment.preparing import Preparing
from rowcast.experiment.progress import TICK_S, ProgressTracker
from rowcast.experiment.runners import RunCell
from rowcast.experiment.starting import CACHE_VARIABLE

__all__ = ["RETRIES", "RayCluster"]

#: A cell whose process or node dies is run again so many times.
RETRIES = 3
#: How often a cell says how far it is (s).
SAY_EVERY_S = 1.0
#: Tasks that were told to end may take so long (s) before their processes are killed.
END_LIMIT_S = 5.0
#: The head of a cluster answers within this time (s).
REACH_LIMIT_S = 10.0
#: Of the environment: a cluster that is started here sends no statistics of its use to Ray's makers, and does not
#: hide devices from tasks that reserve none.
_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class _Order(NamedTuple):
    """What a task is given.

    Attributes:
        cell, run: the cell, and what runs it.
        versions: of the driver; those of the node have to be the same.
        cache: of starting models, where the driver was told of one.
    """

    cell: Cell
    run: RunCell
    versions: Mapping[str, str]
    cache: str | None


class _Outcome(NamedTuple):
    """What a task returns: the node's name, and why the cell failed, or its files."""

    node: str
    failure: RowcastError | None
    files: Mapping[str, bytes]


class Board:
    """Where cells write how far they are: an actor, which the driver asks now and then."""

    def __init__(self) -> None:
        self._news: dict[str, float | Preparing] = {}

    def tell(self, name: str, done: float | Preparing) -> None:
        """How far a cell is."""
        self._news[name] = done

    def take(self) -> dict[str, float | Preparing]:
        """What is new since the last call, by the cell's name."""
        news, self._news = self._news, {}
        return news


class RayCluster(Executor):
    """A Ray cluster. It is started, or joined, with the first cells; one that this process has joined already is used.

    Args:
        address: of one that is there, as ``ray.init`` takes it; ``None``: one of this machine, until :meth:`close`.
        jobs: cells at the same time; ``None``: as many as there are processors, here or in the cluster.

    Raises:
        ConfigError: Ray is not installed.
    """

    def __init__(self, address: str | None, jobs: int | None) -> None:
        try:
            import ray
            import ray.exceptions
        except ImportError as error:
            raise ConfigError(
                'on ray: expected Ray, which is not installed; pip install "rowcast[ray]", or leave --on away'
            ) from error
        self._ray: Any = ray
        self._address, self._jobs = address, jobs
        self._ours = False

    def run_all(self, todo: Sequence[Work], run: RunCell, tracker: ProgressTracker) -> None:
        """Run the cells; the first failure, or Ctrl-C, cancels all of them."""
        if not todo:
            return
        self._join()
        ray = self._ray
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(run_there)
        board = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Board).remote()
        cells = {work.cell.name: work.cell for work in todo}
        watch = _Watch(tracker, cells)
        waiting, running = deque(todo), dict[Any, Work]()
        found, cache = versions(), os.environ.get(CACHE_VARIABLE)
        limit = len(todo) if self._jobs is None else self._jobs
        asked = board.take.remote()
        try:
            while waiting or running:
                while waiting and len(running) < limit:
                    work = waiting.popleft()
                    running[task.remote(_Order(work.cell, run, found, cache), board)] = work
                done, _ = ray.wait(list(running), num_returns=1, timeout=TICK_S)
                # Never wait for the board: where its node died, it takes half a minute to be somewhere else.
                if ray.wait([asked], num_returns=1, timeout=0)[0]:
                    watch.hears(ray.get(asked))
                    asked = board.take.remote()
                for ref in done:
                    ended = running.pop(ref)
                    self._keep(ref, ended)
                    watch.ended(ended.cell)
                tracker.tell(seldom=True)
        finally:
            self._cancel(list(running))
            ray.kill(board)

    def close(self) -> None:
        """End the cluster that was started here, or leave the one that was joined."""
        if self._ours:
            self._ours = False
            self._ray.shutdown()

    def _join(self) -> None:
        ray = self._ray
        if ray.is_initialized():
            return
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        if self._address is None:
            for name, value in _ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            ray.init(address="local", num_cpus=self._jobs or processors(), include_dashboard=False, **quiet)
        else:
            try:
                _reach(self._address)
                ray.init(address=self._address, **quiet)
            except (OSError, RuntimeError, ValueError) as error:
                raise ConfigError(
                    f"on ray:{self._address}: expected the head of a Ray cluster there, as auto or HOST:PORT, got: "
                    f"{error}; start one with 'ray start --head', or leave the address away for one of this machine"
                ) from error
        self._ours = True

    def _keep(self, ref: Any, work: Work) -> None:
        """Write the files of a cell that has ended.

        Raises:
            RowcastError: it failed.
        """
        try:
            outcome: _Outcome = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            raise WorkerFailed(
                f"{work.cell.name}: its task on Ray ended before the cell was finished, also when run again where a "
                f"process or a node died ({RETRIES} times at most): {error}; if the memory was used up, take fewer jobs"
            ) from error
        if isinstance(outcome.failure, ConfigError):
            raise ConfigError(
                f"{outcome.failure}; this was on node {outcome.node}, where files of tasks, data and traces have to be "
                "at the same place as here"
            ) from outcome.failure
        if outcome.failure is not None:
            raise outcome.failure
        receive_folder(work.folder, outcome.files)

    def _cancel(self, running: Sequence[Any]) -> None:
        """No task is left, whatever it was doing."""
        if not running:
            return
        ray = self._ray
        for ref in running:
            ray.cancel(ref, force=False)
        _, left = ray.wait(running, num_returns=len(running), timeout=END_LIMIT_S)
        for ref in left:
            ray.cancel(ref, force=True)


class _Watch:
    """Tells a tracker what cells elsewhere say; which of them runs is known from its first word."""

    def __init__(self, tracker: ProgressTracker, cells: Mapping[str, Cell]) -> None:
        self._tracker, self._cells = tracker, cells
        self._begun: set[str] = set()
        self._over: set[str] = set()

    def hears(self, news: Mapping[str, float | Preparing]) -> None:
        """How far cells are; late news of one that is over say nothing."""
        for name, done in news.items():
            if name not in self._over:
                self._begin(name)
                self._tracker.advanced(self._cells[name], done)

    def ended(self, cell: Cell) -> None:
        """A cell is finished."""
        self._begin(cell.name)
        self._over.add(cell.name)
        self._tracker.ended(cell)

    def _begin(self, name: str) -> None:
        if name not in self._begun:
            self._begun.add(name)
            self._tracker.began(self._cells[name])


def _reach(address: str) -> None:
    """Whether somebody listens there: Ray itself would try for minutes.

    Raises:
        ValueError: it is no address.
        OSError: nobody listens.
    """
    if address == "auto":  # Ray looks for one on this machine, and says at once where there is none
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or int(port) >= 1 << 16:
        raise ValueError("no such address")
    socket.create_connection((host.strip("[]"), int(port)), REACH_LIMIT_S).close()


def run_there(order: _Order, board: Any) -> _Outcome:
    """Run a cell in a temporary folder of this node; what Ray calls there."""
    cell, node = order.cell, platform.node()
    board.tell.remote(cell.name, 0.0)
    here = versions()
    unlike = [
        f"{name} {here.get(name, 'none')} (here {version})"
        for name, version in order.versions.items()
        if name != "python" and here.get(name) != version
    ]
    if unlike:
        refused = ConfigError(
            f"node {node}: expected the versions of this machine, found {', '.join(unlike)}; install the same there"
        )
        return _Outcome(node, refused, {})
    take_one_thread()
    tell = now_and_again(lambda done: board.tell.remote(cell.name, done), SAY_EVERY_S)
    with _cache(order.cache), tempfile.TemporaryDirectory(prefix="rowcast-cell-") as place:
        folder = cell_folder(Path(place), cell)
        folder.parent.mkdir()
        failure = failure_of(Work(cell, folder), order.run, tell)
        return _Outcome(node, failure, {} if failure else files_of(folder))


@contextlib.contextmanager
def _cache(named: str | None) -> Iterator[None]:
    """Starting models are kept where the driver was told, if it was."""
    before = os.environ.get(CACHE_VARIABLE)
    if named is not None:
        os.environ[CACHE_VARIABLE] = named
    try:
        yield
    finally:
        if named is not None:
            os.environ.pop(CACHE_VARIABLE)
            if before is not None:
                os.environ[CACHE_VARIABLE] = before
