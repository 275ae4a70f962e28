"""Loops over points of the implicit map, compiled: value and slope at a point, and everything that tracking and
rendering make of it without PyTorch's overhead for small arrays.

A map is passed as nested tuples of arrays, see :meth:`rowcast.tasks.crimp.field.ImplicitMap.arrays`.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from rowcast.rows.kernels import compiled

__all__ = ["align", "march", "sample_points"]

#: Luma of red, green and blue (ITU-R BT.601).
RED, GREEN, BLUE = 0.299, 0.587, 0.114
#: A point is within the truncation where the signed distance is less than this share of it: at the truncation itself
#: the hyperbolic tangent of the decoder is flat.
WITHIN = 0.9
#: A ray goes on by this share of the signed distance, which is not quite one of a whole map.
STRIDE = 0.8


@numba.njit(nogil=True, inline="always")
def _inside(x: float, y: float, z: float, box: Any) -> Any:
    return box[0] <= x <= box[3] and box[1] <= y <= box[4] and box[2] <= z <= box[5]


@numba.njit(nogil=True, fastmath={"reassoc", "nsz", "contract"})
def _interpolate(x: float, y: float, z: float, geometry: Any, grid: Any, features: Any) -> None:
    """Features at a point in the box, and their slopes along the axes for each voxel: float32 [4, features]."""
    order, sizes, box = geometry
    count = grid.shape[1]
    px, py, pz = (x - box[0]) / box[6], (y - box[1]) / box[6], (z - box[2]) / box[6]
    i = min(max(int(px), 0), sizes[0] - 2)
    j = min(max(int(py), 0), sizes[1] - 2)
    k = min(max(int(pz), 0), sizes[2] - 2)
    fx, fy, fz = np.float32(px - i), np.float32(py - j), np.float32(pz - k)
    one = np.float32(1.0)
    features[:] = np.float32(0.0)
    for corner in range(8):
        a, b, c = corner >> 2, (corner >> 1) & 1, corner & 1
        # The weight is 1 - f on the lower side and f on the upper one; its slope is -1 or 1.
        sx, sy, sz = np.float32(2 * a - 1), np.float32(2 * b - 1), np.float32(2 * c - 1)
        wx, wy, wz = sx * fx + (one - a), sy * fy + (one - b), sz * fz + (one - c)
        w, dx, dy, dz = wx * wy * wz, sx * wy * wz, sy * wx * wz, sz * wx * wy
        cell = order[((i + a) * sizes[1] + j + b) * sizes[2] + k + c]
        for f in range(count):
            value = grid[cell, f]
            features[0, f] += w * value
            features[1, f] += dx * value
            features[2, f] += dy * value
            features[3, f] += dz * value


@numba.njit(nogil=True, fastmath={"reassoc", "nsz", "contract"})
def _point(x: float, y: float, z: float, field: Any, scratch: Any, out: Any) -> None:
    """Signed distance and grey at a point inside the box, and both slopes.

    Args:
        x, y, z: metres, in the shared frame.
        field: ``(geometry, grid, decoder)``. geometry: ``(order int32 [vertices], sizes int64 [3], box float64 [7])``,
            the box: low, high, voxel. grid: float32 [cells, features]. decoder: ``(first [features, hidden], its bias,
            second [4, hidden], its bias)``.
        scratch: ``(float32 [4, features], float32 [3, hidden])``.
        out: float32 [11], receives the distance (share of the truncation), its slope, grey, its slope, the colour.
    """
    geometry, grid, decoder = field
    first, first_bias, second, second_bias = decoder
    features, hidden = scratch
    count, units = first.shape
    _interpolate(x, y, z, geometry, grid, features)
    hidden[0, :] = first_bias
    for f in range(count):
        value = features[0, f]
        for h in range(units):
            hidden[0, h] += first[f, h] * value
    o0, o1, o2, o3 = second_bias[0], second_bias[1], second_bias[2], second_bias[3]
    for h in range(units):
        value = max(hidden[0, h], np.float32(0.0))
        o0 += second[0, h] * value
        o1 += second[1, h] * value
        o2 += second[2, h] * value
        o3 += second[3, h] * value
    one = np.float32(1.0)
    distance = np.float32(np.tanh(o0))
    red, green, blue = _sigmoid(o1), _sigmoid(o2), _sigmoid(o3)
    q0 = one - distance * distance
    q1 = np.float32(RED) * red * (one - red)
    q2 = np.float32(GREEN) * green * (one - green)
    q3 = np.float32(BLUE) * blue * (one - blue)
    for h in range(units):
        on = one if hidden[0, h] > 0 else np.float32(0.0)
        hidden[1, h] = on * q0 * second[0, h]
        hidden[2, h] = on * (q1 * second[1, h] + q2 * second[2, h] + q3 * second[3, h])
    out[:] = np.float32(0.0)
    inverse = np.float32(1.0 / geometry[2][6])
    for f in range(count):
        of_distance, of_grey = np.float32(0.0), np.float32(0.0)
        for h in range(units):
            of_distance += first[f, h] * hidden[1, h]
            of_grey += first[f, h] * hidden[2, h]
        for d in range(3):
            out[1 + d] += inverse * of_distance * features[1 + d, f]
            out[5 + d] += inverse * of_grey * features[1 + d, f]
    out[0] = distance
    out[4] = np.float32(RED) * red + np.float32(GREEN) * green + np.float32(BLUE) * blue
    out[8], out[9], out[10] = red, green, blue


@numba.njit(nogil=True, inline="always")
def _sigmoid(value: Any) -> Any:
    return np.float32(1.0) / (np.float32(1.0) + np.float32(np.exp(-value)))


@numba.njit(nogil=True)
def _scratch(field: Any) -> Any:
    return np.empty((4, field[1].shape[1]), np.float32), np.empty((3, field[2][0].shape[1]), np.float32)


@compiled
def sample_points(points: Any, field: Any) -> Any:
    """Values at points float64 [n, 3]: float32 [n, 11], see :func:`_point`; outside the box: free, without slope."""
    scratch = _scratch(field)
    found = np.zeros((len(points), 11), np.float32)
    for n in range(len(points)):
        x, y, z = points[n, 0], points[n, 1], points[n, 2]
        if _inside(x, y, z, field[0][2]):
            _point(x, y, z, field, scratch, found[n])
        else:
            found[n, 0] = np.float32(1.0)
    return found


@numba.njit(nogil=True)
def _rotation(wx: float, wy: float, wz: float) -> Any:
    """The rotation by a vector (radians), float64 [3, 3]: Rodrigues' formula."""
    angle = np.sqrt(wx * wx + wy * wy + wz * wz)
    if angle < 1e-8:
        a, b = 1.0 - angle * angle / 6.0, 0.5 - angle * angle / 24.0
    else:
        a, b = np.sin(angle) / angle, (1.0 - np.cos(angle)) / (angle * angle)
    found = np.empty((3, 3))
    found[0, 0] = 1.0 - b * (wy * wy + wz * wz)
    found[0, 1] = b * wx * wy - a * wz
    found[0, 2] = b * wx * wz + a * wy
    found[1, 0] = b * wx * wy + a * wz
    found[1, 1] = 1.0 - b * (wx * wx + wz * wz)
    found[1, 2] = b * wy * wz - a * wx
    found[2, 0] = b * wx * wz - a * wy
    found[2, 1] = b * wy * wz + a * wx
    found[2, 2] = 1.0 - b * (wx * wx + wy * wy)
    return found


