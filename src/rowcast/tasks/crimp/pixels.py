"""The pixels of a frame that tracking and mapping can use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rowcast.tasks.crimp.frames import Frames
from rowcast.tasks.crimp.settings import CrimpSettings

__all__ = ["DARK", "Pixels", "usable_pixels"]

#: A frame whose mean grey value from 0 to 255 is below this is too dark for its colours to say anything.
DARK = 8.0


@dataclass(frozen=True, eq=False)
class Pixels:
    """The pixels of a frame that can be used.

    Attributes:
        rays: float32 [n, 3], in the camera's frame, of one metre of depth.
        depths: float32 [n], metres.
        colours: float32 [n, 3], 0 to 1; -1 in all of a frame that is too dark for colours.
    """

    rays: npt.NDArray[np.float32]
    depths: npt.NDArray[np.float32]
    colours: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.depths)

    @property
    def dark(self) -> bool:
        """Whether they have no colours."""
        return bool(len(self.colours)) and bool(self.colours[0, 0] < 0)


def usable_pixels(frames: Frames, place: int, settings: CrimpSettings) -> Pixels:
    """Those with a depth between the least and the largest of the settings; what is not a number has none."""
    depths = frames.depths[place]
    with np.errstate(invalid="ignore"):
        valid = (depths > settings.min_depth) & (depths < settings.max_depth)
    colours = frames.colours[place]
    lit = colours.mean() >= DARK
    rays = frames.intrinsics.rays(*depths.shape)
    used = colours[valid].astype(np.float32) / 255 if lit else np.full((int(valid.sum()), 3), -1, np.float32)
    return Pixels(rays[valid], depths[valid], used)
