"""What a training loop has beside its parameters, as arrays and plain values, and back: for a worker's kept state."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rowcast.errors import ConfigError
from rowcast.training.kept import Extras

__all__ = ["Keepable", "Keeping", "from_plain", "to_plain"]

Array = npt.NDArray[Any]

#: Types of tensors that numpy has as well; others are kept as whole numbers of the same size.
_TYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Keepable(Protocol):
    """Anything whose state is in a dict of tensors, numbers and texts: a scheduler, a ``GradScaler``, an own object."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object:
        """Go on from a state."""


def to_plain(value: Any, arrays: dict[str, Array], where: str) -> Any:
    """A state as values that JSON can hold. Tensors and arrays are copied into ``arrays``, under names that are told.

    Args:
        value: dicts, lists, tuples, tensors, arrays, numbers, texts and ``None`` in each other.
        arrays: receives the arrays.
        where: what to call them, and for people.

    Raises:
        ConfigError: something else is in it.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, Tensor) and value.layout is torch.strided and not value.is_complex():
        tensor = value.detach().to("cpu", copy=True).contiguous()
        bits = tensor if tensor.dtype in _TYPES else tensor.view(_BITS[tensor.element_size()])
        arrays[where] = bits.numpy()
        return {"tensor": where, "type": str(tensor.dtype).removeprefix("torch.")}
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.dtype.itemsize <= 8:
        arrays[where] = value.copy()
        return {"array": where}
    if isinstance(value, np.generic):
        return to_plain(value.item(), arrays, where)
    if isinstance(value, Mapping):
        items = [
            [to_plain(key, arrays, f"{where}.key"), to_plain(one, arrays, f"{where}.{key}")]
            for key, one in value.items()
        ]
        return {"dict": items}
    if isinstance(value, list | tuple):
        parts = [to_plain(one, arrays, f"{where}.{k}") for k, one in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": parts}
    raise ConfigError(
        f"{where}: expected tensors, numbers, texts, lists and dicts of them to keep, got {type(value).__name__}"
    )


def from_plain(plain: Any, arrays: Mapping[str, Array]) -> Any:
    """What :func:`to_plain` was given."""
    if not isinstance(plain, dict):
        return plain
    ((kind, value), *_) = plain.items()
    if kind == "float":
        return float(value)
    if kind == "tensor":
        tensor = torch.from_numpy(arrays[value].copy())
        return tensor.view(getattr(torch, plain["type"]))
    if kind == "array":
        return arrays[value].copy()
    if kind == "dict":
        return {from_plain(key, arrays): from_plain(one, arrays) for key, one in value}
    parts = [from_plain(one, arrays) for one in value]
    return parts if kind == "list" else tuple(parts)


class Keeping:
    """Gives and takes what belongs to a picture of the worker: the inner optimizer, buffers, and what users add.

    Args:
        inner: the inner optimizer.
        model: whose buffers are kept.
    """

    def __init__(self, inner: torch.optim.Optimizer, model: nn.Module) -> None:
        self._things: dict[str, Keepable] = {"optimizer": inner}
        self._model = model
        self._kept: Extras | None = None
        self._left_out: set[str] = set()

    def extras(self) -> Extras:
        """Copies of everything, as it is between two steps. What cannot be kept is left out, and told once."""
        arrays: dict[str, Array] = {}
        values: dict[str, Any] = {}
        states = {name: thing.state_dict() for name, thing in self._things.items()}
        buffers = {name: buffer for name, buffer in self._model.named_buffers() if not nn.parameter.is_lazy(buffer)}
        for name, state in {"buffers": buffers, **states}.items():
            found: dict[str, Array] = {}
            try:
                values[name] = to_plain(state, found, name)
            except ConfigError as error:
                if name not in self._left_out:
                    self._left_out.add(name)
                    warnings.warn(f"state_dir: {name} is not kept: {error}", UserWarning, stacklevel=2)
                continue
            arrays |= found
        return Extras(arrays, values)

    def restore(self, kept: Extras) -> None:
        """Take what was kept of another life; what is added later takes its part then."""
        self._kept = kept
        buffers = self._part("buffers") or {}
        with torch.no_grad():
            for name, buffer in self._model.named_buffers():
                value = buffers.get(name)
                if value is not None and not nn.parameter.is_lazy(buffer) and value.shape == buffer.shape:
                    buffer.copy_(value)
        self._load("optimizer")

    def add(self, name: str, thing: Keepable) -> None:
        """Keep something else as well, from the next picture on; it goes on from what was kept under the name.

        Raises:
            ConfigError: the name is taken, or the thing has no state.
        """
        if name in self._things or name == "buffers":
            raise ConfigError(f"keep: the name {name!r} is taken; choose another")
        if not callable(getattr(thing, "state_dict", None)) or not callable(getattr(thing, "load_state_dict", None)):
            raise ConfigError(
                f"keep: {name!r}: expected an object with state_dict() and load_state_dict(), got "
                f"{type(thing).__name__}"
            )
        self._things[name] = thing
        self._load(name)

    def _load(self, name: str) -> None:
        state = self._part(name)
        if state is None:
            return
        try:
            self._things[name].load_state_dict(state)
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise ConfigError(
                f"state_dir: the state of {name!r} that was kept does not fit what is trained now: {error}; use the "
                "same code, or remove the folder to begin anew"
            ) from error

    def _part(self, name: str) -> Any:
        if self._kept is None or not isinstance(self._kept.values, dict):
            return None
        return from_plain(self._kept.values.get(name), self._kept.arrays)
