"""Fog, brightness and label-skewed shards."""

from __future__ import annotations

import numpy as np
import pytest

from rowcast.errors import ConfigError
from rowcast.tasks.cruda import SEVERITIES, DomainShift, brightness, dirichlet_shards, fog
from rowcast.tasks.cruda.shift import smooth_fields


def test_fog_is_koschmieders_law() -> None:
    images = np.array([[[[0.0, 1.0], [0.5, 0.2]]]], dtype=np.float32)
    depth = np.log(np.array([[[1.0, 2.0], [4.0, 2.0]]], dtype=np.float32))
    # beta 1: t = 1, 1/2, 1/4, 1/2; air light 0.8.
    expected = [[[[0.0, 0.5 + 0.4], [0.125 + 0.6, 0.1 + 0.4]]]]
    np.testing.assert_allclose(fog(images, depth, beta=1.0, air_light=0.8), expected, rtol=1e-6)
    np.testing.assert_allclose(fog(images, depth, beta=1.0, air_light=np.array([0.8])), expected, rtol=1e-6)
    np.testing.assert_array_equal(fog(images, depth, beta=0.0, air_light=0.8), images)


def test_brightness_is_gain_times_power_cut_to_one() -> None:
    images = np.array([[[[0.25, 1.0]]], [[[0.25, 0.5]]]], dtype=np.float32)
    np.testing.assert_allclose(brightness(images, gamma=0.5, gain=0.8)[0], [[[0.4, 0.8]]], rtol=1e-6)
    each = brightness(images, gamma=np.array([1.0, 2.0]), gain=np.array([2.0, 1.0]))
    np.testing.assert_allclose(each, [[[[0.5, 1.0]]], [[[0.0625, 0.25]]]], rtol=1e-6)


def test_depth_fields_are_smooth_and_stay_between_their_knots() -> None:
    knots = np.random.default_rng(0).uniform(0.2, 1.8, (5, 4, 4)).astype(np.float32)
    fields = smooth_fields(knots, 28, 20)
    assert fields.shape == (5, 28, 20)
    assert fields.min() >= knots.min() - 1e-5 and fields.max() <= knots.max() + 1e-5
    np.testing.assert_allclose(
        fields[:, [0, 0, -1, -1], [0, -1, 0, -1]], knots[:, [0, 0, 3, 3], [0, 3, 0, 3]], rtol=1e-5
    )
    assert np.abs(np.diff(fields, axis=1)).max() < 0.35


def test_contrast_falls_with_the_severity() -> None:
    images = np.random.default_rng(1).uniform(0, 1, (40, 1, 8, 8)).astype(np.float32)
    every = np.arange(len(images))
    contrasts = []
    for severity in sorted(SEVERITIES):
        shifted = DomainShift(len(images), severity, np.random.default_rng(2)).apply(images, every)
        assert shifted.shape == images.shape and shifted.dtype == np.float32
        assert shifted.min() >= 0 and shifted.max() <= 1
        contrasts.append(float(shifted.std(axis=(1, 2, 3)).mean()))
    assert contrasts == sorted(contrasts, reverse=True)
    assert contrasts[0] > 2 * contrasts[-1]


def test_a_shift_follows_its_seed_and_the_number_of_the_image() -> None:
    images = np.random.default_rng(1).uniform(0, 1, (6, 3, 9, 9)).astype(np.float32)
    one, same, other = (DomainShift(6, 3, np.random.default_rng(seed)) for seed in (4, 4, 5))
    whole = one.apply(images, np.arange(6))
    part = np.array([4, 1])
    np.testing.assert_allclose(same.apply(images[part], part), whole[part], rtol=1e-6)
    assert not np.allclose(other.apply(images, np.arange(6)), whole)


def test_an_unknown_severity_is_refused() -> None:
    with pytest.raises(ConfigError, match="severity: expected one of 1, 2, 3, 4, 5, got 6"):
        DomainShift(1, 6, np.random.default_rng(0))


@pytest.mark.parametrize("alpha", [0.05, 0.5, 100.0])
def test_shards_are_disjoint_cover_the_set_and_hold_a_batch(alpha: float) -> None:
    labels = np.random.default_rng(0).integers(0, 10, 400)
    for seed in range(10):
        shards = dirichlet_shards(labels, 7, alpha=alpha, minimum=32, rng=np.random.default_rng(seed))
        assert len(shards) == 7 and min(map(len, shards)) >= 32
        np.testing.assert_array_equal(np.sort(np.concatenate(shards)), np.arange(400))


def test_a_small_alpha_skews_the_classes_and_a_large_one_does_not() -> None:
    labels = np.repeat(np.arange(10), 200)

    def skew(alpha: float) -> float:
        shards = dirichlet_shards(labels, 4, alpha=alpha, minimum=32, rng=np.random.default_rng(3))
        shares = np.array([np.bincount(labels[shard], minlength=10) / 200 for shard in shards])
        return float(shares.max(axis=0).mean())

    assert skew(0.1) > 0.75 > skew(1.0) > 0.4 > 0.3 > skew(1000.0)


def test_shards_follow_their_seed() -> None:
    labels = np.repeat(np.arange(5), 40)
    one, same, other = (
        dirichlet_shards(labels, 3, alpha=1.0, minimum=8, rng=np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("workers", "alpha", "message"),
    [(0, 1.0, "workers: expected"), (2, 0.0, "alpha: expected"), (2, float("nan"), "alpha"), (9, 1.0, "too few for 9")],
)
def test_shards_that_cannot_be_are_refused(workers: int, alpha: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dirichlet_shards(np.zeros(64, np.int64), workers, alpha=alpha, minimum=8, rng=np.random.default_rng(0))
