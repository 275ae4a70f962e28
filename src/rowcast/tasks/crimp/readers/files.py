"""A recording whose images are files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rowcast.errors import DataError
from rowcast.tasks.crimp.frames import Intrinsics
from rowcast.tasks.crimp.readers.base import Colour, Depth, Recording, in_metres
from rowcast.tasks.crimp.readers.images import read_colour, read_depth
from rowcast.tasks.crimp.readers.texts import read_matrix

__all__ = ["FileRecording", "FrameFiles", "pose_files"]

Poses = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float64]]


@dataclasses.dataclass(frozen=True)
class FrameFiles:
    """The frames of a sequence, in order of time.

    Attributes:
        name: where they lie, for messages.
        labels: what each is called.
        times_s: float64 [n].
        colours, depths: a file of each.
        poses: gives poses of some frames, as :meth:`Recording.poses`.
    """

    name: str
    labels: Sequence[str]
    times_s: npt.NDArray[np.float64]
    colours: Sequence[Path]
    depths: Sequence[Path]
    poses: Poses


class FileRecording(Recording):
    """A sequence of image files.

    Args:
        files: of the frames.
        size: height and width of the depth images.
        intrinsics: of the depth camera.
        units_per_metre: of the depth images.
        colour_camera: intrinsics of the colour camera, which sees from the same place; ``None``: it is the depth
            camera, and all images are of one size.
    """

    def __init__(
        self,
        files: FrameFiles,
        size: tuple[int, int],
        intrinsics: Intrinsics,
        units_per_metre: float,
        colour_camera: Intrinsics | None = None,
    ) -> None:
        self.name, self.labels, self.times_s = files.name, files.labels, files.times_s
        self.size, self.intrinsics, self.units_per_metre = size, intrinsics, units_per_metre
        self._files, self._colour_camera = files, colour_camera

    def poses(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return self._files.poses(places)

    def images(self, place: int) -> tuple[Colour, Depth]:
        colour_path, depth_path = self._files.colours[place], self._files.depths[place]
        depth = in_metres(read_depth(depth_path), self.units_per_metre)
        self._check_size(depth_path, (depth.shape[0], depth.shape[1]), "the first depth image")
        colour = read_colour(colour_path)
        if self._colour_camera is not None:
            return self._registered(colour, depth, self._colour_camera, colour_path)
        self._check_size(colour_path, (colour.shape[0], colour.shape[1]), "the depth images")
        return colour, depth

    def _check_size(self, path: Path, found: tuple[int, int], like: str) -> None:
        if found != self.size:
            raise DataError(
                f"{path}: expected {self.size[1]} x {self.size[0]} pixels as {like} of this sequence, found "
                f"{found[1]} x {found[0]}; resample the images so that all are of one size"
            )

    def _registered(self, colour: Colour, depth: Depth, of: Intrinsics, path: Path) -> tuple[Colour, Depth]:
        """The colour as the depth camera sees it; what it does not see has no depth.

        Both cameras see from the same place, so that a pixel u of the one is at fx' (u - cx) / fx + cx' of the other:
        a rectangle of the colour image is scaled to the size of the depth image, with a filter that averages over what
        a pixel covers.
        """
        from PIL import Image

        height, width = colour.shape[:2]
        to = self.intrinsics
        left, right = ((edge - to.cx) / to.fx * of.fx + of.cx + 0.5 for edge in (-0.5, self.size[1] - 0.5))
        top, bottom = ((edge - to.cy) / to.fy * of.fy + of.cy + 0.5 for edge in (-0.5, self.size[0] - 0.5))
        outside = [max(0, int(np.ceil(each))) for each in (-left, right - width, -top, bottom - height)]
        if max(outside) > max(height, width):
            raise DataError(
                f"{path}: by the intrinsics the depth camera sees {right - left:.0f} x {bottom - top:.0f} pixels of a "
                f"colour image of {width} x {height}; give the intrinsics that belong to these sizes"
            )
        before_x, after_x, before_y, after_y = outside
        padded = np.pad(colour, ((before_y, after_y), (before_x, after_x), (0, 0)), mode="edge")
        box = (left + before_x, top + before_y, right + before_x, bottom + before_y)
        whole = Image.fromarray(padded)
        seen = np.array(whole.resize((self.size[1], self.size[0]), Image.Resampling.BILINEAR, box=box))
        x = left + (np.arange(self.size[1]) + 0.5) * (right - left) / self.size[1]
        y = top + (np.arange(self.size[0]) + 0.5) * (bottom - top) / self.size[0]
        inside = ((y >= 0) & (y <= height))[:, None] & ((x >= 0) & (x <= width))[None]
        return seen, np.where(inside, depth, np.float32(0))


def pose_files(paths: Sequence[Path]) -> Poses:
    """Poses of which each is in a file, a matrix of 4 x 4."""

    def poses(places: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return np.array([read_matrix(paths[place], 4) for place in places.tolist()]).reshape(-1, 4, 4)

    return poses
