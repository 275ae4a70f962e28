"""What a map is worth to a robot that did not make it: is it found there, and does the map show what is there?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.tasks.crimp.field import ImplicitMap
from rowcast.tasks.crimp.frames import Frames
from rowcast.tasks.crimp.pixels import Pixels, usable_pixels
from rowcast.tasks.crimp.scene import View
from rowcast.tasks.crimp.se3 import moved
from rowcast.tasks.crimp.settings import CrimpSettings
from rowcast.tasks.crimp.tracking import Tracker, locate
from rowcast.tasks.crimp.trajectory import pose_error
from rowcast.tasks.crimp.views import MISS_M, depth_error

__all__ = ["MapTests"]

#: A test begins so far off: metres and radians. It is passed within so much.
OFF_M, OFF_RAD = 0.10, np.deg2rad(5.0)
WITHIN_M, WITHIN_RAD = 0.05, np.deg2rad(2.0)
#: On its walk a robot is where it thinks it is within so much (m).
WALK_M = 0.10
#: Frames of the walk whose depth is compared.
_DEPTH_FRAMES = 12


class MapTests:
    """Tests of a replica by frames that its robot has not mapped.

    Args:
        view: of the robot.
        settings: of the task.
        seed: every test follows from it, and is the same each time.
    """

    def __init__(self, view: View, settings: CrimpSettings, seed: tuple[int, ...]) -> None:
        self._view, self._settings, self._seed = view, settings, seed
        self._tests: list[Pixels] | None = None
        self._visit: list[Pixels] | None = None

    def measure(self, field: ImplicitMap) -> dict[str, float]:
        """Localisation, walk and depth, by the names of the task's metrics. All are numbers, whatever the map is."""
        return {**self.localise(field), **self.walk(field), **self.depth(field)}

    def localise(self, field: ImplicitMap) -> dict[str, float]:
        """Find single frames from 10 cm and 5 degrees off. An error counts a metre at most, a lost frame a metre."""
        tests, settings = self._view.tests, self._settings
        if self._tests is None:
            self._tests = _pixels(tests, settings)
        rng = np.random.default_rng(self._seed)
        errors = np.full(settings.tests, MISS_M)
        passed = 0
        for number in range(settings.tests):
            place = number % len(tests)
            true = tests.poses[place]
            start = moved(true, OFF_M, OFF_RAD, rng)
            found = locate(field, self._tests[place], start, start, settings, rng)
            if not found.lost:
                metres, radians = pose_error(found.pose[None], true[None])
                errors[number] = min(float(metres[0]), MISS_M)
                passed += bool(metres[0] < WITHIN_M and radians[0] < WITHIN_RAD)
        return {"localisation_error": float(np.median(errors)), "localised_share": 100.0 * passed / settings.tests}

    def walk(self, field: ImplicitMap) -> dict[str, float]:
        """Follow the walk from its known first pose in the map as it is; an error counts a metre at most."""
        visit, settings = self._view.visit, self._settings
        tracker = Tracker(field, visit.poses[0], settings, np.random.default_rng(self._seed))
        for pixels in self._walked()[1:]:
            tracker.track(pixels)
        metres, _ = pose_error(np.stack(tracker.poses), visit.poses)
        capped = np.minimum(metres, MISS_M)
        return {
            "visit_ate": float(np.sqrt(np.square(capped).mean())),
            "visit_share": 100.0 * float((metres < WALK_M).mean()),
        }

    def depth(self, field: ImplicitMap) -> dict[str, float]:
        """Compare the depth of frames of the walk with that of the map."""
        pixels, poses = self._walked(), self._view.visit.poses
        places = np.unique(np.linspace(0, len(pixels) - 1, min(_DEPTH_FRAMES, len(pixels))).round().astype(int))
        seen = [(pixels[place], poses[place]) for place in places.tolist()]
        found = depth_error(field, seen, self._settings, np.random.default_rng(self._seed))
        return {"depth_l1": found.median_m, "hit_share": 100.0 * found.hit_share}

    def warm_up(self, field: ImplicitMap) -> None:
        """Compile what is compiled at the first use, and prepare the frames."""
        self._walked()
        if self._tests is None:
            self._tests = _pixels(self._view.tests, self._settings)
        start: npt.NDArray[np.float64] = self._view.visit.poses[0]
        locate(field, self._walked()[0], start, start, self._settings, np.random.default_rng(0))
        self.depth(field)

    def _walked(self) -> list[Pixels]:
        if self._visit is None:
            self._visit = _pixels(self._view.visit, self._settings)
        return self._visit


def _pixels(frames: Frames, settings: CrimpSettings) -> list[Pixels]:
    return [usable_pixels(frames, place, settings) for place in range(len(frames))]
