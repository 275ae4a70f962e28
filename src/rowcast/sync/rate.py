"""The delivery rate of one direction of one link, measured from acknowledgements."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque

from rowcast.sync.transit import Transit

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
#: Frames that took less than this count together: what a clock and a scheduler add is of that size.
GRAIN_S = 0.002


class RateMeter:
    """Bytes that arrived per second in which the link carried them (algorithms.md 2.2).

    A frame is carried from when it can reach the peer, or the one before it has arrived, whichever is later, until it
    has arrived. So neither a pause between frames counts nor what an acknowledgement waits on its way back. Where a
    peer does not say when a frame arrived, that is when its acknowledgement is heard.

    An average with a half-life of 0.5 s of such time, never below the 20 % quantile of the last 5 s.

    Args:
        initial_bps: assumed before the first acknowledgement, bit/s.

    Attributes:
        round_trip_s: the shortest time that each of the last three small frames sent into an idle link took to be
            acknowledged, without what the acknowledgement waited; 0 before the first. Its own bytes count: what they
            take is only known once the rate is.
    """

    def __init__(self, initial_bps: float) -> None:
        self._average = initial_bps / 8
        self._measured = False
        self._guessed = False  # the first of a link, in whose time its path is
        self._samples: deque[tuple[float, float]] = deque()
        self._ordered: list[float] = []
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT)  # seconds and bytes of the newest samples
        self._recent_rate: float | None = None  # of those together; None: not known
        self._transit = Transit()
        self._reached = -math.inf  # when the newest frame arrived, by the peer's clock
        self._fastest = 0.0  # bytes/s; the highest over a few samples, on this link
        self._unacked = 0
        self._heard = 0.0  # when the last acknowledgement was, or could have been the first after a pause
        self._gathered = 0
        self._busy = 0.0
        self.round_trip_s = 0.0
        self._trips: deque[float] = deque(maxlen=TRIPS)
        self._trip_bytes: deque[int] = deque(maxlen=TRIPS)
        self._probe_every_s = PROBE_EVERY_S
        self._alone_at = -1.0
        self._alone_bytes = 0
        self._probed_at = -math.inf

    @property
    def measured(self) -> bool:
        """Whether the estimate is one: something was acknowledged."""
        return self._measured

    @property
    def late_s(self) -> float:
        """What acknowledgements wait on their way lately, behind what else comes from the peer (s)."""
        return self._transit.late_s

    def sent(self, now: float, size: int) -> None:
        """``size`` bytes were handed to the link."""
        if self._unacked == 0:
            # On a long path nothing can be acknowledged before it was travelled both ways: until then it is no silence.
            self._heard = now + self.long_path_s(now)
            self._alone_at = now if size <= PROBE_BYTES or self.wants_probe(now) else -math.inf
            self._alone_bytes = size
        self._unacked += size

    def acknowledged(self, now: float, size: int, sent_at: float, arrived: float | None = None) -> None:
        """Frames were acknowledged, together.

        Args:
            now: time (s).
            size: their bytes.
            sent_at: when the first of them was handed over (s).
            arrived: when the last of them arrived, by the peer's clock (s); ``None``: it does not say.
        """
        self.settled(size)
        self._heard = now
        late_s = 0.0
        if now > sent_at:  # what takes no time says nothing of a link: in virtual time the first parameters come so
            if arrived is None:
                arrived = now
            self._carried(now, size, sent_at, arrived)
            late_s = self._transit.heard(now, sent_at, arrived, size)
        if sent_at == self._alone_at and size == self._alone_bytes:
            # Nothing of ours was before it in any queue.
            self._alone_at = -math.inf
            self._probed_at = now
            byte_s = 8 / self.peak_bps(now)
            trip = max(now - sent_at - late_s - max(size - PROBE_BYTES, 0) * byte_s, 0.0)
            # What its own bytes take changes with the rate, and is no news of the path.
            steady = abs(trip - self.round_trip_s) <= max(0.5 * self.round_trip_s, 0.005, size * byte_s)
            self._probe_every_s = min(2 * self._probe_every_s, PROBE_RARELY_S) if steady else PROBE_EVERY_S
            self._trips.append(trip)
            self._trip_bytes.append(min(size, PROBE_BYTES))
            self.round_trip_s = min(self._trips)

    def settled(self, size: int) -> None:
        """``size`` bytes are no longer on their way; when they arrived is not known."""
        self._unacked = self._unacked - size if self._unacked > size else 0

    def _carried(self, now: float, size: int, sent_at: float, arrived: float) -> None:
        """The link carried ``size`` bytes up to ``arrived``: how long did it take?"""
        begun = self._transit.reaches_s(sent_at, 1 / self._fastest if self._fastest else math.inf)
        before, self._reached = self._reached, max(arrived, self._reached)
        if begun is None:
            self._busy += now - sent_at  # the first: of its time both ways and its own no part is known
            self._guessed = not self._measured
        elif begun >= arrived:
            return  # it came faster than any before, and tells of the path, not of the rate
        else:
            self._busy += max(arrived - max(begun, before), 0.0)
        self._gathered += size
        if self._busy >= GRAIN_S:
            self._sample(now, self._gathered, self._busy)
            self._guessed = self._guessed and begun is None
            self._gathered, self._busy = 0, 0.0
        if self._samples and self._samples[0][0] < now - MEMORY_S:
            self._forget(now)

    def _sample(self, now: float, size: int, elapsed: float) -> None:
        rate = size / elapsed
        keep = 0.5 ** (elapsed / HALF_LIFE_S) if self._measured and not self._guessed else 0.0
        self._average = keep * self._average + (1 - keep) * rate
        self._measured = True
        self._samples.append((now, rate))
        self._recent.append((elapsed, size))
        self._recent_rate = None
        self._fastest = max(self._fastest, self._newest_rate())
        insort(self._ordered, rate)

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
        """The link was lost: what was on its way is no longer, and the next one may take another path."""
        self._unacked = self._gathered = 0
        self._busy = 0.0
        self._transit.forget()
        self._reached = -math.inf
        self._fastest = self._average if self._measured else 0.0

    def rate_bps(self, now: float) -> float:
        """The estimate at ``now``, bit/s."""
        bps = self.latest_bps(now)
        samples, ordered = self._samples, self._ordered
        if samples and samples[0][0] < now - MEMORY_S:
            self._forget(now)
        if ordered:
            usual_bps = 8 * ordered[int(QUANTILE * (len(ordered) - 1))]
            if usual_bps > bps:
                return usual_bps
        return bps

    def latest_bps(self, now: float) -> float:
        """The average alone, bit/s: it follows a link that fades within a second, as well as one that only stumbles."""
        average = self._average
        if self._unacked and self._measured:
            # Silence while bytes are on their way is news as well: no more than one frame can have passed.
            silent_s = now - self._heard - self._transit.late_s - GRAIN_S
            if silent_s > 0:
                average *= 0.5 ** (silent_s / HALF_LIFE_S)
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
        if not self._recent:
            return rate_bps
        recent_bps = 8 * self._newest_rate()
        return recent_bps if recent_bps > rate_bps else rate_bps

    def _newest_rate(self) -> float:
        """Bytes per second over the last few samples."""
        if self._recent_rate is None:
            seconds, sizes = zip(*self._recent, strict=True)
            self._recent_rate = sum(sizes) / sum(seconds)
        return self._recent_rate

    def _forget(self, now: float) -> None:
        """Drop the samples that are too old."""
        samples, oldest = self._samples, now - MEMORY_S
        while samples and samples[0][0] < oldest:
            if len(samples) == len(self._recent):
                self._recent.popleft()
                self._recent_rate = None
            del self._ordered[bisect_left(self._ordered, samples.popleft()[1])]