@numba.njit(nogil=True)
def _angles(rotation: Any) -> Any:
    """The vector that a small rotation turns by (radians); exact up to half a turn but for the sign there."""
    x = rotation[2, 1] - rotation[1, 2]
    y = rotation[0, 2] - rotation[2, 0]
    z = rotation[1, 0] - rotation[0, 1]
    sine = 0.5 * np.sqrt(x * x + y * y + z * z)
    cosine = 0.5 * (rotation[0, 0] + rotation[1, 1] + rotation[2, 2] - 1.0)
    angle = np.arctan2(sine, cosine)
    scale = 0.5 if sine < 1e-12 else 0.5 * angle / sine
    return x * scale, y * scale, z * scale


@numba.njit(nogil=True)
def _solve(matrix: Any, vector: Any) -> bool:
    """Solve a symmetric positive definite system of six in place, by Cholesky's factors; tells whether it was one."""
    for i in range(6):
        for j in range(i + 1):
            value = matrix[i, j]
            for k in range(j):
                value -= matrix[i, k] * matrix[j, k]
            if i == j:
                if not value > 0.0:
                    return False
                matrix[i, i] = np.sqrt(value)
            else:
                matrix[i, j] = value / matrix[j, j]
    for i in range(6):
        value = vector[i]
        for k in range(i):
            value -= matrix[i, k] * vector[k]
        vector[i] = value / matrix[i, i]
    for i in range(5, -1, -1):
        value = vector[i]
        for k in range(i + 1, 6):
            value -= matrix[k, i] * vector[k]
        vector[i] = value / matrix[i, i]
    return True


