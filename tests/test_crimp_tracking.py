"""Finding frames in a map: from near, before a bare wall, after a loss; and what a map is worth to others."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from mapped import empty_map, filled, fit, room, wall
from rowcast.tasks.crimp.field import ImplicitMap
from rowcast.tasks.crimp.measuring import MapTests
from rowcast.tasks.crimp.pixels import Pixels, usable_pixels
from rowcast.tasks.crimp.rooms import Room
from rowcast.tasks.crimp.scene import Bounds
from rowcast.tasks.crimp.se3 import inverse, moved, turned
from rowcast.tasks.crimp.settings import CrimpSettings
from rowcast.tasks.crimp.tracking import Track, Tracker, locate
from rowcast.tasks.crimp.trajectory import pose_error

SETTINGS = CrimpSettings()


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bare() -> ImplicitMap:
    """A map of the wall that reaches beyond what a frame from the origin shows of it."""
    frames = wall(5)
    frames.poses[1:, :2, 3] = (-0.3, -0.3), (-0.3, 0.3), (0.3, -0.3), (0.3, 0.3)
    return fit(empty_map(Bounds((-2.0, -1.7, -0.2), (2.0, 1.7, 2.2)), SETTINGS), frames, SETTINGS)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def off(found: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Metres and degrees."""
    metres, radians = pose_error(found[None], true[None])
    return float(metres[0]), float(np.degrees(radians[0]))


def own(place: int) -> tuple[Pixels, np.ndarray]:
    """A frame of the robot whose map there is, and its true pose."""
    settings, view, _ = room()
    return usable_pixels(view.own, place, settings), view.own.poses[place]


def same(one: Track, other: Track) -> bool:
    return np.array_equal(one.pose, other.pose) and dataclasses.astuple(one)[1:] == dataclasses.astuple(other)[1:]


# -- a single frame ----------------------------------------------------------------------------------------------------


def test_frames_are_found_from_10_cm_and_5_degrees_off() -> None:
    """From nearly all directions; where not, fewer of the points fit, as when it slides along a wall."""
    settings, view, field = room()
    errors = []
    for place in range(len(view.own)):
        pixels, true = own(place)
        for seed in range(10):
            start = moved(true, 0.10, np.radians(5), generator(seed))
            found = locate(field, pixels, start, start, settings, generator())
            metres, degrees = off(found.pose, true)
            assert not found.lost and found.residual_m < 0.06
            assert 1 <= found.iterations <= settings.track_iterations
            assert found.converged or found.iterations == settings.track_iterations
            assert metres < 0.03 or found.share < 0.95
            errors.append((metres, degrees))
    metres, degrees = np.array(errors).T
    assert (metres < 0.03).mean() >= 0.95 and (degrees < 1.0).mean() >= 0.95
    assert np.median(metres) < 0.01 and np.median(degrees) < 0.3


def test_iterations_are_as_many_as_allowed_and_one_where_it_is_there() -> None:
    settings, _, field = room()
    pixels, true = own(1)
    start = moved(true, 0.10, np.radians(5), generator())
    short = locate(field, pixels, start, start, dataclasses.replace(settings, track_iterations=2), generator())
    assert short.iterations == 2 and not short.converged
    there = locate(field, pixels, start, start, dataclasses.replace(settings, track_iterations=50), generator())
    assert there.converged and there.iterations < 50
    again = locate(field, pixels, there.pose, there.pose, settings, generator())
    assert again.iterations <= 3 and off(again.pose, there.pose)[0] < 0.01


def test_the_map_and_the_start_stay_as_they_are_and_the_same_is_found_again() -> None:
    settings, _, field = room()
    pixels, true = own(3)
    start = moved(true, 0.05, 0.05, generator())
    before = field.grid.detach().clone(), start.copy()
    first, again = (locate(field, pixels, start, start, settings, generator(7)) for _ in range(2))
    assert same(first, again)
    assert torch.equal(field.grid, before[0]) and np.array_equal(start, before[1])


