"""A whole sequence in one ``.npz`` archive.

Keys: ``color`` uint8 [n, height, width, 3]; ``depth_mm`` [n, height, width], millimetres along the optical axis, 0: no
measurement; ``pose_c2w`` [n, 4, 4], camera to world, metres; ``K`` [3, 3], pixel centres at whole numbers;
``frame_id`` [n], numbers of frames at 30 Hz.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rowcast.errors import DataError
from rowcast.tasks._files import read_npz
from rowcast.tasks.crimp.frames import Intrinsics
from rowcast.tasks.crimp.readers.base import (
    FRAMES_A_SECOND,
    Camera,
    Colour,
    Depth,
    Layout,
    Recording,
    checked_intrinsics,
    given_intrinsics,
    in_metres,
    increasing,
)

__all__ = ["NPZ", "NpzRecording"]

_KEYS = ("color", "depth_mm", "pose_c2w", "K", "frame_id")
_UNITS_PER_METRE = 1000.0


class NpzRecording(Recording):
    """The sequence of an archive. Its arrays are compressed as a whole: they are read when it is opened.

    Raises:
        DataError: no such archive, arrays of other shapes or of different lengths, frames out of order.
    """

    def __init__(self, path: Path, camera: Camera) -> None:
        arrays = read_npz(_archive(path), _KEYS)
        self.name = str(_archive(path))
        self._colours, self._depths = arrays["color"], arrays["depth_mm"]
        self._poses, numbers = arrays["pose_c2w"], arrays["frame_id"]
        self._check(numbers, arrays["K"])
        self.units_per_metre = camera.depth_scale or _UNITS_PER_METRE
        self.size = (int(self._depths.shape[1]), int(self._depths.shape[2]))
        self.labels = [f"frame {number}" for number in numbers.tolist()]
        self.times_s = numbers.astype(np.float64) / FRAMES_A_SECOND
        increasing(self.times_s, self.labels, f"{self.name}, frame_id", "numbers")
        if camera.intrinsics is not None:
            self.intrinsics = given_intrinsics(camera.intrinsics, self.size)
        else:
            matrix = arrays["K"].astype(np.float64)
            of_file = Intrinsics(*(float(matrix[at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2))))
            self.intrinsics = checked_intrinsics(of_file, self.size, f"{self.name}, K")

    def poses(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return np.asarray(self._poses[places], dtype=np.float64)

    def images(self, place: int) -> tuple[Colour, Depth]:
        return self._colours[place], in_metres(self._depths[place], self.units_per_metre)

    def _check(self, numbers: npt.NDArray[Any], matrix: npt.NDArray[Any]) -> None:
        shapes = {
            "color": (self._colours, self._colours.dtype == np.uint8 and self._colours.shape[3:] == (3,), 4),
            "depth_mm": (self._depths, self._depths.dtype.kind in "uif", 3),
            "pose_c2w": (self._poses, self._poses.dtype.kind in "if" and self._poses.shape[1:] == (4, 4), 3),
            "K": (matrix, matrix.dtype.kind in "if" and matrix.shape == (3, 3), 2),
            "frame_id": (numbers, numbers.dtype.kind in "uif", 1),
        }
        for key, (array, fits, dimensions) in shapes.items():
            if not fits or array.ndim != dimensions:
                raise DataError(
                    f"{self.name}, {key}: found {array.dtype} {array.shape}; expected color uint8 [n, height, width, "
                    "3], depth_mm [n, height, width], pose_c2w [n, 4, 4], K [3, 3], frame_id [n]"
                )
        counts = {key: len(shapes[key][0]) for key in ("color", "depth_mm", "pose_c2w", "frame_id")}
        if len(set(counts.values())) > 1 or not counts["color"]:
            least = min(counts, key=lambda key: counts[key])
            raise DataError(
                f"{self.name}: expected as many of each, found "
                f"{', '.join(f'{count} {key}' for key, count in counts.items())}; {least} lacks frame {counts[least]} "
                "and what follows: write the archive again"
            )
        if self._colours.shape[1:3] != self._depths.shape[1:]:
            (high, wide), (deep, across) = self._colours.shape[1:3], self._depths.shape[1:]
            raise DataError(
                f"{self.name}: expected colour and depth of one size, found {wide} x {high} and {across} x {deep} "
                "pixels; resample the colour to the depth camera"
            )


def _archive(path: Path) -> Path:
    """The one archive that is meant."""
    if path.is_file():
        return path
    found = sorted(path.glob("*.npz"))
    if len(found) != 1:
        shown = ", ".join(each.name for each in found) or "none"
        raise DataError(f"{path}: expected one .npz archive, found {shown}; name the file itself as the data folder")
    return found[0]


def _is_here(path: Path) -> bool:
    return path.suffix.lower() == ".npz" if path.is_file() else any(path.glob("*.npz"))


NPZ = Layout("npz", "an .npz archive with color, depth_mm, pose_c2w, K and frame_id", _is_here, NpzRecording)
