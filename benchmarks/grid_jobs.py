"""The jobs of ``grid.py``: five small nets, each with the same settings for optimizer, shards and batch.

``rowcast compare --task benchmarks/grid_jobs.py:Digits --set optimizer=adam --set lr=0.01`` runs them as any other
task. ``Fashion`` needs ``--data`` with the four files of Fashion-MNIST; the others need no file.
"""

from __future__ import annotations

import importlib
import itertools
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fashion import read_images
from rowcast.config import setting
from rowcast.errors import DataError
from rowcast.tasks import Metric, Task, TaskSettings, TaskWorker

__all__ = ["Diabetes", "Digits", "Fashion", "GridJob", "JobSettings", "Series", "Text"]

OPTIMIZERS = ("sgd", "momentum", "adam")
#: Shards of one label each that a robot gets (McMahan et al., AISTATS 2017).
SHARDS = 2


@dataclass(frozen=True)
class JobSettings(TaskSettings):
    """Settings of every job of the grid."""

    optimizer: str = setting("momentum", "SGD, SGD with momentum 0.9, or Adam.", choices=OPTIMIZERS)
    lr: float = setting(0.05, "Learning rate.", low=0.0, high=1000.0)
    skew: bool = setting(False, "Each robot has two shards of the data in order of their labels; otherwise all alike.")
    batch: int = setting(16, "Items of one step of one robot.", low=1, high=65_536)


@dataclass(frozen=True)
class Items:
    """Data of a job: whatever :meth:`GridJob.inputs` makes inputs of, and targets; the same length each."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


class GridJob(Task):
    """A job whose team looks at the test data together: each robot at a share of its own.

    So a look costs the same whatever the size of the team, and the mean over the robots is over all of the test data.
    The nets have 70,000 to 100,000 parameters. Links are scaled by the size of the model: with much less, the heads of
    messages, which do not shrink with it, would be most of what travels.
    """

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("accuracy", "%"),)
    Settings: ClassVar[type[TaskSettings]] = JobSettings

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        self.train, self.test = self.make_items()

    @abstractmethod
    def make_items(self) -> tuple[Items, Items]:
        """The training and the test data, the same for all seeds."""

    def inputs(self, items: Items, places: Tensor) -> Tensor:
        """What the model is given for some of the items; here, one input for each."""
        return items.inputs[places]

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        kind, lr = self.settings.optimizer, self.settings.lr
        if kind == "adam":
            return torch.optim.Adam(model.parameters(), lr=lr)
        return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9 if kind == "momentum" else 0.0)

    def batches(self, index: int, workers: int) -> Iterator[Tensor]:
        """Places in the training data, drawn from the part of this robot."""
        mine, rng = self.part(index, workers), self.rng(1, index)
        while True:
            yield torch.from_numpy(mine[rng.integers(len(mine), size=self.settings.batch)])

    def part(self, index: int, workers: int) -> NDArray[np.int64]:
        """Places of the training data of one robot."""
        rng = self.rng(0)
        if not self.settings.skew:
            return rng.permutation(len(self.train))[index::workers]
        in_order = np.argsort(self.train.targets.numpy().ravel(), kind="stable")
        shards = np.array_split(in_order, SHARDS * workers)
        return np.concatenate([shards[place] for place in rng.permutation(len(shards))[index::workers]])

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(self.inputs(self.train, batch)), self.train.targets[batch])

    def evaluate(self, worker: TaskWorker) -> Mapping[str, Any]:
        places = torch.arange(worker.index, len(self.test), worker.workers)
        right = worker.model(self.inputs(self.test, places)).argmax(1) == self.test.targets[places]
        return {"accuracy": 100 * right.float().mean()}


class Digits(GridJob):
    """1,297 handwritten digits of scikit-learn, 8 x 8 pixels; 500 more are for tests."""

    def make_items(self) -> tuple[Items, Items]:
        return _digits()

    def make_model(self) -> nn.Module:
        return _mlp(64, 256, 256, 10)


class Fashion(GridJob):
    """Fashion-MNIST: ten kinds of clothes, 28 x 28 pixels; 4,000 of the test images are looked at."""

    def make_items(self) -> tuple[Items, Items]:
        folder = Path(self.settings.data_dir or ".")
        (images, labels), (test, test_labels) = (read_images(folder, part) for part in ("train", "t10k"))
        return Items(images, labels), Items(test[:4000], test_labels[:4000])

    def inputs(self, items: Items, places: Tensor) -> Tensor:
        return items.inputs[places].flatten(1).float() / 255

    def make_model(self) -> nn.Module:
        return _mlp(784, 128, 10)


class Text(GridJob):
    """The next character of the help texts that Python ships, from the :data:`CONTEXT` before it.

    The last tenth of the texts is for tests, of which 4,000 places are looked at. Another version of Python has other
    texts: accuracies of two versions are not to be compared.
    """

    def make_items(self) -> tuple[Items, Items]:
        return _characters()

    def inputs(self, items: Items, places: Tensor) -> Tensor:
        return items.inputs[places].long()

    def make_model(self) -> nn.Module:
        width = 16
        return nn.Sequential(nn.Embedding(SYMBOLS, width), nn.Flatten(), *_mlp(CONTEXT * width, 256, SYMBOLS))


class Series(GridJob):
    """Which of ten machines made a noisy series of 128 values; made here, MLP of 101,386 parameters.

    A machine swings at two frequencies of its own, with phases, strengths and a pace that differ in each series.
    """

    def make_items(self) -> tuple[Items, Items]:
        return _series()

    def make_model(self) -> nn.Module:
        return _mlp(LENGTH, 256, 256, 10)


class Diabetes(GridJob):
    """The regression of ``examples/diabetes_task.py``: how far a disease has come; 142 patients are for tests.

    The net is larger than there: see :class:`GridJob`.
    """

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("test_error", "points", "lower"),)

    def make_items(self) -> tuple[Items, Items]:
        return _patients()

    def make_model(self) -> nn.Module:
        return _mlp(10, 256, 256, 1, between=nn.Tanh)

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        return (model(self.train.inputs[batch]) - (self.train.targets[batch] - 150) / 75).square().mean()

    def evaluate(self, worker: TaskWorker) -> Mapping[str, Any]:
        mine = slice(worker.index, None, worker.workers)
        predicted = 150 + 75 * worker.model(self.test.inputs[mine])
        return {"test_error": (predicted - self.test.targets[mine]).abs().mean()}


def _mlp(*widths: int, between: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers of these widths, and what stands between."""
    layers: list[nn.Module] = []
    for given, wanted in itertools.pairwise(widths):
        layers += [nn.Linear(given, wanted), between()]
    return nn.Sequential(*layers[:-1])


