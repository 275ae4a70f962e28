"""A labelled image set, as arrays."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

__all__ = ["Dataset"]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A labelled image set.

    Attributes:
        name: key of :data:`DATASETS`.
        train_images, test_images: ``(n, channels, height, width)`` uint8, 0..255.
        train_labels, test_labels: ``(n,)`` int64, ``0 <= label < len(classes)``.
        classes: name of each class.
        available: images for training and for tests that there were before a limit; ``None``: these.
    """

    name: str
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    classes: tuple[str, ...]
    available: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height, width = self.train_images.shape
        return channels, height, width

    @property
    def trainable(self) -> int:
        """Images for training that there are, a limit aside."""
        return len(self.train_labels) if self.available is None else self.available[0]
