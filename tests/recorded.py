"""Small recorded sequences that tests write: a camera that moves before a wall, in each layout of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

SIZE = (12, 16)
K = np.array([[14.0, 0.0, 7.5], [0.0, 14.0, 5.5], [0.0, 0.0, 1.0]])


def poses(count: int, step_m: float = 0.02, step_deg: float = 1.0) -> np.ndarray:
    """A camera that moves to the right and turns about its vertical axis, float64 [n, 4, 4]."""
    found = np.tile(np.eye(4), (count, 1, 1))
    angles = np.radians(step_deg) * np.arange(count)
    found[:, 0, 0] = found[:, 2, 2] = np.cos(angles)
    found[:, 0, 2], found[:, 2, 0] = np.sin(angles), -np.sin(angles)
    found[:, 0, 3] = step_m * np.arange(count)
    return found


def colours(count: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Colours that tell frames and pixels apart, uint8 [n, height, width, 3]."""
    n, v, u = np.mgrid[0:count, 0 : size[0], 0 : size[1]]
    return np.stack([10 * n + 5, 9 * v + 3, 7 * u + 1], axis=-1).astype(np.uint8)


def depths(count: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A slanted wall, metres, float64 [n, height, width]."""
    n, v, u = np.mgrid[0:count, 0 : size[0], 0 : size[1]]
    return 1.5 + 0.01 * n + 0.02 * v + 0.03 * u


def npz_arrays(count: int = 12, **changed: Any) -> dict[str, Any]:
    """The arrays of a sequence as an archive has them; ``changed`` in place of those."""
    arrays = {
        "color": colours(count),
        "depth_mm": np.rint(1000 * depths(count)).astype(np.uint16),
        "pose_c2w": poses(count),
        "K": K,
        "frame_id": 3 * np.arange(count),
    }
    return {**arrays, **changed}


def write_npz(folder: Path, count: int = 12, **changed: Any) -> Path:
    """An archive with a sequence in a folder, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "sequence.npz", **npz_arrays(count, **changed))
    return folder
