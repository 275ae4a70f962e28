"""The conformance suite of tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rowcast.metric import check_metrics

__all__ = ["TaskClass", "check_task"]

State = dict[str, npt.NDArray[Any]]


class TaskClass(Protocol):
    """What the suite needs of a class derived from ``rowcast.tasks.Task``, which is above this package."""

    def build(self, options: Mapping[str, Any], *, data_dir: str | None, seed: int) -> Any: ...


def check_task(
    kind: TaskClass,
    options: Mapping[str, Any] | None = None,
    *,
    data_dir: str | None = None,
    workers: int = 2,
    steps: int = 60,
) -> None:
    """Check a task against what runs it relies on.

    The same settings give the same model, batches and losses each time, and each worker has others; a starting model
    is the one that was kept; an evaluation changes nothing, and measures finite numbers under the announced names; a
    few steps lower the loss, and the primary metric does not get worse by them.

    Args:
        kind: the class, not an object of it.
        options: of the task; small ones make it fast.
        data_dir: folder of its data.
        workers: of the team, 2 or more.
        steps: that a worker trains; they have to lower the loss of the first batches.

    Raises:
        AssertionError: it does not; the message says what was expected.
    """
    assert workers >= 2, f"workers: expected 2 or more, got {workers}"

    def built(seed: int = 0) -> Any:
        task = kind.build(options or {}, data_dir=data_dir, seed=seed)
        task.pretrain()
        return task

    task, again = built(), built()
    check_metrics(task.metrics, f"task {type(task).__name__}")
    _check_start(task, again, workers)
    first = _trained(task.worker(0, workers), steps)
    second = _trained(again.worker(0, workers), steps)
    assert first == second, (
        "two tasks of one seed gave other losses; expected everything random to come from self.rng, and nothing from "
        "the order of a set, the clock or a generator that is shared"
    )
    other = _trained(task.worker(1, workers), steps)
    assert first != other, "workers 0 and 1 have the same losses; expected that each draws from data of its own"
    assert _trained(built(seed=1).worker(0, workers), 1) != first[:1], (
        "seeds 0 and 1 gave the same first loss; expected model and batches to follow from the seed"
    )
    _check_evaluation(task, workers, steps)


def _check_start(task: Any, again: Any, workers: int) -> None:
    """All workers begin with the same model, which is what was kept."""
    states = [_state(each.model) for each in (task.worker(0, workers), task.worker(workers - 1, workers))]
    for name, state in (("the state that pretrain() returned", task.state), ("another object", again.state)):
        for found in states:
            assert found.keys() == state.keys() and all(_same(found[key], state[key]) for key in state), (
                f"a worker began with another model than {name}; expected self.model() as it is"
            )
    assert task.starting_key() == again.starting_key(), "starting_key: expected the same for the same settings"


def _check_evaluation(task: Any, workers: int, steps: int) -> None:
    worker = task.worker(0, workers)
    before = _state(worker.model)
    mode = worker.model.training
    values = worker.evaluate()
    names = [metric.name for metric in task.metrics]
    assert names[0] in values, f"evaluate: expected the primary metric {names[0]!r}, got {sorted(values)}"
    for name, value in values.items():
        assert math.isfinite(value), f"evaluate: {name}: expected a finite number, got {value}"
    assert worker.evaluate() == values, "evaluate: two calls measured one model differently"
    worker.warm_up()
    worker.shown()  # says itself what no report could show
    after = _state(worker.model)
    assert all(_same(after[key], before[key]) for key in before), "evaluate, warm_up or exhibits changed the model"
    assert worker.model.training == mode, "evaluate: expected the mode of the model to stay as it was"
    primary = task.metrics[0]
    # A worker that was warmed up goes on as one that was not.
    losses = _trained(worker, steps)
    assert losses == _trained(task.worker(0, workers), steps), "warm_up or evaluate changed the batches that follow"
    untrained, trained_on = task.worker(0, workers), task.worker(0, workers)
    trained_on.model.load_state_dict(worker.model.state_dict())
    batches = max(steps // 3, 1)
    began, ended = (np.mean([each.compute() for _ in range(batches)]) for each in (untrained, trained_on))
    assert ended < began, (
        f"the loss of the first {batches} batches did not fall in {steps} steps: {began:.4g} before, {ended:.4g} after"
    )
    trained = worker.evaluate()[primary.name]
    assert not primary.is_better(values[primary.name], trained), (
        f"{primary.name} got worse while the loss fell, from {primary.written(values[primary.name])} to "
        f"{primary.written(trained)}; is it really better when it is {primary.better}?"
    )


def _trained(worker: Any, steps: int) -> Sequence[float]:
    """The losses of so many steps."""
    losses = []
    for step in range(steps):
        loss = worker.compute()
        assert isinstance(loss, float) and math.isfinite(loss), (
            f"compute: expected a finite loss in step {step}, got {loss!r}"
        )
        worker.optimizer.step()
        losses.append(loss)
    return losses


def _state(model: Any) -> State:
    """A copy of the parameters and buffers of a model, by name."""
    return {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}


def _same(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
