"""Images of axis-aligned boxes with textures, by analytic ray casting."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rowcast.rows.kernels import compiled_serial

__all__ = ["cast"]

Array = npt.NDArray[np.float64]


@compiled_serial
def _visible(offsets: Array, pose: Array, sight: Array) -> npt.NDArray[np.int64]:
    """The boxes that are not wholly behind the camera or beside what it sees.

    Args:
        offsets: the boxes less the camera's place, float64 [n, 6].
        pose: camera to world, float64 [4, 4].
        sight: lowest and highest x and y of the image one metre ahead, float64 [4].
    """
    kept = np.empty(len(offsets), dtype=np.int64)
    count = 0
    for i in range(len(offsets)):
        # Of each plane that bounds the view, the corner that lies farthest within it.
        within = True
        for plane in range(5):
            x, y, z = 0.0, 0.0, 1.0
            if plane == 0:
                x, z = 1.0, -sight[0]
            elif plane == 1:
                x, z = -1.0, sight[1]
            elif plane == 2:
                y, z = 1.0, -sight[2]
            elif plane == 3:
                y, z = -1.0, sight[3]
            best = 0.0
            for axis in range(3):
                normal = pose[axis, 0] * x + pose[axis, 1] * y + pose[axis, 2] * z
                best += max(normal * offsets[i, axis], normal * offsets[i, axis + 3])
            if best < 0.0:
                within = False
                break
        if within:
            kept[count] = i
            count += 1
    return kept[:count]


@compiled_serial
def _through(offsets: Array, inverse: Array) -> tuple[float, int]:
    """How far it is to the wall of a box from within it, and which of its faces that is."""
    depth, face = 1e30, 0
    for axis in range(3):
        high = inverse[axis] > 0.0
        leaves = offsets[axis + 3 if high else axis] * inverse[axis]
        if leaves < depth:
            depth, face = leaves, 2 * axis + (1 if high else 0)
    return depth, face


@compiled_serial
def _nearest(offsets: Array, near: npt.NDArray[np.int64], inverse: Array, farthest: float) -> tuple[float, int]:
    """The first box that a ray enters before ``farthest``: how far it is, and its place in ``near``; -1: none."""
    ix, iy, iz = inverse[0], inverse[1], inverse[2]
    depth, hit = farthest, -1
    for k in range(len(near)):
        i = near[k]
        ax, bx = offsets[i, 0] * ix, offsets[i, 3] * ix
        ay, by = offsets[i, 1] * iy, offsets[i, 4] * iy
        az, bz = offsets[i, 2] * iz, offsets[i, 5] * iz
        enters = max(max(min(ax, bx), min(ay, by)), min(az, bz))
        leaves = min(min(max(ax, bx), max(ay, by)), max(az, bz))
        if 0.0 < enters <= leaves and enters < depth:
            depth, hit = enters, k
    return depth, hit


@compiled_serial
def _entered(offsets: Array, inverse: Array) -> int:
    """The face through which a ray enters a box that it hits."""
    most, face = -1e30, 0
    for axis in range(3):
        low = inverse[axis] > 0.0
        enters = offsets[axis if low else axis + 3] * inverse[axis]
        if enters > most:
            most, face = enters, 2 * axis + (0 if low else 1)
    return face


@compiled_serial
def _colour(point: Array, base: Array, waves: Array, colour: npt.NDArray[np.float32]) -> None:
    red, green, blue = base[0], base[1], base[2]
    for k in range(len(waves)):
        wave = waves[k]
        level = math.sin(wave[0] * point[0] + wave[1] * point[1] + wave[2] * point[2] + wave[3])
        red += level * wave[4]
        green += level * wave[5]
        blue += level * wave[6]
    colour[0], colour[1], colour[2] = red, green, blue


@compiled_serial
def _cast(
    pose: Array,
    camera: Array,
    boxes: Array,
    bases: Array,
    waves: Array,
    colours: npt.NDArray[np.float32],
    depths: npt.NDArray[np.float32],
) -> None:
    offsets = np.empty((len(boxes), 6))
    for i in range(len(boxes)):
        for side in range(6):
            offsets[i, side] = boxes[i, side] - pose[side % 3, 3]
    height, width = depths.shape
    sight = np.empty(4)
    sight[0], sight[1] = (0.0 - camera[2]) / camera[0], (width - 1.0 - camera[2]) / camera[0]
    sight[2], sight[3] = (0.0 - camera[3]) / camera[1], (height - 1.0 - camera[3]) / camera[1]
    near = 1 + _visible(offsets[1:], pose, sight)
    way, inverse, point = np.empty(3), np.empty(3), np.empty(3)
    for v in range(height):
        y = (v - camera[3]) / camera[1]
        for u in range(width):
            x = (u - camera[2]) / camera[0]
            for axis in range(3):
                part = pose[axis, 0] * x + pose[axis, 1] * y + pose[axis, 2]
                way[axis] = part
                inverse[axis] = 1.0 / part if abs(part) > 1e-12 else 1e12
            depth, face = _through(offsets[0], inverse)
            depth, hit = _nearest(offsets, near, inverse, depth)
            if hit >= 0:
                face = 6 * near[hit] + _entered(offsets[near[hit]], inverse)
            depths[v, u] = depth
            for axis in range(3):
                point[axis] = pose[axis, 3] + depth * way[axis]
            _colour(point, bases[face], waves[face], colours[v, u])


def cast(
    pose: Array,
    camera: tuple[float, float, float, float],
    size: tuple[int, int],
    boxes: Array,
    texture: tuple[Array, Array],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """What a pinhole camera sees that stands outside all boxes but the first, and in the first.

    Args:
        pose: camera to world, float64 [4, 4]: x right, y down, z forward.
        camera: fx, fy, cx, cy in pixels.
        size: height and width of the image.
        boxes: (x0, y0, z0, x1, y1, z1), float64 [n, 6]; the first is the shell around all.
        texture: a colour for each face, float64 [6 n, 3], and its waves, float64 [6 n, waves, 7]: wave vector (3) in
            radians a metre, phase, and what it adds to red, green and blue. Faces of a box: low and high x, y, z.

    Returns:
        colours, float32 [height, width, 3], and depths along the optical axis, float32 [height, width].
    """
    colours, depths = np.empty((*size, 3), dtype=np.float32), np.empty(size, dtype=np.float32)
    pose = np.ascontiguousarray(pose, dtype=np.float64)
    _cast(pose, np.array(camera, dtype=np.float64), boxes, *texture, colours, depths)
    return colours, depths
