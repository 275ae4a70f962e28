"""All methods on the models of a task: fitted to some of its labelled tests, judged by the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rowcast.combining.combined import save_combined
from rowcast.combining.combiner import Combiner
from rowcast.combining.methods import METHODS
from rowcast.combining.models import LoadedModel, TaskFamily, load_models, parameter_mean, scores_of
from rowcast.combining.settings import CombineSettings
from rowcast.errors import ConfigError
from rowcast.tasks import Labelled, find_task
from rowcast.tasks.saved import check_model_file

__all__ = ["MethodResult", "Trial", "try_methods"]

#: Stream of random numbers of which items are the validation ones; behind the seed.
_SPLIT = 2**20
PARAMETER_MEAN = "parameter-mean"


@dataclass(frozen=True)
class MethodResult:
    """How often a method, or a model alone, is right.

    Attributes:
        name: of the method, of a model's file, or ``parameter-mean``: one model whose parameters are the means.
        accuracy: share of the judging items that it is right on, 0 .. 1; no item of them was used to fit anything.
        meaning: what it does.
    """

    name: str
    accuracy: float
    meaning: str


@dataclass(frozen=True)
class Trial:
    """What came out.

    Attributes:
        methods: one result for each method, and of the parameter mean where all layouts are equal.
        models: one for each model alone, in the order given.
        validation, judging: items that the methods were fitted to, and that they were judged by.
        notes: what a reader has to know besides.
    """

    methods: tuple[MethodResult, ...]
    models: tuple[MethodResult, ...]
    validation: int
    judging: int
    notes: tuple[str, ...] = ()


def try_methods(texts: Iterable[str], settings: CombineSettings, options: Mapping[str, Any] | None = None) -> Trial:
    """Fit all methods, judge them, and write the one that ``settings`` asks for.

    Args:
        texts: the models, as :func:`load_models` takes them.
        settings: of which task, how many validation items, what is written.
        options: of the task, that differ from its own settings, by name.

    Raises:
        ConfigError: models that do not go together or with the task, too few items, or a task without classes.
        DataError: a file or the data cannot be read, or the result not be written.
    """
    if settings.out is not None:
        check_model_file(settings.out)
    kind = find_task(settings.task, settings.data).kind
    family = TaskFamily(kind, options or {}, settings.data, settings.seed)
    tests = _checked(family.task.labelled_tests(), settings)
    models = load_models(family, texts, tests)
    order = np.random.default_rng([settings.seed, _SPLIT]).permutation(len(tests.labels))
    fitting, judging = order[: settings.validation], order[settings.validation :]
    scores = np.stack([scores_of(each.model, tests.inputs, len(tests.classes), each.name) for each in models])
    labels = tests.labels.numpy()
    features = None if settings.by_scores else tests.inputs.numpy().reshape(len(labels), -1)

    def part(chosen: NDArray[np.int64]) -> NDArray[np.float32] | None:
        return None if features is None else features[chosen]

    methods = []
    for method, meaning in METHODS.items():
        combiner = Combiner.fit(
            *(method, scores[:, fitting], labels[fitting], part(fitting)),
            neighbours=settings.neighbours,
            margin=settings.margin,
        )
        chosen = combiner.choose(scores[:, judging], part(judging))
        methods.append(MethodResult(method, float((chosen == labels[judging]).mean()), meaning))
        if method == settings.method and settings.out is not None:
            save_combined(settings.out, models, combiner, tests.classes)
    alone = (scores[:, judging].argmax(axis=2) == labels[judging]).mean(axis=1)
    results = tuple(
        MethodResult(each.name, float(accuracy), "this model alone")
        for each, accuracy in zip(models, alone, strict=True)
    )
    return Trial(
        (*methods, *_of_mean(family, models, tests, judging)), results, len(fitting), len(judging), _notes(models)
    )


def _checked(tests: Labelled, settings: CombineSettings) -> Labelled:
    """The tests, if they are enough.

    Raises:
        ConfigError: nothing is left to judge by.
    """
    if settings.validation >= len(tests.labels):
        raise ConfigError(
            f"validation: expected fewer than the {len(tests.labels)} labelled tests of the task, of which the others "
            f"judge, got {settings.validation}; take fewer"
        )
    return tests


def _of_mean(
    family: TaskFamily, models: Sequence[LoadedModel], tests: Labelled, judging: NDArray[np.int64]
) -> list[MethodResult]:
    """The result of the model whose parameters are the means, if there is one."""
    mean = parameter_mean(family, models)
    if mean is None:
        return []
    scores = scores_of(mean, tests.inputs[torch.from_numpy(judging)], len(tests.classes), PARAMETER_MEAN)
    right = scores.argmax(axis=1) == tests.labels.numpy()[judging]
    return [MethodResult(PARAMETER_MEAN, float(right.mean()), "one model, whose parameters are the means of all")]


def _notes(models: Sequence[LoadedModel]) -> tuple[str, ...]:
    unsaid = [each.name for each in models if not each.says_classes]
    notes = []
    if unsaid:
        notes.append(f"not said by the file, and so not checked, is the order of the classes of: {', '.join(unsaid)}")
    if len({tuple(value.shape for value in each.model.state_dict().values()) for each in models}) > 1:
        notes.append(f"no {PARAMETER_MEAN}: the models have different layouts")
    return tuple(notes)
