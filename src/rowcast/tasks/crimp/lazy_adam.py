"""Adam that leaves alone what has no gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch

from rowcast.errors import ConfigError

__all__ = ["LazyAdam"]


class LazyAdam(torch.optim.Optimizer):
    """Adam (Kingma and Ba, 2015, arXiv 1412.6980) on the elements whose gradient is not 0.

    ``torch.optim.Adam`` goes on moving an element by what it remembers of earlier gradients. Of a map most is out of
    sight at any time, and has to stay as it was seen last. Here an element without a gradient keeps value and
    statistics, and each element counts its own steps. ``torch.optim.SparseAdam`` does the former for sparse gradients
    only, and counts steps of the whole.

    The rate of an element may fall with its own steps, so that its value becomes a running mean of what the frames
    said, as in the fusion of depth images (Curless and Levoy, SIGGRAPH 1996): a place that was just seen is learned
    fast, and where updates come late, large steps do not go on swinging about the minimum.

    Args:
        params: parameters or groups of them; an element is a number, and rows (first dimension) without any gradient
            cost nothing.
        lr: learning rate.
        betas: decay of the mean of the gradient and of its square.
        eps: added to the root of the latter.
        decay: the rate is ``lr / (1 + decay * steps)``, steps being those of the element; 0: it stays.

    Raises:
        ConfigError: a number out of its range.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.01,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-10,
        decay: float = 0.0,
    ) -> None:
        if not lr >= 0 or not eps >= 0 or not decay >= 0 or not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(
                f"LazyAdam: expected lr, eps and decay >= 0 and betas in [0, 1), got {lr}, {eps}, {decay} and {betas}"
            )
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "decay": decay})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step.

        Args:
            closure: evaluates the model again and returns the loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            for name in ("steps", "mean", "square"):
                state[name] = torch.zeros_like(parameter)
        flat = gradient.reshape(gradient.shape[0] if gradient.dim() else 1, -1)
        rows = flat.ne(0).any(dim=1).nonzero().squeeze(1)
        if not len(rows):
            return
        first, second = group["betas"]
        touched = flat[rows]
        seen = touched.ne(0)
        views = {name: value.view(flat.shape) for name, value in state.items()}
        steps = views["steps"][rows] + seen
        mean = torch.where(seen, first * views["mean"][rows] + (1 - first) * touched, views["mean"][rows])
        square = torch.where(
            seen, second * views["square"][rows] + (1 - second) * touched * touched, views["square"][rows]
        )
        for name, value in (("steps", steps), ("mean", mean), ("square", square)):
            views[name][rows] = value
        counted = steps.clamp_min(1)
        change = (mean / (1 - first**counted)) / ((square / (1 - second**counted)).sqrt() + group["eps"])
        target = parameter.view(flat.shape)
        rate = group["lr"] / (1 + group["decay"] * counted)
        target[rows] -= torch.where(seen, rate * change, torch.zeros_like(change))
