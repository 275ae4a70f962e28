"""Data injection of ScaDLES: some devices share some of their samples with all others (algorithms.md 13).

Meant for streams whose labels are skewed, with statistics of batch norm that stay on a device. It exposes raw samples;
it is off unless asked for, and what it exposed is counted. Without local batch statistics it does harm: the sum of the
gradients is the same without it, and copies of a few samples weigh more than others.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from rowcast.config import as_number
from rowcast.errors import ConfigError

__all__ = ["Injection", "parse_injection"]


@dataclass(frozen=True)
class Injection:
    """Who gives how much.

    Attributes:
        alpha: share of the devices that give in a step, above 0 .. 1.
        beta: share of its batch that a device gives, to each of the others, above 0 .. 1.
    """

    alpha: float
    beta: float

    def __str__(self) -> str:
        return f"{self.alpha:g}/{self.beta:g}"

    def gives(self, step: int, device: int, devices: int, seed: int) -> bool:
        """Whether a device is one of the ``ceil(alpha K)`` donors of a step: drawn uniformly, the same everywhere."""
        if devices < 2:
            return False
        donors = math.ceil(self.alpha * devices - 1e-9)
        return device in random.Random(f"injection {seed} {step}").sample(range(devices), donors)

    def gift(self, batch: int) -> int:
        """Samples of a batch that a donor gives: ``floor(beta b)``."""
        return int(self.beta * batch + 1e-9)


def parse_injection(text: str) -> Injection | None:
    """Read ``0.1/0.1`` (alpha/beta); ``0`` or ``off``: no injection.

    Raises:
        ConfigError: something else.
    """
    if text.strip() in ("0", "off"):
        return None
    parts = [as_number(part) for part in text.split("/")]
    if len(parts) != 2 or not all(part is not None and 0 < part <= 1 for part in parts):
        raise ConfigError(f"inject: expected alpha/beta, both above 0 and up to 1, as in 0.1/0.1, or 0, got {text!r}")
    alpha, beta = (part for part in parts if part is not None)
    return Injection(alpha, beta)
