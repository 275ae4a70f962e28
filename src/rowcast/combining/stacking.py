"""Stacking: a multinomial logistic regression over the scores of all models.

Source: D. H. Wolpert, "Stacked generalization", Neural Networks 5, 1992. The models were trained on other data, so
their scores of the validation items are such as they will give to new ones; what is chosen on these items besides, how
strongly the weights are held back, is judged out of fold: by items that the regression was not fitted to.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from rowcast.errors import ConfigError

__all__ = ["FOLDS", "fit_stacking", "stacked"]

Floats = NDArray[np.float64]
Weights = tuple[Floats, Floats]

FOLDS = 5
#: Items of a fold at least.
_IN_A_FOLD = 2
#: Penalties on the squares of the weights that are tried, over the summed cross-entropy; the smallest comes last.
_PENALTIES = (10.0, 1.0, 0.1, 0.01)
_STEPS = 200


def fit_stacking(scores: Floats, labels: NDArray[np.int64]) -> Weights:
    """Weights [models * classes, classes] and offsets [classes] of the regression.

    Of four penalties the one is taken whose out-of-fold cross-entropy is the least; a class is spread evenly over the
    five folds. Nothing is random: the same items in the same order give the same weights.

    Args:
        scores: float64 [models, items, classes] of items that no model was trained on.
        labels: int64 [items].

    Raises:
        ConfigError: fewer than two items for each fold, or all of one class.
    """
    items = len(labels)
    if items < FOLDS * _IN_A_FOLD:
        raise ConfigError(
            f"stacking: expected {FOLDS * _IN_A_FOLD} validation items or more, two for each of {FOLDS} folds, got "
            f"{items}; give more of them, or take 'des-la-mean' or 'mean'"
        )
    if labels.min() == labels.max():
        raise ConfigError(f"stacking: expected validation items of several classes, got class {labels[0]} only")
    inputs, classes = _flat(scores), scores.shape[2]
    folds = np.empty(items, dtype=np.int64)
    folds[np.argsort(labels, kind="stable")] = np.arange(items) % FOLDS
    losses = [0.0] * len(_PENALTIES)
    for number, penalty in enumerate(_PENALTIES):
        for fold in range(FOLDS):
            inside, outside = folds != fold, folds == fold
            weights = _fit(inputs[inside], labels[inside], classes, penalty)
            losses[number] += _loss(weights, inputs[outside], labels[outside])
    return _fit(inputs, labels, classes, _PENALTIES[int(np.argmin(losses))])


def stacked(weights: Weights, scores: Floats) -> Floats:
    """Probabilities float64 [items, classes] that the regression makes of scores [models, items, classes]."""
    found: Floats = functional.softmax(torch.from_numpy(_flat(scores) @ weights[0] + weights[1]), dim=1).numpy()
    return found


def _flat(scores: Floats) -> Floats:
    return np.ascontiguousarray(scores.transpose(1, 0, 2).reshape(scores.shape[1], scores.shape[0] * scores.shape[2]))


def _loss(weights: Weights, inputs: Floats, labels: NDArray[np.int64]) -> float:
    """The summed cross-entropy."""
    outputs = torch.from_numpy(inputs @ weights[0] + weights[1])
    return float(functional.cross_entropy(outputs, torch.from_numpy(labels), reduction="sum"))


def _fit(inputs: Floats, labels: NDArray[np.int64], classes: int, penalty: float) -> Weights:
    x, y = torch.from_numpy(inputs), torch.from_numpy(labels)
    weights = torch.zeros((x.shape[1], classes), dtype=torch.float64, requires_grad=True)
    offsets = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, offsets], max_iter=_STEPS, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimizer.zero_grad()
        loss = functional.cross_entropy(x @ weights + offsets, y) + penalty / (2 * len(y)) * weights.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weights.detach().numpy(), offsets.detach().numpy()
