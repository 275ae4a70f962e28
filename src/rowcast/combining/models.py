"""Saved models of a task: read, checked against its classes, and what they say of its items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rowcast.errors import ConfigError, visible
from rowcast.tasks import Labelled, SavedModel, Task, read_model
from rowcast.tasks.options import read_options, written_options

__all__ = ["LoadedModel", "TaskFamily", "load_models", "parameter_mean", "scores_of", "stated"]

#: Items of one pass through a model.
_AT_A_TIME = 256


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model that was read.

    Attributes:
        name: the text that it was named by.
        model: in evaluation mode.
        options: of the task, that this model is made with, by name.
        says_classes: whether its file names its classes, so that their order was checked.
    """

    name: str
    model: nn.Module
    options: Mapping[str, Any] = field(default_factory=dict)
    says_classes: bool = False


class TaskFamily:
    """A task, and the same task with other options, as models of another layout have been made with.

    Args:
        kind: its class.
        options: those of the task itself, by name.
        data_dir: folder of the data.
        seed: of the task.

    Raises:
        ConfigError: an option that is unknown or out of range.
        DataError: the data cannot be read.
    """

    def __init__(self, kind: type[Task], options: Mapping[str, Any], data_dir: str | None, seed: int) -> None:
        self.kind, self.options = kind, dict(options)
        self._data_dir, self._seed = data_dir, seed
        self._built: dict[tuple[str, ...], Task] = {}
        self.task = self.with_options({})

    def with_options(self, own: Mapping[str, Any]) -> Task:
        """The task with these options besides; made once."""
        options = {**self.options, **own}
        key = written_options(options)
        if key not in self._built:
            self._built[key] = self.kind.build(options, data_dir=self._data_dir, seed=self._seed)
        return self._built[key]

    def new_model(self, own: Mapping[str, Any]) -> nn.Module:
        """A new model of the task with these options besides, in evaluation mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.with_options(own).make_model().eval()


def load_models(family: TaskFamily, texts: Iterable[str], tests: Labelled) -> list[LoadedModel]:
    """Read the models that texts name: ``FILE``, or ``FILE?option=value&option=value`` for one of another layout.

    Args:
        family: the task whose models they are.
        texts: two or more.
        tests: what the names of the classes are compared with, where a file has them.

    Raises:
        ConfigError: fewer than two; an unknown option; a model of another layout, or of other classes or of the same
            ones in another order.
        DataError: a file cannot be read.
    """
    named = list(texts)
    if len(named) < 2:
        raise ConfigError(f"models: expected two or more to combine, got {len(named)}; name the files of all models")
    found = []
    for text in named:
        file, _, tail = text.partition("?")
        options = read_options(family.kind.options_type(), filter(None, tail.split("&")))
        saved = read_model(file)
        _check_classes(text, saved, tests.classes)
        model = stated(family.new_model(options), saved.state, text)
        found.append(LoadedModel(text, model, options, saved.classes is not None))
    return found


def stated(model: nn.Module, state: Mapping[str, Tensor], name: str) -> nn.Module:
    """``model`` with this state.

    Raises:
        ConfigError: it is that of a model of another layout.
    """
    like = model.state_dict()
    wrong = next((key for key in [*like, *state] if key not in state or key not in like), None)
    shape = next((key for key in like if wrong is None and state[key].shape != like[key].shape), None)
    if wrong is not None or shape is not None:
        what = (
            f"{'lacks' if wrong in like else 'has a'} {visible(str(wrong), 80)}"
            if wrong is not None
            else f"has {shape} of {tuple(state[shape or ''].shape)}, expected {tuple(like[shape or ''].shape)}"
        )
        raise ConfigError(
            f"model {visible(name)}: expected the layout that the task makes, got another one: it {what}; for a model "
            "that was made with other options of the task write them behind the file: FILE?option=value"
        )
    model.load_state_dict({key: state[key].to(like[key].dtype) for key in like})
    return model


def scores_of(model: nn.Module, inputs: Tensor, classes: int, name: str) -> NDArray[np.float64]:
    """Probabilities float64 [items, classes] that a model gives to inputs, in evaluation mode.

    Raises:
        ConfigError: its outputs are not one number for each class, or not finite.
    """
    parts = []
    with torch.inference_mode():
        for start in range(0, len(inputs), _AT_A_TIME):
            outputs = model(inputs[start : start + _AT_A_TIME])
            if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] != classes:
                got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
                raise ConfigError(
                    f"model {visible(name)}: expected a score for each of {classes} classes (items, {classes}), got "
                    f"{got}; combine models of the same classes only"
                )
            parts.append(torch.softmax(outputs.double(), dim=1))
    found: NDArray[np.float64] = torch.cat(parts).numpy()
    if not np.isfinite(found).all():
        raise ConfigError(
            f"model {visible(name)}: expected finite scores, got NaN or Inf; its training diverged, leave it out"
        )
    return found


def parameter_mean(family: TaskFamily, models: Sequence[LoadedModel]) -> nn.Module | None:
    """The model whose parameters and buffers are the means of those of all; ``None`` where layouts differ.

    What is counted (batches that batch norm has seen) is taken from the first model.
    """
    first, *others = (each.model.state_dict() for each in models)
    layout = {name: value.shape for name, value in first.items()}
    if any({name: value.shape for name, value in other.items()} != layout for other in others):
        return None
    mean = {
        name: torch.stack([value, *(other[name] for other in others)]).double().mean(dim=0)
        if value.is_floating_point()
        else value
        for name, value in first.items()
    }
    return stated(family.new_model(models[0].options), mean, "parameter mean")


def _check_classes(name: str, saved: SavedModel, classes: tuple[str, ...]) -> None:
    if saved.classes is None or saved.classes == classes:
        return
    what = "the same ones in another order" if sorted(saved.classes) == sorted(classes) else "other ones"
    shown = ", ".join(saved.classes[:5]) + ", ..." * (len(saved.classes) > 5)
    raise ConfigError(
        f"model {visible(name)}: expected the {len(classes)} classes of the task in its order ({', '.join(classes[:5])}"
        f"{', ...' * (len(classes) > 5)}), got {what}: {visible(shown)}; put its outputs into the task's order"
    )
