"""The rooms of ``crimp-room``: what a camera sees there, checked by geometry; the ways; what follows from the seed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcast.errors import ConfigError
from rowcast.tasks.crimp.frames import Intrinsics
from rowcast.tasks.crimp.raycast import cast
from rowcast.tasks.crimp.rooms import Room, free_poses, room_view, team_path, visit_path
from rowcast.tasks.crimp.settings import RoomSettings
from rowcast.tasks.crimp.walks import INNER_WALLS, PLACE, camera_poses

Array = npt.NDArray[np.float64]
SEEDS = st.integers(0, 2**32 - 1)
CAMERA = Intrinsics(40.0, 40.0, 31.5, 23.5)
HEIGHT, WIDTH = 48, 64


def looking(place: tuple[float, float, float], yaw: float, pitch: float = 0.0) -> Array:
    return camera_poses(np.array([place]), np.array([yaw]), np.array([pitch]))[0]


def points(pose: Array, depth: npt.NDArray[np.float32]) -> Array:
    """What the pixels show, in the world: [height, width, 3]."""
    rays = CAMERA.rays(*depth.shape).astype(np.float64)
    return (rays * depth[..., None]) @ pose[:3, :3].T + pose[:3, 3]


# ---- what a camera sees -----------------------------------------------------------------------------------------


def box_scene(*boxes: tuple[float, ...]) -> tuple[Array, tuple[Array, Array]]:
    """A shell of 10 m around the origin with boxes; each face has a colour of its own and no waves."""
    all_boxes = np.array([(-5.0, -5.0, -5.0, 5.0, 5.0, 5.0), *boxes])
    faces = np.arange(6 * len(all_boxes), dtype=np.float64)
    return all_boxes, (np.column_stack([faces, faces, faces]), np.zeros((len(faces), 1, 7)))


def seen(pose: Array, *boxes: tuple[float, ...]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Faces and depths, [48, 64] each."""
    scene, texture = box_scene(*boxes)
    colours, depths = cast(pose, (40.0, 40.0, 31.5, 23.5), (HEIGHT, WIDTH), scene, texture)
    return colours[..., 0], depths


@pytest.mark.parametrize(
    ("yaw", "face"), [(0.0, 1), (np.pi / 2, 3), (np.pi, 0), (-np.pi / 2, 2)], ids=["x", "y", "-x", "-y"]
)
def test_a_wall_straight_ahead_has_one_depth(yaw: float, face: int) -> None:
    faces, depths = seen(looking((0.0, 0.0, 0.0), yaw))
    assert np.all(faces == face)
    assert depths == pytest.approx(np.full((HEIGHT, WIDTH), 5.0))


def test_right_is_right_and_down_is_down() -> None:
    """A box to the right of the view, and one below it."""
    pose = looking((0.0, 0.0, 0.0), 0.0)  # ahead +x: right is -y, down is -z
    right, _ = seen(pose, (2.0, -1.4, -0.1, 3.0, -1.0, 0.1))
    below, _ = seen(pose, (2.0, -0.1, -1.0, 3.0, 0.1, -0.6))
    rows, columns = np.nonzero(right >= 6)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (22, 25, 45, 59)
    rows, columns = np.nonzero(below >= 6)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (32, 43, 30, 33)


def test_the_image_of_a_box_by_hand() -> None:
    """A box whose front is 2 m ahead and 1 m wide: 20 pixels wide at 40 pixels focal length, at depth 2 m."""
    faces, depths = seen(looking((0.0, 0.0, 0.0), 0.0), (2.0, -0.5, -0.5, 3.0, 0.5, 0.5))
    front = faces == 6  # low x of the first box
    rows, columns = np.nonzero(front)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (14, 33, 22, 41)
    assert front.sum() == 400
    assert depths[front] == pytest.approx(np.full(400, 2.0))
    assert depths[~front] == pytest.approx(np.full(HEIGHT * WIDTH - 400, 5.0))


def test_what_is_nearer_hides_what_is_behind_it() -> None:
    far, near = (3.0, -2.0, -2.0, 4.0, 2.0, 2.0), (1.0, -3.0, -3.0, 1.5, 3.0, 3.0)
    behind = (-4.0, -2.0, -2.0, -3.0, 2.0, 2.0)
    for boxes in ((far, near, behind), (behind, near, far)):
        faces, depths = seen(looking((0.0, 0.0, 0.0), 0.0), *boxes)
        assert depths == pytest.approx(np.full((HEIGHT, WIDTH), 1.0))
        assert np.all(faces == 12)  # low x of the second


