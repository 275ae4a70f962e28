"""The filter for a robot that stands still: what of its frames is kept, standing and moving.

``standing``: 100 frames of one picture with noise of a camera, one a second. ``moving``: a window that wanders over
a larger picture, two pixels a frame. ``--data`` is an archive of recorded frames (array ``color``, frames x height x
width x 3, uint8), for instance of a camera that is carried about a kitchen: what each threshold keeps of it, and what
it would keep if a frame were compared with the one before and not with the last one that was kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import Figure, arguments, best_s, finish
from rowcast.errors import SourceEnded
from rowcast.sources import PulledSource, StillFilter
from rowcast.sources.still import thumbnail
from rowcast.streams import Positions, Sample

FRAMES, HEIGHT, WIDTH = 100, 120, 160
#: Deviation of the noise of a pixel, of 255.
NOISE = 6.0
THETAS = (0.02, 0.04, 0.06, 0.08, 0.12)
NEVER_S = 1e9

Frames = Sequence[NDArray[Any]]


class Shown(PulledSource):
    """Frames, one a second."""

    def __init__(self, frames: Frames) -> None:
        super().__init__("frames")
        self._frames = frames

    def _begin(self, positions: Positions) -> Positions:
        self._at = positions.get("camera", 0)
        return positions

    def _next(self, at_most: int) -> list[Sample]:
        first, self._at = self._at, min(self._at + at_most, len(self._frames))
        if first == self._at:
            raise SourceEnded("all frames were shown")
        return [
            Sample("camera", k + 1, float(k), self._frames[k], self._frames[k].nbytes) for k in range(first, self._at)
        ]

    def _end(self) -> None:
        pass


def kept(frames: Frames, theta: float, t_max_s: float = NEVER_S) -> int:
    """How many frames the filter keeps."""
    source = StillFilter(Shown(frames), theta=theta, t_max_s=t_max_s, frame=lambda sample: sample.payload)
    source.open()
    try:
        while True:
            source.take(16, 0.0)
    except SourceEnded:
        return source.kept
    finally:
        source.close()


def kept_by_the_one_before(frames: Frames, theta: float) -> int:
    """How many would be kept if each were compared with the one before."""
    small = np.stack([thumbnail(frame) for frame in frames])
    return 1 + int((np.abs(np.diff(small, axis=0)).mean(axis=(1, 2)) > theta).sum())


def picture(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """A picture of large and small areas of one colour, 0 .. 255."""
    found = np.zeros((height, width, 3))
    for side in (40, 10, 5):
        coarse = rng.uniform(0, 85, (height // side + 1, width // side + 1, 3))
        found += coarse.repeat(side, axis=0).repeat(side, axis=1)[:height, :width]
    return found


def noisy(rng: np.random.Generator, seen: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(seen + rng.normal(0, NOISE, seen.shape), 0, 255).astype(np.uint8)


def standing(rng: np.random.Generator, frames: int) -> Iterator[NDArray[np.uint8]]:
    seen = picture(rng, HEIGHT, WIDTH)
    return (noisy(rng, seen) for _ in range(frames))


def moving(rng: np.random.Generator, frames: int) -> Iterator[NDArray[np.uint8]]:
    seen = picture(rng, HEIGHT, WIDTH + 2 * frames)
    return (noisy(rng, seen[:, 2 * k : 2 * k + WIDTH]) for k in range(frames))


def of_recorded(path: Path) -> list[Figure]:
    with np.load(path, allow_pickle=False) as archive:
        frames = archive["color"]
    figures = []
    for theta in THETAS:
        share = 100 * kept(frames, theta) / len(frames)
        before = 100 * kept_by_the_one_before(frames, theta) / len(frames)
        note = f"compared with the frame before: {before:.0f} %"
        figures.append(Figure(f"recorded, theta {theta:g}: kept", share, "%", note=note))
    return figures


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="FILE.npz", help="recorded frames, as array 'color'")
    options = parser.parse_args()
    count = 20 if options.tiny else FRAMES
    rng = np.random.default_rng(0)
    still, walk = list(standing(rng, count)), list(moving(rng, count))
    large = np.zeros((480, 640, 3), dtype=np.uint8)
    figures = [
        Figure("standing: kept", kept(still, 0.02), "frames", 1.0, note=f"of {count}"),
        Figure("standing, T_max 30 s: kept", kept(still, 0.02, 30.0), "frames", 4.0, note=f"of {count}, one a second"),
        *(Figure(f"moving, theta {theta:g}: kept", 100 * kept(walk, theta) / count, "%") for theta in THETAS),
        Figure("a thumbnail of 640 x 480 x 3", 1e3 * best_s(lambda: thumbnail(large), 3 if options.tiny else 30), "ms"),
    ]
    if options.data is not None:
        figures += of_recorded(options.data)
    finish("Frames of a robot that stands still", figures, options)


if __name__ == "__main__":
    main()
