"""Rigid motions as float64 [4, 4]: inverses, and the small motions that tests and searches begin with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["inverse", "moved", "rigid", "rotation", "turned"]

Pose = npt.NDArray[np.float64]


def rotation(vector: npt.NDArray[np.float64]) -> Pose:
    """The rotation by a vector of radians (3,), float64 [3, 3]: Rodrigues' formula."""
    angle = float(np.linalg.norm(vector))
    x, y, z = vector.tolist()
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    if angle < 1e-8:
        slow: Pose = np.eye(3) + cross + 0.5 * cross @ cross
        return slow
    found: Pose = np.eye(3) + np.sin(angle) / angle * cross + (1 - np.cos(angle)) / angle**2 * (cross @ cross)
    return found


def inverse(pose: Pose) -> Pose:
    """The motion back; of poses [..., 4, 4] of each."""
    found = np.zeros_like(pose)
    back = np.swapaxes(pose[..., :3, :3], -1, -2)
    found[..., :3, :3] = back
    found[..., :3, 3] = -(back @ pose[..., :3, 3, None])[..., 0]
    found[..., 3, 3] = 1.0
    return found


def rigid(pose: Pose) -> Pose:
    """The nearest rigid motion, of poses [..., 4, 4] of each: what was multiplied many times, or read from a file, is
    one but for rounding."""
    left, _, right = np.linalg.svd(pose[..., :3, :3])
    left[..., 2] *= np.sign(np.linalg.det(left @ right))[..., None]  # a rotation, and no mirror image
    found = np.array(pose)
    found[..., :3, :3] = left @ right
    found[..., 3, :] = (0.0, 0.0, 0.0, 1.0)
    return found


def moved(pose: Pose, metres: float, radians: float, rng: np.random.Generator) -> Pose:
    """A camera so far from ``pose``, in a random direction, and turned by so much about a random axis."""
    found = np.array(pose)
    found[:3, 3] += metres * _direction(rng)
    found[:3, :3] = rotation(radians * _direction(rng)) @ pose[:3, :3]
    return found


def turned(pose: Pose, radians: float, right: float, forward: float) -> Pose:
    """A camera that is turned about its own vertical axis, and moved along its own axes by so many metres."""
    step = np.eye(4)
    step[:3, :3] = rotation(np.array([0.0, radians, 0.0]))
    step[0, 3], step[2, 3] = right, forward
    found: Pose = pose @ step
    return found


def _direction(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    vector = rng.normal(size=3)
    found: npt.NDArray[np.float64] = vector / np.linalg.norm(vector)
    return found