def test_every_face_of_a_box() -> None:
    box = (-0.5, -0.5, -0.5, 0.5, 0.5, 0.5)
    for place, yaw, pitch, face in [
        ((-2, 0, 0), 0.0, 0.0, 0), ((2, 0, 0), np.pi, 0.0, 1), ((0, -2, 0), np.pi / 2, 0.0, 2),
        ((0, 2, 0), -np.pi / 2, 0.0, 3), ((0, 0, -2), 0.0, np.pi / 2, 4), ((0, 0, 2), 0.0, -np.pi / 2, 5),
    ]:  # fmt: skip
        faces, depths = seen(looking(place, yaw, pitch), box)
        assert faces[24, 32] == 6 + face
        assert depths[24, 32] == pytest.approx(1.5)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_every_pixel_is_on_a_surface_and_nothing_is_before_it(seed: int) -> None:
    room = Room(seed)
    for pose in free_poses(room, 2, np.random.default_rng(seed)):
        colour, depth = room.look(pose, CAMERA, HEIGHT, WIDTH)
        assert (colour.dtype, colour.shape) == (np.float32, (HEIGHT, WIDTH, 3))
        assert (depth.dtype, depth.shape) == (np.float32, (HEIGHT, WIDTH))
        assert colour.min() >= 0.0 and colour.max() <= 1.0
        assert depth.min() > 0.2
        surface = points(pose, depth)[::5, ::5].reshape(-1, 3)
        assert np.abs(room.clearance(surface)).max() < 1e-5
        for share in (0.3, 0.6, 0.9, 0.98):
            assert room.clearance(pose[:3, 3] + share * (surface - pose[:3, 3])).min() > 0.0


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=SEEDS, frame=st.integers(0, 68))
def test_a_frame_agrees_with_the_next_one(seed: int, frame: int) -> None:
    """Points of one frame, moved into the next: where they are seen there, depth and colour are the same."""
    room = Room(seed)
    first, second = team_path(seed % 4, 4, 70)[frame : frame + 2]
    (colour, depth), (other_colour, other_depth) = (room.look(pose, CAMERA, HEIGHT, WIDTH) for pose in (first, second))
    local = (points(first, depth).reshape(-1, 3) - second[:3, 3]) @ second[:3, :3]
    u, v = CAMERA.fx * local[:, 0] / local[:, 2] + CAMERA.cx, CAMERA.fy * local[:, 1] / local[:, 2] + CAMERA.cy
    inside = (u >= 0) & (v >= 0) & (u <= WIDTH - 1) & (v <= HEIGHT - 1)
    column, row = np.rint(u[inside]).astype(int), np.rint(v[inside]).astype(int)
    apart = np.abs(other_depth[row, column] - local[inside, 2])
    hue = np.abs(other_colour[row, column] - colour.reshape(-1, 3)[inside]).max(axis=1)
    assert inside.mean() > 0.8
    # Half a pixel of another ray on slanted surfaces; edges of furniture are seen from another side.
    assert np.median(apart) < 0.03 and np.mean(apart < 0.15) > 0.9
    assert np.median(hue) < 0.05


def test_a_surface_has_one_colour_from_wherever_it_is_seen() -> None:
    """Colours belong to places: a pixel looked at from elsewhere along its own ray is the same."""
    room = Room(5)
    pose = team_path(1, 4, 30)[29]
    colour, depth = room.look(pose, CAMERA, HEIGHT, WIDTH)
    nearer = pose.copy()
    axis = Intrinsics(40.0, 40.0, 32.0, 24.0)  # pixel (24, 32) looks straight ahead
    colour, depth = room.look(pose, axis, HEIGHT, WIDTH)
    nearer[:3, 3] += 0.4 * depth[24, 32] * pose[:3, 2]
    again, shorter = room.look(nearer, axis, HEIGHT, WIDTH)
    assert again[24, 32] == pytest.approx(colour[24, 32], abs=1e-5)
    assert shorter[24, 32] == pytest.approx(0.6 * depth[24, 32], abs=1e-5)


