"""Which parameters of a model a team shares."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rowcast.errors import ConfigError
from rowcast.rows import Layout

__all__ = ["Shared", "shared_parameters"]


@dataclass(frozen=True)
class Shared:
    """The parameters that travel.

    Attributes:
        layout: their rows.
        names, tensors: their names in the model and the parameters themselves, in layout order.
        known: ids of all parameters that the optimizer may move: those of the layout, and empty ones.
    """

    layout: Layout
    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    known: frozenset[int]


def shared_parameters(model: nn.Module, optimizer: torch.optim.Optimizer) -> Shared:
    """Lay out the parameters that are in the model, trainable, and in the optimizer.

    Names and order are those of ``model.named_parameters()``; a parameter used by several modules counts once.
    The prefix that ``torch.compile`` puts before names is left out, so compiled and plain models agree.

    Raises:
        ConfigError: the optimizer moves a parameter that the model does not have, nothing is trainable, or a
            parameter is of a kind that cannot travel (complex, sparse, on the meta device, not yet initialised).
    """
    optimized = {id(p): (g, i) for g, group in enumerate(optimizer.param_groups) for i, p in enumerate(group["params"])}
    names: list[str] = []
    tensors: list[Tensor] = []
    known: set[int] = set()
    found: set[int] = set()
    for raw_name, parameter in model.named_parameters():
        found.add(id(parameter))
        if id(parameter) not in optimized or not parameter.requires_grad:
            continue
        name = raw_name.replace("_orig_mod.", "")
        _check_kind(name, parameter)
        known.add(id(parameter))
        if parameter.numel():
            names.append(name)
            tensors.append(parameter)
    strangers = [place for identity, place in optimized.items() if identity not in found]
    if strangers:
        group, index = strangers[0]
        shape = tuple(optimizer.param_groups[group]["params"][index].shape)
        raise ConfigError(
            f"optimizer: expected only parameters of the model, but param_groups[{group}]['params'][{index}] of shape "
            f"{shape} is in no module ({len(strangers)} such in all); build the optimizer from model.parameters(), or "
            "make the tensor a parameter of the model"
        )
    if not tensors:
        raise ConfigError(
            "optimizer: expected a trainable parameter of the model in the optimizer, found none; build the optimizer "
            "from model.parameters() and leave requires_grad on where you train"
        )
    layout = Layout.from_shapes([(name, tuple(tensor.shape)) for name, tensor in zip(names, tensors, strict=True)])
    return Shared(layout, tuple(names), tuple(tensors), frozenset(known))


def _check_kind(name: str, parameter: Tensor) -> None:
    if nn.parameter.is_lazy(parameter):
        raise ConfigError(f"optimizer: parameter {name!r} has no shape yet; run the model once before joining the team")
    if parameter.device.type == "meta":
        raise ConfigError(f"optimizer: parameter {name!r} is on the meta device, without values; give it storage first")
    if parameter.layout is not torch.strided or not parameter.is_floating_point():
        raise ConfigError(
            f"optimizer: parameter {name!r} is {parameter.dtype} ({parameter.layout}); only dense real floating-point "
            "parameters travel; freeze it with requires_grad_(False) or keep it out of the optimizer"
        )
