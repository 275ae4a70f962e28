"""What a robot draws in each of its states, in Watt."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from rowcast.config import Checked, setting
from rowcast.errors import ConfigError

__all__ = ["PUBLISHED", "PowerStates"]

#: Where the default Watts come from.
PUBLISHED = "ROG, MICRO 2022, Table III: whole board, read with jetson-stats"


@dataclass(frozen=True)
class PowerStates(Checked):
    """The power of a robot's board in each state of a step.

    The default is the published table of ROG (MICRO 2022, Table III). Where radio and processor work at the same
    time, the board draws what computation takes, and the radio's part on top: communication less stall, since stall
    is the board with neither (:attr:`overlap_w`).

    Raises:
        ConfigError: a value out of range, or a computation that draws less than a stall.
    """

    compute_w: float = setting(
        13.35, "While a gradient is computed, and rows are encoded and decoded.", unit="W", low=0.0, high=10_000.0
    )
    communicate_w: float = setting(4.25, "While rows travel and nothing is computed.", unit="W", low=0.0, high=10_000.0)
    stall_w: float = setting(
        4.04,
        "While the robot waits, and in all time that the journal says nothing about. The board without work.",
        unit="W",
        low=0.0,
        high=10_000.0,
    )
    origin: str = setting(
        "",
        "Where these Watts were measured; give it with your own. Empty: the published table if these are its "
        "numbers, 'as set by the user' otherwise.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compute_w < self.stall_w:
            raise ConfigError(
                f"compute_w: expected at least stall_w, {self.stall_w:g} W (stall is the board without work), "
                f"got {self.compute_w:g} W; are the two exchanged?"
            )

    @property
    def overlap_w(self) -> float:
        """W while rows travel during the computation: ``compute_w + (communicate_w - stall_w)``."""
        return self.compute_w + (self.communicate_w - self.stall_w)

    @property
    def source(self) -> str:
        """Where a figure made with these Watts comes from: the table and its numbers."""
        watts = f"computation {self.compute_w:g}, communication {self.communicate_w:g}, stall {self.stall_w:g} W"
        return f"model of power states ({self.origin or self._origin()}; {watts})"

    def _origin(self) -> str:
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        unchanged = all(getattr(self, name) == value for name, value in defaults.items())
        return PUBLISHED if unchanged else "as set by the user"
