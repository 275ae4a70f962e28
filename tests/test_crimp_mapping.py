"""What a map is trained on, and what it shows: usable pixels, points along rays, the loss, rendered depth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mapped import BOX, empty_map, filled, fit, room, wall, wall_map
from rowcast.errors import ConfigError, LocalProtocolError
from rowcast.tasks.crimp import decoder
from rowcast.tasks.crimp.field import FEATURES, HIDDEN, ImplicitMap
from rowcast.tasks.crimp.mapping import MapBatch, MapSampler, map_loss
from rowcast.tasks.crimp.pixels import Pixels, usable_pixels
from rowcast.tasks.crimp.scene import Bounds
from rowcast.tasks.crimp.se3 import moved
from rowcast.tasks.crimp.settings import CrimpSettings, RecordedSettings, RoomSettings
from rowcast.tasks.crimp.views import MISS_M, DepthError, depth_error, render

SETTINGS = CrimpSettings(rays=64)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def fitted() -> ImplicitMap:
    return wall_map(SETTINGS)


def pixels(metres: float = 2.0, grey: int = 120, **changed: Any) -> Pixels:
    return usable_pixels(wall(metres=metres, grey=grey), 0, CrimpSettings(**changed))


def sampler(*frames: Pixels, **changed: Any) -> MapSampler:
    """A sampler with frames; each is seen from a place one metre further along x than the one before."""
    found = MapSampler(CrimpSettings(**{"rays": 64, **changed}), np.random.default_rng(0))
    for number, each in enumerate(frames):
        pose = np.eye(4)
        pose[0, 3] = number
        found.add(each, pose)
    return found


# -- pixels ------------------------------------------------------------------------------------------------------------


def test_pixels_have_a_depth_in_range() -> None:
    """What is not a number, nothing, infinite, the largest that 16 bits hold, too near or too far is left out."""
    frames = wall()
    wrong = [np.nan, 0.0, np.inf, -np.inf, 65.535, -1.0, 0.1, 10.0]
    frames.depths[0, 0, : len(wrong)] = wrong
    frames.depths[0, 0, len(wrong)] = 0.1001
    frames.colours[0, 5, 7] = (255, 0, 51)
    found = usable_pixels(frames, 0, SETTINGS)
    assert len(found) == 24 * 32 - len(wrong) and not found.dark
    assert found.rays.dtype == found.depths.dtype == found.colours.dtype == np.float32
    assert found.depths.min() == np.float32(0.1001) and np.isfinite(found.depths).all()
    place = 5 * 32 + 7 - len(wrong)
    np.testing.assert_allclose(found.colours[place], [1.0, 0.0, 0.2])
    np.testing.assert_allclose(found.rays[place], [(7 - 15.5) / 20, (5 - 11.5) / 20, 1.0])
    assert not len(usable_pixels(wall(metres=65.535), 0, SETTINGS))


@pytest.mark.parametrize(("grey", "dark"), [(0, True), (7, True), (8, False), (255, False)])
def test_a_dark_frame_has_no_colours(grey: int, dark: bool) -> None:
    found = pixels(grey=grey)
    assert found.dark == dark and len(found) == 24 * 32
    assert (found.colours == (-1.0 if dark else np.float32(grey) / 255)).all()
    assert not Pixels(found.rays[:0], found.depths[:0], found.colours[:0]).dark


# -- points ------------------------------------------------------------------------------------------------------------


def along(batch: MapBatch, x: float = 0.0) -> np.ndarray:
    """How far each point of a batch is from its camera, along its ray, with a sign."""
    points = batch.points.numpy().astype(np.float64) - [x, 0.0, 0.0]
    ways = points[:, :1] / np.linalg.norm(points[:, :1], axis=2, keepdims=True)
    found: np.ndarray = (points * ways).sum(axis=2)
    np.testing.assert_allclose(points, found[:, :, None] * ways, atol=1e-5)  # they are on the ray
    return found


@settings(max_examples=30, deadline=None)
@given(metres=st.floats(0.11, 6.0), truncation=st.floats(0.2, 0.6), near=st.integers(1, 6), free=st.integers(0, 5))
def test_targets_are_distances_to_the_wall_along_the_ray(
    metres: float, truncation: float, near: int, free: int
) -> None:
    """Near it, and in front; also where the wall is nearer than the truncation, where no space is known to be free."""
    batch = sampler(pixels(metres), truncation=truncation, near_points=near, free_points=free).draw()
    assert batch.points.shape == (64, near + free, 3) and batch.targets.shape == (64, near + free)
    assert (batch.points.dtype, batch.targets.dtype, batch.colours.dtype) == (torch.float32,) * 3
    distances = along(batch)
    to_wall = metres * (distances[:, :1] / batch.points[:, :1, 2].numpy()) - distances
    np.testing.assert_allclose(batch.targets, np.clip(to_wall / truncation, -1, 1), atol=2e-5)
    np.testing.assert_allclose(batch.points[:, 0, 2], metres, rtol=1e-5)
    assert batch.near == near and (np.abs(to_wall[:, :near]) <= truncation + 1e-5).all()
    assert (distances[:, near:] >= 0).all() and (to_wall[:, near:] >= min(metres, truncation) - 1e-4).all()
    assert (batch.targets[:, 0] == 0).all() and (batch.colours == np.float32(120) / 255).all()


def test_free_points_are_spread_over_the_way_to_the_wall() -> None:
    """One in each of as many parts of equal length."""
    batch = sampler(pixels(), free_points=4, rays=500).draw()
    distances = along(batch)
    share = distances[:, batch.near :] / (distances[:, :1] - SETTINGS.truncation)
    assert ((share >= np.arange(4) / 4 - 1e-5) & (share <= np.arange(1, 5) / 4 + 1e-5)).all()
    assert np.ptp(share, axis=0).min() > 0.2


@pytest.mark.parametrize(("share", "newest"), [(0.0, 0), (0.25, 16), (0.5, 32), (1.0, 64)])
def test_rays_are_of_the_newest_frame_and_of_all_earlier_ones(share: float, newest: int) -> None:
    many = sampler(*[pixels(2.0 + number) for number in range(4)], newest_share=share)
    counts = np.zeros(4, int)
    for _ in range(20):
        depths = np.rint(many.draw().points[:, 0, 2].numpy()).astype(int) - 2
        assert (depths == 3).sum() == newest
        counts += np.bincount(depths, minlength=4)
    assert (counts[:3] > 0).all() == (newest < 64)
    assert len(many) == 4


def test_earlier_rays_are_drawn_pixel_by_pixel() -> None:
    """A frame with a third of the pixels of another gives a third of its rays."""
    few = pixels(3.0)
    few = Pixels(few.rays[::3], few.depths[::3], few.colours[::3])
    many = sampler(pixels(2.0), few, pixels(4.0), newest_share=0.0, rays=4000)
    depths = many.draw().points[:, 0, 2].numpy().round()
    assert (depths == 3).sum() / (depths == 2).sum() == pytest.approx(1 / 3, rel=0.15)
    assert not (depths == 4).any()


def test_points_are_where_the_robot_was() -> None:
    """Each ray begins at the pose of its own frame, which may look anywhere."""
    frames = [moved(np.eye(4), 1.0 + number, 1.0, np.random.default_rng(number)) for number in range(3)]
    found = MapSampler(SETTINGS, np.random.default_rng(0))
    for number, pose in enumerate(frames):
        found.add(pixels(2.0 + number), pose)
    batch = found.draw()
    back = [(batch.points.numpy() - pose[:3, 3]) @ pose[:3, :3] for pose in frames]
    owner = np.array([[np.abs(own[ray, 0, 2] - 2 - n) < 1e-4 for n, own in enumerate(back)] for ray in range(64)])
    assert owner.any(axis=1).all()
    for ray, number in zip(*owner.nonzero(), strict=True):
        own = back[number][ray]
        np.testing.assert_allclose(own[:, :2] * own[:1, 2:], own[:1, :2] * own[:, 2:], atol=1e-4)


def test_a_frame_without_pixels_is_left_out() -> None:
    none = usable_pixels(wall(metres=np.nan), 0, SETTINGS)
    many = sampler(none, pixels(3.0), none)
    assert len(many) == 1
    np.testing.assert_allclose(many.draw().points[:, 0, 2], 3.0, rtol=1e-6)


def test_nothing_is_drawn_before_there_is_a_frame() -> None:
    none = usable_pixels(wall(metres=np.nan), 0, SETTINGS)
    with pytest.raises(LocalProtocolError, match="no frame with usable pixels was added yet"):
        sampler(none).draw()


def test_what_is_drawn_follows_from_the_generator() -> None:
    first, second = (sampler(pixels(2.0), pixels(3.0)) for _ in range(2))
    for _ in range(3):
        one, other = first.draw(), second.draw()
        assert torch.equal(one.points, other.points) and torch.equal(one.targets, other.targets)
    assert not torch.equal(first.draw().points, one.points)


# -- the loss ----------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_of_its_parts(fitted: ImplicitMap) -> None:
    drawn = sampler(pixels(), rays=200).draw()
    batch = MapBatch(drawn.points + torch.tensor([0.9, 0.0, 0.0]), drawn.targets, drawn.colours, drawn.near)
    rays, each = batch.targets.shape
    points = batch.points.reshape(-1, 3)
    inside = fitted.inside(points).reshape(rays, each).numpy()
    assert 0 < inside.mean() < 1
    distances, colours = (value.detach().numpy() for value in fitted(points))
    errors = (distances.reshape(rays, each) - batch.targets.numpy()) ** 2
    grey = ((colours.reshape(rays, each, 3)[:, 0] - batch.colours.numpy()) ** 2).mean(axis=1)
    near, free = np.arange(each) < batch.near, np.arange(each) >= batch.near
    wanted = errors[:, near][inside[:, near]].mean() + errors[:, free][inside[:, free]].mean()
    assert float(map_loss(fitted, batch, 0.0).detach()) == pytest.approx(wanted, rel=1e-4)
    with_colour = wanted + 7.0 * grey[inside[:, 0]].mean()
    assert float(map_loss(fitted, batch, 7.0).detach()) == pytest.approx(with_colour, rel=1e-4)


def test_points_outside_the_map_do_not_count(fitted: ImplicitMap) -> None:
    batch = sampler(pixels()).draw()
    far = MapBatch(batch.points + 100.0, batch.targets, batch.colours, batch.near)
    field = filled(fitted, 0.1)
    loss = map_loss(field, far, 5.0)
    loss.backward()
    assert float(loss.detach()) == 0.0 and not field.grid.grad.any()


def test_a_dark_frame_teaches_no_colour(fitted: ImplicitMap) -> None:
    dark = sampler(pixels(grey=0)).draw()
    assert (dark.colours == -1).all()
    assert torch.equal(map_loss(fitted, dark, 0.0), map_loss(fitted, dark, 1000.0))
    # Beside a lit one it does not make that one's mean smaller.
    lit = sampler(pixels()).draw()
    both = MapBatch(
        torch.cat([lit.points, dark.points]),
        torch.cat([lit.targets, dark.targets]),
        torch.cat([lit.colours, dark.colours]),
        lit.near,
    )
    colour = [float((map_loss(fitted, each, 1.0) - map_loss(fitted, each, 0.0)).detach()) for each in (lit, both)]
    assert colour[0] == pytest.approx(colour[1], rel=1e-3)


def test_rays_without_free_points_have_a_finite_loss(fitted: ImplicitMap) -> None:
    batch = sampler(pixels(), free_points=0, near_points=1).draw()
    assert batch.points.shape == (64, 1, 3)
    assert 0 <= float(map_loss(fitted, batch, 5.0).detach()) < 1


def test_training_shows_the_wall_where_it_is(fitted: ImplicitMap) -> None:
    points = np.array([[0.0, 0.0, z] for z in (1.0, 1.5, 1.9, 2.0, 2.1)])
    found = fitted.sample(points)[:, 0]
    # Between vertices it is interpolated: exact at the wall, and less so within the truncation.
    np.testing.assert_allclose(found, [1.0, 1.0, 0.5, 0.0, -0.5], atol=0.3)
    np.testing.assert_allclose(found[[0, 1, 3]], [1.0, 1.0, 0.0], atol=0.1)
    slope = fitted.sample(points[3:4])[0, 1:4] * SETTINGS.truncation
    assert np.abs(slope[:2]).max() < 0.2 and -2 < slope[2] < -0.5


# -- what a map shows --------------------------------------------------------------------------------------------------


def test_the_map_of_a_wall_is_seen_from_elsewhere(fitted: ImplicitMap) -> None:
    pose = np.eye(4)
    pose[:3, 3] = (0.1, -0.1, 0.4)
    colours, depths = render(fitted, pose, wall().intrinsics, 24, 32, SETTINGS)
    assert colours.shape == (24, 32, 3) and depths.shape == (24, 32)
    assert colours.dtype == depths.dtype == np.float32
    assert np.isfinite(depths).mean() > 0.98
    assert abs(np.nanmedian(depths) - 1.6) < 0.02
    assert np.array_equal(np.isnan(depths), np.isnan(colours).any(axis=2))
    assert abs(np.nanmedian(colours) - 120 / 255) < 0.05


def test_the_depth_of_a_room_is_that_which_was_measured() -> None:
    chosen, view, field = room()
    seen = [(usable_pixels(view.own, place, chosen), view.own.poses[place]) for place in range(len(view.own))]
    found = depth_error(field, seen, chosen, np.random.default_rng(0))
    assert found.hit_share > 0.95 and found.median_m < 0.04 and found.median_m < found.mean_m < 0.3
    assert found == depth_error(field, seen, chosen, np.random.default_rng(0))
    _, depths = render(field, view.own.poses[0], view.own.intrinsics, 48, 64, chosen)
    measured = view.own.depths[0] > 0
    assert np.nanmedian(np.abs(depths - view.own.depths[0])[measured]) < 0.04


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 1e38])
def test_a_map_that_shows_nothing_is_a_metre_off(fitted: ImplicitMap, value: float) -> None:
    field = filled(fitted, value) if value else empty_map(BOX, SETTINGS)
    seen = [(pixels(), np.eye(4))] * 2
    if value != 1e38:
        assert depth_error(field, seen, SETTINGS, np.random.default_rng(0)) == DepthError(MISS_M, MISS_M, 0.0)
    found = depth_error(field, seen, SETTINGS, np.random.default_rng(0))
    assert np.isfinite([found.median_m, found.mean_m, found.hit_share]).all() and found.hit_share <= 1
    colours, depths = render(field, np.eye(4), wall().intrinsics, 24, 32, SETTINGS)
    assert np.isnan(depths).all() == (value != 1e38) or np.isnan(colours).all()


def test_frames_without_pixels_say_nothing_about_depth(fitted: ImplicitMap) -> None:
    none = usable_pixels(wall(metres=np.nan), 0, SETTINGS)
    rng = np.random.default_rng(0)
    assert depth_error(fitted, [(none, np.eye(4))], SETTINGS, rng) == DepthError(MISS_M, MISS_M, 0.0)
    assert depth_error(fitted, [], SETTINGS, rng) == DepthError(MISS_M, MISS_M, 0.0)
    assert depth_error(fitted, [(none, np.eye(4)), (pixels(), np.eye(4))], SETTINGS, rng).hit_share > 0.95


def test_a_camera_in_a_solid_or_before_the_map_is_no_trouble(fitted: ImplicitMap) -> None:
    for z, hits in ((2.1, 0), (-3.0, 1)):
        pose = np.eye(4)
        pose[2, 3] = z
        _, depths = render(fitted, pose, wall().intrinsics, 24, 32, SETTINGS)
        assert np.isfinite(depths[10:14, 14:18]).mean() == hits
        assert hits == 0 or abs(np.nanmedian(depths[10:14, 14:18]) - 5.0) < 0.05
    pose[2, 3] = -9.0  # the wall is farther than the largest depth
    assert np.isnan(render(fitted, pose, wall().intrinsics, 24, 32, SETTINGS)[1]).all()


def test_a_far_wall_is_seen_with_a_small_truncation() -> None:
    """The steps of a ray are as many as it takes, with a voxel of any size."""
    small = CrimpSettings(voxel=0.04, truncation=0.04, rays=512)
    field = fit(empty_map(Bounds((-0.3, -0.3, 1.7), (0.3, 0.3, 2.2)), small), wall(), small, steps=120)
    pose = np.eye(4)
    pose[2, 3] = -7.5
    _, depths = render(field, pose, wall().intrinsics, 24, 32, small)
    assert abs(np.nanmedian(depths[11:13, 15:17]) - 9.5) < 0.02


# -- the decoder -------------------------------------------------------------------------------------------------------


def test_the_decoder_is_small_and_finite() -> None:
    found = decoder.load_decoder()
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "0.weight": (HIDDEN, FEATURES),
        "0.bias": (HIDDEN,),
        "2.weight": (4, HIDDEN),
        "2.bias": (4,),
    }
    assert all(torch.isfinite(value).all() for value in found.values())
    assert decoder._FILE.stat().st_size < 4096


def test_the_decoder_can_be_trained_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps, twice: the same each time, and from there free space is known where nothing was seen."""
    monkeypatch.setattr(decoder, "_FRAMES", 4)
    monkeypatch.setattr(decoder, "_STEPS", 12)
    first, second = decoder.train_decoder(), decoder.train_decoder()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert {name: value.shape for name, value in first.items()} == {
        name: value.shape for name, value in decoder.load_decoder().items()
    }


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [CrimpSettings, RoomSettings, RecordedSettings])
def test_settings_that_do_not_fit_each_other(kind: type[CrimpSettings]) -> None:
    with pytest.raises(ConfigError, match=r"voxel: 0.3 m is larger than the truncation of 0.2 m.*make the one smaller"):
        kind(voxel=0.3, truncation=0.2)
    with pytest.raises(ConfigError, match="min_depth: expected less than max_depth, 2 m, got 2 m"):
        kind(min_depth=2.0, max_depth=2.0)
