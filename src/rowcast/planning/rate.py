"""The rate at which the next tensor will travel, from those that travelled before it.

:class:`rowcast.sync.RateMeter` keeps a window full: it counts sending time only, over seconds of it, and never falls
below what was usual lately. Here tensors travel for some milliseconds now and then, a plan that is wrong for seconds is
the loss, and where the robot computes alone nothing is measured at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rowcast.errors import ConfigError, LocalProtocolError

__all__ = ["RateEstimate", "RateEstimator"]

#: Assumed where nothing is known (bit/s).
INITIAL_BPS = 10e6
#: What was measured counts half after so long (s).
HALF_LIFE_S = 0.25
#: What is usual on this link follows so slowly: half of it is forgotten after so long (s).
USUAL_HALF_LIFE_S = 30.0
#: A silence of so long (s) makes what was measured doubtful: the link is tried again.
SILENCE_S = 0.5
#: The estimate is never below this (bit/s): a time that is predicted from it stays finite.
LOWEST_BPS = 1e3


@dataclass(frozen=True)
class RateEstimate:
    """What is known of the rate at a moment.

    Attributes:
        rate_bps: bytes of tensors per second, in bit/s.
        age_s: how long nothing was measured (s); infinite where nothing ever was.
        spread: how far what was measured lately is apart: standard deviation of the seconds that a byte takes over
            their mean. 0.1 says that the rate is known to about a tenth; 0 after a single measurement.
    """

    rate_bps: float
    age_s: float
    spread: float


class RateEstimator:
    """Bytes over seconds of the last transfers, the newest counting most.

    Bytes and seconds are summed up, each sum forgetting half of itself in ``half_life_s`` of time. Their quotient is
    the mean that predicts what a transfer takes: one that took long weighs as much as it took.

    After a silence of :data:`SILENCE_S` the estimate is that of a link that recovers: it goes to what is usual on this
    link, where that is more, half of the way (in its logarithm) in each further ``SILENCE_S``. A planner that trusts it
    tries the link again after a while; where :attr:`wants_probe` is obeyed it knows sooner and loses nothing.

    Args:
        initial_bps: assumed until something was measured (bit/s).
        half_life_s: see above.

    Raises:
        ConfigError: one of the two is not above 0.
    """

    def __init__(self, initial_bps: float = INITIAL_BPS, half_life_s: float = HALF_LIFE_S) -> None:
        if not 0 < initial_bps < math.inf or not 0 < half_life_s < math.inf:
            raise ConfigError(
                f"rate: expected a rate and a half-life above 0, got {initial_bps:g} bit/s and {half_life_s:g} s"
            )
        self._initial_bps = initial_bps
        self._half_life_s = half_life_s
        self._bytes = self._seconds = self._squares = 0.0
        self._usual_bytes = self._usual_seconds = 0.0
        self._measured_at = -math.inf
        self._probed_at = -math.inf

    def delivered(self, now: float, size: float, seconds: float) -> None:
        """``size`` bytes arrived in ``seconds`` of sending, until ``now`` (s).

        Also a part of a transfer, and silence while bytes are on their way (0 bytes), which is news as well.

        Raises:
            LocalProtocolError: no time, a size below 0, or an earlier ``now`` than before.
        """
        if not (seconds > 0 and size >= 0 and now >= self._measured_at):
            raise LocalProtocolError(f"rate: {size} bytes in {seconds} s at {now}, after {self._measured_at}")
        passed_s = now - self._measured_at
        keep = 0.5 ** (passed_s / self._half_life_s)
        usual = 0.5 ** (passed_s / USUAL_HALF_LIFE_S)
        self._measured_at = now
        self._bytes = keep * self._bytes + size
        self._seconds = keep * self._seconds + seconds
        # Weighted by its bytes, so that seconds over bytes is the mean of seconds per byte.
        self._squares = keep * self._squares + (seconds**2 / size if size else 0.0)
        self._usual_bytes = usual * self._usual_bytes + size
        self._usual_seconds = usual * self._usual_seconds + seconds

    def rate_bps(self, now: float) -> float:
        """The rate of the next tensor (bit/s)."""
        if not self._seconds:
            return self._initial_bps
        rate = max(8 * self._bytes / self._seconds, LOWEST_BPS)
        silent_s = now - self._measured_at - SILENCE_S
        if silent_s <= 0:
            return rate
        usual = max(8 * self._usual_bytes / self._usual_seconds, rate)
        return float(usual * (rate / usual) ** 0.5 ** (silent_s / SILENCE_S))

    def estimate(self, now: float) -> RateEstimate:
        """The same, and how sure it is."""
        spread = 0.0
        if self._bytes:
            mean = self._seconds / self._bytes
            spread = math.sqrt(max(self._squares / self._bytes - mean**2, 0.0)) / mean
        return RateEstimate(self.rate_bps(now), now - self._measured_at, spread)

    def wants_probe(self, now: float) -> bool:
        """Whether nothing was measured, and no probe begun, for so long that the link should be tried."""
        return now - max(self._measured_at, self._probed_at) > SILENCE_S

    def probed(self, now: float) -> None:
        """A probe was begun: none is wanted for a while, whatever becomes of this one."""
        self._probed_at = now
