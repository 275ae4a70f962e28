"""A trained model as a file of its own: parameters and buffers by name, and the names of its classes."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from rowcast.errors import DataError, visible
from rowcast.tasks._files import write_whole

__all__ = ["Labelled", "SavedModel", "check_model_file", "read_model", "save_model"]

_SUFFIX = ".safetensors"
_CLASSES = "classes"


@dataclass(frozen=True)
class Labelled:
    """Labelled items.

    Attributes:
        inputs: as the model takes them, ``(n, ...)``, on the processor.
        labels: ``(n,)`` int64, each below the number of classes.
        classes: their names, in the order of the model's outputs.
    """

    inputs: Tensor
    labels: Tensor
    classes: tuple[str, ...]


@dataclass(frozen=True)
class SavedModel:
    """What a file holds.

    Attributes:
        state: parameters and buffers by the names of ``state_dict``.
        classes: names of the classes in the order of the outputs; ``None``: the file does not say.
    """

    state: Mapping[str, Tensor]
    classes: tuple[str, ...] | None = None


def check_model_file(path: str | Path) -> Path:
    """The file that a model is to be written to.

    Raises:
        DataError: its name does not end in ``.safetensors``, or its folder is not there.
    """
    target = Path(path)
    if target.suffix != _SUFFIX:
        raise DataError(f"{target}: expected a name that ends in {_SUFFIX}, got {target.suffix!r}; call it so")
    if not target.parent.is_dir():
        raise DataError(f"{target}: expected a folder that is there, got {target.parent}; make it first")
    return target


def save_model(path: str | Path, model: nn.Module, classes: Sequence[str] | None = None) -> None:
    """Write parameters and buffers in the safetensors format; the file appears whole or not at all.

    Args:
        path: a name that ends in ``.safetensors``.
        model: what is written; tensors that are shared are written for each of their names.
        classes: names of its classes in the order of its outputs, where it has classes.

    Raises:
        DataError: as :func:`check_model_file`, or it cannot be written.
    """
    target = check_model_file(path)
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    about = {} if classes is None else {_CLASSES: json.dumps(list(classes))}
    data = safetensors.torch.save(state, metadata=about)
    write_whole(target, lambda file: file.write(data))


def read_model(path: str | Path) -> SavedModel:
    """Read ``.safetensors`` (as :func:`save_model` writes it), ``.npz`` (as :meth:`Task.save_state` does), or ``.pt``.

    Nothing that is in a file is executed: a ``.pt`` is read by PyTorch's loader for weights only.

    Raises:
        DataError: no such file, of another kind, or damaged.
    """
    source = Path(path)
    readers = {_SUFFIX: _read_safetensors, ".npz": _read_npz, ".pt": _read_pt, ".pth": _read_pt}
    if source.suffix not in readers:
        raise DataError(f"{source}: expected a model's file ({', '.join(readers)}), got {source.suffix!r}")
    if not source.is_file():
        raise DataError(f"{source}: expected a saved model, found no file; rowcast train --save FILE writes one")
    try:
        return readers[source.suffix](source)
    except (
        *(OSError, EOFError, ValueError, TypeError, KeyError, RuntimeError),
        *(zipfile.BadZipFile, safetensors.SafetensorError),
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{source}: expected a whole {source.suffix} file of plain tensors, found none ({visible(reason, 200)}); "
            "save the model again"
        ) from error


def _read_safetensors(path: Path) -> SavedModel:
    with safetensors.safe_open(path, framework="pt") as file:
        about: Mapping[str, str] = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    classes = json.loads(about[_CLASSES]) if _CLASSES in about else None
    if classes is not None and not (isinstance(classes, list) and all(isinstance(each, str) for each in classes)):
        raise ValueError("the names of the classes are no list of texts")
    return SavedModel(state, None if classes is None else tuple(classes))


def _read_npz(path: Path) -> SavedModel:
    with np.load(path, allow_pickle=False) as archive:
        return SavedModel({name: torch.from_numpy(archive[name]) for name in archive.files})


def _read_pt(path: Path) -> SavedModel:
    try:
        with warnings.catch_warnings():  # of an unusual form of pickle; what cannot be read is an error
            warnings.simplefilter("ignore")
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # PyTorch's own text advises to execute what is in the file
        raise ValueError("it holds more than tensors, or is damaged") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError("it holds no state_dict")
    return SavedModel({str(name): value for name, value in state.items()})
