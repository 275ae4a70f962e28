"""Smaller images: a point projects to the same place, and no depth or colour is made up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcast.tasks.crimp.frames import Intrinsics
from rowcast.tasks.crimp.shrinking import factor_for, shrunk_colour, shrunk_depth, shrunk_intrinsics

SIZES = st.tuples(st.integers(8, 40), st.integers(8, 40))
FACTORS = st.integers(1, 7)


def brute_median(block: np.ndarray) -> float:
    """Sorted by hand: the lower one of the two in the middle."""
    measured = sorted(each for each in block.ravel().tolist() if each > 0)
    return measured[(len(measured) - 1) // 2] if 4 * len(measured) >= block.size else 0.0


@pytest.mark.parametrize(
    ("size", "side", "factor"),
    [
        ((120, 160), 80, 2),
        ((480, 640), 80, 8),
        ((680, 1200), 80, 15),
        ((60, 80), 80, 1),
        ((81, 60), 80, 2),
        ((8, 8), 80, 1),
    ],
)
def test_the_factor_is_the_smallest(size: tuple[int, int], side: int, factor: int) -> None:
    assert factor_for(size, side) == factor
    assert max(size) // factor <= side


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SIZES, FACTORS, st.integers(0, 2**32 - 1))
def test_a_point_projects_to_the_same_place(size: tuple[int, int], factor: int, seed: int) -> None:
    """The mean of where points of a block's pixels project is where its pixel of the small image is."""
    rng, (height, width) = np.random.default_rng(seed), size
    camera = Intrinsics(*rng.uniform(5, 50, 2), rng.uniform(0, width), rng.uniform(0, height))
    small = shrunk_intrinsics(camera, size, factor)
    rows, columns = height // factor, width // factor
    coloured = np.zeros((height, width, 3), dtype=np.uint8)
    top, left = int(rng.integers(rows)), int(rng.integers(columns))
    coloured[height % factor // 2 + top * factor :, width % factor // 2 + left * factor :] = 255
    seen = shrunk_colour(coloured, factor)
    assert np.array_equal(np.argwhere(seen[..., 0])[0], (top, left))
    point = small.rays(rows, columns)[top, left].astype(np.float64)
    u, v = camera.fx * point[0] + camera.cx, camera.fy * point[1] + camera.cy
    inside = np.argwhere(coloured[..., 0])[0] + (factor - 1) / 2
    assert (v, u) == pytest.approx(tuple(inside), abs=1e-3)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SIZES, FACTORS, st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_depth_is_a_lower_median(size: tuple[int, int], factor: int, seed: int, missing: float) -> None:
    rng, (height, width) = np.random.default_rng(seed), size
    depth = rng.uniform(0.5, 4, size).astype(np.float32)
    depth[rng.random(size) < missing] = 0
    small = shrunk_depth(depth, factor)
    top, left = height % factor // 2, width % factor // 2
    wanted = [
        [
            brute_median(depth[y : y + factor, x : x + factor])
            for x in range(left, left + width // factor * factor, factor)
        ]
        for y in range(top, top + height // factor * factor, factor)
    ]
    assert small.dtype == np.float32
    assert np.array_equal(small, np.array(wanted, dtype=np.float32).reshape(height // factor, width // factor))


def test_no_depth_between_near_and_far() -> None:
    depth = np.full((8, 8), 1.0, dtype=np.float32)
    depth[:, 5:] = 3.0
    assert set(np.unique(shrunk_depth(depth, 4))) == {np.float32(1.0), np.float32(3.0)}


def test_colour_is_averaged_and_rounded() -> None:
    colour = np.zeros((2, 4, 3), dtype=np.uint8)
    colour[0, 0], colour[:, 2:] = (1, 2, 3), 255
    assert shrunk_colour(colour, 2).tolist() == [[[0, 1, 1], [255, 255, 255]]]
    assert shrunk_colour(colour, 1) is colour
