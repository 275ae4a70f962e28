"""The frames of a recording that are used, decoded and made smaller when they are asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rowcast.errors import DataError
from rowcast.tasks.crimp.checks import usable_poses
from rowcast.tasks.crimp.frames import Frames, Intrinsics
from rowcast.tasks.crimp.readers.base import Colour, Depth, Recording
from rowcast.tasks.crimp.shrinking import factor_for, shrunk_colour, shrunk_depth, shrunk_intrinsics

__all__ = ["PixelCache", "Track"]

#: Decoded images that a process keeps, so that the robots of a virtual run decode each frame once.
_CACHE_BYTES = 512 << 20
_LEAST_SIDE = 2


class PixelCache:
    """Decoded images by key; those that were not used for longest go when there are more than so many bytes."""

    def __init__(self, most_bytes: int = _CACHE_BYTES) -> None:
        self._most_bytes, self._bytes = most_bytes, 0
        self._images: OrderedDict[object, tuple[Colour, Depth]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._images)

    def get(self, key: object) -> tuple[Colour, Depth] | None:
        """The images of a key, if they are here."""
        with self._lock:
            if key in self._images:
                self._images.move_to_end(key)
            return self._images.get(key)

    def put(self, key: object, images: tuple[Colour, Depth]) -> None:
        """Keep the images of a key."""
        with self._lock:
            if key in self._images:
                return
            self._images[key] = images
            self._bytes += images[0].nbytes + images[1].nbytes
            while self._bytes > self._most_bytes:
                _, (colour, depth) = self._images.popitem(last=False)
                self._bytes -= colour.nbytes + depth.nbytes


class Track:
    """The frames of a recording that have a pose, one of ``stride``.

    Args:
        recording: where they come from.
        stride: of so many frames one is used.
        largest_side: no side of an image is longer, in pixels.
        pixels: where decoded images are kept.

    Raises:
        DataError: too few poses or one that is not rigid, or images that would be too small.

    Attributes:
        name: where the recording lies.
        labels: of the frames.
        poses: float64 [n, 4, 4], camera to world, with exact rotations.
        intrinsics: of the smaller images.
        size: height and width of the smaller images.
    """

    def __init__(self, recording: Recording, stride: int, largest_side: int, pixels: PixelCache) -> None:
        self._recording, self._pixels = recording, pixels
        self.name = recording.name
        places = np.arange(0, len(recording), stride)
        labels = [recording.labels[place] for place in places.tolist()]
        kept, self.poses = usable_poses(recording.poses(places), labels, recording.name)
        self._places = places[kept]
        self.labels: Sequence[str] = [recording.labels[place] for place in self._places.tolist()]
        self._factor = factor_for(recording.size, largest_side)
        self.size = (recording.size[0] // self._factor, recording.size[1] // self._factor)
        if min(self.size) < _LEAST_SIDE:
            raise DataError(
                f"{self.name}: images of {recording.size[1]} x {recording.size[0]} pixels would be of "
                f"{self.size[1]} x {self.size[0]} with largest_side {largest_side}; make that larger"
            )
        self.intrinsics: Intrinsics = shrunk_intrinsics(recording.intrinsics, recording.size, self._factor)

    def __len__(self) -> int:
        return len(self._places)

    def frames(self, which: npt.NDArray[np.int64]) -> Frames:
        """Some of the frames, by their places from 0.

        Raises:
            DataError: a file of them cannot be read.
        """
        colours = np.empty((len(which), *self.size, 3), dtype=np.uint8)
        depths = np.empty((len(which), *self.size), dtype=np.float32)
        for at, place in enumerate(self._places[which].tolist()):
            colours[at], depths[at] = self._images(place)
        return Frames(
            self.name,
            colours,
            depths,
            self.poses[which],
            self.intrinsics,
            self._recording.times_s[self._places[which]],
            [self.labels[each] for each in which.tolist()],
        )

    def _images(self, place: int) -> tuple[Colour, Depth]:
        key = (id(self), place)
        images = self._pixels.get(key)
        if images is None:
            colour, depth = self._recording.images(place)
            images = shrunk_colour(colour, self._factor), shrunk_depth(depth, self._factor)
            self._pixels.put(key, images)
        return images
