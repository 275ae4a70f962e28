"""TUM RGB-D: ``rgb.txt``, ``depth.txt`` and ``groundtruth.txt``, each line with a time.

Colour and depth are taken at different times. A frame is a depth image and a colour image of which each is the other's
nearest, at most 0.02 s apart; those without such a partner are left out. Its time is that of the depth image, and its
pose the nearest one of the ground truth (100 Hz) at most 0.02 s from it: nothing is interpolated, and a frame without
such a pose has none. Depth is registered to the colour; 5000 units are a metre, 0: no measurement. The intrinsics are
those of the colour camera that the data set documents for ``freiburg1``, ``freiburg2`` and ``freiburg3`` (or ``fr1``,
...) in the folder's name, unless there is a ``camera-intrinsics.txt``. Lens distortion, which freiburg3 has not, is
left as it is.

Source: J. Sturm et al., "A Benchmark for the Evaluation of RGB-D SLAM Systems", IROS 2012.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rowcast.errors import DataError
from rowcast.tasks.crimp.frames import Intrinsics
from rowcast.tasks.crimp.readers.base import (
    OVERRIDE,
    Camera,
    Layout,
    Recording,
    checked_intrinsics,
    given_intrinsics,
    increasing,
)
from rowcast.tasks.crimp.readers.files import FileRecording, FrameFiles
from rowcast.tasks.crimp.readers.images import image_size
from rowcast.tasks.crimp.readers.texts import numbers_of, read_intrinsics_file, read_lines
from rowcast.tasks.crimp.trajectory import rotations_of

__all__ = ["TUM"]

log = logging.getLogger("rowcast")

Times = npt.NDArray[np.float64]

_CAMERAS = {
    "1": Intrinsics(517.3, 516.5, 318.6, 255.3),
    "2": Intrinsics(520.9, 521.0, 325.1, 249.7),
    "3": Intrinsics(535.4, 539.2, 320.1, 247.6),
}
_CALIBRATED = (480, 640)
_UNITS_PER_METRE = 5000.0
_APART_S = 0.02
_UNIT_QUATERNION = 0.01
_FILES = ("rgb.txt", "depth.txt", "groundtruth.txt")


def _open(path: Path, camera: Camera) -> Recording:
    missing = [name for name in _FILES if not (path / name).is_file()]
    if missing:
        raise DataError(f"{path}: lacks {', '.join(missing)}; expected {', '.join(_FILES)}: fetch the sequence again")
    (colour_times, colours), (depth_times, depths) = (_read_list(path / name) for name in _FILES[:2])
    pairs = _pairs(colour_times, depth_times)
    alone = max(len(colours), len(depths)) - len(pairs)
    if not len(pairs):
        raise DataError(
            f"{path}: no image of rgb.txt is within {_APART_S:g} s of one of depth.txt, times are {colour_times[0]} .. "
            f"{colour_times[-1]} and {depth_times[0]} .. {depth_times[-1]}; expected lists of one recording"
        )
    if alone > len(pairs):
        log.warning("%s: %d images have no partner within %g s and are left out", path, alone, _APART_S)
    used = [depths[place] for place in pairs[:, 1]]
    times = depth_times[pairs[:, 1]]
    of_frames = _nearest_poses(path / _FILES[2], times)
    frames = FrameFiles(
        str(path), [each.name for each in used], times, [colours[place] for place in pairs[:, 0]], used,
        lambda places: of_frames[places],
    )  # fmt: skip
    size = image_size(used[0])
    units = camera.depth_scale or _UNITS_PER_METRE
    return FileRecording(frames, size, _intrinsics(path, camera, size), units)


def _read_list(path: Path) -> tuple[Times, list[Path]]:
    """Times and files of a list."""
    lines = read_lines(path)
    for number, words in lines:
        if len(words) != 2:
            raise DataError(f"{path}: line {number}: expected a time and a file, found {len(words)} words")
    times = np.array(
        [numbers_of(words[:1], 1, f"{path}: line {number}", "a time in seconds")[0] for number, words in lines]
    )
    files = [path.parent / words[1] for _, words in lines]
    if not files:
        raise DataError(f"{path}: expected a time and a file in each line, found none; fetch the sequence again")
    increasing(times, [words[1] for _, words in lines], str(path), "times")
    missing = next((each for each in files if not each.is_file()), None)
    if missing is not None:
        raise DataError(f"{path}: names {len(files)} files, and {missing} is the first that is missing; fetch it")
    return times, files


def _nearest(of: Times, to: Times) -> npt.NDArray[np.int64]:
    """For each time of ``of`` the place of the nearest in ``to``, which increases."""
    after = np.clip(np.searchsorted(to, of), 1, max(len(to) - 1, 1))
    after = np.minimum(after, len(to) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(of - to[before] <= to[after] - of, before, after)


def _pairs(colours: Times, depths: Times) -> npt.NDArray[np.int64]:
    """Places of colour and depth images that are each other's nearest, [n, 2]."""
    colour_of, depth_of = _nearest(depths, colours), _nearest(colours, depths)
    places = np.arange(len(depths))
    both = (depth_of[colour_of] == places) & (np.abs(colours[colour_of] - depths) <= _APART_S)
    return np.stack([colour_of[both], places[both]], axis=1)


