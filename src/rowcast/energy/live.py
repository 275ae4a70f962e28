"""What a meter says while a robot trains: its power now and its energy so far, as figures that a team is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rowcast.energy.meters import Meter
from rowcast.errors import MeterError

__all__ = ["ENERGY_J", "POWER_W", "LiveEnergy", "Told"]

#: Names of the figures: mean power (W) since the one before; 0: the meter does not read, since no board that is on
#: takes nothing. Energy (J) since the first reading, without the times in which it did not read.
POWER_W, ENERGY_J = "power_w", "energy_j"


@dataclass(frozen=True)
class Told:
    """What is to be told: figures by name, and what happened to the meter, with how bad that is; empty: nothing."""

    figures: Mapping[str, float]
    happened: str = ""
    trouble: bool = False


class LiveEnergy:
    """Turns readings into figures; has no clock.

    A meter that fails is read on: a bus may be busy. It is told once that it fails, and once that it reads again; what
    the robot takes meanwhile is in no figure.

    Args:
        meter: proved, see :meth:`rowcast.energy.Meter.prove`.
        every_s: seconds between two figures.
    """

    def __init__(self, meter: Meter, every_s: float = 1.0) -> None:
        self._meter = meter
        self._every_s = every_s
        self._joules = 0.0
        self._last: tuple[float, float] | None = None  # time and value of the last reading that was told of
        self._failing = self._failed = self._recovered = False

    def sample(self, now: float) -> Told | None:
        """Read the meter at ``now`` (s, monotonic); ``None``: there is nothing to tell yet.

        Raises:
            LocalProtocolError: ``now`` went back.
        """
        try:
            joules = self._meter.read_j(now)
        except MeterError as error:
            return self._fails(str(error))
        if self._last is None:
            self._last = now, joules
            return self._begins()
        then, before = self._last
        if now < then + self._every_s:
            return None
        self._last = now, joules
        self._joules += joules - before
        return Told({POWER_W: (joules - before) / (now - then), ENERGY_J: self._joules})

    def _begins(self) -> Told | None:
        """The first reading there is, or the first behind those that failed."""
        if not self._failing:
            return Told({}, self._meter.source)
        self._failing = False
        if self._recovered:
            return None
        self._recovered = True
        return Told({}, f"meter {self._meter.name} reads again; what was taken meanwhile is in no figure")

    def _fails(self, why: str) -> Told | None:
        self._last = None
        if self._failing:
            return None
        self._failing = True
        first, self._failed = not self._failed, True
        return Told({POWER_W: 0.0}, why if first else "", trouble=first)
