"""Several models and a fitted combiner as one model, and its file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rowcast.combining.combiner import Combiner
from rowcast.combining.models import LoadedModel, TaskFamily, scores_of, stated
from rowcast.drivers.kept.arrays import Damaged, read_arrays, write_arrays
from rowcast.errors import ConfigError, DataError, visible
from rowcast.tasks.saved import check_model_file

__all__ = ["CombinedModel", "load_combined", "save_combined"]

_FORMAT = "rowcast combined models 1"
#: Floors under a probability before its logarithm.
_LEAST = 1e-12


class CombinedModel(nn.Module):
    """Gives the logarithms of the probabilities that the combiner makes of its models' scores. It is not trained.

    Args:
        models: in the order in which the combiner was fitted.
        combiner: fitted with the flattened inputs as features, or by scores.
        names: of the models, for messages.
    """

    def __init__(self, models: Sequence[nn.Module], combiner: Combiner, names: Sequence[str] = ()) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.combiner = combiner
        self._names = tuple(names) or tuple(f"{number}" for number in range(len(models)))
        if len(models) != len(combiner.accuracies):
            raise ConfigError(f"models: expected {len(combiner.accuracies)}, as fitted, got {len(models)}")
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        """Log-probabilities ``(n, classes)`` float32 of inputs ``(n, ...)``.

        Raises:
            ConfigError: inputs or scores that cannot be used.
        """
        given = inputs.detach().cpu()
        scores = np.stack(
            [
                scores_of(model, given, self.combiner.classes, name)
                for model, name in zip(self.models, self._names, strict=True)
            ]
        )
        found = self.combiner.predict(scores, given.numpy())
        return torch.from_numpy(np.log(np.maximum(found, _LEAST))).float().to(inputs.device)


def save_combined(path: str | Path, models: Sequence[LoadedModel], combiner: Combiner, classes: Sequence[str]) -> None:
    """Write models and combiner to one file in the safetensors format, with a digest; nothing in it is executed.

    Args:
        path: a name that ends in ``.safetensors``.
        models: with the options of the task that each is made with.
        combiner: fitted to them in this order.
        classes: their names.

    Raises:
        DataError: it cannot be written.
    """
    target = check_model_file(path)
    arrays, told = combiner.as_arrays()
    for number, each in enumerate(models):
        state = each.model.state_dict()
        arrays.update({f"model-{number}/{name}": value.detach().cpu().numpy() for name, value in state.items()})
    about = {
        "format": _FORMAT,
        "combiner": told,
        "models": [{"name": each.name, "options": dict(each.options)} for each in models],
        "classes": list(classes),
    }
    try:
        write_arrays(target, arrays, json.dumps(about))
        target.chmod(0o644)  # to be read by others, as saved models are
    except OSError as error:
        raise DataError(f"{target}: cannot be written: {error.strerror}") from error
    except KeyError as error:
        raise ConfigError(
            f"{target}: a model has tensors of type {error.args[0]}, which this file cannot hold"
        ) from error


def load_combined(path: str | Path, family: TaskFamily) -> CombinedModel:
    """Read what :func:`save_combined` wrote.

    Args:
        path: the file.
        family: the task with the options that it was written with.

    Raises:
        DataError: no such file, or one that is damaged or something else.
        ConfigError: it is of another task, or of other options.
    """
    source = Path(path)
    try:
        arrays, text = read_arrays(source)
        about = json.loads(text)
        if about["format"] != _FORMAT:
            raise ValueError(f"its form is {about['format']!r}")
        entries = [(str(each["name"]), dict(each["options"])) for each in about["models"]]
        combiner = Combiner.from_arrays(arrays, about["combiner"])
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror}") from error
    except (Damaged, DataError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{source}: expected what rowcast combine --out writes, got something else: {visible(str(error), 200)}"
        ) from error
    models = []
    for number, (name, options) in enumerate(entries):
        front = f"model-{number}/"
        state = {
            key[len(front) :]: torch.from_numpy(value.copy()) for key, value in arrays.items() if key.startswith(front)
        }
        models.append(stated(family.new_model(options), state, name))
    return CombinedModel(models, combiner, [name for name, _ in entries])
