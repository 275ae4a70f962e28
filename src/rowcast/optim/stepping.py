"""The inner optimizer's step: made if the gradients can be used, and otherwise not begun."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from rowcast.errors import LocalProtocolError, NonFiniteGradient
from rowcast.optim.inner import Curvature
from rowcast.optim.shared import Shared
from rowcast.optim.team import Stopwatch
from rowcast.optim.tensors import addresses, first_nonfinite
from rowcast.rows.scattered import Scattered

__all__ = ["BadGradient", "Outcome", "Stepping"]


class _NoContribution(Exception):
    """Leaves a closure whose gradient cannot be used, before the inner optimizer has changed any state."""


class BadGradient(NonFiniteGradient):
    """A bad gradient, seen before the inner optimizer did; a bad proposal is not one of these."""


@dataclass(frozen=True)
class Outcome:
    """What became of a step.

    Attributes:
        stepped: the inner optimizer has stepped.
        loss: the closure's, or ``None``.
        problem: what was wrong with a gradient, or ``None``.
    """

    stepped: bool
    loss: float | None = None
    problem: NonFiniteGradient | None = None


class Stepping:
    """Steps an inner optimizer.

    Args:
        inner: the optimizer.
        shared: the parameters that travel.
        own_time: told when the inner optimizer steps, closures included.
        finite: whether somebody has just found all gradients finite; asked once before each step without a closure.
    """

    def __init__(
        self,
        inner: torch.optim.Optimizer,
        shared: Shared,
        own_time: Stopwatch,
        finite: Callable[[], bool] = lambda: False,
    ) -> None:
        self._inner = inner
        self._shared = shared
        self._finite = finite
        self._curvature = Curvature(inner)
        self._own_time = own_time
        self._scattered = Scattered(shared.layout.tensors)

    def attempt(
        self, closure: Callable[[], float] | None, scale: float | None, refresh: Callable[[], None] | None
    ) -> Outcome:
        """Make a step if the gradients are usable.

        Args:
            closure: that of the step.
            scale: the gradients are so many times too large (``GradScaler``).
            refresh: called before the closure is.
        """
        if scale is not None:
            self._unscale(scale)
        if closure is None:
            known = self._finite() and scale is None
            loss, bad = None, None if known else self._bad_gradient()
            if bad is None:
                with self._own_time.not_ours():
                    self._inner.step()
        else:
            if refresh is not None:
                refresh()
            loss, bad = self._step_with(closure)
        if bad is None:
            return Outcome(True, loss)
        problem = BadGradient(
            f"gradient of {bad!r}: expected finite numbers, found NaN or Inf; the step counts as no contribution "
            "and the optimizer's state is as before; lower the learning rate, clip gradients, look at the batch, "
            "or pass nonfinite='skip' to go on with a warning"
        )
        return Outcome(False, loss, problem)

    def check_known(self) -> None:
        """Refuse a gradient that the inner optimizer would apply here and nowhere else in the team.

        Raises:
            LocalProtocolError: there is one.
        """
        for g, group in enumerate(self._inner.param_groups):
            for i, parameter in enumerate(group["params"]):
                # Asking for a gradient takes longer than looking the parameter up.
                if id(parameter) not in self._shared.known and parameter.grad is not None:
                    raise LocalProtocolError(
                        f"step: param_groups[{g}]['params'][{i}] of shape {tuple(parameter.shape)} has a gradient, but "
                        "was frozen or absent when the team agreed on its parameters; unfreeze and add parameters "
                        "before the Optimizer is made"
                    )

    def _step_with(self, closure: Callable[[], float]) -> tuple[float | None, str | None]:
        """Step with a closure; the loss, and the name of a bad gradient if that kept the optimizer from stepping."""
        first_loss: list[float] = []
        bad: list[str] = []

        def checked() -> float:
            loss = closure()
            if not first_loss:
                # Only the first evaluation: no torch optimizer touches its state before it has one, and the later
                # ones are trial points of a line search.
                first_loss.append(loss)
                self.check_known()
                name = self._bad_gradient()
                if name is not None:
                    bad.append(name)
                    raise _NoContribution
                self._curvature.before()
            return loss

        try:
            with self._own_time.not_ours():
                loss = self._inner.step(checked)
            self._curvature.after()
            return loss, None
        except _NoContribution:
            return first_loss[0], bad[0]

    def _bad_gradient(self) -> str | None:
        """The name of the first parameter whose gradient holds NaN or Inf."""
        shared = self._shared
        gradients = [tensor.grad for tensor in shared.tensors]
        places = addresses(gradients, shared.layout.tensors)
        if places.all():
            bad = self._scattered.nonfinite(places)
            return shared.names[bad[0]] if bad else None
        pairs = zip(shared.names, gradients, strict=True)
        return first_nonfinite((name, gradient) for name, gradient in pairs if gradient is not None)

    def _unscale(self, scale: float) -> None:
        """Divide the gradients by GradScaler's scale."""
        factor = 1.0 / scale
        with torch.no_grad():
            for group in self._inner.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad.mul_(factor)
