"""Meters: one protocol, the proof that a meter reads, and the watch that it goes on reading.

A meter is read by its caller, who owns the clock: ``meter.read_j(now)`` some ten times a second is enough for a
robot. A sensor may freeze: in the published logs of ROG, jetson-stats showed one value from some seconds after the
start to the end of the run, two hours later. So a meter is proved before a run (:meth:`Meter.prove`) and watched
during it: a value that stays the same to the last digit for :data:`FROZEN_S` raises :class:`MeterError`.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rowcast.energy.account import WorkerEnergy
from rowcast.errors import LocalProtocolError, MeterError

__all__ = ["FROZEN_READS", "FROZEN_S", "CounterMeter", "Meter", "MeterLog", "PowerMeter", "change_load", "check_alive"]

#: A value that does not change for so long (s), over at least so many reads, is a frozen sensor. A board that idles
#: still moves by some hundredths of a Watt several times a second.
FROZEN_S = 30.0
FROZEN_READS = 20

#: Reads of a proof.
PROOF_READS = 12

Between = Callable[[int], object]


def change_load(k: int) -> None:
    """Work between the reads of a proof: for odd ``k`` much, on all cores; for even ``k`` little, on one.

    It takes tenths of a second on a robot and reads no clock. Who has a clock may give :meth:`Meter.prove` something
    better, for example a second of the real training and a second of sleep in turn.
    """
    if k % 2:
        square = np.ones((640, 640), dtype=np.float32)
        for _ in range(8):
            square = square @ square * np.float32(1 / 640)
    else:
        sum(range(500_000))


class Meter(Protocol):
    """Something that tells how much energy was spent.

    Attributes:
        name: as in :func:`rowcast.energy.open_meter`.
    """

    name: str

    @property
    def source(self) -> str:
        """What is measured, and what is not: it goes with every figure."""
        ...

    def prove(self, between: Between = change_load) -> None:
        """Show that the sensor reads, before a run counts.

        Args:
            between: called with 1, 2, ... between the reads; it changes the load and lets some time pass.

        Raises:
            MeterError: no such sensor, it cannot be read, or its value does not follow the load.
        """
        ...

    def read_j(self, now: float) -> float:
        """J since the first call, which returns 0.

        Args:
            now: time (s, monotonic) of the caller. Between two calls the power counts as changing evenly, so call
                often where the meter is one of power; a counter misses nothing.

        Raises:
            MeterError: the sensor cannot be read any more, or is frozen.
            LocalProtocolError: ``now`` went back.
        """
        ...

    def close(self) -> None:
        """Give the sensor back. Harmless when repeated."""
        ...


class Watch:
    """Looks at the values of one sensor in turn and raises when they have been the same for too long."""

    def __init__(self, what: str, limit_s: float = FROZEN_S, reads: int = FROZEN_READS) -> None:
        self._what = what
        self._limit_s = limit_s
        self._reads = reads
        self._value = math.nan
        self._since = math.nan
        self._last = -math.inf
        self._same = 0

    def see(self, now: float, value: float) -> None:
        """One more value, at time ``now`` (s).

        Raises:
            MeterError: it is frozen.
            LocalProtocolError: ``now`` went back.
        """
        if not now >= self._last:
            raise LocalProtocolError(
                f"{self._what}: expected times that do not go back, got {now} s after {self._last} s"
            )
        self._last = now
        if value != self._value:
            self._value, self._since, self._same = value, now, 1
            return
        self._same += 1
        if now - self._since >= self._limit_s and self._same >= self._reads:
            raise MeterError(
                f"{self._what}: expected a value that moves, got {value:g} in {self._same} reads over "
                f"{now - self._since:.1f} s: the sensor is frozen. The energy of this run does not count; restart the "
                "service behind the sensor (jetson-stats: its system service), prove the meter and run again"
            )


def check_alive(
    times_s: Sequence[float] | npt.NDArray[np.float64],
    values: Sequence[float] | npt.NDArray[np.float64],
    what: str,
    *,
    limit_s: float = FROZEN_S,
    reads: int = FROZEN_READS,
) -> None:
    """Check a series of readings that somebody else has logged.

    Args:
        times_s: when each was read (s), not decreasing [k].
        values: W, or J of a counter [k].
        what: name of the series, for the message.
        limit_s, reads: how long, and over how many reads at least, a value may stay the same.

    Raises:
        MeterError: fewer than two readings, one that is not a number, or one value for too long.
        LocalProtocolError: lists of different length, or times that go back.
    """
    if len(times_s) != len(values):
        raise LocalProtocolError(f"{what}: expected a time for each reading, got {len(times_s)} and {len(values)}")
    if len(values) < 2:
        raise MeterError(f"{what}: expected two readings or more, got {len(values)}; was the meter running?")
    watch = Watch(what, limit_s, reads)
    for now, value in zip(times_s, values, strict=True):
        if not math.isfinite(value):
            raise MeterError(f"{what}: expected numbers, got {value} at {now} s; leave the run out")
        watch.see(float(now), float(value))


class PowerMeter(ABC):
    """A meter of power: Watts, integrated by the trapezoidal rule. Subclasses give :meth:`watts`."""

    name: str

    def __init__(self) -> None:
        self._watch = Watch(f"meter {self.name}")
        self._last: tuple[float, float] | None = None
        self._joules = 0.0

    @property
    @abstractmethod
    def source(self) -> str:
        """See :class:`Meter`."""

    @abstractmethod
    def watts(self) -> float:
        """The sensor's value now (W).

        Raises:
            MeterError: it cannot be read.
        """

    def fresh_watts(self) -> float:
        """As :meth:`watts`; a sensor behind a service waits here for its next value."""
        return self.watts()

    def prove(self, between: Between = change_load) -> None:
        """See :class:`Meter`; refuses 0 W, negative or absurd power and a value that never changes."""
        seen: list[float] = []
        for k in range(PROOF_READS):
            if k:
                between(k)
            seen.append(_plausible(self.name, self.fresh_watts()))
        if len(set(seen)) == 1:
            raise MeterError(
                f"meter {self.name}: expected power that follows the load, got {seen[0]:g} W in each of {PROOF_READS} "
                "reads under changing load: the sensor is frozen. Restart the service behind it, or take another meter"
            )

    def read_w(self, now: float) -> float:
        """W at time ``now``; counts towards :meth:`read_j`.

        Raises:
            MeterError: the sensor cannot be read any more, or is frozen.
            LocalProtocolError: ``now`` went back.
        """
        power_w = _plausible(self.name, self.watts())
        self._watch.see(now, power_w)
        if self._last is not None:
            then, before_w = self._last
            self._joules += (now - then) * (before_w + power_w) / 2
        self._last = now, power_w
        return power_w

    def read_j(self, now: float) -> float:
        """See :class:`Meter`."""
        self.read_w(now)
        return self._joules

    def close(self) -> None:  # noqa: B027 - most sensors hold nothing
        """See :class:`Meter`."""


class CounterMeter(ABC):
    """A meter that counts energy by itself. Subclasses give :meth:`count_j`."""

    name: str

    def __init__(self) -> None:
        self._watch = Watch(f"meter {self.name}")
        self._first: float | None = None

    @property
    @abstractmethod
    def source(self) -> str:
        """See :class:`Meter`."""

    @abstractmethod
    def count_j(self) -> float:
        """J that the sensor has counted since some moment in the past, wrap-around undone.

        Raises:
            MeterError: it cannot be read.
        """

    def prove(self, between: Between = change_load) -> None:
        """See :class:`Meter`; refuses a counter that goes back or never increases."""
        seen = [self.count_j()]
        for k in range(1, PROOF_READS):
            between(k)
            seen.append(self.count_j())
        if any(after < before for before, after in itertools.pairwise(seen)):
            raise MeterError(
                f"meter {self.name}: expected a counter that only grows, it went back in {PROOF_READS} reads; "
                "take another meter"
            )
        if seen[-1] == seen[0]:
            raise MeterError(
                f"meter {self.name}: expected a counter that increases, got {seen[0]:g} J in each of {PROOF_READS} "
                "reads under changing load: the sensor is frozen. Restart the service behind it, or take another meter"
            )

    def read_j(self, now: float) -> float:
        """See :class:`Meter`."""
        count = self.count_j()
        self._watch.see(now, count)
        if self._first is None:
            self._first = count
        return count - self._first

    def close(self) -> None:  # noqa: B027 - most sensors hold nothing
        """See :class:`Meter`."""


def _plausible(name: str, power_w: float) -> float:
    if not 0 < power_w < 10_000:
        raise MeterError(
            f"meter {name}: expected the power of a board that is on, above 0 and below 10000 W, got {power_w:g} W; "
            "is it the right rail?"
        )
    return power_w


class MeterLog:
    """What a meter said over a run, as the energy of one worker.

    Args:
        node: name of the worker.
        meter: read by :meth:`sample`; prove it first.
    """

    def __init__(self, node: str, meter: Meter) -> None:
        self._node = node
        self._meter = meter
        self._times: list[float] = []
        self._joules: list[float] = []

    def sample(self, now: float) -> None:
        """Read the meter at time ``now`` (s).

        Raises:
            MeterError, LocalProtocolError: as :meth:`Meter.read_j`.
        """
        joules = self._meter.read_j(now)
        self._times.append(now)
        self._joules.append(joules)

    def energy(self) -> WorkerEnergy:
        """The cumulative curve so far; the states of the worker are unknown to a meter.

        Raises:
            MeterError: fewer than two samples.
        """
        if len(self._times) < 2:
            raise MeterError(
                f"energy of {self._node}: expected two readings of meter {self._meter.name} or more, "
                f"got {len(self._times)}"
            )
        times, joules = np.array(self._times, dtype=np.float64), np.array(self._joules, dtype=np.float64)
        return WorkerEnergy(self._node, times, joules - joules[0], self._meter.source, None)
