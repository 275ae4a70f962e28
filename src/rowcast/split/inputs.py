"""What a captured model is called with: its tensors by name, and whether those that come are of the kind."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from rowcast.errors import CaptureError, ConfigError

__all__ = ["InputType", "check_finite", "input_types"]


@dataclass(frozen=True)
class InputType:
    """One tensor that a model is called with.

    Attributes:
        name: the argument of ``forward``; behind it the place in it, where the argument is no tensor.
        shape: sizes; where ``batched``, for batch 1.
        batched: the first size may be any.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    device: torch.device
    batched: bool

    def check(self, tensor: Any) -> None:
        """Whether this is such a tensor.

        Raises:
            ConfigError: it is not; the message says what was expected, and what to do.
        """
        if not isinstance(tensor, torch.Tensor):
            raise ConfigError(
                f"input {self.name!r}: expected a torch.Tensor, got {type(tensor).__name__}; "
                "torch.from_numpy makes one of an array"
            )
        if tensor.dtype is not self.dtype:
            raise ConfigError(
                f"input {self.name!r}: expected {self.dtype}, got {tensor.dtype}; give what the camera or sensor gives "
                "as in the example, or capture the model with an example of this type"
            )
        shape = tensor.shape
        fits = shape == self.shape or (self.batched and len(shape) and shape[0] and shape[1:] == self.shape[1:])
        if not fits:
            raise ConfigError(
                f"input {self.name!r}: expected shape {self._shown()}, got {list(shape)}; {self._advice(shape)}"
            )
        if tensor.device != self.device:
            raise ConfigError(
                f"input {self.name!r}: expected a tensor on {self.device}, got one on {tensor.device}; "
                f"give input.to({str(self.device)!r})"
            )

    def _shown(self) -> str:
        return f"[{', '.join(['batch', *map(str, self.shape[1:])])}]" if self.batched else str(list(self.shape))

    def _advice(self, shape: Sequence[int]) -> str:
        if tuple(shape) == self.shape[1:]:
            return "the axis of the batch is missing: give input.unsqueeze(0)"
        if self.batched and len(shape) and not shape[0]:
            return "a batch has at least one input"
        if not self.batched and tuple(shape[1:]) == self.shape[1:]:
            return "this model was captured for one size of the batch"
        return "resize it, or capture the model with an example of this size"


def input_types(net: torch.nn.Module, inputs: tuple[Any, ...], batched: bool) -> tuple[InputType, ...]:
    """The tensors in the arguments of ``forward``, in the order of the graph."""
    names = _argument_names(net, len(inputs))
    found = []
    for name, argument in zip(names, inputs, strict=True):
        for path, leaf in pytree.tree_flatten_with_path(argument)[0]:
            where = f"{name}{pytree.keystr(path)}"
            if not isinstance(leaf, torch.Tensor):
                raise CaptureError(
                    f"capture: example: expected tensors, got {type(leaf).__name__} for {where!r}; give a tensor or a "
                    "tuple of tensors, one for each argument of forward, with the axis of the batch in front"
                )
            found.append(InputType(where, leaf.dtype, tuple(leaf.shape), leaf.device, batched))
    if not found:
        raise CaptureError("capture: example: expected at least one tensor, got none; give what forward is called with")
    return tuple(found)


def check_finite(types: Sequence[InputType], tensors: Sequence[torch.Tensor]) -> None:
    """Whether all inputs are numbers.

    Raises:
        ConfigError: NaN or Inf in an input; the message names it.
    """
    for kind, tensor in zip(types, tensors, strict=True):
        if (tensor.is_floating_point() or tensor.is_complex()) and not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            raise ConfigError(
                f"input {kind.name!r}: expected numbers, got NaN or Inf in {count} of {tensor.numel()} elements; "
                "look at the sensor or at what prepares its values"
            )


def _argument_names(net: torch.nn.Module, count: int) -> list[str]:
    try:
        parameters = list(inspect.signature(net.forward).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    named = [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    return [named[place] if place < len(named) else f"input {place}" for place in range(count)]
