"""Replica as NICE-SLAM distributes it: ``results/frame000000.jpg``, ``results/depth000000.png``, ``traj.txt``.

A line of ``traj.txt`` is a pose, 4 x 4, camera to world (x right, y down, z forward). Camera and depth scale (6553.5
units a metre) are in ``cam_params.json``, beside the sequence or one folder above it. The frames are rendered; their
times are those of 30 Hz.

Source: J. Straub et al., arXiv 1906.05797; trajectories: E. Sucar et al., "iMAP", ICCV 2021.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
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
from rowcast.tasks.crimp.readers.files import FileRecording, FrameFiles
from rowcast.tasks.crimp.readers.images import image_size
from rowcast.tasks.crimp.readers.texts import numbered, numbers_of, read_lines, same_numbers

__all__ = ["REPLICA"]

_PARAMETERS, _TRAJECTORY = "cam_params.json", "traj.txt"
_UNITS_PER_METRE = 6553.5
_KINDS = {"colour": r"frame(\d+)\.(?:jpg|jpeg|png)", "depth": r"depth(\d+)\.png"}


class _Parameters(msgspec.Struct):
    w: int
    h: int
    fx: float
    fy: float
    cx: float
    cy: float
    scale: float


class _File(msgspec.Struct):
    camera: _Parameters


def _open(path: Path, camera: Camera) -> Recording:
    results = path / "results"
    files = {kind: numbered(results, pattern) for kind, pattern in _KINDS.items()}
    numbers = same_numbers(results, files)
    colours, depths = ([files[kind][number] for number in numbers] for kind in _KINDS)
    trajectory = path / _TRAJECTORY
    lines = read_lines(trajectory)
    if len(lines) != len(numbers):
        first = colours[len(lines)].stem if len(lines) < len(numbers) else f"line {lines[len(numbers)][0]}"
        raise DataError(
            f"{trajectory}: expected a line for each of {len(numbers)} frames, found {len(lines)}; {first} is the "
            "first without a partner: fetch the sequence again"
        )
    poses = np.array(
        [numbers_of(words, 16, f"{trajectory}: line {number}", "a pose, 16 numbers") for number, words in lines]
    ).reshape(-1, 4, 4)
    frames = FrameFiles(
        str(path),
        [each.stem for each in colours],
        np.array(numbers) / FRAMES_A_SECOND,
        colours,
        depths,
        lambda places: poses[places],
    )
    size = image_size(depths[0])
    intrinsics, units = _camera(path, camera, size)
    return FileRecording(frames, size, intrinsics, units)


def _camera(path: Path, camera: Camera, size: tuple[int, int]) -> tuple[Intrinsics, float]:
    """Intrinsics, and units of a depth image in a metre."""
    places = (path / _PARAMETERS, path.resolve().parent / _PARAMETERS)
    file = next((each for each in places if each.is_file()), None)
    if camera.intrinsics is not None:
        units = _read(file).scale if file is not None and camera.depth_scale is None else _UNITS_PER_METRE
        return given_intrinsics(camera.intrinsics, size), camera.depth_scale or units
    if file is None:
        raise DataError(
            f"{path}: intrinsics are missing: no {_PARAMETERS} there or one folder above; fetch it, {OVERRIDE}"
        )
    found = _read(file)
    if (found.h, found.w) != size:
        raise DataError(
            f"{file}: is of images of {found.w} x {found.h} pixels, and those in {path} have {size[1]} x {size[0]}; "
            f"fetch the file that belongs to them, {OVERRIDE}"
        )
    of_file = Intrinsics(found.fx, found.fy, found.cx, found.cy)
    return checked_intrinsics(of_file, size, str(file)), camera.depth_scale or found.scale


def _read(path: Path) -> _Parameters:
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_File).camera
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(
            f"{path}: expected {{'camera': {{w, h, fx, fy, cx, cy, scale}}}}, found none ({error}); fetch it again"
        ) from error
    if not found.scale > 0:
        raise DataError(f"{path}: expected a scale above 0, found {found.scale:g}; fetch it again")
    return found


def _is_here(path: Path) -> bool:
    return (path / _TRAJECTORY).is_file() or (path / "results").is_dir()


REPLICA = Layout("replica", "results/frame000000.jpg, results/depth000000.png and traj.txt", _is_here, _open)
