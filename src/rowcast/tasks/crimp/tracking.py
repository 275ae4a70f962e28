"""Finding the pose of a frame in a map: Gauss-Newton on se(3) with a motion prior.

Residuals are the signed distance of the measured points and, where they lie near a surface, the difference of grey
values; both with Cauchy weights (algorithms.md 14.3). NICE-SLAM and Co-SLAM track with Adam, through rendered rays.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rowcast.tasks.crimp.field import ImplicitMap
from rowcast.tasks.crimp.field_kernels import BLUE, GREEN, RED, WITHIN, align
from rowcast.tasks.crimp.pixels import Pixels
from rowcast.tasks.crimp.se3 import inverse, rigid, turned
from rowcast.tasks.crimp.settings import CrimpSettings

__all__ = ["Track", "Tracker", "locate"]

Pose = npt.NDArray[np.float64]

#: A step shorter than this (metres and radians together) ends the search.
_CONVERGED = 1e-3
#: Where a robot that is lost is looked for, beside where it should be: turned about its vertical axis by so much
#: (radians), and moved by so much along its own axes right and forward (m).
_TURNS = (0.0, -0.2, 0.2, -0.4, 0.4)
_MOVES = ((0.0, 0.0), (-0.15, 0.0), (0.15, 0.0), (0.0, -0.15), (0.0, 0.15))
#: Pixels that tell how good such a place is, and how many places are searched from.
_GLANCE, _SEARCHED = 100, 3


@dataclass(frozen=True, eq=False)
class Track:
    """Where a frame was found.

    Attributes:
        pose: float64 [4, 4], camera to world; where it is lost, that of the motion prior.
        share: of its points, those within the truncation of a surface of the map.
        residual_m: their mean distance from it.
        converged: the search ended by itself, and not by the number of iterations.
        iterations: that it took.
        lost: too few of the points are near a surface.
    """

    pose: Pose
    share: float
    residual_m: float
    converged: bool
    iterations: int
    lost: bool


def locate(
    field: ImplicitMap, pixels: Pixels, start: Pose, expected: Pose, settings: CrimpSettings, rng: np.random.Generator
) -> Track:
    """The pose of a frame.

    Args:
        field: the map, which stays as it is.
        pixels: of the frame; without any it is lost.
        start, expected: float64 [4, 4], where the search begins, and about what the prior is.
        settings: of the task.
        rng: chooses the pixels.
    """
    if not len(pixels):
        return Track(expected, 0.0, 0.0, False, 0, True)
    chosen = rng.choice(len(pixels), min(settings.track_pixels, len(pixels)), replace=False)
    points = pixels.rays[chosen] * pixels.depths[chosen, None]
    colours = pixels.colours[chosen]
    greys = RED * colours[:, 0] + GREEN * colours[:, 1] + BLUE * colours[:, 2]
    numbers = np.array(
        (
            settings.truncation,
            settings.distance_sigma,
            settings.grey_sigma,
            settings.prior_m,
            settings.prior_rad,
            _CONVERGED,
        )
    )
    pose, share, off, converged, taken = align(
        points,
        greys.astype(np.float32),
        start,
        expected,
        field.arrays(),
        numbers,
        settings.track_iterations,
    )
    lost = share < settings.lost_share or not np.isfinite(pose).all()
    return Track(expected if lost else pose, float(share), float(off), bool(converged), int(taken), bool(lost))


class Tracker:
    """Follows a camera through a map, frame by frame.

    Args:
        field: the map.
        pose: float64 [4, 4], of the first frame, which is known.
        settings: of the task.
        rng: chooses the pixels.

    Attributes:
        poses: of all frames so far, the first included.
        lost_frames: how many of the last ones in a row were lost.
    """

    def __init__(self, field: ImplicitMap, pose: Pose, settings: CrimpSettings, rng: np.random.Generator) -> None:
        self._field, self._settings, self._rng = field, settings, rng
        self.poses: list[Pose] = [rigid(pose)]
        self.lost_frames = 0
        self._last: deque[Pose] = deque(self.poses, maxlen=2)

    def track(self, pixels: Pixels) -> Track:
        """Find the next frame. One that is lost has the pose of the motion prior.

        The prior is constant velocity. Of a robot that is lost the velocity is not known any more: it is then expected
        where it was seen last, and looked for about there.
        """
        expected = self._expected()
        found = locate(self._field, pixels, expected, expected, self._settings, self._rng)
        if found.lost and len(pixels):
            found = self._search(pixels, found)
        self.poses.append(found.pose)
        self.lost_frames = self.lost_frames + 1 if found.lost else 0
        if found.lost:
            self._last = deque([self._last[-1]], maxlen=2)
        else:
            self._last.append(found.pose)
        return found

    def _expected(self) -> Pose:
        newest = self._last[-1]
        # Without rounding it to a rotation each time its error would grow with every product.
        return rigid(newest @ inverse(self._last[0]) @ newest) if len(self._last) == 2 else newest

    def _search(self, pixels: Pixels, found: Track) -> Track:
        """Look about where it was seen last: the find with the most points near a surface, if there is one.

        Of all places a few pixels say how many of them would be near a surface; only the best are searched from.
        """
        settings = self._settings
        places = [turned(self._last[-1], angle, *move) for angle in _TURNS for move in _MOVES]
        chosen = self._rng.choice(len(pixels), min(_GLANCE, len(pixels)), replace=False)
        points = pixels.rays[chosen] * pixels.depths[chosen, None]
        shares = [
            float((np.abs(self._field.sample(points @ at[:3, :3].T + at[:3, 3])[:, 0]) < WITHIN).mean())
            for at in places
        ]
        best = found
        for number in np.argsort(shares)[::-1][:_SEARCHED].tolist():
            if shares[number] < settings.lost_share / 2:
                break
            other = locate(self._field, pixels, places[number], places[number], settings, self._rng)
            if not other.lost and (best.lost or other.share > best.share):
                best = other
        return best
