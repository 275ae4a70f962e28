"""Models that were trained apart, combined: how often each method is right.

The digits of scikit-learn: 200 of the images for training are the validation items, the others are dealt to eight
shards, and on each shard a logistic model is trained alone. ``IID`` deals evenly, the other two by a Dirichlet
distribution for each class (0.1: most shards see a few classes). All methods are judged by 500 test images that
nothing was fitted to. ``parameter-mean`` is the mean of the models' parameters; ``one model`` saw all shards.
"""

from __future__ import annotations

from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray

from common import Figure, arguments, finish
from rowcast.combining import METHODS, Combiner
from rowcast.tasks.cruda import dirichlet_shards, load_dataset

SHARDS, VALIDATION, CLASSES = 8, 200, 10
#: How the images are dealt, by name: the concentration of the Dirichlet distribution.
DEALT = {"IID": 1e6, "Dirichlet 0.5": 0.5, "Dirichlet 0.1": 0.1}
#: Bounds with Dirichlet 0.1, and whether the accuracy has to be at least so much.
BOUNDS = {"stacking": (0.89, True), "des-la-mean": (0.83, True), "mean": (0.81, False)}
ALONE, ONE = "parameter-mean", "one model"

Floats = NDArray[np.float64]


class Logistic:
    """A logistic model of all classes, also of those that its shard lacks: weights [inputs + 1, classes].

    The squares of all weights, the offsets too, have the penalty 1/2 over the summed cross-entropy, so that they are
    finite for a class that was never seen, and a mean of them means something.
    """

    def __init__(self, inputs: Floats, labels: NDArray[np.int64]) -> None:
        x, y = torch.from_numpy(with_ones(inputs)), torch.from_numpy(labels)
        weights = torch.zeros((x.shape[1], CLASSES), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(x @ weights, y) + weights.square().sum() / (2 * len(y))
            loss.backward()
            return loss

        optimizer.step(closure)
        self.weights = weights.detach().numpy()

    def scores(self, inputs: Floats) -> Floats:
        return softmax(with_ones(inputs) @ self.weights)


def with_ones(inputs: Floats) -> Floats:
    return np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)


def softmax(outputs: Floats) -> Floats:
    powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def accuracies(alpha: float, seed: int, images: int | None) -> dict[str, float]:
    """How often each method is right, by name."""
    data = load_dataset("digits")
    inputs, tests = (
        each.reshape(len(each), -1).astype(np.float64) / 255 for each in (data.train_images, data.test_images)
    )
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(inputs))[:images]
    fitting, training = order[:VALIDATION], order[VALIDATION:]
    labels = data.train_labels[training]
    shards = dirichlet_shards(labels, SHARDS, alpha=alpha, minimum=16, rng=rng)
    models = [Logistic(inputs[training[shard]], labels[shard]) for shard in shards]
    scores, of_tests = (np.stack([model.scores(each) for model in models]) for each in (inputs[fitting], tests))
    found = {}
    for method in METHODS:
        combiner = Combiner.fit(method, scores, data.train_labels[fitting], inputs[fitting])
        found[method] = float((combiner.choose(of_tests, tests) == data.test_labels).mean())
    mean = np.mean([model.weights for model in models], axis=0)
    found[ALONE] = float(((with_ones(tests) @ mean).argmax(axis=1) == data.test_labels).mean())
    together = Logistic(inputs[training], labels).scores(tests).argmax(axis=1)
    found[ONE] = float((together == data.test_labels).mean())
    return found


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (default 3)")
    options = parser.parse_args()
    seeds, dealt, images = options.seeds, dict(DEALT), None
    if options.tiny:
        seeds, dealt, images = 1, {"Dirichlet 0.1": 0.1}, 400
    figures = []
    for name, alpha in dealt.items():
        runs = [accuracies(alpha, seed, images) for seed in range(seeds)]
        for method in runs[0]:
            bound, at_least = BOUNDS.get(method, (None, False)) if alpha == 0.1 else (None, False)
            each = ", ".join(f"{run[method]:.3f}" for run in runs)
            value = fmean(run[method] for run in runs)
            figures.append(Figure(f"{name}: {method}", value, "of 1", bound, at_least, f"seeds {each}"))
    finish(f"Combining {SHARDS} logistic models, {VALIDATION} validation images, {seeds} seeds", figures, options)


if __name__ == "__main__":
    main()
