"""A mean over seeds, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rowcast.errors import ConfigError

__all__ = ["CONFIDENCE", "Interval", "interval"]

#: How often an interval holds the true mean.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval; one value alone has none."""

    mean: float
    low: float | None
    high: float | None
    count: int  #: values that the mean is over

    @property
    def half(self) -> float:
        """Half of its width; 0 where there is none."""
        return 0.0 if self.high is None else self.high - self.mean


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The mean of independent values with its interval of Student's t.

    ``mean +- t[(1 + confidence) / 2; n - 1] s / sqrt(n)`` with ``s`` the standard deviation of the sample. It takes
    the values for normally distributed, which of a handful of seeds nobody can tell.

    Raises:
        ConfigError: no values; or SciPy, which knows the quantiles of t, is not installed.
    """
    count = len(values)
    if count == 0:
        raise ConfigError("interval: expected at least one value, got none")
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, None, None, 1)
    try:
        from scipy.special import stdtrit
    except ImportError as error:
        raise ConfigError("intervals need scipy, which is not installed: pip install 'rowcast[demo]'") from error
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = float(stdtrit(count - 1, (1 + confidence) / 2)) * deviation / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, count)
