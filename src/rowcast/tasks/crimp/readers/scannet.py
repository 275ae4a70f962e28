"""ScanNet, as its tool exports a scan: ``color/0.jpg``, ``depth/0.png``, ``pose/0.txt``, ``intrinsic/``.

Depth in millimetres; poses camera to world, -inf where the tracking was lost; 30 Hz. The colour images are larger than
the depth images and see from the same place (the data set's authors: both are aligned, no extrinsics are to be
applied): the colour is resampled to the depth camera, from ``intrinsic/intrinsic_color.txt`` to
``intrinsic/intrinsic_depth.txt``.

Source: A. Dai et al., "ScanNet: Richly-annotated 3D Reconstructions of Indoor Scenes", CVPR 2017.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rowcast.errors import DataError
from rowcast.tasks.crimp.frames import Intrinsics
from rowcast.tasks.crimp.readers.base import (
    FRAMES_A_SECOND,
    OVERRIDE,
    Camera,
    Layout,
    Recording,
    checked_intrinsics,
    given_intrinsics,
)
from rowcast.tasks.crimp.readers.files import FileRecording, FrameFiles, pose_files
from rowcast.tasks.crimp.readers.images import image_size
from rowcast.tasks.crimp.readers.texts import matrix_intrinsics, numbered, read_matrix, same_numbers

__all__ = ["SCANNET"]

_UNITS_PER_METRE = 1000.0
_FOLDERS = {"color": r"(\d+)\.(?:jpg|jpeg|png)", "depth": r"(\d+)\.png", "pose": r"(\d+)\.txt"}


def _open(path: Path, camera: Camera) -> Recording:
    files = {kind: numbered(path / kind, pattern) for kind, pattern in _FOLDERS.items()}
    numbers = same_numbers(path, files)
    colours, depths, poses = ([files[kind][number] for number in numbers] for kind in _FOLDERS)
    frames = FrameFiles(
        str(path),
        [f"frame {number}" for number in numbers],
        np.array(numbers) / FRAMES_A_SECOND,
        colours,
        depths,
        pose_files(poses),
    )
    size, colour_size = image_size(depths[0]), image_size(colours[0])
    if camera.intrinsics is not None:
        intrinsics = given_intrinsics(camera.intrinsics, size)
    else:
        intrinsics = _camera_of(path / "intrinsic" / "intrinsic_depth.txt", size)
    of_colour = intrinsics
    if colour_size != size or camera.intrinsics is None:
        of_colour = _camera_of(path / "intrinsic" / "intrinsic_color.txt", colour_size)
    same = colour_size == size and of_colour == intrinsics
    units = camera.depth_scale or _UNITS_PER_METRE
    return FileRecording(frames, size, intrinsics, units, None if same else of_colour)


def _camera_of(path: Path, size: tuple[int, int]) -> Intrinsics:
    if not path.is_file():
        raise DataError(f"{path}: intrinsics are missing; export the scan with its intrinsics, {OVERRIDE}")
    return checked_intrinsics(matrix_intrinsics(read_matrix(path, 4)), size, str(path))


def _is_here(path: Path) -> bool:
    return sum((path / kind).is_dir() for kind in _FOLDERS) > 1


SCANNET = Layout("scannet", "folders color, depth, pose and intrinsic", _is_here, _open)
