"""Checks of recorded frames: poses, depth and motion; each error names the frame and says what to do."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rowcast.errors import DataError
from rowcast.tasks.crimp.frames import Frames
from rowcast.tasks.crimp.scene import View
from rowcast.tasks.crimp.se3 import rigid

__all__ = ["check_depth_scale", "check_first_depth", "check_motion", "check_view", "usable_poses"]

log = logging.getLogger("rowcast")

#: Rotations may be off by so much, in each element of R^T R: poses are written with a few digits.
_RIGID = 1e-3
#: More than this share of the frames without a pose, or of the steps too long, is an error.
_MOST_WITHOUT_POSE, _MOST_FAST = 0.5, 0.1
_FASTEST_DEG = 20.0
#: A robot starts from what it measures in its first frame.
_LEAST_MEASURED = 0.01
#: Between these, in metres, lies the median depth of a place in which a robot can drive.
_NEAREST_M, _FARTHEST_M = 0.1, 20.0
_SCALES = {1000.0: "millimetres", 5000.0: "TUM RGB-D", 6553.5: "Replica", 1.0: "metres", 100.0: "centimetres"}
_ROOM_M = 2.0


def usable_poses(
    poses: npt.NDArray[np.float64], labels: Sequence[str], where: str
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Which frames have a pose, and those poses with exact rotations.

    A pose that is not finite is none: ScanNet writes -inf where its tracking was lost. Such frames are left out, with a
    warning. Rotations become the nearest exact ones: rounded to 1e-4 they would seem to turn by a degree.

    Args:
        poses: float64 [n, 4, 4], camera to world.
        labels: of the frames.
        where: they lie.

    Returns:
        bool [n], and float64 [m, 4, 4].

    Raises:
        DataError: more than half of the frames have no pose, or one is not rigid.
    """
    kept = np.asarray(np.isfinite(poses).all(axis=(1, 2)))
    without = len(poses) - int(kept.sum())
    if without:
        first = labels[int(np.argmin(kept))]
        told = f"{where}: {without} of {len(poses)} frames have no finite pose, the first is {first}"
        if without > _MOST_WITHOUT_POSE * len(poses):
            raise DataError(f"{told}; expected one for half of them at least: take a sequence that was tracked")
        log.warning("%s; they are left out", told)
    usable = poses[kept]
    rotations = usable[:, :3, :3]
    off = np.abs(rotations.transpose(0, 2, 1) @ rotations - np.eye(3)).max(axis=(1, 2), initial=0.0)
    wrong = {
        "the last row is not 0 0 0 1": np.abs(usable[:, 3] - (0.0, 0.0, 0.0, 1.0)).max(axis=1) > _RIGID,
        f"its rotation is not orthonormal to {_RIGID:g}": off > _RIGID,
        "its rotation mirrors (determinant -1)": np.linalg.det(rotations) < 0,
    }
    for what, which in wrong.items():
        if which.any():
            label = [each for each, has in zip(labels, kept, strict=True) if has][int(np.argmax(which))]
            raise DataError(
                f"{where}: {label}: the pose is not rigid: {what}; expected camera to world, 4 x 4, x right, y down, z "
                "forward, in metres: write the poses again"
            )
    return kept, rigid(usable)


def check_motion(poses: npt.NDArray[np.float64], labels: Sequence[str], where: str, farthest_m: float) -> None:
    """Refuses motion between consecutive frames that is too fast to track; warns where a few steps are.

    Args:
        poses: float64 [n, 4, 4], rigid.
        labels: of the frames.
        where: they lie.
        farthest_m: a step may have this length.

    Raises:
        DataError: more than a tenth of the steps are longer, or turn by more than 20 degrees.
    """
    metres = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    turned = poses[:-1, :3, :3].transpose(0, 2, 1) @ poses[1:, :3, :3]
    degrees = np.degrees(np.arccos(np.clip((np.trace(turned, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    fast = (metres > farthest_m) | (degrees > _FASTEST_DEG)
    if not fast.any():
        return
    worst = int(np.argmax(np.maximum(metres / farthest_m, degrees / _FASTEST_DEG)))
    told = (
        f"{where}: {int(fast.sum())} of {len(fast)} steps from frame to frame are too fast to track, over "
        f"{farthest_m:g} m (twice the truncation) or {_FASTEST_DEG:g} degrees; the worst is to {labels[worst + 1]}, "
        f"{metres[worst]:.3g} m and {degrees[worst]:.3g} degrees"
    )
    if fast.sum() > _MOST_FAST * len(fast):
        raise DataError(f"{told}; use more of the frames, with a smaller stride, or a sequence with more of them")
    log.warning("%s; the robot may lose track there", told)


def check_first_depth(frames: Frames, nearest_m: float, farthest_m: float) -> None:
    """Refuses a sequence whose first frame has no depth to start from.

    Raises:
        DataError: less than a hundredth of its pixels have a depth between the two.
    """
    depth = frames.depths[0]
    share = float(((depth > nearest_m) & (depth < farthest_m)).mean())
    if share < _LEAST_MEASURED:
        raise DataError(
            f"{frames.name}: {frames.labels[0]}: {share:.2%} of its pixels have a depth from {nearest_m:g} to "
            f"{farthest_m:g} m, and a robot starts to map from this frame; expected {_LEAST_MEASURED:.0%} at least: "
            "begin with another frame, or set min_depth and max_depth to fit the place"
        )


def check_view(view: View, nearest_m: float, farthest_m: float, where: str) -> None:
    """Refuses what a robot cannot begin with, whoever made the view.

    Args:
        view: of the robot.
        nearest_m, farthest_m: between which a depth is used.
        where: which task and robot it is.

    Raises:
        DataError: too few frames, a pose that is not finite or not rigid, or a first frame without depth.
    """
    for name, frames, least in (("own", view.own, 1), ("visit", view.visit, 2), ("tests", view.tests, 1)):
        if len(frames) < least:
            raise DataError(f"{where}: view: {name}: expected {least} or more frames, got {len(frames)}")
        kept, _ = usable_poses(frames.poses, frames.labels, f"{where}: {frames.name}")
        if not kept.all():
            label = frames.labels[int(np.argmin(kept))]
            raise DataError(f"{where}: view: {name}: {label}: the pose is not finite; leave the frame out")
    check_first_depth(view.own, nearest_m, farthest_m)


def check_depth_scale(frames: Frames, units_per_metre: float) -> None:
    """Refuses depth whose median is not that of a place in which a robot can drive.

    Args:
        frames: some of a sequence; without any depth they say nothing.
        units_per_metre: with which they were read.

    Raises:
        DataError: the median lies outside 0.1 .. 20 m; it says which scale would fit.
    """
    measured = frames.depths[np.isfinite(frames.depths) & (frames.depths > 0)]
    median = float(np.median(measured)) if len(measured) else _ROOM_M
    if _NEAREST_M <= median <= _FARTHEST_M:
        return
    units = median * units_per_metre
    best = min(_SCALES, key=lambda scale: abs(np.log(units / scale / _ROOM_M)))
    if _NEAREST_M <= units / best <= _FARTHEST_M:
        fits = f"depth_scale = {best:g} ({_SCALES[best]}) would make it {units / best:.3g} m"
    else:
        fits = f"depth_scale = {units / _ROOM_M:.3g} would make it {_ROOM_M:g} m"
    raise DataError(
        f"{frames.name}: with {units_per_metre:g} units a metre the median depth is {median:.3g} m; expected "
        f"{_NEAREST_M:g} to {_FARTHEST_M:g} m: {fits}"
    )
