"""A constraint on the parameters that holds at every robot alike, such as weights that are not negative.

The team's sum is not projected: it moves by what travels and by nothing else, or replicas would part. Each robot
projects what it puts into its model, a function of the replica alone. So that the sum stays near what obeys, a step is
made from projected parameters and projected, and what travels is the way from the one to the other. Where the sum has
got beyond the bound all the same, by rows on their way or by a lossy code, the way back travels as well, a part of it
in each step: all of it at once would be proposed again in each iteration until it has arrived, and come several times.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from rowcast.errors import ConfigError

__all__ = ["Projection"]

Vector = npt.NDArray[np.float32]


class Projection:
    """Writes the parameters of a model so that they obey; without a function nothing is done.

    Args:
        model: the model.
        function: takes it and writes its parameters in place, or ``None``.

    Raises:
        ConfigError: ``function`` cannot be called.
    """

    #: This part of the way back travels in each step. With a delay of d iterations up to d times as much is on its way
    #: when the first has arrived; that must not be much more than the whole way.
    RETURN = np.float32(0.1)

    def __init__(self, model: nn.Module, function: Callable[[nn.Module], object] | None) -> None:
        if function is not None and not callable(function):
            raise ConfigError(f"project: expected a function that takes the model, or None; got {function!r}")
        self._model = model
        self._function = function

    def __bool__(self) -> bool:
        """Whether there is a function."""
        return self._function is not None

    def apply(self) -> None:
        """Make the parameters obey."""
        if self._function is not None:
            with torch.no_grad():
                self._function(self._model)

    def base(self, view: Vector, projected: Vector) -> Vector:
        """From where a step is counted that travels: not quite from where it is made.

        Args:
            view: parameters before they were projected, float32 [elements].
            projected: the same after.
        """
        return projected + self.RETURN * (view - projected)
