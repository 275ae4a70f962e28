"""Clips of digits that move: the place in each frame is uniform, whatever the direction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["DIRECTIONS", "STEPS", "moving", "opposite"]

#: The names of the directions, counter-clockwise as the image is seen; the classes of the task, in this order.
DIRECTIONS = ("right", "up right", "up", "up left", "left", "down left", "down", "down right")
#: Rows and columns of one step in each direction ``(8, 2)``.
STEPS: NDArray[np.int64] = np.array([(0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1)])


def opposite(directions: Tensor) -> Tensor:
    """The numbers of the opposite directions ``(n,)``."""
    return (directions + len(DIRECTIONS) // 2) % len(DIRECTIONS)


def moving(
    images: NDArray[np.float32],
    directions: NDArray[np.int64],
    starts: NDArray[np.int64],
    *,
    frames: int,
    side: int,
    speed: int,
) -> NDArray[np.float32]:
    """Clips in which an image moves by ``speed`` pixels a frame, in each axis of its direction.

    What leaves a frame at one edge comes in at the opposite one. So with ``starts`` that are uniform, the place in any
    one frame is uniform as well, and independent of the direction: a single frame says nothing of it. A clip played
    backwards is one of the opposite direction, so that its frames without their order do not tell the two apart.

    Args:
        images: ``(n, height, width)``, neither larger than ``side``.
        directions: ``(n,)``, numbers of :data:`DIRECTIONS`.
        starts: ``(n, 2)``, row and column of the upper left corner in the first frame.
        frames: of a clip.
        side: rows and columns of a frame (pixels).
        speed: pixels from frame to frame.

    Returns:
        clips ``(n, frames, 1, side, side)``, 0 where the image is not.
    """
    count, height, width = images.shape
    canvas = np.zeros((count, side, side), dtype=np.float32)
    canvas[:, :height, :width] = images
    corners = starts[:, None] + speed * STEPS[directions][:, None] * np.arange(frames)[:, None]
    # Where on the canvas each row and each column of a frame comes from: (n, frames, side).
    rows, columns = (np.arange(side) - corners[..., axis, None] for axis in (0, 1))
    clip = np.arange(count)[:, None, None, None]
    seen: NDArray[np.float32] = canvas[clip, (rows % side)[..., :, None], (columns % side)[..., None, :]]
    return seen[:, :, None]
