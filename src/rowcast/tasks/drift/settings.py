"""Settings of the tasks whose world drifts."""

from __future__ import annotations

import dataclasses

from rowcast.config import setting
from rowcast.streams import parse_rehearsal
from rowcast.tasks.base import TaskSettings

__all__ = ["DigitsSettings", "DriftSettings", "RssiSettings"]


@dataclasses.dataclass(frozen=True)
class DriftSettings(TaskSettings):
    """Settings of a :class:`DriftTask`; the same for all streams.

    Raises:
        ConfigError: a value out of its range.
    """

    batch: int = setting(10, "New samples of one step of one robot.", unit="samples", low=1, high=65_536)
    rehearsal: str = setting(
        "off",
        "Old samples that each robot keeps to train them again: 'reservoir:200' (200 of all, uniformly), "
        "'importance:200' (by their last loss), 'off'. Pays where classes come back, costs where the world moves.",
    )
    rehearsed: int = setting(
        20, "Old samples beside the new ones of a step, where there is a rehearsal.", unit="samples", low=1, high=65_536
    )
    steps: int = setting(1, "Steps for each new batch; it is tested before the first.", unit="steps", low=1, high=1000)
    lr: float = setting(0.07, "Learning rate.", low=0.0, high=10.0)
    momentum: float = setting(0.9, "Momentum, local to each robot.", low=0.0, high=0.999)
    hidden: tuple[int, ...] = setting((64, 64), "Units of each hidden layer of the model.", low=1, high=16_384)

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_rehearsal(self.rehearsal)


@dataclasses.dataclass(frozen=True)
class RssiSettings(DriftSettings):
    """Settings of ``rssi``.

    Raises:
        ConfigError: a value out of its range.
    """

    glitches: str = setting(
        "drop",
        "Rows with a level above 0 or below -100 dBm, which no receiver measures: 'drop' (and count) or 'keep'.",
        choices=("drop", "keep"),
    )


@dataclasses.dataclass(frozen=True)
class DigitsSettings(DriftSettings):
    """Settings of ``drift-digits``.

    Raises:
        ConfigError: a value out of its range.
    """

    length: int | None = setting(
        None, "Samples that each robot sees; none: without an end.", unit="samples", low=1, high=1_000_000_000
    )
    run: int = setting(20, "Images of one digit in a row.", unit="samples", low=1, high=1_000_000)
    period: int = setting(
        4000,
        "Samples of a robot after which the images are as at its first.",
        unit="samples",
        low=2,
        high=1_000_000_000,
    )
    turn: float = setting(60.0, "The images turn by so much to either side.", unit="degrees", low=0.0, high=180.0)
    fade: float = setting(0.6, "Share of the contrast that is lost half a period after the first.", low=0.0, high=1.0)
    noise: float = setting(0.1, "Standard deviation of the noise on a pixel from 0 to 1.", low=0.0, high=10.0)
