"""What a team of robots meets: the place, what each robot sees of it, and on what it is tested."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from rowcast.tasks.crimp.frames import Frames

__all__ = ["Bounds", "View"]


@dataclasses.dataclass(frozen=True)
class Bounds:
    """A box in the shared frame, metres: the lowest and the highest corner (x, y, z)."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """What one robot sees.

    Attributes:
        own: what it maps, in order of time; the first pose is known to it, the others it finds.
        visit: where it walks in what only others mapped; the first pose is known, as it comes from where it was.
            The walk has at least two frames.
        tests: single frames of what only others mapped, which nobody has mapped.
        obstacles: float64 [n, 4], rectangles (x0, y0, x1, y1) of what stands in the place, for a top view; may be none.
    """

    own: Frames
    visit: Frames
    tests: Frames
    obstacles: npt.NDArray[np.float64]
