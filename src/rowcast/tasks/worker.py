"""One worker of a task: a replica of the model, its optimizer, and its own data."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rowcast.errors import ConfigError, SourceEnded, near_match
from rowcast.exhibits import Exhibit, check_exhibits
from rowcast.optim import Optimizer
from rowcast.optim.team import TeamLike

if TYPE_CHECKING:
    from rowcast.tasks.base import Task

__all__ = ["TaskWorker"]


class TaskWorker:
    """One worker of a task: a replica of the model, an optimizer, and the worker's own data.

    Derive from it where a step is more than one batch forward and backward.

    Attributes:
        task: what it is a worker of.
        model: the replica.
        optimizer: over its parameters.
        index, workers: which worker of how many.
        clock: seconds since the training began, as whoever runs the worker counts them: of virtual time or of real
            time. Where nobody has set it, real seconds since this object was made.
        brief: whether the evaluation under way is a look amid the training.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Iterable[Any] = (),
        *,
        index: int = 0,
        workers: int = 1,
    ) -> None:
        self.task, self.model, self.optimizer = task, model, optimizer
        self.index, self.workers = index, workers
        self._batches: Iterator[Any] = iter(batches)
        self._ended: SourceEnded | None = None
        self.brief = False
        began = time.monotonic()
        self.clock: Callable[[], float] = lambda: time.monotonic() - began

    def compute(self) -> float:
        """Zero the gradients, run the next batch forward and backward; the caller calls ``optimizer.step()``.

        Returns:
            the loss of the batch.

        Raises:
            SourceEnded: the stream of this worker is over; each further call raises it again.
            ConfigError: the task has no more batches, and did not say that they have an end.
        """
        return self.compute_on(self._next_batch())

    def compute_on(self, batch: Any) -> float:
        """As :meth:`compute`, with a batch that the caller gives: whoever feeds the worker from a stream.

        What a step is beyond a batch forward and backward belongs here, so that it happens either way.
        """
        self.optimizer.zero_grad()
        loss = self.task.loss(self.model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def evaluate(self, *, brief: bool = False) -> dict[str, float]:
        """The metrics of the replica, by name, in the order of the task; its mode stays as it was.

        Args:
            brief: a look amid the training: the task may leave out what takes long, see :attr:`brief`.

        Raises:
            ConfigError: the task measured what it did not announce, or no number.
        """
        self.brief = brief
        with _evaluating(self.model), torch.no_grad():
            found = self.task.evaluate(self)
        return _as_measured(self.task, found)

    def happened(self) -> Sequence[tuple[str, str]]:
        """What happened since the last call that is worth a line in the journal: what, and a detail.

        Asked for after each step; here, nothing.
        """
        return ()

    def exhibits(self) -> Sequence[Exhibit]:
        """What a report shows of this worker's replica at the end of its run, in evaluation mode; here, nothing."""
        return ()

    def shown(self) -> tuple[Exhibit, ...]:
        """What :meth:`exhibits` gives, with the model in evaluation mode, and without gradients.

        Raises:
            ConfigError: a report could not show it.
        """
        with _evaluating(self.model), torch.no_grad():
            return check_exhibits(self.exhibits(), f"task {type(self.task).__name__}: exhibits")

    def write_files(self, folder: Path, name: str) -> None:
        """Write files of the task's own at the end of a run; here, none.

        Args:
            folder: of the run, where the journals are.
            name: what the name of each file begins with: that of the worker.
        """

    def warm_up(self) -> None:
        """Let what is slow the first time be slow before a clock runs; nothing of the worker is changed."""
        self.evaluate()
        before = {name: value.clone() for name, value in self.model.state_dict().items()}
        first = self._peek()
        if first is not None:
            with torch.random.fork_rng(devices=[]):
                self.task.loss(self.model, first).backward()  # type: ignore[no-untyped-call]
            self.optimizer.zero_grad()
        self.model.load_state_dict(before)

    def _peek(self) -> Any:
        """The batch that :meth:`compute` takes next; ``None``: there is none."""
        try:
            first = next(self._batches)
        except StopIteration:
            return None
        except SourceEnded as ended:
            self._ended = ended
            return None
        self._batches = itertools.chain([first], self._batches)
        return first

    def _next_batch(self) -> Any:
        try:
            if self._ended is None:
                return next(self._batches)
        except SourceEnded as ended:
            self._ended = ended
        except StopIteration:
            raise ConfigError(
                f"task {type(self.task).__name__}: batches: worker {self.index} of {self.workers} has no more of them; "
                "expected batches without an end, as of 'while True: yield ...'; the end of a stream is "
                "'raise rowcast.errors.SourceEnded(...)'"
            ) from None
        raise SourceEnded(str(self._ended))

    def wrap(self, team: TeamLike, *, nonfinite: str = "raise") -> Optimizer:
        """Join the team with this worker's model; override it for a weight, a projection or another use of buffers.

        Args:
            nonfinite: what follows a bad gradient; see :class:`rowcast.optim.Optimizer`.
        """
        return Optimizer(self.optimizer, self.model, team, nonfinite=nonfinite)


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The model is in evaluation mode in this block; then each module is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _as_measured(task: Task, found: Mapping[str, Any]) -> dict[str, float]:
    where = f"task {type(task).__name__}: evaluate"
    if not isinstance(found, Mapping):
        raise ConfigError(f"{where}: expected a number for each metric by name, as in {{'error': 0.5}}, got {found!r}")
    known = [each.name for each in task.metrics]
    for name in found:
        if name not in known:
            raise ConfigError(f"{where}: {name!r} is not one of the task's metrics; {near_match(str(name), known)}")
    values: dict[str, float] = {}
    for name in known:
        if name in found:
            try:
                values[name] = float(found[name])
            except (TypeError, ValueError, RuntimeError) as error:
                raise ConfigError(f"{where}: {name}: expected one number, got {found[name]!r}") from error
    return values
