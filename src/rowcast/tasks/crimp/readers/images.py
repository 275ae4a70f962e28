"""Image files of a sequence: 8-bit colour and 16-bit depth. Needs Pillow."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from rowcast.errors import DataError
from rowcast.tasks.crimp.readers.base import Colour

__all__ = ["image_size", "read_colour", "read_depth"]

T = TypeVar("T")

_AGAIN = "fetch the file again, or leave the frame out"
#: What Pillow calls images of whole numbers of 16 bits and more.
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I")


def image_size(path: Path) -> tuple[int, int]:
    """Height and width, from the head of the file."""
    width, height = _opened(path, ("PNG", "JPEG"), lambda image: image.size)
    return int(height), int(width)


def read_colour(path: Path) -> Colour:
    """A colour image, uint8 [height, width, 3]; a grey one has three equal channels.

    Raises:
        DataError: no such file, damaged, or neither PNG nor JPEG.
    """
    return _opened(path, ("PNG", "JPEG"), lambda image: np.array(image.convert("RGB")))


def read_depth(path: Path) -> npt.NDArray[Any]:
    """A depth image as it is in the file, whole numbers [height, width].

    Raises:
        DataError: no such file, damaged, no PNG, or not of 16 bits.
    """
    mode, values = _opened(path, ("PNG",), lambda image: (image.mode, np.array(image)))
    if mode not in _DEEP or values.ndim != 2:
        raise DataError(
            f"{path}: expected a depth image with one channel of 16 bits, found mode {mode!r} ({values.dtype}, "
            f"{1 if values.ndim == 2 else values.shape[2]} channels); write the depth again as it was measured"
        )
    return values


def _opened(path: Path, formats: tuple[str, ...], look: Callable[[Any], T]) -> T:
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(f"{path}: needs Pillow, which is not installed; pip install 'rowcast[demo]'") from error
    try:
        with Image.open(path, formats=formats) as image:
            return look(image)
    except (OSError, SyntaxError, ValueError, zlib.error, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path}: expected a whole {' or '.join(formats)} image, found one that is missing, cut off or damaged "
            f"({error}); {_AGAIN}"
        ) from error
