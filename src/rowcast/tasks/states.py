"""A model's state as an ``.npz`` file: plain arrays by name, no pickles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rowcast.errors import DataError
from rowcast.tasks._files import read_npz, write_whole

__all__ = ["State", "load_npz_state", "save_npz_state"]

State: TypeAlias = dict[str, NDArray[Any]]
"""Parameters and buffers of a model, by the names of its ``state_dict``."""


def save_npz_state(path: str | Path, state: State) -> None:
    """Write ``state`` to ``path``; the file appears whole or not at all, so several processes may try at once.

    Raises:
        DataError: the folder is missing or cannot be written.
    """
    write_whole(path, lambda file: np.savez(file, **state))  # type: ignore[arg-type]


def load_npz_state(path: str | Path, like: Mapping[str, Tensor]) -> State:
    """Read a state and check it against the ``state_dict`` of the model it is meant for.

    Raises:
        DataError: no such file, not an ``.npz``, or names, shapes or types of another model.
    """
    source = Path(path)
    if not source.is_file():
        raise DataError(f"{source}: expected a saved model state, found no file; run pretrain() and save_state() first")
    state = read_npz(source, tuple(like))
    for name, tensor in like.items():
        expected, found = tensor.numpy(), state[name]
        if (expected.shape, expected.dtype) != (found.shape, found.dtype):
            raise DataError(
                f"{source}: expected {name} as {expected.dtype} {expected.shape}, found {found.dtype} {found.shape}; "
                "the file was saved with other model settings"
            )
    return state