def test_textures_tell_places_apart_and_are_smooth() -> None:
    """Grey values vary over an image by more than the noise, and from pixel to pixel by little."""
    spreads, steps = [], []
    for seed in range(4):
        for robot in range(4):
            colour, _ = Room(seed).look(team_path(robot, 4, 60)[59], CAMERA, HEIGHT, WIDTH)
            grey = colour.mean(axis=2)
            spreads.append(grey.std())
            steps.append(np.median(np.abs(np.diff(grey, axis=1))))
    assert min(spreads) > 0.05
    assert max(steps) < 0.04


def test_another_size_of_image_shows_the_same() -> None:
    room, pose = Room(2), team_path(2, 4, 10)[9]
    _, small = room.look(pose, Intrinsics(20.0, 20.0, 15.5, 11.5), 24, 32)
    _, large = room.look(pose, Intrinsics(60.0, 60.0, 47.5, 35.5), 72, 96)
    # The middle of each small pixel is the middle of the middle one of nine.
    assert np.allclose(large[1::3, 1::3], small, atol=1e-5)


def test_clearance_by_hand() -> None:
    room = Room(0)
    inner = INNER_WALLS[0]
    places = np.array(
        [
            [4.5, 4.0, 1.3],  # the middle of the hall: the ends of the walls are farther away than floor and ceiling
            [4.5, 2.6 + 0.4, 1.3],  # before the end of a wall
            [inner[0] + 0.05, 1.0, 1.3],  # 5 cm within a wall
            [4.5, 4.0, 2.5],  # below the ceiling
            [4.5, 4.0, -0.5],  # below the floor
        ]
    )
    assert room.clearance(places) == pytest.approx([1.3, 0.4, -0.05, 0.1, -0.5])


# ---- the place --------------------------------------------------------------------------------------------------


def test_obstacles_are_the_plan_of_walls_and_furniture() -> None:
    room = Room(0)
    assert room.obstacles.dtype == np.float64
    assert np.array_equal(room.obstacles[:4], INNER_WALLS)
    assert len(room.obstacles) > 30
    assert np.all(room.obstacles[:, :2] < room.obstacles[:, 2:])
    high = PLACE.high
    assert room.obstacles.min() >= 0.0 and np.all(room.obstacles[:, 2:] <= np.array(high[:2]) + 1e-9)
    assert room.bounds == PLACE
    heights = room.boxes[1:, [2, 5]]
    assert np.all(heights[:, 0] < heights[:, 1]) and heights.min() >= 0.0 and heights.max() <= high[2]
    # Every room has some.
    middles = room.obstacles[4:, :2] / 2 + room.obstacles[4:, 2:] / 2
    quarters = 2 * (middles[:, 1] > 4.0) + (middles[:, 0] > 4.5)
    assert np.bincount(quarters, minlength=4).min() >= 10


def test_a_place_follows_from_its_seed() -> None:
    pose = team_path(0, 4, 1)[0]
    first, again, other = (Room(seed).look(pose, CAMERA, HEIGHT, WIDTH) for seed in (3, 3, 4))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert np.mean(first[1] != other[1]) > 0.05
    assert np.mean(np.abs(first[0] - other[0])) > 0.05
    assert Room(3).bounds == Room(4).bounds
    assert not np.array_equal(Room(3).obstacles, Room(4).obstacles)


# ---- what a robot gets ------------------------------------------------------------------------------------------


