"""What a camera would see in a map, and how far that is from what it saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rowcast.tasks.crimp.field import ImplicitMap
from rowcast.tasks.crimp.field_kernels import STRIDE, march
from rowcast.tasks.crimp.frames import Intrinsics
from rowcast.tasks.crimp.pixels import Pixels
from rowcast.tasks.crimp.settings import CrimpSettings

__all__ = ["MISS_M", "DepthError", "depth_error", "render"]

#: What a pixel counts where the map shows no surface, metres.
MISS_M = 1.0
#: Steps of a ray beyond those that it takes through free space, at most.
_STEPS = 200


@dataclass(frozen=True)
class DepthError:
    """How the depth of a map differs from what was measured.

    Attributes:
        median_m, mean_m: of the absolute difference; a pixel where the map shows nothing counts :data:`MISS_M`, which
            is also the most that one counts.
        hit_share: of the measured pixels, those where the map shows a surface.
    """

    median_m: float
    mean_m: float
    hit_share: float


def render(
    field: ImplicitMap,
    pose: npt.NDArray[np.float64],
    intrinsics: Intrinsics,
    height: int,
    width: int,
    settings: CrimpSettings,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The map from a pose: colour float32 [height, width, 3], 0 to 1, and depth float32 [height, width], metres; not a
    number where nothing is met."""
    rays = intrinsics.rays(height, width).reshape(-1, 3)
    depths, colours = _met(field, rays, pose, settings)
    missed = depths <= 0
    depths[missed], colours[missed] = np.nan, np.nan
    return colours.reshape(height, width, 3), depths.reshape(height, width)


def depth_error(
    field: ImplicitMap,
    seen: list[tuple[Pixels, npt.NDArray[np.float64]]],
    settings: CrimpSettings,
    rng: np.random.Generator,
    pixels: int = 200,
) -> DepthError:
    """The error over frames that were seen from known poses, in so many random pixels of each; never not a number."""
    found = [np.zeros(0, np.float32)]
    hits = count = 0
    for each, pose in seen:
        if not len(each):
            continue
        chosen = rng.choice(len(each), min(pixels, len(each)), replace=False)
        depths, _ = _met(field, each.rays[chosen], pose, settings)
        met = depths > 0
        hits, count = hits + int(met.sum()), count + len(chosen)
        found.append(np.where(met, np.minimum(np.abs(depths - each.depths[chosen]), MISS_M), MISS_M))
    errors = np.concatenate(found)
    if not count:
        return DepthError(MISS_M, MISS_M, 0.0)
    return DepthError(float(np.median(errors)), float(errors.mean()), hits / count)


def _met(
    field: ImplicitMap, rays: npt.NDArray[np.float32], pose: npt.NDArray[np.float64], settings: CrimpSettings
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    longest = settings.max_depth * float(np.linalg.norm(rays, axis=1).max(initial=1.0))
    depths, colours = march(
        np.ascontiguousarray(rays),
        pose,
        field.arrays(),
        np.array((settings.truncation, settings.min_depth, settings.max_depth)),
        _STEPS + int(np.ceil(longest / (STRIDE * settings.truncation))),
    )
    return depths, colours
