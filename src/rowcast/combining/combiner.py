"""Several models' scores of an item made into one, as algorithms.md 15 has it: fitted on a few labelled items.

Sources: L. I. Kuncheva, "Combining Pattern Classifiers", 2nd edition, Wiley 2014 (mean, maximum, median, majority, and
the weights of the vote); K. Woods, W. P. Kegelmeyer, K. Bowyer, "Combination of multiple classifiers using local
accuracy estimates", PAMI 19, 1997 (DCS-LA); R. M. O. Cruz, R. Sabourin, G. D. C. Cavalcanti, "Dynamic classifier
selection: recent advances and perspectives", Information Fusion 41, 2018 (selection of several); for stacking see
:mod:`rowcast.combining.stacking`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rowcast.combining.checks import Floats, checked_features, checked_labels, checked_scores
from rowcast.combining.methods import METHODS
from rowcast.combining.stacking import fit_stacking, stacked
from rowcast.errors import ConfigError, DataError, near_match

__all__ = ["Combiner"]

_LOCAL = ("dcs-la", "des-la", "des-la-mean")
#: Items at a time whose distances are held in memory.
_AT_A_TIME = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Combiner:
    """A fitted method; :meth:`fit` makes it, :meth:`predict` uses it.

    All models have the same classes in the same order, and their scores are probabilities that mean the same: a model
    that is sure of everything outweighs the others in all methods but votes and stacking.

    Attributes:
        method: one of :data:`METHODS`.
        accuracies: share of the validation items on which each model is right, float64 [models].
        classes: how many.
        neighbours: validation items that say how good a model is near an item.
        margin: how much less accurate than the best there a model may be, to have a say in DES-LA; 0 .. 1.
        by_scores: the distance of items is measured in their scores; otherwise in features that the caller gives.
        places: features of the validation items, float32 [items, features]; none without a local method.
        right: whether each model is right on each of them, bool [models, items].
        weights, offsets: of stacking, float64 [models * classes, classes] and [classes].
    """

    method: str
    accuracies: Floats
    classes: int
    neighbours: int = 30
    margin: float = 0.1
    by_scores: bool = True
    places: NDArray[np.float32] = dataclasses.field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    right: NDArray[np.bool_] = dataclasses.field(default_factory=lambda: np.zeros((0, 0), dtype=np.bool_))
    weights: Floats = dataclasses.field(default_factory=lambda: np.zeros((0, 0)))
    offsets: Floats = dataclasses.field(default_factory=lambda: np.zeros(0))

    @classmethod
    def fit(
        cls,
        method: str,
        scores: ArrayLike,
        labels: ArrayLike,
        features: ArrayLike | None = None,
        *,
        neighbours: int = 30,
        margin: float = 0.1,
    ) -> Combiner:
        """Fit a method to items of which no model has seen one.

        Args:
            method: one of :data:`METHODS`.
            scores: probabilities [models, items, classes].
            labels: the right class of each item, whole numbers [items].
            features: what the local methods (DCS-LA, DES-LA) measure the distance of two items in, [items, ...]: as
                Euclid does, over all numbers of an item. ``None``: in its scores by all models.
            neighbours: as :attr:`neighbours`.
            margin: as :attr:`margin`.

        Raises:
            ConfigError: an unknown method, or numbers that cannot be used; too few items for what is asked.
        """
        if method not in METHODS:
            raise ConfigError(f"method: unknown {method!r}; {near_match(method, METHODS)}")
        found = checked_scores(scores)
        _, items, classes = found.shape
        truth = checked_labels(labels, items, classes)
        if not items:
            raise ConfigError("validation: expected labelled items, got none; the methods are fitted to them")
        if not 0 <= margin <= 1:
            raise ConfigError(f"margin: expected a difference of accuracies from 0 to 1, got {margin!r}")
        right = found.argmax(axis=2) == truth
        fitted = cls(method, right.mean(axis=1), classes, neighbours, float(margin), features is None)
        if method in _LOCAL:
            if not 1 <= neighbours <= items:
                raise ConfigError(
                    f"neighbours: expected 1 to {items}, of so many validation items, got {neighbours}; ask for fewer, "
                    "or give more items"
                )
            return dataclasses.replace(fitted, places=checked_features(features, found), right=right)
        if method == "stacking":
            weights, offsets = fit_stacking(found, truth)
            return dataclasses.replace(fitted, weights=weights, offsets=offsets)
        return fitted

    def predict(self, scores: ArrayLike, features: ArrayLike | None = None) -> Floats:
        """What the method says of items: float64 [items, classes], the sum over the classes is 1.

        Votes that are equal are decided by the accuracies of those who gave them, and then by the smaller class.

        Args:
            scores: probabilities [models, items, classes], the models in the order of :meth:`fit`.
            features: as for :meth:`fit`; not looked at by methods that measure no distance.

        Raises:
            ConfigError: other models, classes or features than the combiner was fitted with; numbers that are none.
        """
        found = checked_scores(scores, len(self.accuracies), self.classes)
        support = self._local(found, features) if self.method in _LOCAL else _GLOBAL[self.method](self, found)
        total = support.sum(axis=1, keepdims=True)
        # Scores of which none is above 0 (a median of models that exclude each other) say nothing: all classes alike.
        return np.where(total > 0, support / np.where(total > 0, total, 1), 1 / self.classes)

    def choose(self, scores: ArrayLike, features: ArrayLike | None = None) -> NDArray[np.int64]:
        """The class of each item, int64 [items]; arguments and errors as of :meth:`predict`."""
        chosen: NDArray[np.int64] = self.predict(scores, features).argmax(axis=1)
        return chosen

    # -- as arrays, for a file ---------------------------------------------------------------------------------

    def as_arrays(self) -> tuple[dict[str, NDArray[Any]], str]:
        """All of it as arrays by name, and the rest as a JSON text; :meth:`from_arrays` reads both."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        plain = {name: getattr(self, name) for name in ("method", "classes", "neighbours", "margin", "by_scores")}
        return arrays, json.dumps(plain)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], text: str) -> Combiner:
        """What :meth:`as_arrays` gave.

        Raises:
            DataError: something else, or of another method or shape.
        """
        try:
            plain = json.loads(text)
            found = cls(
                str(plain["method"]),
                classes=int(plain["classes"]),
                neighbours=int(plain["neighbours"]),
                margin=float(plain["margin"]),
                by_scores=bool(plain["by_scores"]),
                **{name: np.asarray(arrays[name], dtype=kind) for name, kind in _ARRAYS.items()},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"combiner: expected what as_arrays() gives, got something else: {error}") from error
        models = len(found.accuracies)
        shapes = {"right": (models, len(found.places)), "weights": (models * found.classes, found.classes)}
        wanted = [name for name, of in (("right", _LOCAL), ("weights", ("stacking",))) if found.method in of]
        if found.method not in METHODS or any(getattr(found, name).shape != shapes[name] for name in wanted):
            raise DataError(f"combiner: expected arrays that fit a method of {', '.join(METHODS)}, got others")
        return found

    # -- methods -----------------------------------------------------------------------------------------------

    def _local(self, scores: Floats, features: ArrayLike | None) -> Floats:
        if features is None and not self.by_scores:
            raise ConfigError(f"features: method {self.method!r} was fitted with features of the items; give theirs")
        places = checked_features(None if self.by_scores else features, scores, self.places.shape[1])
        support = np.empty(scores.shape[1:])
        for start in range(0, len(places), _AT_A_TIME):
            part = slice(start, start + _AT_A_TIME)
            support[part] = self._near(scores[:, part], places[part])
        return support

    def _near(self, scores: Floats, places: NDArray[np.float32]) -> Floats:
        """The support of some items, by who is right near them."""
        own, other = places.astype(np.float64), self.places.astype(np.float64)
        distances = (own**2).sum(axis=1)[:, None] - 2 * own @ other.T + (other**2).sum(axis=1)
        nearest = np.argsort(distances, axis=1, kind="stable")[:, : self.neighbours]
        count = self.right[:, nearest].sum(axis=2)  # [models, items]
        if self.method == "dcs-la":
            # Where several are as good there, the one that is so everywhere: less than one neighbour's worth.
            best = (count + self.accuracies[:, None] / 2).argmax(axis=0)
            of_best: Floats = scores[best, np.arange(len(places))]
            return of_best
        chosen = count >= count.max(axis=0) - self.margin * self.neighbours - 1e-9
        if self.method == "des-la":
            return _counted(scores, chosen, self.accuracies)
        return _summed(scores, chosen)