def small(**changes: float) -> RoomSettings:
    return RoomSettings(**{"frames": 6, "visit_frames": 4, "tests": 5, "seed": 1, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def exact() -> Iterator[RoomSettings]:
    yield small(depth_noise=0.0, colour_noise=0.0, invalid_share=0.0)


def test_without_noise_frames_are_what_the_camera_sees(exact: RoomSettings) -> None:
    view, room = room_view(exact, 1, 4), Room(1)
    assert np.array_equal(view.own.poses, team_path(1, 4, 6))
    assert np.array_equal(view.visit.poses, visit_path(1, 4, 4))
    assert [len(frames) for frames in (view.own, view.visit, view.tests)] == [6, 4, 5]
    assert np.array_equal(view.obstacles, room.obstacles)
    for frames in (view.own, view.visit, view.tests):
        assert frames.intrinsics == CAMERA
        for i, pose in enumerate(frames.poses):
            colour, depth = room.look(pose, CAMERA, HEIGHT, WIDTH)
            assert np.array_equal(frames.depths[i], depth)
            assert np.abs(frames.colours[i] / 255.0 - colour).max() <= 0.5 / 255.0 + 1e-6


def test_what_frames_say_of_themselves() -> None:
    view = room_view(small(frame_every_s=2.5), 2, 3)
    assert view.own.colours.dtype == np.uint8 and view.own.depths.dtype == np.float32
    assert view.own.times_s.tolist() == [0.0, 2.5, 5.0, 7.5, 10.0, 12.5]
    assert view.own.labels[-1] == "robot 2, frame 5"
    assert view.visit.labels[0] == "robot 2, visit, frame 0"
    assert view.tests.labels[4] == "robot 2, test, frame 4"


def test_the_noise_of_the_camera() -> None:
    noisy = small(frames=30, depth_noise=0.01, colour_noise=0.05, invalid_share=0.1)
    frames, room = room_view(noisy, 0, 4).own, Room(1)
    exact_views = [room.look(pose, CAMERA, HEIGHT, WIDTH) for pose in frames.poses]
    colour, depth = (np.stack(parts) for parts in zip(*exact_views, strict=True))
    valid = frames.depths > 0.0
    assert 1.0 - valid.mean() == pytest.approx(0.1, abs=0.005)
    scaled = (frames.depths - depth)[valid] / depth[valid] ** 2
    assert scaled.std() == pytest.approx(0.01, rel=0.02) and abs(scaled.mean()) < 2e-4
    for low, high in ((1.0, 2.0), (3.0, 4.0)):  # it grows with the square of the depth
        part = valid & (depth > low) & (depth < high)
        assert ((frames.depths - depth)[part] / depth[part] ** 2).std() == pytest.approx(0.01, rel=0.05)
    middle = (colour > 0.2) & (colour < 0.8)
    assert (frames.colours / 255.0 - colour)[middle].std() == pytest.approx(0.05, rel=0.02)


def test_views_follow_from_the_seed_and_differ_by_robot() -> None:
    first, again, other = room_view(small(), 0, 4), room_view(small(), 0, 4), room_view(small(seed=2), 0, 4)
    for name in ("own", "visit", "tests"):
        one, two, three = (getattr(view, name) for view in (first, again, other))
        assert np.array_equal(one.colours, two.colours) and np.array_equal(one.depths, two.depths)
        assert np.array_equal(one.poses, two.poses)
        assert not np.array_equal(one.colours, three.colours)
    assert not np.array_equal(first.tests.poses, room_view(small(), 1, 4).tests.poses)
    noise = [frames.depths == 0.0 for frames in (first.own, first.visit, room_view(small(), 1, 4).own)]
    assert not np.array_equal(noise[0][:4], noise[1]) and not np.array_equal(noise[0], noise[2])


def test_more_frames_change_none_of_those_before() -> None:
    few, many = room_view(small(), 3, 4), room_view(small(frames=9, visit_frames=7), 3, 4)
    assert np.array_equal(few.own.colours, many.own.colours[:6])
    assert np.array_equal(few.own.depths, many.own.depths[:6])
    assert np.array_equal(few.visit.depths, many.visit.depths[:4])


def test_nothing_but_noise_depends_on_the_size_of_the_team() -> None:
    assert np.array_equal(room_view(small(), 0, 2).own.depths, room_view(small(), 0, 4).own.depths)


def test_no_view_for_a_robot_too_many() -> None:
    with pytest.raises(ConfigError, match="expected 1 to 8 robots"):
        room_view(small(), 0, 9)


def test_others_have_seen_what_is_tested_and_oneself_has_not() -> None:
    """Tests and visits show what the team has seen, but for gaps; a robot itself has seen none of it in the end."""

    def cells(frames: object, which: range) -> npt.NDArray[np.int64]:
        poses, depths = frames.poses, frames.depths  # type: ignore[attr-defined]
        where = [points(poses[i], depths[i])[depths[i] > 0.0] for i in which]
        return ((np.concatenate(where) + 1.0) / 0.2).astype(np.int64) @ np.array([1, 1000, 1_000_000])

    chosen = RoomSettings(seed=6, tests=20, depth_noise=0.0)
    views = [room_view(chosen, robot, 4) for robot in range(4)]
    mapped = [cells(view.own, range(0, 70, 2)) for view in views]
    team = np.concatenate(mapped)
    for view, mine in zip(views, mapped, strict=True):
        for found, least in ((cells(view.tests, range(20)), 0.95), (cells(view.visit, range(60)), 0.85)):
            assert np.isin(found, team).mean() > least
        for found in (cells(view.tests, range(20)), cells(view.visit, range(45, 60))):
            assert np.isin(found, mine).mean() < 0.1