def test_colour_finds_what_a_bare_wall_does_not_tell(bare: ImplicitMap) -> None:
    """Along a wall only its texture says where one is: that of the room does, in a frame without colours nothing."""
    settings, _, field = room()
    pixels, true = own(0)
    start = moved(true, 0.10, 0.0, generator(1))
    dark = dataclasses.replace(pixels, colours=np.full_like(pixels.colours, -1))
    lit, unlit = (locate(field, each, start, start, settings, generator()) for each in (pixels, dark))
    assert off(lit.pose, true)[0] < off(unlit.pose, true)[0] and not unlit.lost
    ignored = dataclasses.replace(settings, grey_sigma=10.0)
    blind = locate(field, pixels, start, start, ignored, generator())
    assert off(blind.pose, unlit.pose)[0] < 0.01
    assert same(unlit, locate(field, dark, start, start, ignored, generator()))


def test_before_a_bare_wall_the_prior_keeps_a_robot_where_it_should_be(bare: ImplicitMap) -> None:
    """Distance and tilt are corrected; along the wall next to nothing is known: there it stays near what was expected,
    and nearer the tighter the prior is."""
    pixels = usable_pixels(wall(), 0, SETTINGS)
    expected = turned(np.eye(4), 0.03, right=0.08, forward=-0.05)
    ahead = np.array([0.0, 0.0, 2.0, 1.0])  # the middle of the view, which is where it turns about
    shifts = []
    for prior_m in (0.1, 0.002):
        found = locate(bare, pixels, expected, expected, dataclasses.replace(SETTINGS, prior_m=prior_m), generator())
        assert not found.lost and found.converged and found.share > 0.95
        assert abs(found.pose[2, 3]) < 0.01 and abs(found.pose[0, 2]) < 0.01
        shifts.append(np.abs((found.pose @ ahead - expected @ ahead)[:2]).max())
    assert shifts[1] < shifts[0] < 0.06 and shifts[1] < 0.01


def test_a_robot_that_stands_before_a_bare_wall_does_not_drift(bare: ImplicitMap) -> None:
    tracker = Tracker(bare, np.eye(4), SETTINGS, generator())
    pixels = usable_pixels(wall(), 0, SETTINGS)
    for _ in range(30):
        assert not tracker.track(pixels).lost
    assert off(tracker.poses[-1], np.eye(4))[0] < 0.05


# -- lost --------------------------------------------------------------------------------------------------------------


def test_in_an_empty_map_a_frame_is_lost_where_it_was_expected() -> None:
    settings, _, _ = room()
    pixels, true = own(0)
    expected = moved(true, 0.1, 0.1, generator())
    found = locate(empty_map(Room.bounds, settings), pixels, true, expected, settings, generator())
    assert found.lost and found.share == 0 and found.residual_m == 0
    assert np.array_equal(found.pose, expected)


def test_a_frame_from_outside_the_map_is_lost(bare: ImplicitMap) -> None:
    pose = np.eye(4)
    pose[:3, 3] = 50.0
    found = locate(bare, usable_pixels(wall(), 0, SETTINGS), pose, pose, SETTINGS, generator())
    assert found.lost and found.share == 0 and np.array_equal(found.pose, pose)


def test_a_frame_without_pixels_is_lost(bare: ImplicitMap) -> None:
    none = usable_pixels(wall(metres=np.inf), 0, SETTINGS)
    expected = moved(np.eye(4), 1.0, 1.0, generator())
    found = locate(bare, none, np.eye(4), expected, SETTINGS, generator())
    assert found.lost and np.array_equal(found.pose, expected) and found.iterations == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38])
@pytest.mark.parametrize("lost_share", [0.35, 0.001])
def test_a_diverged_map_never_gives_a_pose_that_is_not_finite(value: float, lost_share: float) -> None:
    settings, view, field = room()
    settings = dataclasses.replace(settings, lost_share=lost_share)
    broken = filled(field, value)
    tracker = Tracker(broken, view.own.poses[0], settings, generator())
    for place in range(1, 4):
        found = tracker.track(usable_pixels(view.own, place, settings))
        assert np.isfinite([*found.pose.flat, found.share, found.residual_m]).all()
        assert found.lost
    assert off(tracker.poses[-1], view.own.poses[0])[0] < 1e-6