# -- data: read or made once in a process ------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _digits() -> tuple[Items, Items]:
    from sklearn.datasets import load_digits  # late: it takes a second, and other jobs do without

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    pixels = torch.tensor(images[order] / 16, dtype=torch.float32)
    classes = torch.tensor(labels[order], dtype=torch.long)
    return Items(pixels[500:], classes[500:]), Items(pixels[:500], classes[:500])


@lru_cache(maxsize=1)
def _patients() -> tuple[Items, Items]:
    from sklearn.datasets import load_diabetes

    measures, points = load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(points))
    inputs = torch.tensor(measures[order] * 21, dtype=torch.float32)  # deviation 1
    targets = torch.tensor(points[order, None], dtype=torch.float32)
    return Items(inputs[142:], targets[142:]), Items(inputs[:142], targets[:142])


#: Characters that a prediction is made from, and how many are told apart: the most frequent, and one for all others.
CONTEXT, SYMBOLS = 16, 64


@lru_cache(maxsize=1)
def _characters() -> tuple[Items, Items]:
    name = "pydoc_data.topics"
    try:
        texts = importlib.import_module(name).topics
    except (ImportError, AttributeError) as error:
        raise DataError(
            f"task Text: {name}: expected the help texts of Python's standard library, got {error}; take a Python "
            "that has them ('import pydoc_data.topics'), or another task"
        ) from error
    written = "\n\n".join(texts[key] for key in sorted(texts))
    found, counts = np.unique(list(written), return_counts=True)
    frequent = found[np.argsort(-counts, kind="stable")][: SYMBOLS - 1]
    numbers = {character: number for number, character in enumerate(frequent, start=1)}
    codes = torch.tensor([numbers.get(character, 0) for character in written], dtype=torch.uint8)
    windows, targets = codes.unfold(0, CONTEXT, 1)[:-1], codes[CONTEXT:].long()
    edge = len(targets) * 9 // 10
    # No window of the tests reaches into the training data.
    late = np.random.default_rng(0).permutation(np.arange(edge + CONTEXT, len(targets)))[:4000]
    return Items(windows[:edge], targets[:edge]), Items(windows[late], targets[late])


#: Values of a series; how many series there are of each machine, for training and for tests.
LENGTH, SERIES_OF, TESTS_OF = 128, 600, 200


@lru_cache(maxsize=1)
def _series() -> tuple[Items, Items]:
    rng = np.random.default_rng(0)
    count = 10 * (SERIES_OF + TESTS_OF)
    labels = np.arange(count) % 10
    # Machines lie close together: neighbours share one of their two frequencies (periods in a series).
    first, second = 2.0 + labels // 2, 7.0 + (labels + 1) // 2
    pace = 1 + 0.03 * rng.standard_normal((count, 1))
    time = np.arange(LENGTH) / LENGTH * 2 * np.pi * pace
    values = np.zeros((count, LENGTH))
    for frequency in (first, second):
        phase = 2 * np.pi * rng.random((count, 1))
        strength = 0.6 + 0.8 * rng.random((count, 1))
        values += strength * np.sin(frequency[:, None] * time + phase)
    values += 0.8 * rng.standard_normal(values.shape)
    inputs, targets = torch.tensor(values, dtype=torch.float32), torch.tensor(labels, dtype=torch.long)
    edge = 10 * SERIES_OF
    return Items(inputs[:edge], targets[:edge]), Items(inputs[edge:], targets[edge:])
