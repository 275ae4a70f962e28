"""The delivery rate of one direction of one link, measured from acknowledgements."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque

__all__ = ["RateMeter"]

HALF_LIFE_S = 0.5
MEMORY_S = 5.0
QUANTILE = 0.2
RECENT = 8
#: The round trip is the shortest of so many.
TRIPS = 3
#: It is measured so often (s), and more rarely, up to the second number, while it stays the same.
PROBE_EVERY_S = 5.0
PROBE_RARELY_S = 40.0
#: Beyond this size (bytes) a frame takes its time from the rate, and less exactly tells the round trip.
PROBE_BYTES = 4096
#: A path is long from this round trip on (s), what its own bytes take left out, if it holds so many bytes: a slow link
#: of one place, on which frames wait for each other, holds fewer.
LONG_PATH_S = 0.1
LONG_PATH_BYTES = 4 * PROBE_BYTES
#: A probe leaves a link idle for about two round trips. On a long path they are so many round trips apart, at least.
PROBE_TRIPS = 40
#: The estimate never falls below this (bit/s): a time that is predicted from it stays finite.
LOWEST_BPS = 1.0
#: Acknowledgements closer together than this count as one: their spacing says nothing about the link.
GRAIN_S = 0.002


class RateMeter:
    """Acknowledged bytes per second of time spent sending (algorithms.md 2.2).

    An average with a half-life of 0.5 s of sending time, never below the 20 % quantile of the last 5 s. Time in
    which nothing was on its way does not count.

    Args:
        initial_bps: assumed before the first acknowledgement, bit/s.

    Attributes:
        round_trip_s: the shortest time that each of the last three small frames sent into an idle link took to be
            acknowledged; 0 before the first. Its own bytes count: what they take is only known once the rate is,
            and a rate that is measured with too small a window is too low.
    """

    def __init__(self, initial_bps: float) -> None:
        self._average = initial_bps / 8
        self._measured = False
        self._samples: deque[tuple[float, float]] = deque()
        self._ordered: list[float] = []
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT)  # seconds and bytes of the newest samples
        self._recent_rate: float | None = None  # of those together; None: not known
        self._unacked = 0
        self._since = 0.0
        self._gathered = 0
        self._busy = 0.0
        self.round_trip_s = 0.0
        self._trips: deque[float] = deque(maxlen=TRIPS)
        self._trip_bytes: deque[int] = deque(maxlen=TRIPS)
        self._probe_every_s = PROBE_EVERY_S
        self._alone_at = -1.0
        self._probed_at = -math.inf

    @property
    def measured(self) -> bool:
        """Whether the estimate is one: something was acknowledged."""
        return self._measured

    def sent(self, now: float, size: int) -> None:
        """``size`` bytes were handed to the link."""
        if self._unacked == 0:
            # Sending time too short for a sample of its own is carried over the idle time. On a long path nothing can
            # be acknowledged before it was travelled both ways: without that the first sample says how long the path
            # is, not what the link carries.
            self._since = now - self._busy + self.long_path_s(now)
            self._alone_at = now if size <= PROBE_BYTES or self.wants_probe(now) else -math.inf
        self._unacked += size

    def acknowledged(self, now: float, size: int, sent_at: float) -> None:
        """``size`` bytes, handed over at ``sent_at``, were acknowledged."""
        self._unacked = self._unacked - size if self._unacked > size else 0
        self._gathered += size
        elapsed = now - self._since
        if elapsed >= GRAIN_S:
            rate = self._gathered / elapsed
            keep = 0.5 ** (elapsed / HALF_LIFE_S) if self._measured else 0.0
            self._average = keep * self._average + (1 - keep) * rate
            self._measured = True
            self._samples.append((now, rate))
            self._recent.append((elapsed, self._gathered))
            self._recent_rate = None
            insort(self._ordered, rate)
            self._since, self._gathered, self._busy = now, 0, 0.0
        else:
            self._busy = elapsed
        if self._samples and self._samples[0][0] < now - MEMORY_S:
            self._forget(now)
        if sent_at == self._alone_at:
            # Nothing of ours was before it in any queue.
            self._alone_at = -math.inf
            self._probed_at = now
            byte_s = 8 / self.peak_bps(now)
            trip = max(now - sent_at - max(size - PROBE_BYTES, 0) * byte_s, 0.0)
            # What its own bytes take changes with the rate, and is no news of the path.
            steady = abs(trip - self.round_trip_s) <= max(0.5 * self.round_trip_s, 0.005, size * byte_s)
            self._probe_every_s = min(2 * self._probe_every_s, PROBE_RARELY_S) if steady else PROBE_EVERY_S
            self._trips.append(trip)
            self._trip_bytes.append(min(size, PROBE_BYTES))
            self.round_trip_s = min(self._trips)

    def drop_rest(self) -> None:
        """Bytes that no sample has taken in yet do not count.

        In virtual time links carry the first parameters in no time, and the first sample would have them all.
        """
        self._gathered, self._busy = 0, 0.0

    def wants_probe(self, now: float) -> bool:
        """The round trip was measured long ago: the next frame should be small, and find the link idle."""
        every_s = self._probe_every_s
        if now > self._probed_at + every_s:
            return now > self._probed_at + max(every_s, PROBE_TRIPS * self.long_path_s(now))
        return False

    def long_path_s(self, now: float) -> float:
        """The round trip without the time that its own bytes took, if that is long and was measured thrice; else 0 (s).

        See :data:`LONG_PATH_S`: nothing changes on the links of one place.
        """
        if self.round_trip_s < LONG_PATH_S or len(self._trips) < TRIPS:
            return 0.0
        byte_s = 8 / self.peak_bps(now)
        path_s = min(trip_s - size * byte_s for trip_s, size in zip(self._trips, self._trip_bytes, strict=True))
        return path_s if path_s >= max(LONG_PATH_S, LONG_PATH_BYTES * byte_s) else 0.0

    def forget_flight(self) -> None:
        """The link was lost: what was on its way is no longer."""
        self._unacked = self._gathered = 0
        self._busy = 0.0

    def rate_bps(self, now: float) -> float:
        """The estimate at ``now``, bit/s."""
        average = self._average
        if self._unacked and self._measured:
            # Silence while bytes are on their way is news as well: no more than one frame can have passed.
            silent_s = now - self._since - GRAIN_S
            if silent_s > 0:
                average *= 0.5 ** (silent_s / HALF_LIFE_S)
        samples, ordered = self._samples, self._ordered
        if samples and samples[0][0] < now - MEMORY_S:
            self._forget(now)
        if ordered:
            usual = ordered[int(QUANTILE * (len(ordered) - 1))]
            if usual > average:
                average = usual
        bps = 8 * average
        return bps if bps > LOWEST_BPS else LOWEST_BPS

    @property
    def usual_bps(self) -> float:
        """The average as it was at the last acknowledgement, bit/s: silence since then does not lower it."""
        return max(8 * self._average, LOWEST_BPS)

    def peak_bps(self, now: float) -> float:
        """The estimate, or the rate over the last few samples if that is higher, bit/s: what the window must fill.

        It follows a link that grew within a few acknowledgements. The best sample would not do: acknowledgements
        that were held up arrive in a bunch, and one bunch would open the window several times too far.
        """
        rate_bps = self.rate_bps(now)
        if self._recent_rate is None:
            if not self._recent:
                return rate_bps
            seconds, sizes = zip(*self._recent, strict=True)
            self._recent_rate = sum(sizes) / sum(seconds)
        recent_bps = 8 * self._recent_rate
        return recent_bps if recent_bps > rate_bps else rate_bps

    def _forget(self, now: float) -> None:
        """Drop the samples that are too old."""
        samples, oldest = self._samples, now - MEMORY_S
        while samples and samples[0][0] < oldest:
            if len(samples) == len(self._recent):
                self._recent.popleft()
                self._recent_rate = None
            del self._ordered[bisect_left(self._ordered, samples.popleft()[1])]
