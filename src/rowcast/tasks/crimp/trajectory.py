"""How far an estimated trajectory is from the true one, and trajectories as files of the TUM RGB-D benchmark.

Poses are camera to world (or any other rigid motion), float64 [n, 4, 4]; lengths in metres, angles in radians. The
errors are those of Sturm et al., "A Benchmark for the Evaluation of RGB-D SLAM Systems" (IROS 2012), and equal those of
the tool ``evo``.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rowcast.errors import DataError
from rowcast.tasks._files import write_whole
from rowcast.tasks.crimp.se3 import inverse

__all__ = ["ate", "pose_error", "read_tum", "rigid_fit", "rotations_of", "rpe", "write_tum"]

Array = npt.NDArray[np.float64]

#: What the columns of a rotation may lack of being orthonormal, and a quaternion of length 1, in a file.
_RIGID = 1e-3
_UNIT = 1e-2
_COLUMNS = ("timestamp", "tx", "ty", "tz", "qx", "qy", "qz", "qw")


def ate(estimated: Array, true: Array, *, align: bool) -> float:
    """Absolute trajectory error: the root of the mean squared distance between estimated and true positions.

    Args:
        estimated, true: positions [n, 3] or poses [n, 4, 4].
        align: move the estimated positions as a whole, by :func:`rigid_fit`, before they are compared.

    Raises:
        DataError: none at all, shapes that differ or are others, or values that are not finite.
    """
    found, wanted = _positions(estimated, "estimated"), _positions(true, "true")
    _same(found, wanted)
    if align:
        motion = rigid_fit(found, wanted)
        found = found @ motion[:3, :3].T + motion[:3, 3]
    return _rms(np.linalg.norm(found - wanted, axis=1))


def rigid_fit(points: Array, targets: Array) -> Array:
    """The rotation and translation, without scale, that bring ``points`` nearest to ``targets`` (least squares).

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns" (PAMI 1991). It is never
    a reflection. Where the points leave a rotation open, as one point or points on a line do, it is one of the best.

    Args:
        points, targets: [n, 3], n at least 1.

    Returns:
        float64 [4, 4].
    """
    middle, aim = points.mean(axis=0), targets.mean(axis=0)
    left, _, right = np.linalg.svd((targets - aim).T @ (points - middle))
    sign = 1.0 if np.linalg.det(left) * np.linalg.det(right) > 0.0 else -1.0
    motion = np.eye(4)
    motion[:3, :3] = left @ np.diag([1.0, 1.0, sign]) @ right
    motion[:3, 3] = aim - motion[:3, :3] @ middle
    return motion


def rpe(estimated: Array, true: Array, *, delta: int = 1) -> tuple[float, float]:
    """Relative pose error: what the motions over ``delta`` frames lack of the true ones, from every frame that has one.

    Args:
        estimated, true: poses [n, 4, 4].
        delta: frames of a motion, 1 or more.

    Returns:
        the root of the mean square of the translation's error, metres, and of the rotation's, radians.

    Raises:
        DataError: as :func:`ate`, or not more than ``delta`` poses.
    """
    found, wanted = _poses(estimated, "estimated"), _poses(true, "true")
    _same(found, wanted)
    if not 1 <= delta < len(found):
        raise DataError(
            f"relative pose error: expected a delta from 1 to {len(found) - 1}, as there are {len(found)} poses, got "
            f"{delta}; take more poses or a smaller delta"
        )
    metres, radians = pose_error(inverse(found[:-delta]) @ found[delta:], inverse(wanted[:-delta]) @ wanted[delta:])
    return _rms(metres), _rms(radians)


def pose_error(estimated: Array, true: Array) -> tuple[Array, Array]:
    """How far each pose is from the true one.

    Args:
        estimated, true: [n, 4, 4]; none is allowed.

    Returns:
        the distances [n], metres, and the angles of the rotations between them [n], radians from 0 to pi.

    Raises:
        DataError: shapes that differ or are others, or values that are not finite.
    """
    found, wanted = _poses(estimated, "estimated"), _poses(true, "true")
    if found.shape != wanted.shape:
        _same(found, wanted)
    between = np.swapaxes(wanted[:, :3, :3], 1, 2) @ found[:, :3, :3]
    distances: Array = np.linalg.norm(found[:, :3, 3] - wanted[:, :3, 3], axis=1)
    return distances, _angles(between)


def _angles(rotations: Array) -> Array:
    """Angles of rotations [n, 3, 3], exact for small ones and near pi, where an arc cosine alone is not."""
    axis = np.stack(
        [
            rotations[:, 2, 1] - rotations[:, 1, 2],
            rotations[:, 0, 2] - rotations[:, 2, 0],
            rotations[:, 1, 0] - rotations[:, 0, 1],
        ],
        axis=-1,
    )
    angles: Array = np.arctan2(np.linalg.norm(axis, axis=1), np.trace(rotations, axis1=1, axis2=2) - 1.0)
    return angles


def _rms(errors: Array) -> float:
    return math.sqrt(float(np.mean(np.square(errors))))


def _positions(given: Array, name: str) -> Array:
    array = np.asarray(given, dtype=np.float64)
    if array.ndim == 3:
        return _poses(array, name)[:, :3, 3]
    if array.ndim != 2 or array.shape[1] != 3:
        raise DataError(
            f"{name} trajectory: expected positions [n, 3] or poses [n, 4, 4], got an array of shape {array.shape}"
        )
    return _finite(array, name)


def _poses(given: Array, name: str) -> Array:
    array = np.asarray(given, dtype=np.float64)
    if array.ndim != 3 or array.shape[1:] != (4, 4):
        raise DataError(f"{name} trajectory: expected poses [n, 4, 4], got an array of shape {array.shape}")
    return _finite(array, name)


def _finite(array: Array, name: str) -> Array:
    bad = np.flatnonzero(~np.isfinite(array).all(axis=tuple(range(1, array.ndim))))
    if len(bad):
        raise DataError(
            f"{name} trajectory: expected finite numbers, pose {bad[0]} of {len(array)} has others ({len(bad)} in "
            "all); leave those poses out"
        )
    return array


def _same(found: Array, wanted: Array) -> None:
    if len(found) != len(wanted):
        raise DataError(
            f"trajectories: expected as many estimated as true poses, got {len(found)} and {len(wanted)}; bring them "
            "together by their times first"
        )
    if not len(found):
        raise DataError("trajectories: expected at least one pose, got none")


def write_tum(path: str | Path, poses: Array, times_s: Array) -> None:
    """Write poses as a text file of the TUM RGB-D benchmark: ``timestamp tx ty tz qx qy qz qw``, one line each.

    Numbers are written so that they are read as the same. The file appears whole or not at all.

    Raises:
        DataError: poses that are not rigid motions, times that are not as many or not finite, or a file that cannot be
            written.
    """
    motions, times = _poses(poses, "written"), np.asarray(times_s, dtype=np.float64)
    if times.shape != (len(motions),) or not np.isfinite(times).all():
        raise DataError(
            f"written trajectory: expected {len(motions)} finite times, one for each pose, got an array of shape "
            f"{times.shape}" + ("" if np.isfinite(times).all() else " with others")
        )
    rotations = motions[:, :3, :3]
    off = np.abs(rotations @ np.swapaxes(rotations, 1, 2) - np.eye(3)).max(axis=(1, 2), initial=0.0)
    bad = np.flatnonzero((off > _RIGID) | (np.linalg.det(rotations) <= 0.0))
    if len(bad):
        raise DataError(
            f"written trajectory: expected rotations and translations, the 3 x 3 part of pose {bad[0]} of "
            f"{len(motions)} is no rotation ({len(bad)} such in all)"
        )
    rows = np.column_stack([times, motions[:, :3, 3], _quaternions(rotations)])
    lines = [f"# {' '.join(_COLUMNS)}", *(" ".join(map(repr, row)) for row in rows.tolist())]
    text = "\n".join(lines) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def read_tum(path: str | Path) -> tuple[Array, Array]:
    """Read a text file of the TUM RGB-D benchmark, in the order of its lines; lines that begin with ``#`` are left out.

    Returns:
        poses, float64 [n, 4, 4], and their times, float64 [n].

    Raises:
        DataError: no such file, no text, no poses in it, or a line that is not eight finite numbers with a unit
            quaternion; with the line.
    """
    source = Path(path)
    try:
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{source}: expected a text file of poses ({' '.join(_COLUMNS)}), found none that can be read ({error})"
        ) from error
    rows = [
        _row(line, f"{source}: line {number}")
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not rows:
        raise DataError(f"{source}: expected lines of poses ({' '.join(_COLUMNS)}), found none; fetch the file again")
    values = np.asarray(rows, dtype=np.float64)
    poses = np.tile(np.eye(4), (len(values), 1, 1))
    poses[:, :3, 3] = values[:, 1:4]
    poses[:, :3, :3] = rotations_of(values[:, 4:])
    return poses, values[:, 0].copy()


def _row(line: str, where: str) -> list[float]:
    """The numbers of a line."""
    cells = line.replace(",", " ").split()
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        numbers = []
    if len(numbers) != len(_COLUMNS) or not all(map(math.isfinite, numbers)):
        raise DataError(
            f"{where}: expected {len(_COLUMNS)} finite numbers ({' '.join(_COLUMNS)}), found {line.strip()[:80]!r}; "
            "mend or remove the line"
        )
    length = math.hypot(*numbers[4:])
    if abs(length - 1.0) > _UNIT:
        raise DataError(
            f"{where}: expected a quaternion qx qy qz qw of length 1, found one of length {length:.4g}; are the "
            f"columns in the order {' '.join(_COLUMNS)}?"
        )
    return numbers


def _quaternions(rotations: Array) -> Array:
    """Unit quaternions (x, y, z, w), w >= 0, of rotations [n, 3, 3].

    Each is the row of the outer product of the quaternion with itself whose diagonal is largest, which is never small
    (Shepperd, "Quaternion from rotation matrix", 1978).
    """
    r = rotations
    xx, yy, zz = r[:, 0, 0], r[:, 1, 1], r[:, 2, 2]
    outer = np.empty((len(r), 4, 4))
    outer[:, 0, 0], outer[:, 1, 1] = 1.0 + xx - yy - zz, 1.0 - xx + yy - zz
    outer[:, 2, 2], outer[:, 3, 3] = 1.0 - xx - yy + zz, 1.0 + xx + yy + zz
    outer[:, 0, 1] = outer[:, 1, 0] = r[:, 1, 0] + r[:, 0, 1]
    outer[:, 0, 2] = outer[:, 2, 0] = r[:, 0, 2] + r[:, 2, 0]
    outer[:, 1, 2] = outer[:, 2, 1] = r[:, 2, 1] + r[:, 1, 2]
    outer[:, 0, 3] = outer[:, 3, 0] = r[:, 2, 1] - r[:, 1, 2]
    outer[:, 1, 3] = outer[:, 3, 1] = r[:, 0, 2] - r[:, 2, 0]
    outer[:, 2, 3] = outer[:, 3, 2] = r[:, 1, 0] - r[:, 0, 1]
    best = np.argmax(np.diagonal(outer, axis1=1, axis2=2), axis=1)
    chosen = outer[np.arange(len(r)), best]
    chosen *= np.where(chosen[:, 3:] < 0.0, -1.0, 1.0)
    unit: Array = chosen / np.linalg.norm(chosen, axis=1, keepdims=True)
    return unit


def rotations_of(quaternions: Array) -> Array:
    """Rotations [n, 3, 3] of quaternions (x, y, z, w) of about length 1."""
    x, y, z, w = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    rows = [
        [1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - z * w), 2.0 * (x * z + y * w)],
        [2.0 * (x * y + z * w), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - x * w)],
        [2.0 * (x * z - y * w), 2.0 * (y * z + x * w), 1.0 - 2.0 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)
