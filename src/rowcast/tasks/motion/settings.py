"""Settings of the task ``motion``."""

from __future__ import annotations

import dataclasses

from rowcast.config import setting
from rowcast.errors import ConfigError
from rowcast.tasks.base import TaskSettings
from rowcast.tasks.motion.models import GROUP, MODELS, check_channels

__all__ = ["MotionSettings"]


@dataclasses.dataclass(frozen=True)
class MotionSettings(TaskSettings):
    """Settings of ``motion``.

    Raises:
        ConfigError: a value out of its range, channels that eighths do not divide, or a speed at which a direction
            and the opposite one look the same.
    """

    model: str = setting(
        "tsm",
        "How frames know of each other: 'tsm' (an eighth of the channels from the frame before, an eighth from the one "
        "behind), 'online' (from the frame before only, so that a robot can run it frame by frame), '2d' (not at all).",
        choices=MODELS,
    )
    channels: int = setting(16, "Channels of each layer of the model, a multiple of 8.", low=GROUP, high=4096)
    blocks: int = setting(2, "Residual blocks; with 'tsm' and 'online' each sees one frame further.", low=1, high=100)
    frames: int = setting(8, "Frames of a clip.", unit="frames", low=2, high=1024)
    side: int = setting(16, "Pixels a side of a frame; a digit has 8.", unit="pixels", low=8, high=256)
    speed: int = setting(
        1,
        "Pixels from frame to frame in each axis that moves, less than half a side.",
        unit="pixels",
        low=1,
        high=127,
    )
    noise: float = setting(0.1, "Standard deviation of the noise on a pixel from 0 to 1.", low=0.0, high=10.0)
    alpha: float = setting(
        1.0,
        "Skew of the digits that robots see: small gives each digit to few robots, large mixes.",
        low=0.01,
        high=1e6,
    )
    batch: int = setting(16, "Clips of one step of one robot.", unit="clips", low=1, high=65_536)
    lr: float = setting(0.003, "Learning rate of Adam.", low=0.0, high=1.0)
    test_clips: int = setting(
        500, "Clips that an evaluation looks at, of test images in turn.", unit="clips", low=1, high=1_000_000
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_channels(self.channels)
        if 2 * self.speed >= self.side:
            raise ConfigError(
                f"speed: expected less than half of {self.side} pixels, so that left and right differ, "
                f"got {self.speed!r}; take a lower speed or a larger side"
            )
