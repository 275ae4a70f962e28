"""Channel models: how transfers that are under way at the same time share the medium.

A channel knows links by small whole numbers (one for each worker and direction). Each link has a
:class:`~rowcast.links.trace.Trace` of the rate ``R`` that it would get alone, and carries one transfer at a time.

============= =================================================== ============================================
name          rate of a transfer under way                        stands for
============= =================================================== ============================================
`independent` ``R_w(t)``                                          links that do not disturb each other
`airtime`     ``R_w(t) / m(t)``                                   one channel, each station the same time on it
`equal`       ``1 / sum_u 1 / R_u(t)``, the same for all          one channel, each station the same throughput:
                                                                  the 802.11 anomaly, a slow robot drags all
============= =================================================== ============================================

``m`` and the sum count the transfers under way whose rate is above 0 at that moment. A station at rate 0 has lost its
association: it carries nothing and takes no airtime from the others, in both shared models. It goes on where it
stopped when its rate comes back.

Everything is integrated exactly over the piecewise-constant rates. `independent` asks the traces in closed form:
O(log n) per event. The shared ones walk from rate change to rate change, O(m) each; one transfer alone is closed form
again, so that all three then agree to the bit.

Sources: Heusse, Rousseau, Berger-Sabbatel, Duda, "Performance Anomaly of 802.11b", INFOCOM 2003 (equal throughput);
Hoiland-Jorgensen et al., "Ending the Anomaly: Achieving Low Latency and Airtime Fairness in WiFi", USENIX ATC 2017.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Protocol

from rowcast.errors import LocalProtocolError
from rowcast.links.trace import Trace

__all__ = ["CHANNELS", "Channel", "EqualThroughput", "Independent", "SharedAirtime"]

#: A transfer is over when so little of it is left: relative to its size, and in bits. Rounding errors of sums are
#: smaller, and must not wait out a stretch of rate 0.
_SLACK = 1e-12
_SLACK_BITS = 1e-6


class Channel(Protocol):
    """Carries transfers; the driver asks when the next one ends.

    Times are seconds and never go back from one call to the next. A transfer that has ended stays with its link until
    :meth:`finished` tells of it. Every method raises :class:`~rowcast.errors.LocalProtocolError` for a time that goes
    back or is not finite, and for a key that is not there.
    """

    def add(self, key: int, trace: Trace) -> None:
        """A link with its own trace of the rate that it would get alone.

        Raises:
            LocalProtocolError: there is a link of this key.
        """

    def remove(self, key: int) -> None:
        """The link is gone; whatever it carried is dropped, as of the latest time that the channel was told."""

    def begin(self, now: float, key: int, bits: float) -> float:
        """Start one transfer of ``bits`` (finite, 0 or more).

        Returns:
            When it ends if no transfer begins or ends before; ``inf`` if never.

        Raises:
            LocalProtocolError: the link carries a transfer, or one that ended and was not told of yet.
        """

    def next_finish(self) -> float:
        """The earliest end of all transfers under way; ``inf`` if there are none, or none ever ends."""

    def finished(self, now: float) -> list[int]:
        """The links whose transfers end at ``now`` or before, in order of (end, key); they are idle afterwards."""

    def abort(self, now: float, key: int) -> float:
        """Stop the transfer; returns the bits that passed, 0 if the link is idle."""


class Independent(Channel):
    """Links that do not disturb each other: each transfer gets the whole rate of its link."""

    def __init__(self) -> None:
        self._now = 0.0
        self._links: dict[int, Trace] = {}
        #: key -> (end, key, serial number, start, bits)
        self._active: dict[int, tuple[float, int, int, float, float]] = {}
        #: The same entries, and those that were aborted; they are thrown away when they come to the top.
        self._heap: list[tuple[float, int, int, float, float]] = []
        self._serial = 0

    def add(self, key: int, trace: Trace) -> None:
        _add(self._links, key, trace)

    def remove(self, key: int) -> None:
        _link(self._links, key)
        del self._links[key]
        self._active.pop(key, None)

    def begin(self, now: float, key: int, bits: float) -> float:
        if now != self._now:
            self._check(now)
        if key in self._active:
            raise _busy(key)
        if not bits < math.inf:
            raise _amount(key, bits)
        trace = self._links.get(key) or _link(self._links, key)
        end = trace.finish(now, bits)
        self._serial = serial = self._serial + 1
        self._active[key] = entry = (end, key, serial, now, bits)
        if end < math.inf:
            heappush(self._heap, entry)
        return end

    def next_finish(self) -> float:
        heap = self._heap
        while heap:
            if self._active.get(heap[0][1]) is heap[0]:
                return heap[0][0]
            heappop(heap)
        return math.inf

    def finished(self, now: float) -> list[int]:
        self._check(now)
        keys = []
        heap, active = self._heap, self._active
        while heap and heap[0][0] <= now:
            entry = heappop(heap)
            if active.get(entry[1]) is entry:
                del active[entry[1]]
                keys.append(entry[1])
        return keys

    def abort(self, now: float, key: int) -> float:
        self._check(now)
        trace = _link(self._links, key)
        entry = self._active.pop(key, None)
        if entry is None:
            return 0.0
        end, _, _, start, bits = entry
        return bits if now >= end else min(bits, trace.bits(start, now))

    def _check(self, now: float) -> None:
        if not self._now <= now < math.inf:
            raise _backwards(now, self._now)
        self._now = now


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
        _add(self._links, key, trace)

    def remove(self, key: int) -> None:
        _link(self._links, key)
        del self._links[key]
        self._drop(key)

    def begin(self, now: float, key: int, bits: float) -> float:
        trace = _link(self._links, key)
        self._advance(now)
        self._pass(now)
        place = self._place(key)
        if self._carries(key, place) or any(done == key for _, done, _ in self._done):
            raise _busy(key)
        if not 0 <= bits < math.inf:
            raise _amount(key, bits)
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
        _link(self._links, key)
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
            raise _backwards(now, self._told)
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


#: The name of a channel model in settings -> what makes an empty channel of it.
CHANNELS: Mapping[str, Callable[[], Channel]] = {
    "independent": Independent,
    "airtime": SharedAirtime,
    "equal": EqualThroughput,
}


def _end_alone(transfer: _Transfer, now: float) -> float:
    return now if transfer.left <= transfer.slack else transfer.trace.finish(now, transfer.left)


def _add(links: dict[int, Trace], key: int, trace: Trace) -> None:
    if key in links:
        raise LocalProtocolError(f"link {key}: is on the channel already; remove it first")
    links[key] = trace


def _link(links: Mapping[int, Trace], key: int) -> Trace:
    try:
        return links[key]
    except KeyError:
        raise LocalProtocolError(
            f"link {key}: is not on the channel; add it first (there are {sorted(links)})"
        ) from None


def _busy(key: int) -> LocalProtocolError:
    return LocalProtocolError(f"link {key}: carries a transfer; expected finished() to tell of its end, or abort()")


def _amount(key: int, bits: float) -> LocalProtocolError:
    return LocalProtocolError(f"link {key}: transfer of {bits} bits; expected a finite number, 0 or more")


def _backwards(now: float, before: float) -> LocalProtocolError:
    return LocalProtocolError(f"channel: time {now} s; expected a finite time, {before} s or later")
