"""How much may be on its way to a peer: the measured rate, the size of a frame, and what a deadline leaves.

The window keeps at most about two frames of link time unacknowledged, so that a deadline or a collapse of the link
leaves little behind. What the kernel holds unsent is part of what is unacknowledged, so the budget
``rate x time left - unacknowledged`` is never above ``rate x time left - unsent``.
"""

from __future__ import annotations

import math

from rowcast.config import LinkSettings
from rowcast.sync import RateMeter
from rowcast.wire.frames import ROWS_OVERHEAD_BYTES

__all__ = ["Window"]

#: Bytes of an index block beside what it takes for each row.
_INDEX_HEAD_BYTES = 8


class Window:
    """Sizes of frames to one peer.

    Args:
        settings: frame and window sizes.

    Attributes:
        meter: the delivery rate.
    """

    def __init__(self, settings: LinkSettings) -> None:
        self.meter = RateMeter(settings.initial_rate_bps)
        self._settings = settings
        self._least_window = max(settings.window_min_bytes, 2 * settings.frame_min_bytes)

    def target_bytes(self, now: float) -> float:
        """The size of a frame that suits the link."""
        return self._target_bytes(self.meter.peak_bps(now))

    def _target_bytes(self, peak_bps: float) -> float:
        settings = self._settings
        target = peak_bps / 8 * settings.frame_s
        if target < settings.frame_min_bytes:
            return settings.frame_min_bytes
        return target if target < settings.frame_max_bytes else settings.frame_max_bytes

    def room(self, now: float, in_flight: int) -> float:
        """Bytes that the rows of the next frame may take, 0 or less when no frame may be sent.

        That is the target size of a frame, if the window has room for it. While a probe of the round trip is due
        there is room for a small frame only, and not before everything is acknowledged.

        Args:
            now: time (s).
            in_flight: bytes that are sent and not acknowledged.
        """
        meter, settings = self.meter, self._settings
        peak_bps = meter.peak_bps(now)
        target = self._target_bytes(peak_bps)
        # What has arrived, and its acknowledgement waits behind rows of the peer, is in nobody's way.
        wanted = max(in_flight - peak_bps / 8 * meter.late_s, 0.0) + target
        fits = wanted <= self._least_window or wanted <= peak_bps / 8 * (settings.window_s + 2 * meter.round_trip_s)
        if in_flight and not fits:
            return 0.0
        if meter.wants_probe(now):
            if in_flight:
                return 0.0
            target = settings.frame_min_bytes
        return target - ROWS_OVERHEAD_BYTES

    def queues(self, now: float, in_flight: int) -> bool:
        """Whether something of ``in_flight`` bytes still waits in front of the link, or is on it.

        What the link carries while an acknowledgement is on its way back has arrived, as a rule.
        """
        return in_flight > self.meter.rate_bps(now) / 8 * (self.meter.round_trip_s + self.meter.late_s)

    def rows_room(self, now: float, size: float) -> float:
        """Bytes that rows and their index may take so that all of their frames take ``size`` bytes at most.

        No row is taken to be larger than a quarter of a frame: one that is may cost a head more.

        Args:
            now: time (s).
            size: bytes; what comes out is below 0 where not even a head fits.
        """
        head = ROWS_OVERHEAD_BYTES + _INDEX_HEAD_BYTES
        target = self.target_bytes(now)
        frames = 1 if size <= self._settings.frame_min_bytes else math.ceil(4 * size / (3 * target))
        return size - frames * head

    def budget(self, now: float, in_flight: int, deadline: float) -> float:
        """Bytes that will still have arrived at ``deadline`` (s) if they are sent now, behind ``in_flight`` bytes."""
        rate = self.meter.rate_bps(now) / 8
        return rate * (deadline - now) - max(in_flight - rate * self.meter.late_s, 0.0)

    def drain_s(self, now: float, in_flight: int) -> float:
        """Seconds until ``in_flight`` bytes will be acknowledged, at the measured rate and with a round trip."""
        return in_flight * 8 / self.meter.rate_bps(now) + self.meter.round_trip_s
