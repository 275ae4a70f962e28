"""A bandwidth trace: how many bits per second a link carries, as a step function of time.

Rates are exact between the steps, so how much passes in a while (:meth:`Trace.bits`) and when so much
has passed (:meth:`Trace.finish`) are computed, not simulated; the second is the inverse of the first.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rowcast.errors import LocalProtocolError, TraceError
from rowcast.links.stats import TraceStats, measure

__all__ = ["Trace"]

FloatArray = npt.NDArray[np.float64]

#: Relative rounding error that sums of bits may carry.
_SLACK = 1e-14


@dataclass(frozen=True, eq=False)
class Trace:
    """Piecewise-constant bandwidth; ``rates_bps[i]`` holds from ``times_s[i]`` to ``times_s[i + 1]``.

    The last rate holds until ``duration_s``. There the trace starts again (``loop=True``) or ends
    (``loop=False``): beyond its end nothing passes. A trace that does not loop may have an infinite
    duration; its last rate then holds for ever.

    Args:
        times_s: start of each step in seconds, shape ``(n,)``; the first is 0, strictly increasing.
        rates_bps: rate of each step in bit/s, shape ``(n,)``, each finite and at least 0.
        name: what the journal and error messages call it.
        loop: start again at ``duration_s``.
        duration_s: length in seconds, beyond the last step's start.

    Raises:
        TraceError: the arrays break one of the rules above; the message says which and where.

    All methods raise :class:`~rowcast.errors.LocalProtocolError` for a time that is negative or not finite.

    >>> trace = Trace([0, 2, 3], [8e6, 0, 4e6], "example", duration_s=4)
    >>> trace.bits(1, 4)
    12000000.0
    >>> trace.finish(1, 12e6)
    4.0
    """

    times_s: FloatArray
    rates_bps: FloatArray
    name: str
    loop: bool = True
    duration_s: float = field(kw_only=True)

    def __post_init__(self) -> None:
        times, rates = _checked(self.times_s, self.rates_bps, self.name)
        duration_s = float(self.duration_s)
        if not duration_s > times[-1] or (math.isinf(duration_s) and self.loop):
            wanted = f"finite and beyond the last step at {times[-1]:g} s" if self.loop else f"above {times[-1]:g} s"
            raise TraceError(f"trace {self.name!r}: duration_s is {duration_s:g}, expected {wanted}")
        # Bits from the start of the trace to the start of each step, and to its end. A step of rate 0
        # adds nothing, however long it is (0 times infinity is not a number).
        lengths = np.diff(np.append(times, duration_s))
        with np.errstate(over="ignore"):
            carried = np.multiply(rates, lengths, out=np.zeros_like(rates), where=rates > 0)
            passed = np.concatenate(([0.0], np.cumsum(carried)))
        if not math.isfinite(passed[-2]) or (math.isinf(passed[-1]) and math.isfinite(duration_s)):
            raise TraceError(f"trace {self.name!r}: more bits pass than can be counted; expected lower rates, in bit/s")
        changes = np.flatnonzero(np.diff(rates)) + 1
        change_times = times[changes].tolist()
        if self.loop and rates[-1] != rates[0]:
            change_times.append(duration_s)
        # Plain lists: for a single time, bisect on a list is several times faster than numpy.
        for attribute, value in (
            ("times_s", times),
            ("rates_bps", rates),
            ("duration_s", duration_s),
            ("_times", times.tolist()),
            ("_rates", rates.tolist()),
            ("_passed", passed.tolist()),
            ("_change_times", change_times),
        ):
            object.__setattr__(self, attribute, value)

    @classmethod
    def constant(cls, rate_bps: float, name: str = "") -> Trace:
        """A link that carries ``rate_bps`` (bit/s) for ever."""
        times, rates = np.zeros(1), np.array([rate_bps], dtype=np.float64)
        return cls(times, rates, name or f"constant:{rate_bps / 1e6:g}", loop=False, duration_s=math.inf)

    # ------------------------------------------------------------------ asking

    def rate(self, t: float) -> float:
        """The rate at time ``t`` (s) in bit/s; at a step, the new rate."""
        _, inside = self._place(t)
        return self._rates[self._step(inside)] if inside < self.duration_s else 0.0

    def bits(self, t0: float, t1: float) -> float:
        """Bits that pass from ``t0`` to ``t1`` (s), the exact integral of the rate.

        Raises:
            LocalProtocolError: ``t1`` is before ``t0``, or a time is negative or not finite.
        """
        if t1 < t0:
            raise LocalProtocolError(f"trace {self.name!r}: bits from {t0:g} s back to {t1:g} s; expected t0 <= t1")
        lap0, inside0 = self._place(t0)
        lap1, inside1 = self._place(t1)
        if lap0 == lap1:
            return self._bits_within(inside0, inside1)
        rest = self._bits_within(inside0, self.duration_s)
        return rest + (lap1 - lap0 - 1) * self._passed[-1] + self._bits_within(0.0, inside1)

    def finish(self, t: float, bits: float) -> float:
        """The first time (s) at which ``bits`` have passed from ``t`` on; ``inf`` if they never have.

        The inverse of :meth:`bits`: O(log n), also over many laps and over stretches of rate 0. Bits are met
        to 1 part in 10^14, so that a rounding error in them does not wait out a stretch of rate 0.

        Raises:
            LocalProtocolError: ``bits`` is negative or not a number, or ``t`` negative or not finite.
        """
        if not bits >= 0:
            raise LocalProtocolError(f"trace {self.name!r}: finish of {bits} bits; expected 0 or more")
        # Every message of a simulation comes here: what _place, _step, _end and _bits_within would say is written out.
        if not 0 <= t < math.inf:
            raise self._no_time(t)
        lap, inside = divmod(t, self.duration_s) if self.loop else (0.0, t)
        if bits == 0:
            return t
        if bits == math.inf:
            return math.inf
        times, passed = self._times, self._passed
        after = bisect_right(times, inside)
        step = after - 1
        rate = self._rates[step]
        beyond = inside >= self.duration_s
        if not beyond and bits <= rate * ((times[after] if after < len(times) else self.duration_s) - inside):
            return t + bits / rate
        per_lap = passed[-1]
        slack = _SLACK * (bits + (per_lap if per_lap < math.inf else passed[-2]))
        in_step = rate * (inside - times[step])
        left_in_lap = 0.0 if beyond else per_lap - passed[step] - in_step
        if bits <= left_in_lap + (slack if left_in_lap else 0.0):
            return max(t, lap * self._span + self._reach(passed[step] + in_step + bits, slack))
        if not self.loop or per_lap == 0:
            return math.inf
        bits -= left_in_lap
        laps = math.ceil((bits - slack) / per_lap) - 1  # whole laps before the one in which the last bit passes
        return max(t, (lap + 1 + laps) * self._span + self._reach(bits - laps * per_lap, slack))

    def next_change(self, t: float) -> float:
        """The first time after ``t`` (s) at which the rate differs from the rate before; ``inf`` if never."""
        lap, inside = self._place(t)
        if not self.loop:
            if inside >= self.duration_s:
                return math.inf
            later = bisect_right(self._change_times, inside)
            if later < len(self._change_times):
                return self._change_times[later]
            return self.duration_s if self._rates[-1] > 0 else math.inf
        if not self._change_times:
            return math.inf
        later = bisect_right(self._change_times, inside)
        if later == len(self._change_times):
            lap, later = lap + 1, 0
        # Far out, a step and t may round to the same float: the answer is still after t.
        return max(lap * self.duration_s + self._change_times[later], math.nextafter(t, math.inf))

    def stats(self, low_bps: float | None = None) -> TraceStats:
        """Mean, percentiles, changes and low episodes over one pass through the trace.

        Args:
            low_bps: what counts as low, bit/s; default 5 % of the best rate.

        Raises:
            LocalProtocolError: the trace has several steps and no end; :meth:`cut` it first.
        """
        if len(self._times) == 1:
            return measure(np.ones(1), self.rates_bps, low_bps)
        if math.isinf(self.duration_s):
            raise LocalProtocolError(f"trace {self.name!r} has no end: cut(0, seconds) it before asking for stats")
        return measure(np.diff(np.append(self.times_s, self.duration_s)), self.rates_bps, low_bps)

    # ------------------------------------------------------------------ making another

    def scaled(self, factor: float) -> Trace:
        """The same trace with every rate multiplied by ``factor`` (finite, 0 or more)."""
        if not 0 <= factor < math.inf:
            raise LocalProtocolError(f"trace {self.name!r}: scaled by {factor}; expected a finite factor >= 0")
        with np.errstate(over="ignore"):
            rates = self.rates_bps * factor
        return Trace(self.times_s, rates, f"{self.name} x{factor:g}", self.loop, duration_s=self.duration_s)

    def looped(self, loop: bool = True) -> Trace:
        """The same trace, made to start again at its end, or to end there.

        Raises:
            TraceError: the trace has no end, so that it cannot start again.
        """
        return Trace(self.times_s, self.rates_bps, self.name, loop, duration_s=self.duration_s)

    def shifted(self, offset_s: float) -> Trace:
        """The same trace started ``offset_s`` (0 or more) seconds in: ``shifted(o).rate(t) == rate(t + o)``.

        A looping trace keeps its duration; one that does not loop gets shorter.
        """
        name = f"{self.name} +{offset_s:g}s"
        if not self.loop:
            return self._piece(offset_s, self.duration_s, name)
        _, inside = self._place(offset_s)
        return self._piece(inside, inside + self.duration_s, name, self.duration_s)

    def cut(self, t0: float, t1: float) -> Trace:
        """The piece from ``t0`` to ``t1`` (s) as a trace of its own that starts at 0.

        A looping trace may be cut beyond its duration, over several laps; the piece loops if this does.
        """
        return self._piece(t0, t1, f"{self.name} [{t0:g},{t1:g}]s")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Trace):
            return NotImplemented
        mine = (self.name, self.loop, self.duration_s, self._times, self._rates)
        return mine == (other.name, other.loop, other.duration_s, other._times, other._rates)

    def __hash__(self) -> int:
        return hash((self.name, self.loop, self.duration_s, self.times_s.tobytes(), self.rates_bps.tobytes()))

    # ------------------------------------------------------------------ ours

    _times: list[float] = field(init=False, repr=False)
    _rates: list[float] = field(init=False, repr=False)
    _passed: list[float] = field(init=False, repr=False)
    _change_times: list[float] = field(init=False, repr=False)

    @property
    def _span(self) -> float:
        """Length of a lap; 0 where there is only one, which keeps 0 x infinity out of the sums."""
        return self.duration_s if self.loop else 0.0

    def _place(self, t: float) -> tuple[float, float]:
        """The lap in which ``t`` lies and the time inside it."""
        if not 0 <= t < math.inf:
            raise self._no_time(t)
        return divmod(t, self.duration_s) if self.loop else (0.0, t)

    def _no_time(self, t: float) -> LocalProtocolError:
        return LocalProtocolError(f"trace {self.name!r}: time {t} s; expected a finite time, 0 or later")

    def _step(self, inside: float) -> int:
        return bisect_right(self._times, inside) - 1

    def _end(self, step: int) -> float:
        return self._times[step + 1] if step + 1 < len(self._times) else self.duration_s

    def _bits_within(self, start: float, end: float) -> float:
        """Bits from ``start`` to ``end`` of one lap; beyond the end nothing passes."""
        if start >= self.duration_s:
            return 0.0
        first, last = self._step(start), self._step(end)
        if first == last and end < self.duration_s:
            return self._rates[first] * (end - start)
        head = self._rates[first] * (start - self._times[first])
        if end >= self.duration_s:
            return self._passed[-1] - self._passed[first] - head
        return self._passed[last] - self._passed[first] - head + self._rates[last] * (end - self._times[last])

    def _reach(self, bits: float, slack: float) -> float:
        """The first time inside a lap at which ``bits``, give or take ``slack``, have passed from its start."""
        passed = self._passed
        bits = min(bits, passed[-1])
        step = bisect_left(passed, bits) - 1
        if step < 0:
            return 0.0
        rest = bits - passed[step]
        if rest <= slack and step and passed[step - 1] == passed[step]:
            return self._times[bisect_left(passed, passed[step])]  # before the stretch of nothing
        return self._times[step] + rest / self._rates[step]

    def _piece(self, t0: float, t1: float, name: str, duration_s: float | None = None) -> Trace:
        lap0, inside0 = self._place(t0)
        if not t1 > t0 or (self.loop and math.isinf(t1)) or (not self.loop and t1 > self.duration_s):
            within = "a finite end" if self.loop else f"an end of at most {self.duration_s:g} s"
            raise LocalProtocolError(f"trace {self.name!r}: cut from {t0:g} to {t1:g} s; expected t0 < t1 and {within}")
        laps = math.floor(t1 / self.duration_s - lap0) + 1 if self.loop else 1
        starts = (np.arange(laps)[:, np.newaxis] * self._span + self.times_s).ravel() - inside0
        rates = np.tile(self.rates_bps, laps)
        length = t1 - t0 if duration_s is None else duration_s
        first = int(np.searchsorted(starts, 0.0, side="right")) - 1
        end = int(np.searchsorted(starts, length, side="left"))
        starts, rates = np.maximum(starts[first:end], 0.0), rates[first:end]
        kept = np.append(np.diff(starts) > 0, True)  # steps so short that they fall on the same float
        return Trace(starts[kept], rates[kept], name, self.loop, duration_s=length)


def _checked(times_s: object, rates_bps: object, name: str) -> tuple[FloatArray, FloatArray]:
    """Read-only copies of the two arrays, or TraceError."""
    try:
        times, rates = (np.array(values, dtype=np.float64) for values in (times_s, rates_bps))
    except (TypeError, ValueError) as error:
        raise TraceError(f"trace {name!r}: times and rates must be numbers: {error}") from error
    if times.ndim != 1 or times.shape != rates.shape or not times.size:
        raise TraceError(
            f"trace {name!r}: expected as many times as rates, at least one of each;"
            f" got shapes {times.shape} and {rates.shape}"
        )
    if times[0] != 0:
        raise TraceError(f"trace {name!r}: the first time is {times[0]:g} s, expected 0")
    with np.errstate(over="ignore", invalid="ignore"):
        backwards = np.flatnonzero(~(np.diff(times) > 0))
    if backwards.size:
        at = int(backwards[0])
        raise TraceError(f"trace {name!r}, step {at + 1}: time {times[at + 1]:g} s does not come after {times[at]:g} s")
    bad = np.flatnonzero(~((rates >= 0) & (rates < np.inf)))
    if bad.size:
        raise TraceError(f"trace {name!r}, step {bad[0]}: rate {rates[bad[0]]:g} bit/s, expected finite and >= 0")
    times.flags.writeable = rates.flags.writeable = False
    return times, rates