def _summed(scores: Floats, weights: NDArray[Any]) -> Floats:
    """The sum over the models, of which each is weighted [models, items or 1]."""
    total: Floats = (scores * weights[:, :, None]).sum(axis=0)
    return total


def _votes(scores: Floats) -> Floats:
    """1 where a model has its greatest score, else 0."""
    votes: Floats = np.eye(scores.shape[2])[scores.argmax(axis=2)]
    return votes


def _counted(scores: Floats, voters: NDArray[np.bool_], accuracies: Floats) -> Floats:
    """The votes of ``voters`` [models, items] for each class; equal ones by the accuracies of those who gave them."""
    votes = _votes(scores) * voters[:, :, None]
    less_than_one = accuracies / (len(accuracies) + 1)
    return _summed(votes, 1 + less_than_one[:, None])


def _weighted_vote(combiner: Combiner, scores: Floats) -> Floats:
    """Weights log((K - 1) p / (1 - p)) of an accuracy p with K classes, 0 where a guess is as good (Kuncheva)."""
    bounded = np.clip(combiner.accuracies, 1e-3, 1 - 1e-3)
    weights = np.maximum(np.log((combiner.classes - 1) * bounded / (1 - bounded)), 0)
    return _summed(_votes(scores), weights[:, None])


def _weighted_mean(combiner: Combiner, scores: Floats) -> Floats:
    return _summed(scores, combiner.accuracies[:, None])


_GLOBAL: dict[str, Callable[[Combiner, Floats], Floats]] = {
    "best": lambda combiner, scores: scores[int(combiner.accuracies.argmax())],
    "mean": lambda _, scores: scores.mean(axis=0),
    "weighted-mean": _weighted_mean,
    "maximum": lambda _, scores: scores.max(axis=0),
    "median": lambda _, scores: np.median(scores, axis=0),
    "majority": lambda combiner, scores: _counted(
        scores, np.ones(scores.shape[:2], dtype=np.bool_), combiner.accuracies
    ),
    "weighted-vote": _weighted_vote,
    "stacking": lambda combiner, scores: stacked((combiner.weights, combiner.offsets), scores),
}
#: The arrays of a combiner, and their types.
_ARRAYS: dict[str, type[np.generic]] = {
    "accuracies": np.float64,
    "places": np.float32,
    "right": np.bool_,
    "weights": np.float64,
    "offsets": np.float64,
}
