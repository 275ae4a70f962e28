"""What a report shows of a replica beside curves: pictures, and plans seen from above. Values and a file format.

A task makes them at the end of a run (:meth:`rowcast.tasks.TaskWorker.exhibits`); a report draws those of several
policies side by side and needs neither the task's code nor PyTorch for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Cells", "Exhibit", "Path2d", "Picture", "Plan"]


@dataclass(frozen=True, eq=False)
class Picture:
    """An image.

    Attributes:
        name: small letters, digits and '_'; pictures of one name are drawn beside each other, one for each policy.
        title: in words.
        pixels: float32 [height, width], drawn in colours from ``low`` to ``high``, or uint8 [height, width, 3]. What is
            not finite is left white.
        low, high, unit: of the values of a float32 picture.
        reference: it is the same for all policies, and drawn once, before the others.
        row: pictures with one number stand in one line of the figure.
    """

    name: str
    title: str
    pixels: npt.NDArray[np.float32] | npt.NDArray[np.uint8]
    low: float = 0.0
    high: float = 1.0
    unit: str = ""
    reference: bool = False
    row: int = 0


@dataclass(frozen=True, eq=False)
class Path2d:
    """A way through a plan: points float64 [n, 2]; ``true``: where something really was, drawn dotted."""

    label: str
    points: npt.NDArray[np.float64]
    true: bool = False


@dataclass(frozen=True, eq=False)
class Cells:
    """Squares of a plan that belong to whoever has the largest weight there.

    Attributes:
        size: of a square.
        corners: float64 [n, 2], the lower left ones.
        weights: float64 [n], of this worker, at least 0.
    """

    size: float
    corners: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Plan:
    """A place from above, as one worker has it; those of one name are laid over each other, a colour for each worker.

    Attributes:
        name: as that of a :class:`Picture`.
        title: in words.
        unit: of all lengths.
        paths: ways.
        obstacles: float64 [n, 4], grey rectangles (x0, y0, x1, y1).
        cells: squares, or none.
    """

    name: str
    title: str
    unit: str
    paths: tuple[Path2d, ...]
    obstacles: npt.NDArray[np.float64]
    cells: Cells | None = None


Exhibit: TypeAlias = Picture | Plan
