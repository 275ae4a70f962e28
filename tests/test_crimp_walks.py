"""The ways of the robots in ``crimp-room``: free of walls and furniture, slow enough, into the right rooms."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcast.errors import ConfigError
from rowcast.tasks.crimp.rooms import Room, free_poses, team_path, visit_path
from rowcast.tasks.crimp.rooms import test_poses as poses_of_tests
from rowcast.tasks.crimp.trajectory import pose_error
from rowcast.tasks.crimp.walks import PLACE

Array = npt.NDArray[np.float64]
SEEDS = st.integers(0, 2**32 - 1)
EVERY = [(robot, workers) for workers in range(1, 9) for robot in range(workers)]


def motions(poses: Array) -> tuple[float, float]:
    """The longest way and the largest turn between two frames, metres and degrees."""
    metres, radians = pose_error(poses[1:], poses[:-1])
    return float(metres.max()), float(np.degrees(radians.max()))


def distance(room: Room, places: Array) -> Array:
    """The least distance of places to anything solid, found box by box."""
    least = np.full(len(places), np.inf)
    for low, high in zip(room.boxes[1:, :3], room.boxes[1:, 3:], strict=True):
        nearest = np.clip(places, low, high)
        least = np.minimum(least, np.linalg.norm(places - nearest, axis=1))
    low, high = np.array(PLACE.low), np.array(PLACE.high)
    return np.minimum(least, np.minimum(places - low, high - places).min(axis=1))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_nothing_stands_in_the_way_of_any_robot(seed: int) -> None:
    room = Room(seed)
    ways = [team_path(robot, 8, 150) for robot in range(8)] + [visit_path(*who, 80) for who in EVERY]
    assert distance(room, np.concatenate(ways)[:, :3, 3]).min() >= 0.2
    rng = np.random.default_rng(seed)
    tests = np.concatenate([poses_of_tests(*who, 20, rng) for who in EVERY])
    assert distance(room, tests[:, :3, 3]).min() >= 0.2


@pytest.mark.parametrize("frames", [2, 10, 70, 400])
def test_no_robot_moves_or_turns_too_fast(frames: int) -> None:
    for robot in range(8):
        metres, degrees = motions(team_path(robot, 8, frames))
        assert metres <= 0.055 and degrees <= 3.0
    for robot, workers in EVERY:
        metres, degrees = motions(visit_path(robot, workers, frames))
        assert metres <= 0.06 and degrees <= 4.0


@pytest.mark.parametrize("path", [team_path, visit_path])
def test_fewer_frames_are_the_beginning_of_more(path: object) -> None:
    assert callable(path)
    for robot in range(8):
        long = path(robot, 8, 120)
        assert long.shape == (120, 4, 4) and long.dtype == np.float64
        assert np.array_equal(path(robot, 8, 30), long[:30])


def test_poses_are_rigid_and_upright() -> None:
    every = [team_path(5, 8, 50), visit_path(2, 3, 50), poses_of_tests(1, 4, 50, np.random.default_rng(0))]
    poses = np.concatenate([*every, free_poses(Room(0), 50, np.random.default_rng(0))])
    turned = poses[:, :3, :3]
    assert np.allclose(turned @ np.swapaxes(turned, 1, 2), np.eye(3), atol=1e-12)
    assert np.linalg.det(turned) == pytest.approx(np.ones(len(poses)))
    assert np.array_equal(poses[:, 3], np.tile([0.0, 0.0, 0.0, 1.0], (len(poses), 1)))
    assert np.all(turned[:, 2, 0] == 0.0) and np.all(turned[:, 2, 1] < 0.0)  # right is level, down is down


def quarter(places: Array) -> npt.NDArray[np.int64]:
    """In which room places [n, 2] lie: counter-clockwise from the one at the origin."""
    east, north = places[:, 0] > 4.5, places[:, 1] > 4.0
    return np.where(north, np.where(east, 2, 3), np.where(east, 1, 0))


def test_each_robot_walks_a_loop_in_its_own_room() -> None:
    for robot in range(8):
        path = team_path(robot, 8, 120)
        places = path[:, :2, 3]
        assert np.all(quarter(places) == robot % 4)
        away = np.linalg.norm(places - places[0], axis=1)
        assert away.max() > 1.8  # into the room
        assert away[90:].min() < 0.3  # and back
        assert 1.0 <= path[0, 2, 3] <= 1.5 and np.ptp(path[:, 2, 3]) == 0.0
        # At first it looks into its room, later to both sides.
        ahead = path[:, :2, 2] / np.linalg.norm(path[:, :2, 2], axis=1)[:, None]
        inwards = places[away.argmax()] - places[0]
        inwards /= np.linalg.norm(inwards)
        assert ahead[0] @ inwards > 0.9
        aside = ahead[:, 1] * inwards[0] - ahead[:, 0] * inwards[1]
        assert aside.max() > 0.6 and aside.min() < -0.6


def test_robots_that_share_a_room_walk_apart() -> None:
    for robot in range(4):
        first, second = team_path(robot, 8, 70), team_path(robot + 4, 8, 70)
        assert np.linalg.norm(first[0, :3, 3] - second[0, :3, 3]) > 0.25
        # The other way round: the ways lie to different sides of the line into the room.
        line = first[40, :2, 3] - first[0, :2, 3]
        aside = [path[20, :2, 3] - path[0, :2, 3] for path in (first, second)]
        sides = [line[0] * away[1] - line[1] * away[0] for away in aside]
        assert sides[0] * sides[1] < 0.0


@pytest.mark.parametrize(("robot", "workers"), EVERY, ids=[f"{robot}of{workers}" for robot, workers in EVERY])
def test_a_visit_leads_into_the_next_room(robot: int, workers: int) -> None:
    path = visit_path(robot, workers, 60)
    assert np.allclose(path[0], team_path(robot, workers, 1)[0], atol=1e-12)
    target = (robot + 1) % workers if workers <= 4 else (robot % 4 + 1) % 4
    target = target if workers > 1 else 1
    assert quarter(path[-10:, :2, 3]).tolist() == [target] * 10
    assert target % 4 != robot % 4
    # At the end it looks away from the hall, into the room.
    assert path[-1, :2, 2] @ (path[-1, :2, 3] - [4.5, 4.0]) > 0.0


def test_tests_are_in_the_rooms_of_all_others_and_of_no_way() -> None:
    for robot, workers in EVERY:
        poses = poses_of_tests(robot, workers, 60, np.random.default_rng(3))
        rooms = {room for room in range(min(workers, 4)) if room != robot % 4} or {1}
        assert set(quarter(poses[:, :2, 3]).tolist()) <= rooms | {quarter(poses[:1, :2, 3])[0]}
        counts = np.bincount(quarter(poses[:, :2, 3]), minlength=4)
        assert all(counts[room] >= 60 // len(rooms) // 2 for room in rooms)
        owners = [other for other in range(workers) if other % 4 != robot % 4] or [1]
        ways = np.concatenate([team_path(other, max(workers, 2), 70) for other in owners])
        apart = np.linalg.norm(poses[:, None, :3, 3] - ways[None, :, :3, 3], axis=2)
        assert apart.min() > 0.0 and apart.min(axis=1).max() < 0.3
        nearest = ways[apart.argmin(axis=1)]
        assert np.degrees(pose_error(poses, nearest)[1]).max() < 45.0
        assert np.degrees(pose_error(poses, nearest)[1]).mean() > 5.0


def test_tests_are_near_what_is_mapped_by_then() -> None:
    early = poses_of_tests(0, 4, 90, np.random.default_rng(0), frames=5)
    starts = np.stack([team_path(robot, 4, 1)[0] for robot in (1, 2, 3)])
    assert np.linalg.norm(early[:, None, :3, 3] - starts[None, :, :3, 3], axis=2).min(axis=1).max() < 0.6


@pytest.mark.parametrize("call", [lambda w: team_path(0, w, 2), lambda w: visit_path(0, w, 2)], ids=["team", "visit"])
def test_more_robots_than_ways(call: object) -> None:
    assert callable(call)
    for workers in (0, 9, 100):
        with pytest.raises(ConfigError, match=f"expected 1 to 8 robots, .* got {workers}; take fewer robots"):
            call(workers)


def test_a_robot_that_the_team_does_not_have() -> None:
    for call in (team_path, visit_path):
        with pytest.raises(ConfigError, match=r"worker index: expected 0\.\.3, got 4"):
            call(4, 4, 2)
    with pytest.raises(ConfigError, match=r"worker index: expected 0\.\.1, got -1"):
        poses_of_tests(-1, 2, 3, np.random.default_rng(0))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=SEEDS, count=st.integers(0, 30))
def test_free_poses_are_free(seed: int, count: int) -> None:
    room = Room(seed)
    poses = free_poses(room, count, np.random.default_rng(seed))
    assert poses.shape == (count, 4, 4)
    assert distance(room, poses[:, :3, 3]).min(initial=1.0) >= 0.3
