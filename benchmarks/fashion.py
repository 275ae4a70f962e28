"""The task of ``streams.py``: Fashion-MNIST and a small CNN, as the streams of ScaDLES were prototyped with them.

``rowcast compare --task benchmarks/fashion.py:Fashion --data FOLDER`` runs it as any other task; the folder holds the
four files of the data set (``train-images-idx3-ubyte.gz`` and so on).
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rowcast.config import setting
from rowcast.errors import DataError
from rowcast.optim import Optimizer
from rowcast.optim.team import TeamLike
from rowcast.tasks import Metric, Task, TaskSettings, TaskWorker

#: What the CNN has without batch norm.
PARAMETERS = 52_138


@dataclass(frozen=True)
class FashionSettings(TaskSettings):
    batch: int = setting(64, "Images of a step, where no stream says otherwise.", low=1, high=65_536)
    lr: float = setting(0.05, "Learning rate.", low=0.0, high=10.0)
    momentum: float = setting(0.9, "Of the optimizer.", low=0.0, high=0.999)
    norm: bool = setting(False, "With batch norm, whose statistics stay with each robot.")
    skew: bool = setting(False, "Each robot sees one class only; otherwise all see the same.")
    test_items: int = setting(2000, "Test images of a look.", low=1, high=10_000)
    looking: int = setting(10_000, "So many robots look at the test images, the first ones.", low=1, high=10_000)


class Fashion(Task):
    """Ten kinds of clothes, 28 x 28 pixels."""

    metrics = (Metric("accuracy", "%"),)
    Settings = FashionSettings

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        folder = Path(settings.data_dir or ".")
        self.images, self.labels = read_images(folder, "train")
        self.test_images, self.test_labels = (part[: settings.test_items] for part in read_images(folder, "t10k"))

    def make_model(self) -> nn.Module:
        return make_cnn(norm=self.settings.norm)

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=self.settings.lr, momentum=self.settings.momentum)

    def samples(self, index: int, workers: int) -> Iterator[int]:
        """Places of images: shuffled passes over the part of this robot."""
        mine, rng = self._part(index, workers), self.rng(1, index)
        while True:
            yield from rng.permutation(mine).tolist()

    def sample_bytes(self, sample: int) -> int:
        """Of the pixels and the label."""
        return 28 * 28 + 1

    def collate(self, samples: Any) -> tuple[Tensor, Tensor]:
        places = torch.tensor(samples)
        return self.images[places].float() / 255, self.labels[places]

    def batches(self, index: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        samples = self.samples(index, workers)
        while True:
            yield self.collate([next(samples) for _ in range(self.settings.batch)])

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def worker(self, index: int, workers: int) -> TaskWorker:
        self.check_index(index, workers)
        model = self.model()
        batches = self.batches(index, workers)
        return _Worker(self, model, self.make_optimizer(model), batches, index=index, workers=workers)

    def evaluate(self, worker: TaskWorker) -> Mapping[str, float]:
        if worker.index >= self.settings.looking:
            return {}
        found = [
            worker.model(images.float() / 255).argmax(1) == labels
            for images, labels in zip(self.test_images.split(500), self.test_labels.split(500), strict=True)
        ]
        return {"accuracy": 100 * float(torch.cat(found).float().mean())}

    def _part(self, index: int, workers: int) -> NDArray[np.int64]:
        if self.settings.skew:
            return np.flatnonzero(self.labels.numpy() == index % 10)
        return self.rng(0).permutation(len(self.labels))[index::workers]


class _Worker(TaskWorker):
    """Its statistics of batch norm are its own, as in ScaDLES."""

    def wrap(self, team: TeamLike, *, nonfinite: str = "raise") -> Optimizer:
        return Optimizer(self.optimizer, self.model, team, nonfinite=nonfinite, buffers="local")


def make_cnn(*, norm: bool = False) -> nn.Module:
    """Two convolutions and two linear layers, :data:`PARAMETERS` without batch norm."""

    def normed(channels: int) -> list[nn.Module]:
        return [nn.BatchNorm2d(channels)] if norm else []

    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), *normed(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), *normed(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def write_noise(folder: Path, images: int) -> None:
    """Files of the same format with so many images of noise each: to run everything, and to learn nothing."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "t10k"):
        for kind, magic, shape, most in (("images-idx3", 2051, (28, 28), 256), ("labels-idx1", 2049, (), 10)):
            head = b"".join(number.to_bytes(4, "big") for number in (magic, images, *shape))
            body = rng.integers(0, most, (images, *shape), dtype=np.uint8).tobytes()
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + body, 1))


@lru_cache(maxsize=4)
def read_images(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images ``(n, 1, 28, 28)`` uint8 and labels ``(n,)`` of one part of the data set.

    Raises:
        DataError: a file is not there, or is another one.
    """
    found = []
    for kind, magic, head in (("images-idx3", 2051, 16), ("labels-idx1", 2049, 8)):
        path = folder / f"{part}-{kind}-ubyte.gz"
        try:
            data = gzip.decompress(path.read_bytes())
        except OSError as error:
            raise DataError(f"{path}: expected a file of Fashion-MNIST: {error}") from error
        if int.from_bytes(data[:4], "big") != magic:
            raise DataError(f"{path}: expected the IDX format with the number {magic}")
        found.append(np.frombuffer(data, np.uint8, offset=head).copy())
    images = torch.from_numpy(found[0]).reshape(-1, 1, 28, 28)
    return images, torch.from_numpy(found[1]).long()
