"""What a reader makes of a folder: a sequence whose files are known and whose frames are decoded one at a time."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rowcast.errors import DataError
from rowcast.tasks.crimp.frames import Intrinsics

__all__ = [
    "FRAMES_A_SECOND",
    "OVERRIDE",
    "Camera",
    "Colour",
    "Depth",
    "Layout",
    "Recording",
    "checked_intrinsics",
    "given_intrinsics",
    "in_metres",
    "increasing",
    "scaled_intrinsics",
]

Colour = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.float32]

#: The cameras of 7-Scenes and ScanNet, where frames have numbers and no times; Replica is rendered and has neither.
FRAMES_A_SECOND = 30.0
#: The largest value of a 16-bit image: no measurement in 7-Scenes, and beyond what the image can hold elsewhere.
_SATURATED = 65_535
#: A principal point is looked for in this share of the width and of the height: it is near the centre of an image.
_NEAR_CENTRE = (0.3, 0.7)
#: What to do about intrinsics, at the end of a message.
OVERRIDE = "or give the setting intrinsics = [fx, fy, cx, cy] for images as they are in the files"


@dataclasses.dataclass(frozen=True)
class Camera:
    """What a user says of the camera, in place of what the data set has.

    Attributes:
        intrinsics: fx, fy, cx, cy in pixels of the depth image as it is in the files; ``None``: as the data set has it.
        depth_scale: units of a depth image in one metre; ``None``: as the data set has it.
    """

    intrinsics: tuple[float, ...] | None = None
    depth_scale: float | None = None


class Recording(ABC):
    """A sequence of RGB-D frames that lies somewhere, in order of time.

    Attributes:
        name: where it lies, for messages.
        labels: what its frames are called there.
        times_s: float64 [n], increasing.
        size: height and width of a frame as it is decoded.
        intrinsics: of a frame as it is decoded.
        units_per_metre: of its depth images.
    """

    name: str
    labels: Sequence[str]
    times_s: npt.NDArray[np.float64]
    size: tuple[int, int]
    intrinsics: Intrinsics
    units_per_metre: float

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def poses(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Poses of some frames, float64 [n, 4, 4], camera to world; one that is not finite: that frame has none."""

    @abstractmethod
    def images(self, place: int) -> tuple[Colour, Depth]:
        """Colour uint8 [height, width, 3] and depth float32 [height, width] in metres, 0: none, of one frame.

        Raises:
            DataError: a file is damaged, or of another size or kind than the layout promises.
        """


@dataclasses.dataclass(frozen=True)
class Layout:
    """A way in which files of a sequence lie in a folder.

    Attributes:
        name: of the layout.
        files: by what it is known, for messages.
        is_here: whether a folder (or a file) is of this layout; looks at names only.
        open: the sequence that lies there.
    """

    name: str
    files: str
    is_here: Callable[[Path], bool]
    open: Callable[[Path, Camera], Recording]


def in_metres(raw: npt.NDArray[Any], units_per_metre: float) -> Depth:
    """Depth in metres, float32, 0 where there is no measurement: not above 0, not finite, or 65535 and more."""
    measured = (raw > 0) & (raw < _SATURATED)
    return np.where(measured, raw, 0).astype(np.float32) / np.float32(units_per_metre)


def increasing(times_s: npt.NDArray[np.float64], labels: Sequence[str], where: str, what: str) -> None:
    """Raises DataError where times or numbers of frames do not increase."""
    late = np.flatnonzero(np.diff(times_s) <= 0)
    if len(late):
        at = int(late[0]) + 1
        raise DataError(
            f"{where}: expected {what} that increase from frame to frame, found {labels[at]} after {labels[at - 1]}; "
            "put the frames in order of time and leave out those that are there twice"
        )


def given_intrinsics(values: tuple[float, ...], size: tuple[int, int]) -> Intrinsics:
    """The camera of the setting ``intrinsics``.

    Raises:
        DataError: other than four numbers, or of no camera with images of this height and width.
    """
    if len(values) != 4:
        raise DataError(f"intrinsics: expected four numbers (fx, fy, cx, cy), got {len(values)}: {list(values)}")
    return checked_intrinsics(Intrinsics(*map(float, values)), size, "the setting intrinsics", (0.0, 1.0))


def checked_intrinsics(
    intrinsics: Intrinsics, size: tuple[int, int], where: str, within: tuple[float, float] = _NEAR_CENTRE
) -> Intrinsics:
    """Intrinsics, if they can be of images of this size.

    Args:
        intrinsics: of a camera.
        size: height and width of its images.
        where: they come from, for messages.
        within: the shares of width and height between which the principal point has to lie.

    Raises:
        DataError: a focal length that is not above 0, or a principal point elsewhere: they are of another size.
    """
    height, width = size
    fx, fy, cx, cy = dataclasses.astuple(intrinsics)
    if not (np.isfinite([fx, fy, cx, cy]).all() and fx > 0 and fy > 0):
        raise DataError(
            f"{where}: expected focal lengths above 0 and a principal point, found fx {fx:g}, fy {fy:g}, cx {cx:g}, "
            f"cy {cy:g}; mend it, {OVERRIDE}"
        )
    low, high = within
    if not (low <= (cx + 0.5) / width <= high and low <= (cy + 0.5) / height <= high):
        raise DataError(
            f"{where}: the principal point ({cx:g}, {cy:g}) is not near the centre of images of {width} x {height} "
            f"pixels, so that it is of images of another size; give the intrinsics that belong to these, {OVERRIDE}"
        )
    return intrinsics


def scaled_intrinsics(
    intrinsics: Intrinsics, calibrated: tuple[int, int], size: tuple[int, int], where: str
) -> Intrinsics:
    """Intrinsics of images that were resized as a whole.

    Args:
        intrinsics: as calibrated.
        calibrated: height and width of the images they are of.
        size: height and width of the images they are to be of.
        where: the images lie, for messages.

    Raises:
        DataError: the two have not the same ratio of width to height.
    """
    (before, across), (height, width) = calibrated, size
    if before * width != across * height:
        raise DataError(
            f"{where}: images of {width} x {height} pixels, and the camera of this data set is calibrated for "
            f"{across} x {before}; put a file camera-intrinsics.txt (3 x 3) there, {OVERRIDE}"
        )
    ratio = width / across
    return Intrinsics(
        intrinsics.fx * ratio,
        intrinsics.fy * ratio,
        (intrinsics.cx + 0.5) * ratio - 0.5,
        (intrinsics.cy + 0.5) * ratio - 0.5,
    )