@numba.njit(nogil=True)
def _gather(points: Any, greys: Any, pose: Any, field: Any, numbers: Any, work: Any) -> Any:
    """The normal equations of all points about their centroid; returns the centroid, and sums for the outcome."""
    scratch, world, values, matrix, vector = work
    truncation, distance_sigma, grey_sigma = numbers[0], numbers[1], numbers[2]
    count = len(points)
    for n in range(count):
        for d in range(3):
            world[n, d] = pose[d, 0] * points[n, 0] + pose[d, 1] * points[n, 1] + pose[d, 2] * points[n, 2] + pose[d, 3]
    cx, cy, cz = world[:, 0].mean(), world[:, 1].mean(), world[:, 2].mean()
    matrix[:] = 0.0
    vector[:] = 0.0
    slope = np.empty(6)
    within, off = 0, 0.0
    for n in range(count):
        x, y, z = world[n, 0], world[n, 1], world[n, 2]
        if not _inside(x, y, z, field[0][2]):
            continue
        _point(x, y, z, field, scratch, values)
        if not np.isfinite(values[:8].sum()):  # a part of the map that has diverged says nothing
            continue
        near = abs(values[0]) < WITHIN
        if near:
            within += 1
            off += abs(values[0]) * truncation
        y0, y1, y2 = x - cx, y - cy, z - cz
        for kind in range(2):
            if kind == 0:
                scale = truncation / distance_sigma
                residual = values[0] * scale
            else:
                if not (near and greys[n] >= 0.0):
                    continue
                scale = 1.0 / grey_sigma
                residual = (values[4] - greys[n]) * scale
            g0, g1, g2 = values[4 * kind + 1] * scale, values[4 * kind + 2] * scale, values[4 * kind + 3] * scale
            slope[0], slope[1], slope[2] = g0, g1, g2
            slope[3] = y1 * g2 - y2 * g1
            slope[4] = y2 * g0 - y0 * g2
            slope[5] = y0 * g1 - y1 * g0
            weight = 1.0 / (1.0 + 0.25 * residual * residual)  # Cauchy, 2 sigma
            for i in range(6):
                vector[i] -= weight * residual * slope[i]
                for j in range(i + 1):
                    matrix[i, j] += weight * slope[i] * slope[j]
    return cx, cy, cz, within, off


