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
    for d in range(4):
        for f in range(count):
            features[d, f] = np.float32(0.0)
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
    for h in range(units):
        hidden[0, h] = first_bias[h]
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
    for n in range(11):
        out[n] = np.float32(0.0)
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
def _turn(pose: Any, vector: Any, centre: Any) -> None:
    """Move a pose by a shift (metres) and a turn (radians) about a centre, in place; Rodrigues' formula."""
    wx, wy, wz = vector[3], vector[4], vector[5]
    angle = np.sqrt(wx * wx + wy * wy + wz * wz)
    if angle < 1e-8:
        a, b = 1.0 - angle * angle / 6.0, 0.5 - angle * angle / 24.0
    else:
        a, b = np.sin(angle) / angle, (1.0 - np.cos(angle)) / (angle * angle)
    for d in range(3):
        pose[d, 3] -= centre[d]
    for column in range(4):
        x, y, z = pose[0, column], pose[1, column], pose[2, column]
        cx, cy, cz = wy * z - wz * y, wz * x - wx * z, wx * y - wy * x
        pose[0, column] = x + a * cx + b * (wy * cz - wz * cy)
        pose[1, column] = y + a * cy + b * (wz * cx - wx * cz)
        pose[2, column] = z + a * cz + b * (wx * cy - wy * cx)
    for d in range(3):
        pose[d, 3] += centre[d] + vector[d]


@numba.njit(nogil=True)
def _between(pose: Any, expected: Any, away: Any) -> None:
    """By what a pose is turned against another: a vector (radians) into float64 [3]; exact but for half a turn."""
    trace = 0.0
    for d in range(3):
        away[d] = 0.0
    for k in range(3):
        for d in range(3):
            e, f = (d + 1) % 3, (d + 2) % 3
            away[d] += pose[f, k] * expected[e, k] - pose[e, k] * expected[f, k]
            trace += pose[d, k] * expected[d, k]
    sine = 0.5 * np.sqrt(away[0] * away[0] + away[1] * away[1] + away[2] * away[2])
    scale = 0.5 if sine < 1e-12 else 0.5 * np.arctan2(sine, 0.5 * (trace - 1.0)) / sine
    for d in range(3):
        away[d] *= scale


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
def _add(residual: float, slope: Any, matrix: Any, vector: Any) -> None:
    """A residual with its Cauchy weight (2 sigma) into the lower half of the normal equations."""
    weight = 1.0 / (1.0 + 0.25 * residual * residual)
    for i in range(6):
        vector[i] -= weight * residual * slope[i]
        for j in range(i + 1):
            matrix[i, j] += weight * slope[i] * slope[j]


@numba.njit(nogil=True)
def _gather(points: Any, greys: Any, pose: Any, field: Any, numbers: Any, work: Any) -> Any:
    """The normal equations of all points about their centroid, and two sums for the outcome."""
    scratch, values, matrix, vector, centre, slope = work
    truncation, distance_sigma, grey_sigma = numbers[0], numbers[1], numbers[2]
    for i in range(6):
        vector[i] = 0.0
        for j in range(6):
            matrix[i, j] = 0.0
    within, off = 0, 0.0
    for n in range(len(points)):
        px, py, pz = np.float64(points[n, 0]), np.float64(points[n, 1]), np.float64(points[n, 2])
        x = pose[0, 0] * px + pose[0, 1] * py + pose[0, 2] * pz + pose[0, 3]
        y = pose[1, 0] * px + pose[1, 1] * py + pose[1, 2] * pz + pose[1, 3]
        z = pose[2, 0] * px + pose[2, 1] * py + pose[2, 2] * pz + pose[2, 3]
        if not _inside(x, y, z, field[0][2]):
            continue
        _point(x, y, z, field, scratch, values)
        total = np.float32(0.0)
        for i in range(8):
            total += values[i]
        # A part of the map that has diverged says nothing. (isfinite is optimised away where fast sums are allowed.)
        if not abs(total) < np.inf:
            continue
        near = abs(values[0]) < WITHIN
        if near:
            within += 1
            off += abs(values[0]) * truncation
        y0, y1, y2 = x - centre[0], y - centre[1], z - centre[2]
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
            _add(residual, slope, matrix, vector)
    return within, off


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
    matrix, vector, centre, turned = np.empty((6, 6)), np.empty(6), np.empty(3), np.empty(3)
    work = (_scratch(field), np.zeros(11, np.float32), matrix, vector, centre, np.empty(6))
    middle = np.zeros(3)  # of the points, in the camera's frame
    for n in range(len(points)):
        for d in range(3):
            middle[d] += points[n, d] / len(points)
    pose = start.copy()
    moving, turning = 1.0 / numbers[3] ** 2, 1.0 / numbers[4] ** 2
    step, taken = np.inf, 0
    while True:
        for d in range(3):
            centre[d] = pose[d, 0] * middle[0] + pose[d, 1] * middle[1] + pose[d, 2] * middle[2] + pose[d, 3]
        within, off = _gather(points, greys, pose, field, numbers, work)
        if step < numbers[5] or taken == iterations:
            break
        _between(pose, expected, turned)
        for d in range(3):
            wanted = (
                expected[d, 0] * middle[0] + expected[d, 1] * middle[1] + expected[d, 2] * middle[2] + expected[d, 3]
            )
            matrix[d, d] += moving
            matrix[3 + d, 3 + d] += turning
            vector[d] -= moving * (centre[d] - wanted)
            vector[3 + d] -= turning * turned[d]
        if not _solve(matrix, vector):
            break
        square = 0.0
        for i in range(6):
            square += vector[i] * vector[i]
        if not square < np.inf:
            break
        step = np.sqrt(square)
        _turn(pose, vector, centre)
        taken += 1
    return pose, within / len(points), off / max(within, 1), step < numbers[5], taken


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
            if not abs(distance) < np.inf:
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