def test_a_map_of_which_a_part_has_diverged_still_finds_a_frame() -> None:
    """One row that is not a number would else stop whoever sees it."""
    settings, _, field = room()
    pixels, true = own(0)
    (touched,) = torch.autograd.grad(
        field(torch.tensor(pixels.rays * pixels.depths[:, None] @ true[:3, :3].T + true[:3, 3]).float())[0].sum(),
        field.grid,
    )
    rows = touched.abs().sum(dim=1).argsort(descending=True)[:3]
    broken = filled(field, 0.0)
    with torch.no_grad():
        broken.grid.copy_(field.grid)
        broken.grid[rows] = torch.nan
    start = moved(true, 0.06, np.radians(3), generator())
    whole, found = (locate(each, pixels, start, start, settings, generator()) for each in (field, broken))
    assert found.share < whole.share and not found.lost
    assert off(found.pose, true)[0] < 0.04


# -- frame by frame ----------------------------------------------------------------------------------------------------


def test_constant_velocity_is_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a map that says nothing but 'found', each motion is that of the frame before."""
    settings, _, field = room()
    asked: list[np.ndarray] = []
    steps = [turned(np.eye(4), 0.05, 0.01, 0.05), turned(np.eye(4), -0.02, 0.0, 0.03)]

    def found_at(*arguments: object) -> Track:
        start, expected = arguments[2], arguments[3]
        assert isinstance(start, np.ndarray) and start is expected
        asked.append(start)
        return Track(tracker.poses[-1] @ steps[min(len(asked) - 1, 1)], 1.0, 0.0, True, 1, False)

    monkeypatch.setattr("rowcast.tasks.crimp.tracking.locate", found_at)
    first = moved(np.eye(4), 1.0, 1.0, generator())
    tracker = Tracker(field, first, settings, generator())
    for _ in range(3):
        tracker.track(own(0)[0])
    wanted = [first, first @ steps[0] @ steps[0], first @ steps[0] @ steps[1] @ steps[1]]
    np.testing.assert_allclose(asked, wanted, atol=1e-12)
    assert len(tracker.poses) == 4 and tracker.lost_frames == 0


def test_a_walk_is_followed_and_the_same_again() -> None:
    settings, view, field = room()
    walks = []
    for _ in range(2):
        tracker = Tracker(field, view.own.poses[0], settings, generator())
        for place in range(1, len(view.own)):
            assert not tracker.track(usable_pixels(view.own, place, settings)).lost
        walks.append(np.stack(tracker.poses))
    assert np.array_equal(*walks)
    metres, _ = pose_error(walks[0], view.own.poses)
    assert metres.max() < 0.06 and metres[0] == 0


def test_rotations_stay_orthonormal_over_200_frames() -> None:
    """To and fro along the walk; the first pose has lost some of its digits."""
    settings, view, field = room()
    few = dataclasses.replace(settings, track_pixels=100, track_iterations=3)
    tracker = Tracker(field, view.own.poses[0].round(4), few, generator())
    pixels = [usable_pixels(view.own, place, few) for place in range(len(view.own))]
    places = [*range(len(pixels)), *range(len(pixels) - 2, 0, -1)]
    for number in range(1, 200):
        tracker.track(pixels[places[number % len(places)]])
    assert len(tracker.poses) == 200
    rotations = np.stack(tracker.poses)[:, :3, :3]
    assert np.abs(rotations.transpose(0, 2, 1) @ rotations - np.eye(3)).max() < 1e-12
    assert np.allclose(np.linalg.det(rotations), 1)
    assert np.array_equal(np.stack(tracker.poses)[:, 3], np.tile([0.0, 0.0, 0.0, 1.0], (200, 1)))


def test_a_robot_that_was_carried_on_while_it_was_lost_is_found_again() -> None:
    """Some frames show nothing; then it is 15 cm and some degrees away from where it was seen last."""
    settings, _, field = room()
    settings = dataclasses.replace(settings, lost_share=0.95)
    pixels, true = own(0)
    none = usable_pixels(wall(metres=np.nan), 0, settings)
    for right, forward in ((0.15, 0.0), (-0.15, 0.0), (0.0, 0.15), (0.0, -0.15)):
        tracker = Tracker(field, turned(true, 0.15, right, forward), settings, generator())
        for count in (1, 2):
            assert tracker.track(none).lost and tracker.lost_frames == count
        assert np.array_equal(tracker.poses[-1], tracker.poses[0])
        found = tracker.track(pixels)
        assert not found.lost and tracker.lost_frames == 0
        assert off(found.pose, true)[0] < 0.04


def test_the_search_finds_what_a_single_try_does_not() -> None:
    """Turned by 0.5 rad; the search looks to both sides as well."""
    settings, _, field = room()
    pixels, true = own(2)
    strict = dataclasses.replace(settings, lost_share=0.95)
    gained = 0
    for angle in (-0.5, 0.5, -0.6, 0.6):
        start = turned(true, angle, 0.0, 0.0)
        single = locate(field, pixels, start, start, strict, generator())
        found = Tracker(field, start, strict, generator()).track(pixels)
        assert found.lost or off(found.pose, true)[0] < 0.05
        gained += single.lost and not found.lost
    assert gained


def test_after_a_loss_no_velocity_is_known() -> None:
    settings, view, field = room()
    tracker = Tracker(field, view.own.poses[0], settings, generator())
    for place in (1, 2):
        tracker.track(usable_pixels(view.own, place, settings))
    last, before = tracker.poses[-1], tracker.poses[-2]
    none = usable_pixels(wall(metres=np.nan), 0, settings)
    first, second = tracker.track(none), tracker.track(none)
    np.testing.assert_allclose(first.pose, last @ inverse(before) @ last, atol=1e-9)
    assert np.array_equal(second.pose, last)


# -- what a map is worth -----------------------------------------------------------------------------------------------

RANGES = {
    "localisation_error": 1.0,
    "localised_share": 100.0,
    "visit_ate": 1.0,
    "visit_share": 100.0,
    "depth_l1": 1.0,
    "hit_share": 100.0,
}


@pytest.mark.parametrize("value", [None, 0.0, np.nan, 1e38])
def test_measures_are_numbers_in_their_ranges_whatever_the_map_is(value: float | None) -> None:
    settings, view, field = room()
    shown = field if value is None else filled(field, value) if value else empty_map(Room.bounds, settings)
    tests = MapTests(view, settings, (1, 2, 3))
    before = shown.grid.detach().clone()
    tests.warm_up(shown)
    found = tests.measure(shown)
    assert found.keys() == RANGES.keys()
    assert all(0 <= found[name] <= most for name, most in RANGES.items())
    assert found == tests.measure(shown) == MapTests(view, settings, (1, 2, 3)).measure(shown)
    assert torch.equal(torch.nan_to_num(shown.grid), torch.nan_to_num(before))
    if value in (0.0, np.nan):
        assert (found["localisation_error"], found["localised_share"]) == (1.0, 0.0)
        assert (found["depth_l1"], found["hit_share"]) == (1.0, 0.0)


def test_a_map_of_what_is_visited_is_told_from_one_of_something_else() -> None:
    """Tests of its own frames: nearly all are found; the walk of six frames in the hall as well."""
    settings, view, field = room()
    known = dataclasses.replace(view, tests=view.own, visit=view.own)
    found = MapTests(known, dataclasses.replace(settings, tests=36), (0,)).measure(field)
    assert found["localisation_error"] < 0.03 and found["localised_share"] >= 90
    assert found["visit_ate"] < 0.05 and found["visit_share"] == 100
    assert found["depth_l1"] < 0.04 and found["hit_share"] > 95
    elsewhere = MapTests(view, settings, (0,)).localise(field)
    assert elsewhere["localised_share"] <= 25 and elsewhere["localisation_error"] > 0.1


def test_an_error_counts_a_metre_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is found far away weighs no more than one that is lost."""
    settings, view, field = room()
    far = moved(np.eye(4), 30.0, 0.0, generator())
    for lost in (False, True):
        track = Track(far, 1.0, 0.0, True, 1, lost)
        monkeypatch.setattr("rowcast.tasks.crimp.measuring.locate", lambda *_, found=track: found)
        found = MapTests(view, settings, (0,)).localise(field)
        assert found == {"localisation_error": 1.0, "localised_share": 0.0}
    monkeypatch.setattr(Tracker, "track", lambda self, _: self.poses.append(far))
    walked = MapTests(view, settings, (0,)).walk(field)
    assert walked == pytest.approx({"visit_ate": np.sqrt(5 / 6), "visit_share": 100 / 6})


def test_more_tests_than_frames_begin_again() -> None:
    """From another start each: with one frame they are tests of that one."""
    settings, view, field = room()
    one = dataclasses.replace(view, tests=view.own.take([0]))
    found = MapTests(one, dataclasses.replace(settings, tests=5), (0,)).localise(field)
    assert found["localised_share"] in (0.0, 20.0, 40.0, 60.0, 80.0, 100.0) and found["localisation_error"] < 0.1
