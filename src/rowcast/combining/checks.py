"""What scores, labels and features have to be, so that a method can use them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rowcast.errors import ConfigError

__all__ = ["checked_features", "checked_labels", "checked_scores"]

Floats = NDArray[np.float64]
#: How far the sum of the scores of an item may be from 1.
_ROUNDING = 1e-3


def checked_scores(scores: ArrayLike, models: int | None = None, classes: int | None = None) -> Floats:
    """Scores as float64 [models, items, classes].

    Args:
        scores: of each model, for each item, the probability of each class.
        models, classes: how many there have to be; ``None``: two models or more, two classes or more.

    Raises:
        ConfigError: another shape, one model only, numbers that are not finite, or that are no probabilities.
    """
    found = np.asarray(scores, dtype=np.float64)
    if found.ndim != 3:
        raise ConfigError(f"scores: expected an array [models, items, classes], got the shape {found.shape}")
    if found.shape[0] < 2 or found.shape[2] < 2:
        raise ConfigError(
            f"scores: expected two models or more and two classes or more, got {found.shape[0]} and {found.shape[2]}; "
            "one model has nothing to be combined with"
        )
    for what, wanted, got in (("models", models, found.shape[0]), ("classes", classes, found.shape[2])):
        if wanted is not None and got != wanted:
            raise ConfigError(
                f"scores: expected those of {wanted} {what}, with which the combiner was fitted, got {got} {what}"
            )
    for number, each in enumerate(found):
        if not np.isfinite(each).all():
            raise ConfigError(f"scores: model {number}: expected finite numbers, got NaN or Inf; leave this model out")
        if each.size and (each.min() < 0 or np.abs(each.sum(axis=1) - 1).max() > _ROUNDING):
            raise ConfigError(
                f"scores: model {number}: expected probabilities, of which those of an item have the sum 1, got "
                f"numbers from {each.min():.3g} to {each.max():.3g}; apply a softmax to outputs of a network"
            )
    return found


def checked_labels(labels: ArrayLike, items: int, classes: int) -> NDArray[np.int64]:
    """The class of each item, int64 [items].

    Raises:
        ConfigError: not whole numbers, another number of them, or a class that is not there.
    """
    found: NDArray[Any] = np.asarray(labels)
    if found.shape != (items,) or not np.issubdtype(found.dtype, np.integer):
        raise ConfigError(
            f"labels: expected a whole number for each of {items} items, got {found.dtype} of the shape {found.shape}"
        )
    if items and not 0 <= found.min() <= found.max() < classes:
        raise ConfigError(
            f"labels: expected classes from 0 to {classes - 1}, as many as the scores have, got {found.min()} to "
            f"{found.max()}"
        )
    return found.astype(np.int64)


def checked_features(features: ArrayLike | None, scores: Floats, size: int | None = None) -> NDArray[np.float32]:
    """What the distance of two items is measured in, float32 [items, features].

    Args:
        features: of the items, in any shape that begins with their number; ``None``: their scores by all models.
        scores: of the items.
        size: how many features an item has to have; ``None``: any number.

    Raises:
        ConfigError: of another number of items, of another size, or not finite.
    """
    items = scores.shape[1]
    given = scores.transpose(1, 0, 2) if features is None else np.asarray(features)
    if given.ndim < 1 or len(given) != items:
        raise ConfigError(f"features: expected those of {items} items, got the shape {given.shape}")
    found = given.reshape(items, -1).astype(np.float32) if items else np.zeros((0, size or 0), dtype=np.float32)
    if size is not None and found.shape[1] != size:
        raise ConfigError(
            f"features: expected {size} numbers of an item, as those that the combiner was fitted with, got "
            f"{found.shape[1]}"
        )
    if not np.isfinite(found).all():
        raise ConfigError("features: expected finite numbers, got NaN or Inf; distances to such items mean nothing")
    return found
