"""What a job is: the seam between what is trained and how a team trains it.

A :class:`Task` is a user's model, data and metrics in one class. It says nothing of links, policies or processes, and
whatever runs it (``rowcast compare``, ``demo``, ``train``) knows nothing of images, classes or losses::

    class Wine(Task):
        metrics = (Metric("test_error", "points", "lower"),)

        def __init__(self, settings):
            super().__init__(settings)
            self.train, self.test = ...

        def make_model(self):
            return torch.nn.Linear(11, 1)

        def make_optimizer(self, model):
            return torch.optim.SGD(model.parameters(), lr=0.01)

        def batches(self, index, workers):
            mine, rng = self.train[index::workers], self.rng(index)
            while True:
                yield mine[rng.choice(len(mine), 32)]

        def loss(self, model, batch):
            return (model(batch[:, :11]) - batch[:, 11:]).square().mean()

        def evaluate(self, worker):
            return {"test_error": (worker.model(self.test[:, :11]) - self.test[:, 11:]).abs().mean()}

Then ``rowcast compare --task wine.py:Wine`` compares policies with it. What is not of this form (a stream of data, a
gradient that several batches make, an evaluation over a map) overrides :meth:`Task.worker` and gives a
:class:`TaskWorker` of its own.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from rowcast.config import Checked, setting
from rowcast.errors import ConfigError, LocalProtocolError, near_match
from rowcast.metric import Metric
from rowcast.streams import Sample
from rowcast.tasks.items import unpack_item
from rowcast.tasks.options import TaskOptions, options_of
from rowcast.tasks.saved import Labelled
from rowcast.tasks.sizes import bytes_of
from rowcast.tasks.states import State, load_npz_state, save_npz_state
from rowcast.tasks.worker import TaskWorker

__all__ = ["Metric", "Task", "TaskSettings", "TaskWorker"]

#: Told what share of a longer preparation is done, above 0 .. 1.
ShareDone = Callable[[float], None]


@dataclasses.dataclass(frozen=True)
class TaskSettings(Checked):
    """Settings that every task has; a task adds its own in a frozen dataclass derived from this one.

    Raises:
        ConfigError: a value out of its range.
    """

    data_dir: str | None = setting(None, "Folder with the files of the data set, where it needs one.")
    seed: int = setting(0, "Everything random follows from it.", low=0, high=2**32 - 1)


class Task(ABC):
    """A job: model, data, and how success is measured. Derive from it, in a file of your own.

    The same settings have to give the same model, the same parts of the data and the same batches in every process:
    the nodes of a team exchange nothing but updates. What is random comes from :meth:`rng`, or from PyTorch within
    :meth:`make_model`, which is called with a seed set.

    Attributes:
        metrics: what :meth:`evaluate` measures, the primary one first. The same for all settings.
        shown: names of the metrics that a live display has room for; none: the primary one.
        reference_bytes: encoded bytes of the model, one bit an element, that links are recorded with: in virtual time
            they are scaled by the size of the model that is trained over this one. Here, ConvMLP-M of the ROG paper.
        Settings: the class of the settings; what it adds to :class:`TaskSettings` are the task's options.
        settings: the settings of this object.
    """

    metrics: ClassVar[tuple[Metric, ...]] = ()
    shown: ClassVar[tuple[str, ...]] = ()
    reference_bytes: ClassVar[int] = 2_188_344
    Settings: ClassVar[type[TaskSettings]] = TaskSettings

    def __init__(self, settings: TaskSettings) -> None:
        self.settings: Any = settings
        self._state: State | None = None

    # ---- what a task gives ----------------------------------------------------------------------------------

    @abstractmethod
    def make_model(self) -> nn.Module:
        """A new model. PyTorch's random numbers are seeded meanwhile: it is the same one in every process."""

    @abstractmethod
    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of one worker, over parameters of ``model``."""

    @abstractmethod
    def batches(self, index: int, workers: int) -> Iterable[Any]:
        """The batches of worker ``index`` (from 0) of a team of ``workers``; without an end.

        This is where the data is shared out: each worker draws from a part of its own, in an order of its own. Where
        the data have an end, as a recorded stream has, raise :class:`rowcast.errors.SourceEnded` there: the worker
        then delivers what it has, and stops.
        """

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss of a batch, a tensor of one element to which ``backward`` applies."""

    @abstractmethod
    def evaluate(self, worker: TaskWorker) -> Mapping[str, Any]:
        """Measure ``worker.model``, which is in evaluation mode, without gradients.

        Returns:
            a number for each of :attr:`metrics`, by name. One that is not measured this time is left out.
        """

    # ---- what a task may change -----------------------------------------------------------------------------

    def samples(self, index: int, workers: int) -> Iterator[Any]:
        """What worker ``index`` (from 0) of a team of ``workers`` sees, one sample after the other in order of time.

        A task that gives them can be trained on a stream, whose rate decides how many samples make a batch:
        :meth:`collate` makes one of any number. Without an end, unless the stream has one.

        Raises:
            ConfigError: the task has batches only, as here.
        """
        raise ConfigError(
            f"task {type(self).__name__}: gives whole batches and no single samples, so that it cannot be trained on "
            "a stream; define samples(index, workers)"
        )

    def collate(self, samples: Sequence[Any]) -> Any:
        """A batch, as :meth:`loss` takes it, of one or more of :meth:`samples`; here, as PyTorch's data loader does."""
        return default_collate(list(samples))

    def decode(self, sample: Sample) -> Any:
        """One of :meth:`samples` from what a source delivered (``rowcast train --source``): here, as
        :func:`rowcast.tasks.pack_item` writes it.

        Raises:
            Exception: it is no such sample; it is dropped and counted.
        """
        return unpack_item(sample.payload)

    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes in the order of the model's outputs; ``None``: it tells none apart, or has none."""
        return None

    def labelled_tests(self) -> Labelled:
        """Labelled items that no robot is trained on, where the task tells classes apart: ``rowcast combine`` fits its
        methods to a part of them and judges by the rest. The model's outputs for ``(n, ...)`` inputs are scores
        ``(n, classes)``, of which a softmax makes probabilities.

        Raises:
            ConfigError: the task has none, as here.
        """
        raise ConfigError(
            f"task {type(self).__name__}: says nothing of classes and labelled tests, so that its models cannot be "
            "combined; define labelled_tests()"
        )

    def sample_bytes(self, sample: Any) -> int:
        """Bytes of one of :meth:`samples` where it is given away raw; here, of the tensors and numbers in it."""
        return bytes_of(sample)

    def worker(self, index: int, workers: int) -> TaskWorker:
        """The part of worker ``index`` (from 0) of a team of ``workers``.

        Raises:
            ConfigError: ``index`` is not below ``workers``.
        """
        self.check_index(index, workers)
        model = self.model()
        return TaskWorker(
            self, model, self.make_optimizer(model), self.batches(index, workers), index=index, workers=workers
        )

    def pretrain(self, progress: ShareDone | None = None) -> State:
        """Make the starting model of every worker and keep it as :attr:`state`: here, a new model.

        A task whose workers begin with a trained model overrides this, calls :meth:`keep_state` at the end, and gives
        :meth:`starting_key`.

        Args:
            progress: told after each step what share is done, above 0 .. 1.
        """
        return self.keep_state(self._seeded_model())

    def starting_key(self) -> str | None:
        """A digest of all that the starting model depends on, the data included; equal if and only if it is the same.

        ``None``: it takes no time to make, so that it need not be kept. Versions of Rowcast, PyTorch and NumPy, the
        class and its file are looked at by whoever keeps it.
        """
        return None

    def describe_start(self) -> str:
        """One line on the starting model, for whoever watches: here, its metrics."""
        values = self.worker(0, 1).evaluate()
        return ", ".join(f"{each.name} {each.written(values.get(each.name))}" for each in self.metrics)

    @classmethod
    def build(
        cls, options: Mapping[str, Any] | None = None, *, data_dir: str | Path | None = None, seed: int = 0
    ) -> Task:
        """Make the task.

        Args:
            options: settings that differ from the defaults, by name.
            data_dir: folder of the data.
            seed: everything random follows from it.

        Raises:
            ConfigError: an unknown option (with the nearest that is known), or a value out of its range.
        """
        return cls(cls._settings_of(options or {}, data_dir, seed))

    @classmethod
    def check(cls, options: Mapping[str, Any], *, data_dir: str | Path | None = None, workers: int = 1) -> None:
        """Find out now what a run would find out after its start; here, the task is built.

        Raises:
            ConfigError: an option that is out of range, or too many workers for the data.
            DataError: the data cannot be read.
        """
        cls.build(options, data_dir=data_dir)

    @classmethod
    def resolve(cls, name: str, data_dir: str | Path | None) -> str:
        """The name of the task that ``name`` stands for with this data; a family of tasks chooses one of them here."""
        return name

    @classmethod
    def shown_metrics(cls) -> tuple[Metric, ...]:
        """The metrics that :attr:`shown` names, or the primary one."""
        by_name = {metric.name: metric for metric in cls.metrics}
        return tuple(by_name[name] for name in cls.shown) or cls.metrics[:1]

    @classmethod
    def options_type(cls) -> type[TaskOptions]:
        """The options as a settings class: the fields of :attr:`Settings` but folder and seed; ``None``: not given."""
        return options_of(cls.Settings, f"{cls.__name__}Options", without=_OWN_OPTION)

    @classmethod
    def limit_tests(cls, options: Mapping[str, Any], items: int) -> dict[str, Any]:
        """``options``, changed so that an evaluation looks at ``items`` of the test data at most; here, unchanged."""
        return dict(options)

    @classmethod
    def at_pace(cls, options: Mapping[str, Any], pace_s: float) -> dict[str, Any]:
        """``options``, for a demo in which a gradient takes ``pace_s`` seconds; here, unchanged.

        A task whose data arrive by the clock makes them come faster or slower, where the options do not say when.
        """
        return dict(options)

    # ---- what is the same for all ---------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The starting model, by parameter and buffer name.

        Raises:
            LocalProtocolError: neither :meth:`pretrain` nor :meth:`load_state` was called.
        """
        if self._state is None:
            raise LocalProtocolError("the task has no starting model; call pretrain() or load_state(path) first")
        return self._state

    def model(self) -> nn.Module:
        """A new model with the starting state.

        Raises:
            LocalProtocolError: the task trains its starting model, and :meth:`pretrain` was not called.
        """
        model = self._seeded_model()
        if self._state is not None or type(self).pretrain is not Task.pretrain:
            model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in self.state.items()})
        return model

    def keep_state(self, model: nn.Module) -> State:
        """Take what is in ``model`` as the starting state of every worker."""
        self._state = {name: value.detach().cpu().numpy().copy() for name, value in model.state_dict().items()}
        return self._state

    def save_state(self, path: str | Path) -> None:
        """Write the starting model as an ``.npz`` file without pickles; the file appears whole or not at all."""
        save_npz_state(path, self.state)

    def load_state(self, path: str | Path) -> State:
        """Read a starting model that :meth:`save_state` wrote.

        Raises:
            DataError: no such file, not an ``.npz``, or a state of another model.
        """
        self._state = load_npz_state(path, like=self._seeded_model().state_dict())
        return self._state

    def rng(self, *stream: int) -> np.random.Generator:
        """Random numbers that follow from the seed and from ``stream``, so that none depends on another's use."""
        return np.random.default_rng([self.settings.seed, *stream])

    @staticmethod
    def check_index(index: int, workers: int) -> None:
        """Raises ConfigError for a worker that a team of ``workers`` does not have."""
        if not 0 <= index < workers:
            raise ConfigError(f"worker index: expected 0..{workers - 1}, got {index!r}")

    def _seeded_model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(self.rng(_MODEL).integers(2**63)))
            return self.make_model()

    @classmethod
    def _settings_of(cls, options: Mapping[str, Any], data_dir: str | Path | None, seed: int) -> TaskSettings:
        known = [field.name for field in dataclasses.fields(cls.Settings) if field.name not in _OWN_OPTION]
        for name in options:
            if name not in known:
                raise ConfigError(f"task {cls.__name__}: unknown option {name!r}; {near_match(name, known)}")
        return cls.Settings(data_dir=None if data_dir is None else str(data_dir), seed=seed, **options)


#: The first number of the stream of random numbers from which a model is made; tasks use small ones.
_MODEL = 2**31
#: Settings that are given beside the options.
_OWN_OPTION = tuple(field.name for field in dataclasses.fields(TaskSettings))
