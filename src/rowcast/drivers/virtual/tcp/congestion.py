"""How many segments may be on the way: CUBIC (RFC 9438), the usual congestion control of Linux."""

from __future__ import annotations

import math

__all__ = ["INITIAL_WINDOW", "Cubic"]

#: Segments: RFC 6928.
INITIAL_WINDOW = 10
#: RFC 9438, 4.6 and 4.1: what is left of the window after a loss, and the constant of the cubic function (1/s^3).
BETA, SCALE = 0.7, 0.4
#: 4.3: growth that is as fair to others as that of RFC 5681 (AIMD with a half).
FRIENDLY = 3 * (1 - BETA) / (1 + BETA)
#: A window is never smaller after a loss (RFC 5681, equation 4), in segments.
LEAST_THRESHOLD = 2.0


class Cubic:
    """The congestion window of one sender, in segments.

    It grows only while it is what limits the sender (RFC 9438, 5.8).

    Attributes:
        window: so many segments may be on the way.
        threshold: below it the window grows by what is acknowledged (slow start).
    """

    def __init__(self) -> None:
        self.window = float(INITIAL_WINDOW)
        self.threshold = math.inf
        self._largest = 0.0  # the window at the last loss
        self._origin_s = 0.0  # seconds of growth until the window is as large again
        self._since: float | None = None  # when this growth began
        self._friendly = 0.0
        self._before: tuple[float, float] = (self.window, self.threshold)

    def acknowledged(self, now: float, segments: int, round_trip_s: float) -> None:
        """``segments`` have arrived that were sent while the window was full."""
        if self.window < self.threshold:
            grown = self.window + segments
            self.window = min(grown, self.threshold)
            segments = int(grown - self.window)
            if not segments:
                return
        if self._since is None:
            self._since, self._friendly = now, self.window
            self._largest = max(self._largest, self.window)
            self._origin_s = math.cbrt((self._largest - self.window) / SCALE)
        since_s = now - self._since
        self._friendly += (FRIENDLY if self._friendly < self._largest else 1.0) * segments / self.window
        if self._cubic(since_s) < self._friendly:
            self.window = max(self.window, self._friendly)
            return
        target = min(max(self._cubic(since_s + round_trip_s), self.window), 1.5 * self.window)
        self.window += (target - self.window) * segments / self.window

    def lost(self) -> None:
        """Something on the way was lost: once for a window of segments."""
        self._before = self.window, self.threshold
        self._reduce(self.window)

    def timed_out(self, in_flight: int) -> None:
        """Nothing was acknowledged for too long, with so many segments on the way; once for a window of segments."""
        self._before = self.window, self.threshold
        self._reduce(min(self.window, max(in_flight, 1)))
        self.window = 1.0

    def undo(self) -> None:
        """The last loss was none: what it changed is as it was."""
        self.window, self.threshold = max(self.window, self._before[0]), self._before[1]

    def idle(self, timeouts: float) -> None:
        """Nothing was sent for so many times the retransmission time-out (RFC 5681, 4.1, and 9438, 5.8)."""
        self._since = None
        self.threshold = max(self.threshold, 0.75 * self.window)
        if self.window > INITIAL_WINDOW:
            self.window = max(float(INITIAL_WINDOW), self.window * 0.5 ** int(min(timeouts, 60.0)))

    def _reduce(self, window: float) -> None:
        self._largest = window if window >= self._largest else window * (1 + BETA) / 2
        self.threshold = max(BETA * window, LEAST_THRESHOLD)
        self.window = self.threshold
        self._since = None

    def _cubic(self, since_s: float) -> float:
        return float(SCALE * (since_s - self._origin_s) ** 3 + self._largest)
