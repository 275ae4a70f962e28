"""What the team of a fault script trains: each robot counts its iterations in elements of its own.

Robot ``i`` of ``W`` takes 1 from every ``W``-th element, from the ``i``-th on, in each iteration. Sums of whole numbers
are exact in float32, so the parameters tell, element by element, how often each contribution of each robot was applied.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.rows import Layout

__all__ = ["LAYOUT", "counted", "start_of_all", "update_of"]

Vector = npt.NDArray[np.float32]

#: 201 rows and 12,850 elements: 51 kB in the raw codec.
LAYOUT = Layout.from_shapes([("weight", (200, 64)), ("bias", (50,))])


def start_of_all() -> Vector:
    """The parameters that everybody begins with: float32 [elements], whole numbers."""
    return np.arange(LAYOUT.elements, dtype=np.float32) % 100


def update_of(index: int, workers: int) -> Vector:
    """What a robot's iteration takes from the parameters: float32 [elements]."""
    update = LAYOUT.zeros()
    update[index::workers] = 1
    return update


def counted(parameters: Vector, index: int, workers: int) -> npt.NDArray[np.float64]:
    """How many iterations of a robot are in each of its elements: float64 [elements of its own]."""
    moved = start_of_all().astype(np.float64) - parameters
    return moved[index::workers]
