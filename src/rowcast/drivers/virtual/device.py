"""What computing costs a robot and the server, in seconds of virtual time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rowcast.errors import ConfigError

__all__ = ["Device", "ServerCosts"]


@dataclass(frozen=True)
class Device:
    """How long a robot computes.

    Args:
        compute_s: one gradient: a number; recorded seconds, one for each iteration, from the start again when they
            are used up; or the median of a log-normal distribution, with ``spread``.
        spread: standard deviation of the natural logarithm of ``compute_s``; 0 is no chance at all.
        encode_s: work of each push at the worker (compression, ranking); counts as computation.
        decode_s: work of each pull at the worker; counts as computation.
        seed: of what is drawn.
        samples: a batch of so many takes ``compute_s``, another one in proportion to its samples; ``None``: every batch
            takes as long.

    Raises:
        ConfigError: a time that is negative or not finite, no time at all, or no samples.
    """

    compute_s: float | Sequence[float] = 1.0
    spread: float = 0.0
    encode_s: float = 0.0
    decode_s: float = 0.0
    seed: int = 0
    samples: int | None = None
    _recorded: tuple[float, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        recorded = (self.compute_s,) if isinstance(self.compute_s, (int, float)) else tuple(self.compute_s)
        object.__setattr__(self, "_recorded", tuple(float(value) for value in recorded))
        times = (*self._recorded, self.spread, self.encode_s, self.decode_s)
        if not recorded or not all(0 <= value < math.inf for value in times):
            raise ConfigError(f"device: expected finite times of 0 s or more, got {self}")
        if self.samples is not None and self.samples < 1:
            raise ConfigError(f"device: expected 1 sample or more, got {self}")

    @property
    def median_s(self) -> float:
        """Seconds of a gradient, the median; of a batch of as many samples as the time is meant for."""
        return float(np.median(self._recorded))

    def gradient_s(self, iteration: int, samples: int | None = None) -> float:
        """Seconds that the gradient of this iteration (from 0) takes; the same each time it is asked.

        Args:
            iteration: which gradient.
            samples: of its batch; ``None``: as many as the time is meant for.
        """
        base = self._recorded[iteration % len(self._recorded)]
        if samples is not None and self.samples is not None:
            base *= samples / self.samples
        if self.spread == 0:
            return base
        draw = np.random.default_rng((self.seed, iteration)).standard_normal()
        return base * math.exp(self.spread * float(draw))


@dataclass(frozen=True)
class ServerCosts:
    """The server's work for a worker, in seconds: for a push before the gate looks at it, for a pull before its first
    row is sent. Where rows are streamed it is done with each frame, in proportion: as many rows as the model has cost
    as much as a whole push, or pull. What the server does for one worker it does one after the other; workers do not
    wait for each other's work."""

    push_s: float = 0.0
    pull_s: float = 0.0

    def __post_init__(self) -> None:
        if not all(0 <= value < math.inf for value in (self.push_s, self.pull_s)):
            raise ConfigError(f"server costs: expected finite times of 0 s or more, got {self}")
