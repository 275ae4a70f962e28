"""RGB-D frames with poses, as a robot's camera gives them one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Frames", "Intrinsics"]


@dataclasses.dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera; all in pixels, and the centres of pixels at whole numbers."""

    fx: float
    fy: float
    cx: float
    cy: float

    def rays(self, height: int, width: int) -> npt.NDArray[np.float32]:
        """The way of each pixel for one metre of depth, float32 [height, width, 3]: right, down, forward."""
        v, u = np.mgrid[0:height, 0:width].astype(np.float32)
        return np.stack([(u - self.cx) / self.fx, (v - self.cy) / self.fy, np.ones_like(u)], axis=-1)


@dataclasses.dataclass(frozen=True, eq=False)
class Frames:
    """Frames of one camera in order of time.

    Attributes:
        name: of the sequence, for messages.
        colours: uint8 [n, height, width, 3].
        depths: float32 [n, height, width], metres along the optical axis; what is not finite or not above 0 is no
            measurement.
        poses: float64 [n, 4, 4], camera to world: x right, y down, z forward; metres.
        intrinsics: of the camera.
        times_s: float64 [n].
        labels: what each frame is called where it comes from, for messages.
    """

    name: str
    colours: npt.NDArray[np.uint8]
    depths: npt.NDArray[np.float32]
    poses: npt.NDArray[np.float64]
    intrinsics: Intrinsics
    times_s: npt.NDArray[np.float64]
    labels: Sequence[str]

    def __len__(self) -> int:
        return len(self.depths)

    def take(self, which: Any) -> Frames:
        """Some of the frames, as numpy takes them (a slice, indices)."""
        places = np.arange(len(self))[which]
        return dataclasses.replace(
            self,
            colours=self.colours[places],
            depths=self.depths[places],
            poses=self.poses[places],
            times_s=self.times_s[places],
            labels=[self.labels[place] for place in places],
        )
