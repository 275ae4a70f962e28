"""The channel models `airtime` and `equal`: transfers share one medium.

Both walk from rate change to rate change, O(transfers) each; one transfer alone is closed form.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Sequence

from rowcast.links.medium import Channel, add_link, backwards, busy, link_of, wrong_amount
from rowcast.links.trace import Trace

__all__ = ["EqualThroughput", "SharedAirtime"]

#: A transfer is over when so little of it is left: relative to its size, and in bits. Rounding errors of sums are
#: smaller, and must not wait out a stretch of rate 0.
_SLACK = 1e-12
_SLACK_BITS = 1e-6


class _Transfer:
    """A transfer under way on a shared channel; ``rate`` is that of its link alone and holds until ``until``."""

    __slots__ = ("bits", "key", "left", "rate", "slack", "trace", "until")

    def __init__(self, key: int, trace: Trace, now: float, bits: float) -> None:
        self.key = key
        self.trace = trace
        self.bits = bits
        self.left = bits
        self.slack = _SLACK * bits + _SLACK_BITS
        self.look(now)

    def look(self, now: float) -> None:
        """Ask the trace for the rate from ``now`` on."""
        self.rate = self.trace.rate(now)
        self.until = self.trace.next_change(now)

    def end(self, left: float, now: float, until: float, rate: float) -> float:
        """When the transfer ends if it has ``left`` bits and gets ``rate`` from ``now``; inf if not by ``until``."""
        if left <= self.slack:
            return now
        if rate <= 0:
            return math.inf
        end = now + left / rate
        if end <= until:
            return end
        # What the rounding left over passes now, not after a stretch of nothing.
        return until if left - rate * (until - now) <= self.slack else math.inf


class _Shared(Channel):
    """One medium for all links; a subclass says who gets how much of it."""

    def __init__(self) -> None:
        self._told = 0.0  # the latest time that we were told
        self._now = 0.0  # the time of what is in _active; it stands still while the same transfers go on
        self._links: dict[int, Trace] = {}
        self._active: list[_Transfer] = []  # by key, so that sums do not depend on who began first
        self._done: list[tuple[float, int, float]] = []  # (end, key, bits) of those not told of yet
        self._next: float | None = math.inf  # the earliest end of those active; None: not computed

    @abstractmethod
    def _shares(self, rates: Sequence[float]) -> list[float]:
        """What each transfer gets (bit/s), from the rates (bit/s) that their links would have alone."""

    def add(self, key: int, trace: Trace) -> None:
        add_link(self._links, key, trace)

    def remove(self, key: int) -> None:
        link_of(self._links, key)
        del self._links[key]
        self._drop(key)

    def begin(self, now: float, key: int, bits: float) -> float:
        trace = link_of(self._links, key)
        self._advance(now)
        self._pass(now)
        place = self._place(key)
        if self._carries(key, place) or any(done == key for _, done, _ in self._done):
            raise busy(key)
        if not 0 <= bits < math.inf:
            raise wrong_amount(key, bits)
        transfer = _Transfer(key, trace, now, bits)
        self._active.insert(place, transfer)
        return self._forecast(transfer)

    def next_finish(self) -> float:
        if self._done:
            return self._done[0][0]
        return self._next_end()

    def finished(self, now: float) -> list[int]:
        self._advance(now)
        keys = [key for _, key, _ in sorted(self._done)]
        self._done.clear()
        return keys

    def abort(self, now: float, key: int) -> float:
        link_of(self._links, key)
        self._advance(now)
        return self._drop(key)

    # ------------------------------------------------------------------ ours

    def _place(self, key: int) -> int:
        return bisect_left(self._active, key, key=lambda transfer: transfer.key)

    def _carries(self, key: int, place: int) -> bool:
        return place < len(self._active) and self._active[place].key == key

    def _drop(self, key: int) -> float:
        """Forget what the link carries; returns the bits that passed."""
        self._advance(self._told)
        for index, (_, done, bits) in enumerate(self._done):
            if done == key:
                del self._done[index]
                return bits
        place = self._place(key)
        if not self._carries(key, place):
            return 0.0
        self._pass(self._told)
        transfer = self._active.pop(place)
        self._next = None
        return transfer.bits - transfer.left

    def _next_end(self) -> float:
        if self._next is None:
            self._forecast(None)
        assert self._next is not None
        return self._next

    def _forecast(self, wanted: _Transfer | None) -> float:
        """Find the earliest end and remember it; returns when ``wanted`` ends while the others all go on."""
        active, now = self._active, self._now
        self._next = math.inf
        if len(active) == 1:
            self._next = _end_alone(active[0], now)
            return self._next
        left = [transfer.left for transfer in active]
        rates = [transfer.rate for transfer in active]
        untils = [transfer.until for transfer in active]
        while active:
            shares = self._shares(rates)
            until = min(untils)
            ends = [
                transfer.end(rest, now, until, share)
                for transfer, rest, share in zip(active, left, shares, strict=True)
            ]
            if self._next == math.inf:
                self._next = min(ends)
            if wanted is not None:
                place = active.index(wanted)
                if ends[place] < math.inf:
                    return ends[place]
                if rates[place] == 0 and untils[place] == math.inf:
                    wanted = None  # it never ends, though the others may change for ever
            if wanted is None and self._next < math.inf:
                break
            if until == math.inf:
                break
            for index, transfer in enumerate(active):
                left[index] = max(left[index] - shares[index] * (until - now), 0.0)
                if untils[index] <= until:
                    rates[index] = transfer.trace.rate(until)
                    untils[index] = transfer.trace.next_change(until)
            now = until
        return math.inf

    def _advance(self, now: float) -> None:
        """Who ends until ``now`` is done. If nobody does, what was forecast stays, to the bit."""
        if not self._told <= now < math.inf:
            raise backwards(now, self._told)
        self._told = now
        while (end := self._next_end()) <= now:
            self._pass(end)
            self._next = None

    def _pass(self, end: float) -> None:
        """Let the time pass until ``end``, which is no later than the earliest end; who ends then is done."""
        if len(self._active) == 1:
            self._pass_alone(self._active[0], end)
        elif self._active:
            self._pass_together(end)
        self._now = end

    def _pass_alone(self, transfer: _Transfer, end: float) -> None:
        if _end_alone(transfer, self._now) <= end:
            self._over([transfer], end)
        else:
            transfer.left = max(transfer.left - transfer.trace.bits(self._now, end), 0.0)
            transfer.look(end)

    def _pass_together(self, end: float) -> None:
        now = self._now
        over: list[_Transfer] = []
        while not over:
            # The same sums as in the forecast, so that who ends then ends now, to the bit.
            shares = self._shares([transfer.rate for transfer in self._active])
            until = min(transfer.until for transfer in self._active)
            stop = min(until, end)
            for transfer, share in zip(self._active, shares, strict=True):
                if transfer.end(transfer.left, now, until, share) <= end:
                    over.append(transfer)
                transfer.left = max(transfer.left - share * (stop - now), 0.0)
                if transfer.until <= stop:
                    transfer.look(stop)
            if stop >= end:
                break
            now = stop
        self._over(over, end)

    def _over(self, transfers: list[_Transfer], end: float) -> None:
        self._active = [transfer for transfer in self._active if transfer not in transfers]
        self._done += [(end, transfer.key, transfer.bits) for transfer in transfers]


class SharedAirtime(_Shared):
    """One channel with airtime fairness: each transfer has the channel for the same share of the time."""

    def _shares(self, rates: Sequence[float]) -> list[float]:
        heard = sum(rate > 0 for rate in rates) or 1
        return [rate / heard for rate in rates]


class EqualThroughput(_Shared):
    """One channel with equal throughput, as plain 802.11 gives it: everybody is as slow as the slow ones make it."""

    def _shares(self, rates: Sequence[float]) -> list[float]:
        airtime = sum(1.0 / rate for rate in rates if rate > 0)
        share = 1.0 / airtime if airtime else 0.0
        return [share if rate > 0 else 0.0 for rate in rates]


def _end_alone(transfer: _Transfer, now: float) -> float:
    return now if transfer.left <= transfer.slack else transfer.trace.finish(now, transfer.left)