def _nearest_poses(path: Path, times: Times) -> npt.NDArray[np.float64]:
    """The pose of each time, [n, 4, 4]; NaN where none is near."""
    lines = read_lines(path)
    what = "time, tx ty tz, qx qy qz qw"
    table = np.array([numbers_of(words, 8, f"{path}: line {number}", what) for number, words in lines]).reshape(-1, 8)
    if not len(table):
        raise DataError(f"{path}: expected lines with {what}, found none; fetch the sequence again")
    increasing(table[:, 0], [f"line {number}" for number, _ in lines], str(path), "times")
    lengths = np.linalg.norm(table[:, 4:], axis=1)
    wrong = np.flatnonzero(np.isfinite(lengths) & (np.abs(lengths - 1) > _UNIT_QUATERNION))
    if len(wrong):
        raise DataError(
            f"{path}: line {lines[int(wrong[0])][0]}: the pose is not rigid: its quaternion has the length "
            f"{lengths[wrong[0]]:.3g}, not 1; expected {what}"
        )
    near = _nearest(times, table[:, 0])
    poses = np.tile(np.eye(4), (len(times), 1, 1))
    poses[:, :3, :3] = rotations_of(table[near, 4:])
    poses[:, :3, 3] = table[near, 1:4]
    poses[np.abs(table[near, 0] - times) > _APART_S] = np.nan
    return poses


def _intrinsics(path: Path, camera: Camera, size: tuple[int, int]) -> Intrinsics:
    if camera.intrinsics is not None:
        return given_intrinsics(camera.intrinsics, size)
    found = read_intrinsics_file(path)
    if found is not None:
        return checked_intrinsics(found[0], size, str(found[1]))
    place = path.resolve()
    named = re.search(r"(?<![a-z])(?:freiburg|fr)([123])(?!\d)", f"{place.parent.name}/{place.name}", re.IGNORECASE)
    if named is None:
        raise DataError(
            f"{path}: intrinsics are missing: the folder's name has no freiburg1, freiburg2 or freiburg3 in it, whose "
            f"cameras are known; put a file camera-intrinsics.txt (3 x 3) there, {OVERRIDE}"
        )
    if size != _CALIBRATED:
        raise DataError(
            f"{path}: images of {size[1]} x {size[0]} pixels, and the camera of freiburg{named[1]} is calibrated for "
            f"{_CALIBRATED[1]} x {_CALIBRATED[0]}; put a file camera-intrinsics.txt (3 x 3) there, {OVERRIDE}"
        )
    return _CAMERAS[named[1]]


def _is_here(path: Path) -> bool:
    return (path / "rgb.txt").is_file() or (path / "depth.txt").is_file()


TUM = Layout("tum", "rgb.txt, depth.txt and groundtruth.txt", _is_here, _open)
