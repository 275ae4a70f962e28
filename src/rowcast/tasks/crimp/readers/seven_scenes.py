"""7-Scenes: ``frame-000000.color.png``, ``.depth.png`` and ``.pose.txt``, in folders ``seq-01``, ``seq-02`` of a scene.

Depth in millimetres, 65535: no measurement; poses camera to world; Kinect at 30 Hz. Depth and colour are of 640 x 480
pixels and not registered to each other; the data set documents one camera for both, focal lengths 585 and principal
point (320, 240), which holds where there is no ``camera-intrinsics.txt`` in the folder or the one above.

Source: J. Shotton et al., "Scene Coordinate Regression Forests for Camera Relocalization in RGB-D Images", CVPR 2013.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rowcast.tasks.crimp.frames import Intrinsics
from rowcast.tasks.crimp.readers.base import (
    FRAMES_A_SECOND,
    Camera,
    Layout,
    Recording,
    checked_intrinsics,
    given_intrinsics,
    scaled_intrinsics,
)
from rowcast.tasks.crimp.readers.files import FileRecording, FrameFiles, pose_files
from rowcast.tasks.crimp.readers.images import image_size
from rowcast.tasks.crimp.readers.texts import numbered, read_intrinsics_file, same_numbers

__all__ = ["SEVEN_SCENES"]

_DOCUMENTED, _CALIBRATED = Intrinsics(585.0, 585.0, 320.0, 240.0), (480, 640)
_UNITS_PER_METRE = 1000.0
_KINDS = {"colour": r"frame-(\d+)\.color\.png", "depth": r"frame-(\d+)\.depth\.png", "pose": r"frame-(\d+)\.pose\.txt"}


def _open(path: Path, camera: Camera) -> Recording:
    files = {kind: numbered(path, pattern) for kind, pattern in _KINDS.items()}
    numbers = same_numbers(path, files)
    colours, depths, poses = ([files[kind][number] for number in numbers] for kind in _KINDS)
    frames = FrameFiles(
        str(path),
        [each.name.split(".")[0] for each in colours],
        np.array(numbers) / FRAMES_A_SECOND,
        colours,
        depths,
        pose_files(poses),
    )
    size = image_size(depths[0])
    units = camera.depth_scale or _UNITS_PER_METRE
    return FileRecording(frames, size, _intrinsics(path, camera, size), units)


def _intrinsics(path: Path, camera: Camera, size: tuple[int, int]) -> Intrinsics:
    if camera.intrinsics is not None:
        return given_intrinsics(camera.intrinsics, size)
    found = read_intrinsics_file(path)
    if found is not None:
        return checked_intrinsics(found[0], size, str(found[1]))
    return scaled_intrinsics(_DOCUMENTED, _CALIBRATED, size, str(path))


def _is_here(path: Path) -> bool:
    return path.is_dir() and any(path.glob("frame-*.*"))


SEVEN_SCENES = Layout("7scenes", "frame-000000.color.png, .depth.png and .pose.txt", _is_here, _open)