@compiled
def align(points: Any, greys: Any, start: Any, expected: Any, field: Any, numbers: Any, iterations: int) -> Any:
    """Gauss-Newton on se(3): the pose from which a frame agrees best with the map.

    Args:
        points: float32 [n, 3], in the camera's frame; ``greys``: float32 [n], 0 to 1; below 0: not used.
        start: float64 [4, 4], camera to world, where the search begins; ``expected``: about which the prior is.
        field: the map.
        numbers: float64 [6]: truncation, sigmas of distance and grey, of the prior's translation and rotation, and the
            length of a step (metres and radians) at which the search has converged.
        iterations: at most.

    Returns:
        the pose, the share of the points within the truncation of a surface, their mean distance from it (m), whether
        it has converged, and the iterations.
    """
    matrix, vector = np.empty((6, 6)), np.empty(6)
    work = (_scratch(field), np.empty((len(points), 3)), np.zeros(11, np.float32), matrix, vector)
    pose = start.copy()
    step = np.inf
    share, off, taken = 0.0, 0.0, 0
    centre = np.empty(3)
    for d in range(3):
        total = 0.0  # in double precision, as the centroid in the shared frame
        for n in range(len(points)):
            total += points[n, d]
        centre[d] = total / len(points)
    while True:
        cx, cy, cz, within, sum_off = _gather(points, greys, pose, field, numbers, work)
        share = within / len(points)
        off = sum_off / max(within, 1)
        if step < numbers[5] or taken == iterations:
            break
        turn = _angles(np.ascontiguousarray(pose[:3, :3]) @ np.ascontiguousarray(expected[:3, :3].T))
        there = np.array((cx, cy, cz))
        for d in range(3):
            wanted = (
                expected[d, 0] * centre[0] + expected[d, 1] * centre[1] + expected[d, 2] * centre[2] + expected[d, 3]
            )
            moving, turning = 1.0 / numbers[3] ** 2, 1.0 / numbers[4] ** 2
            matrix[d, d] += moving
            matrix[3 + d, 3 + d] += turning
            vector[d] -= moving * (there[d] - wanted)
            vector[3 + d] -= turning * turn[d]
        if not _solve(matrix, vector):
            break
        step = np.sqrt((vector * vector).sum())
        if not np.isfinite(step):
            break
        rotation = _rotation(vector[3], vector[4], vector[5])
        pose[:3, :3] = rotation @ np.ascontiguousarray(pose[:3, :3])
        pose[:3, 3] = rotation @ (pose[:3, 3] - there) + there + vector[:3]
        taken += 1
    return pose, share, off, step < numbers[5], taken


@compiled
def march(rays: Any, pose: Any, field: Any, numbers: Any, steps: int) -> Any:
    """Where rays first meet a surface of the map, by sphere tracing along the truncated signed distance.

    Args:
        rays: float32 [n, 3], in the camera's frame, of one metre of depth.
        pose: float64 [4, 4], camera to world.
        field: the map.
        numbers: float64 [3], metres: the truncation, and the depths between which is looked.
        steps: of a ray, at most.

    Returns:
        float32 [n] depths, 0 where nothing was met, and float32 [n, 3] colours there.
    """
    scratch = _scratch(field)
    truncation, near, far = numbers[0], numbers[1], numbers[2]
    values = np.zeros(11, np.float32)
    depths, colours = np.zeros(len(rays), np.float32), np.zeros((len(rays), 3), np.float32)
    voxel = field[0][2][6]
    for n in range(len(rays)):
        dx = pose[0, 0] * rays[n, 0] + pose[0, 1] * rays[n, 1] + pose[0, 2] * rays[n, 2]
        dy = pose[1, 0] * rays[n, 0] + pose[1, 1] * rays[n, 1] + pose[1, 2] * rays[n, 2]
        dz = pose[2, 0] * rays[n, 0] + pose[2, 1] * rays[n, 1] + pose[2, 2] * rays[n, 2]
        length = np.sqrt(dx * dx + dy * dy + dz * dz)
        depth, before, before_depth = near, 1.0, near
        for _ in range(steps):
            if depth > far:
                break
            x, y, z = pose[0, 3] + depth * dx, pose[1, 3] + depth * dy, pose[2, 3] + depth * dz
            distance = 1.0
            if _inside(x, y, z, field[0][2]):
                _point(x, y, z, field, scratch, values)
                distance = values[0]
            if not np.isfinite(distance):
                break
            if distance <= 0.0:
                if before > 0.0 and depth > near:
                    found = before_depth + (depth - before_depth) * before / (before - distance)
                    x, y, z = pose[0, 3] + found * dx, pose[1, 3] + found * dy, pose[2, 3] + found * dz
                    if _inside(x, y, z, field[0][2]):
                        _point(x, y, z, field, scratch, values)
                        depths[n] = found
                        colours[n, 0], colours[n, 1], colours[n, 2] = values[8], values[9], values[10]
                break
            before, before_depth = distance, depth
            depth += max(STRIDE * distance * truncation, 0.1 * voxel) / length
    return depths, colours
