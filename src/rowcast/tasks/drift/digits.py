"""The drifting stream that needs no file: the digits of scikit-learn, which turn, fade and come back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rowcast.tasks.base import TaskSettings
from rowcast.tasks.cruda import load_dataset
from rowcast.tasks.drift.settings import DigitsSettings
from rowcast.tasks.drift.task import Batch, DriftTask
from rowcast.tasks.saved import Labelled

__all__ = ["DriftDigitsTask", "rotated"]

_SIDE = 8
_BLOCK = 256
"""Images that are made at a time."""
# Streams of random numbers, by robot; 1 is that of the rehearsal.
_STREAM, _TESTS = 0, 2


class DriftDigitsTask(DriftTask):
    """Handwritten digits in runs of one class that come back, while all images turn and lose contrast.

    Sample ``i`` of a robot is turned by ``turn * sin(2 pi i / period)`` and has the contrast
    ``1 - fade * (1 - cos(2 pi i / period)) / 2``; noise is added. Each robot has an order of its own, of the classes
    and of the images. The second metric is measured on 500 images that no robot sees, evenly over one period.

    Four robots, 10 new samples each in a step, one period of 2000, 3 seeds (``benchmarks/drift.py``): tested before it
    is trained on, 24 % of the stream are right, with ``rehearsal=reservoir:200`` 54 %.
    """

    Settings: ClassVar[type[TaskSettings]] = DigitsSettings
    name = "drift-digits"
    features, outputs = _SIDE * _SIDE, 10

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        data = load_dataset("digits")
        self._images = _pixels(data.train_images)
        self._members = [np.flatnonzero(data.train_labels == digit) for digit in range(self.outputs)]
        tests = _pixels(data.test_images)
        phases = np.arange(len(tests)) / len(tests)
        inputs = self._drifted(tests, phases, self.rng(_TESTS))
        self._tests: Batch = (torch.from_numpy(inputs), torch.from_numpy(data.test_labels))

    def samples(self, index: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        self.check_index(index, workers)
        return self._samples(self.rng(_STREAM, workers, index))

    def whole(self, workers: int) -> Batch:
        """Images that no robot sees, as they are over one period; the same for any number of robots."""
        return self._tests

    def class_names(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.outputs)))

    def labelled_tests(self) -> Labelled:
        """The images of :meth:`whole`."""
        return Labelled(*self._tests, self.class_names())

    def _samples(self, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        settings, classes = self.settings, self._classes(rng)
        length = math.inf if settings.length is None else settings.length
        made = 0
        while made < length:
            count = int(min(_BLOCK, length - made))
            labels = np.array([next(classes) for _ in range(count)], dtype=np.int64)
            chosen = [self._members[label][rng.integers(len(self._members[label]))] for label in labels]
            phases = (made + np.arange(count)) / settings.period
            inputs = torch.from_numpy(self._drifted(self._images[chosen], phases, rng))
            yield from zip(inputs, torch.from_numpy(labels), strict=True)
            made += count

    def _classes(self, rng: np.random.Generator) -> Iterator[int]:
        """Runs of one digit; each digit comes once in each ten runs."""
        while True:
            for digit in rng.permutation(self.outputs).tolist():
                for _ in range(self.settings.run):
                    yield digit

    def _drifted(
        self, images: NDArray[np.float32], phases: NDArray[np.float64], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Images ``(n, 8, 8)`` from 0 to 1 as they are at each of ``phases`` (periods): inputs ``(n, 64)``."""
        settings = self.settings
        turned = rotated(images, np.deg2rad(settings.turn) * np.sin(2 * np.pi * phases))
        contrast = 1 - settings.fade * (1 - np.cos(2 * np.pi * phases)) / 2
        noise = settings.noise * rng.normal(size=(len(images), self.features))
        seen = contrast[:, None] * turned.reshape(len(images), -1) + noise
        inputs: NDArray[np.float32] = ((seen - _MEAN) / _DEVIATION).astype(np.float32)
        return inputs


#: Mean and deviation of the pixels of upright digits, from 0 to 1; about, since they need not be exact.
_MEAN, _DEVIATION = 0.3, 0.375


def _pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Images ``(n, 8, 8)`` from 0 to 1."""
    return images.reshape(-1, _SIDE, _SIDE).astype(np.float32) / np.float32(255)


def rotated(images: NDArray[np.float32], angles: NDArray[np.float64]) -> NDArray[np.float32]:
    """Images turned about their middle, between pixels by bilinear interpolation; outside they are 0.

    Args:
        images: ``(n, side, side)``.
        angles: ``(n,)`` in radians, counter-clockwise as the image is seen.
    """
    count, side, _ = images.shape
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1))).reshape(count, -1)
    middle, width = (side - 1) / 2, side + 2
    rows, columns = (grid.ravel() - middle for grid in np.mgrid[:side, :side])
    sine, cosine = np.sin(angles)[:, None], np.cos(angles)[:, None]
    # Where in the image each pixel comes from, with the border of 0 as first and last row and column.
    row = np.clip(middle + 1 + cosine * rows + sine * columns, 0, width - 1)
    column = np.clip(middle + 1 - sine * rows + cosine * columns, 0, width - 1)
    up, left = (np.minimum(place.astype(np.int64), width - 2) for place in (row, column))
    down_share, right_share = row - up, column - left
    found = np.zeros((count, side * side))
    for step, share in ((0, 1 - down_share), (1, down_share)):
        for side_step, side_share in ((0, 1 - right_share), (1, right_share)):
            places = (up + step) * width + left + side_step
            found += share * side_share * np.take_along_axis(padded, places, axis=1)
    return found.reshape(images.shape).astype(np.float32)
