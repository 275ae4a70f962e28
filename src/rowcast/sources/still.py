"""A filter for the frames of a robot that stands still: what looks as the last kept frame did is dropped.

The rule is algorithms.md 13.8: a thumbnail of 32 x 32 grey values; a frame is kept when the mean of their absolute
differences from those of the last frame that was *kept* is above a threshold, or when that one is too old.
"""

from __future__ import annotations

import functools
import io
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rowcast.errors import ConfigError, DataError, RowcastError, visible
from rowcast.libraries import needing
from rowcast.sources.base import Drops
from rowcast.sources.text import SourceText
from rowcast.streams import Positions, Sample, Source
from rowcast.streams.packed import read_arrays

__all__ = ["STILL_OPTIONS", "StillFilter", "frame_of", "thumbnail"]

log = logging.getLogger("rowcast")

Floats = NDArray[np.float32]

STILL_OPTIONS = ("still", "t_max")
THETA, T_MAX_S = 0.02, 30.0
SIDE = 32
#: Seconds by which times may go back without being those of another recording.
JITTER_S = 1.0
#: Weights of red, green and blue in a grey value (ITU-R BT.601).
_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_CHANNELS = (1, 3, 4)
_NPY = b"\x93NUMPY"


class StillFilter:
    """A source without the frames that look as the last kept one of their partition; :class:`rowcast.streams.Source`.

    For a robot that stands still. On a moving camera it drops what is new as readily as what is not: there, every n-th
    frame is as good or better (docs/streams.md).

    A frame that is dropped counts in :attr:`dropped` as ``still``. What is dropped behind a frame that was trained on
    is committed with it, so that a broker does not wait for it. What is no frame goes through, and is said once. What
    was kept last is not on the disk: after each ``open`` the first frame of each partition is kept.

    Args:
        source: whose frames; not opened. It is not used by others from now on.
        theta: mean absolute difference from the last kept frame, over the whole range of brightness, above which a
            frame is kept; 0 keeps all that is not equal.
        t_max_s: a frame is kept when the last kept one is so many seconds older, by the times of the samples.
        frame: makes an array of a sample, as :func:`thumbnail` takes it; by default :func:`frame_of`.
        clock: seconds that only grow.

    Raises:
        ConfigError: ``theta`` not within 0 .. 1, or ``t_max_s`` not above 0.
    """

    def __init__(
        self,
        source: Source,
        *,
        theta: float = THETA,
        t_max_s: float = T_MAX_S,
        frame: Callable[[Sample], ArrayLike] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = str(getattr(source, "name", source))
        if not 0 <= theta <= 1:
            raise ConfigError(f"{self.name}: still (theta): expected a difference from 0 to 1, got {theta!r}")
        if not 0 < t_max_s < float("inf"):
            raise ConfigError(f"{self.name}: t_max: expected seconds above 0, got {t_max_s!r}")
        self._source, self._theta, self._t_max_s = source, theta, t_max_s
        self._frame, self._clock = frame or frame_of, clock
        self._committed = Positions()
        self._forget()

    @classmethod
    def from_text(cls, text: SourceText, source: Source) -> StillFilter:
        """The filter that the options ``still=THETA`` and ``t_max=SECONDS`` of a text ask for.

        Raises:
            ConfigError: a value out of its range, or ``t_max`` alone.
        """
        if not text.one("still"):
            raise ConfigError(
                f"source {str(text)!r}: t_max goes with still=THETA, the difference of two frames; add it"
            )
        return cls(source, theta=text.number("still", THETA, high=1.0), t_max_s=text.number("t_max", T_MAX_S))

    def open(self, positions: Positions | None = None) -> Positions:
        """Begin to deliver behind ``positions``; the first frame of each partition is kept."""
        begin = self._source.open(positions)
        self._forget()
        return begin

    def take(self, at_most: int, timeout_s: float) -> list[Sample]:
        """The next samples that are kept, as soon as there is one; none once ``timeout_s`` seconds are over."""
        until = self._clock() + timeout_s
        while True:
            left = until - self._clock()
            samples = self._source.take(at_most, max(left, 0.0))
            found = self._filtered(samples)
            if found or not samples or left <= 0:
                return found

    def _filtered(self, samples: list[Sample]) -> list[Sample]:
        found = [sample for sample in samples if self._is_kept(sample)]
        if len(found) < len(samples):
            self._drops.count(
                "still", f"looks as the frame before, theta {self._theta:g}", len(samples) - len(found), logging.INFO
            )
            self._commit_dropped()
        self.kept += len(found)
        return found

    def commit(self, positions: Positions) -> None:
        """Everything up to ``positions`` is taken care of, and with it what was dropped directly behind."""
        self._committed = self._committed.merged(positions)
        self._source.commit(self._with_dropped(positions))

    def lag(self) -> int | None:
        """Samples that are there and were not delivered yet, also those that will be dropped."""
        return self._source.lag()

    def close(self) -> None:
        """Let go of everything; a second call does nothing."""
        self._source.close()

    @property
    def trouble(self) -> str:
        """What it waits for."""
        return self._source.trouble

    @property
    def dropped(self) -> Mapping[str, int]:
        """How many samples were not delivered since it was opened, by reason: ``still``, and those of the source."""
        return {**self._source.dropped, **self._drops.counts}

    def __repr__(self) -> str:
        return f"<StillFilter {visible(self.name)}>"

    # -- which are kept ----------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self.kept = self.unreadable = 0
        self._drops = Drops(self.name)
        self._last: dict[str, tuple[Floats, float]] = {}  # what was kept last: thumbnail and time
        self._kept_at: dict[str, int] = {}  # its position
        self._behind: dict[str, int] = {}  # and how far all that follows was dropped
        self._committed = Positions()

    def _is_kept(self, sample: Sample) -> bool:
        seen = self._thumbnail(sample)
        last = self._last.get(sample.partition)
        if seen is not None and last is not None:
            # Where times go back another recording begins; one that is no number is no reason to drop.
            fresh = -JITTER_S <= sample.time_s - last[1] < self._t_max_s
            if fresh and float(np.abs(seen - last[0]).mean()) <= self._theta:
                self._behind[sample.partition] = sample.position
                return False
        if seen is not None:
            self._last[sample.partition] = seen, sample.time_s
        self._kept_at[sample.partition] = sample.position
        self._behind.pop(sample.partition, None)
        return True

    def _thumbnail(self, sample: Sample) -> Floats | None:
        """The thumbnail of a sample; ``None``: it is no frame."""
        try:
            return thumbnail(self._frame(sample))
        except Exception as error:  # whatever the function of a user and the decoders raise for such a payload
            if isinstance(error, RowcastError) and not isinstance(error, DataError):
                raise
            if not self.unreadable:
                log.warning(
                    "source %s: sample %s of %s is no frame that the filter can read; all such go through: %s: %s",
                    visible(self.name), sample.position, visible(sample.partition, 80),
                    type(error).__name__, visible(str(error), 200),
                )  # fmt: skip
            self.unreadable += 1
            return None

    # -- what is committed -------------------------------------------------------------------------------------

    def _with_dropped(self, positions: Positions) -> Positions:
        """The same, moved behind what was dropped, where everything that was kept before it is in them."""
        further = {
            name: self._behind[name]
            for name, place in positions.items()
            if name in self._behind and place >= self._kept_at.get(name, 0)
        }
        return positions.merged(Positions(further))

    def _commit_dropped(self) -> None:
        """While a robot stands still nothing is trained on, and so nobody else commits."""
        further = self._with_dropped(self._committed)
        if further != self._committed:
            self._committed = further
            self._source.commit(further)


def thumbnail(frame: ArrayLike) -> Floats:
    """Grey values float32 [32, 32] of a frame: the mean brightness of each of 32 x 32 equal areas.

    Args:
        frame: height x width, height x width x channels, or channels x height x width, with 1, 3 or 4 channels (grey;
            red, green, blue; and transparency, which is not looked at). Where both may be meant, the last one is that
            of the channels. Whole numbers are brightness over the range of their type (uint8: 0 to 255); others are
            taken as they are, so that ``theta`` is meant for 0 to 1.

    Raises:
        DataError: another shape, no pixels, or numbers that are not finite.
    """
    found = np.asarray(frame)
    if found.ndim == 3 and found.shape[2] not in _CHANNELS and found.shape[0] in _CHANNELS:
        found = found.transpose(1, 2, 0)
    if found.ndim == 2:
        found = found[:, :, None]
    if found.ndim != 3 or found.shape[2] not in _CHANNELS or found.size == 0 or found.dtype.kind not in "buif":
        raise DataError(
            f"frame: expected numbers, height x width, with 1, 3 or 4 channels first or last; got {found.dtype} of "
            f"the shape {np.shape(frame)}"
        )
    height, width, channels = found.shape
    whole = float(np.iinfo(found.dtype).max) if found.dtype.kind in "ui" else 1.0
    # Areas along the height first, where it makes the least to compute; then grey, then along the width.
    with np.errstate(invalid="ignore", over="ignore"):
        rows = (_areas(height) @ found.reshape(height, -1).astype(np.float32)).reshape(SIDE, width, channels)
        grey = rows[:, :, 0] if channels == 1 else rows[:, :, :3] @ _GREY
        small = (grey @ _areas(width).T / whole).astype(np.float32)
    if not np.isfinite(small).all():
        raise DataError("frame: expected finite numbers, got NaN or Inf")
    return small


@functools.lru_cache(maxsize=64)
def _areas(pixels: int) -> Floats:
    """Weights [32, pixels] of the pixels in each of 32 equal lengths; a pixel on a border counts to both in part."""
    edges = np.linspace(0, pixels, SIDE + 1)
    low, high = edges[:-1, None], edges[1:, None]
    place = np.arange(pixels)
    inside = np.clip(np.minimum(high, place + 1) - np.maximum(low, place), 0, None)
    shares: Floats = (inside / (high - low)).astype(np.float32)
    return shares


def frame_of(sample: Sample) -> NDArray[Any]:
    """The frame in a payload: an image file (as Pillow reads it), a ``.npy`` file, or the first array with two or three
    dimensions of what ``rowcast.tasks.pack_item`` wrote.

    Raises:
        DataError: it is none of these.
        ConfigError: an image file, and Pillow is not installed.
    """
    data = sample.payload
    if not isinstance(data, bytes | bytearray | memoryview):
        raise DataError(f"frame: expected bytes, got {type(data).__name__}; give the filter a function that reads it")
    data = bytes(data)
    if data.startswith(_NPY):
        array: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
        return array
    packed = next((each for each in read_arrays(data) if each.ndim in (2, 3)), None)
    return _image(data) if packed is None else packed


def _image(data: bytes) -> NDArray[Any]:
    with needing("a filter of image files", "demo"):
        from PIL import Image, UnidentifiedImageError
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"frame: no image, no .npy file and no packed item: {visible(str(error), 200)}") from error
