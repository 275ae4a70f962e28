"""Small recorded sequences that tests write: a camera that moves before a wall, in each layout of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

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


def raw_depths(count: int, units_per_metre: float) -> np.ndarray:
    """The same wall as 16-bit images hold it."""
    return np.rint(units_per_metre * depths(count)).astype(np.uint16)


def save(path: Path, pixels: np.ndarray) -> None:
    """An image, by its suffix; JPEG as good as it can be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {}))


def save_matrix(path: Path, matrix: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(" ".join(f"{value:.9e}" for value in row) for row in matrix) + "\n")


def write_7scenes(folder: Path, count: int = 12, first: int = 0) -> Path:
    """Frames in the layout of 7-Scenes, with a camera file."""
    save_matrix(folder / "camera-intrinsics.txt", K)
    for number, (colour, depth, pose) in enumerate(
        zip(colours(count), raw_depths(count, 1000), poses(count), strict=True), first
    ):
        save(folder / f"frame-{number:06}.color.png", colour)
        save(folder / f"frame-{number:06}.depth.png", depth)
        save_matrix(folder / f"frame-{number:06}.pose.txt", pose)
    return folder


def write_tum(folder: Path, count: int = 12) -> Path:
    """Frames at 20 Hz, depth 0.004 s after colour, poses at 100 Hz: the camera of :func:`poses` at depth k is pose 5k.

    Each of these lies 0.001 s before its depth image; those between are elsewhere.
    """
    save_matrix(folder / "camera-intrinsics.txt", K)
    lists: dict[str, list[str]] = {"rgb": ["# time file"], "depth": ["# time file"], "groundtruth": ["# poses"]}
    for number, (colour, depth) in enumerate(zip(colours(count), raw_depths(count, 5000), strict=True)):
        for kind, pixels, at in (("rgb", colour, 100 + 0.05 * number), ("depth", depth, 100.004 + 0.05 * number)):
            save(folder / kind / f"{at:.6f}.png", pixels)
            lists[kind].append(f"{at:.6f} {kind}/{at:.6f}.png")
    for number in range(5 * count):
        half = np.radians(number // 5) / 2  # poses() turns by a degree a frame, about the axis that points down
        y, w = 1.004 * np.sin(half), 1.004 * np.cos(half)  # a quaternion of which a few digits are written
        elsewhere = 5.0 * (number % 5)
        x = 0.02 * (number // 5) + elsewhere
        lists["groundtruth"].append(f"{100.003 + 0.01 * number:.4f} {x} 0 0 0 {y} 0 {w}")
    for kind, lines in lists.items():
        (folder / f"{kind}.txt").write_text("\n".join(lines) + "\n")
    return folder


def write_scannet(folder: Path, count: int = 12) -> Path:
    """Depth as :func:`depths`; colour of twice the size, from a camera that sees a little more."""
    depth_camera, colour_camera = np.eye(4), np.eye(4)
    depth_camera[:3, :3] = K
    colour_camera[:3, :3] = [[28.0, 0.0, 17.5], [0.0, 28.0, 12.5], [0.0, 0.0, 1.0]]
    save_matrix(folder / "intrinsic" / "intrinsic_depth.txt", depth_camera)
    save_matrix(folder / "intrinsic" / "intrinsic_color.txt", colour_camera)
    v, u = np.mgrid[0:28, 0:36]
    for number, (depth, pose) in enumerate(zip(raw_depths(count, 1000), poses(count), strict=True)):
        save(folder / "color" / f"{number}.jpg", np.stack([4 * u, 4 * v, 0 * u + 9 * number], axis=-1).astype(np.uint8))
        save(folder / "depth" / f"{number}.png", depth)
        save_matrix(folder / "pose" / f"{number}.txt", pose)
    return folder


def write_replica(folder: Path, count: int = 12) -> Path:
    """Frames as NICE-SLAM distributes Replica; the camera file lies one folder above."""
    (height, width), lines = SIZE, []
    for number, (colour, depth, pose) in enumerate(
        zip(colours(count), raw_depths(count, 6553.5), poses(count), strict=True)
    ):
        save(folder / "results" / f"frame{number:06}.jpg", colour)
        save(folder / "results" / f"depth{number:06}.png", depth)
        lines.append(" ".join(f"{value:.9e}" for value in pose.ravel()))
    (folder / "traj.txt").write_text("\n".join(lines) + "\n")
    camera = {"w": width, "h": height, "fx": 14.0, "fy": 14.0, "cx": 7.5, "cy": 5.5, "scale": 6553.5}
    (folder.parent / "cam_params.json").write_text(json.dumps({"camera": camera}))
    return folder
