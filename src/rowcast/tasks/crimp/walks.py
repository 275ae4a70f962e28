"""The plan of the place with four rooms around a hall, and the ways of the robots in it: the same for every seed.

The rooms lie in the quarters of a rectangle, number 0 to 3 counter-clockwise from the one at the origin, and are parted
by a cross of walls that is open around the middle, the hall. Robots 0 to 3 have a room each; 4 to 7 share those rooms,
lower, on a smaller loop that goes the other way round. What moves, moves at a speed for each frame: fewer frames get
less far.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import numpy.typing as npt

from rowcast.errors import ConfigError
from rowcast.tasks.crimp.scene import Bounds

__all__ = [
    "INNER_WALLS",
    "PLACE",
    "camera_poses",
    "rooms_mapped",
    "team_path",
    "test_poses",
    "visit_path",
    "ways",
]

Array = npt.NDArray[np.float64]

#: From the outer walls, the floor and the ceiling to those opposite.
PLACE = Bounds((0.0, 0.0, 0.0), (9.0, 8.0, 2.6))
#: The middle of the hall.
CENTRE = np.array([4.5, 4.0])
#: The cross of walls (x0, y0, x1, y1), from floor to ceiling.
INNER_WALLS = np.array(
    [[4.4, 0.0, 4.6, 2.6], [4.4, 5.4, 4.6, 8.0], [0.0, 3.9, 2.9, 4.1], [6.1, 3.9, 9.0, 4.1]], dtype=np.float64
)

#: Where each room lies as seen from the middle.
_SIDES = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
ROOMS = len(_SIDES)
MOST_ROBOTS = 2 * ROOMS

#: Metres of a frame at full speed, and frames after which it has 0.7 of that speed.
_SPEED = 0.053
_GATHER = 10.0
#: Looking around: radians to each side, of that swing for each frame (2.4 degrees a frame at most), and where it
#: begins: from about half of one side to the other. Both sides are seen while the robot is still near the hall, so that
#: the maps of neighbours meet there.
_SWING = np.radians(48.0)
_SWING_RATE = 0.064
_SWING_BEGIN = 1.1
#: It is even but for the ends, an arcsine wave, and so is the way of a visitor, which leads out and back.
_SWING_WAVE = 0.95
_WAVE = 0.99
#: Looking down, with a slow nod.
_PITCH = np.radians(-8.0)
_NOD = np.radians(2.5)
_NOD_RATE = 0.09
#: How far a visitor goes into the room along the middle of its loop.
_VISIT_DEPTH = 2.0
#: Radians that it turns for each frame, at most.
_TURN = np.radians(3.6)
#: A test lies so near to a pose of a robot's way: metres in the plane (from, to) and in height, radians of yaw, pitch.
_TEST_APART = (0.05, 0.2)
_TEST_HEIGHT = 0.15
_TEST_YAW = np.radians(20.0)
_TEST_PITCH = np.radians(6.0)


@dataclasses.dataclass(frozen=True)
class _Loop:
    """An ellipse in coordinates of its room, whose axes point away from the middle of the hall. Lengths in metres."""

    start: tuple[float, float]
    long: float
    short: float
    turn: float  # 1 or -1: which way round, and to which side the robot looks first
    height: float


#: The direction of the long axis of each loop, about which the robots look around.
_AXIS = np.array([2.1, 1.8]) / np.hypot(2.1, 1.8)
_START = np.array([0.42, 0.38])
_LOOPS = (
    _Loop(tuple(_START), 1.30, 0.50, 1.0, 1.3),
    _Loop(tuple(_START + 0.3 * _AXIS), 1.12, 0.45, -1.0, 1.1),
)


def camera_poses(places: Array, yaws: Array, pitches: Array) -> Array:
    """Poses of cameras that stand upright, camera to world: x right, y down, z forward.

    Args:
        places: float64 [n, 3], metres.
        yaws: float64 [n], radians from the x axis of the world to its y axis.
        pitches: float64 [n], radians above the horizon.

    Returns:
        float64 [n, 4, 4].
    """
    flat = np.zeros_like(yaws)
    forward = np.stack([np.cos(yaws) * np.cos(pitches), np.sin(yaws) * np.cos(pitches), np.sin(pitches)], axis=-1)
    right = np.stack([np.sin(yaws), -np.cos(yaws), flat], axis=-1)
    poses = np.tile(np.eye(4), (len(yaws), 1, 1))
    poses[:, :3, 0] = right
    poses[:, :3, 1] = np.cross(forward, right)
    poses[:, :3, 2] = forward
    poses[:, :3, 3] = places
    return poses


def rooms_mapped(workers: int) -> int:
    """Rooms that a team maps.

    Raises:
        ConfigError: no team, or one for which there are not enough rooms.
    """
    if not 1 <= workers <= MOST_ROBOTS:
        raise ConfigError(
            f"crimp-room: expected 1 to {MOST_ROBOTS} robots, as the place has {ROOMS} rooms and two ways in each, "
            f"got {workers}; take fewer robots, or recorded frames (crimp-folder)"
        )
    return min(workers, ROOMS)


def _check(robot: int, workers: int) -> int:
    """The room of a robot; the number of rooms that its team maps is checked as well."""
    rooms_mapped(workers)
    if not 0 <= robot < workers:
        raise ConfigError(f"worker index: expected 0..{workers - 1}, got {robot!r}")
    return robot % ROOMS


def visited_room(robot: int, workers: int) -> int:
    """The room into which a robot walks at the end: the next one that the team maps; of a single robot, room 1."""
    room = _check(robot, workers)
    return (room + 1) % rooms_mapped(workers) if workers > 1 else 1


def team_path(robot: int, workers: int, frames: int) -> Array:
    """Where a robot walks and looks while it maps: from the hall into its room, round and back, again and again.

    Returns:
        float64 [frames, 4, 4].

    Raises:
        ConfigError: more robots than there are ways, or a robot that the team does not have.
    """
    _check(robot, workers)
    return _team_path(robot, frames)


def _team_path(robot: int, frames: int) -> Array:
    loop, room = _LOOPS[robot // ROOMS], robot % ROOMS
    angles, lengths = _around(loop)
    # From a stand to full speed within a few frames, as a robot moves off, and so is its turning.
    time = np.sqrt(np.arange(frames, dtype=np.float64) ** 2 + _GATHER**2) - _GATHER
    angle = np.interp(_SPEED * time % lengths[-1], lengths, angles)
    places = CENTRE + _SIDES[room] * _on(loop, angle)
    yaws = _ahead(room) + loop.turn * _SWING * _even(np.cos(_SWING_BEGIN + _SWING_RATE * time), _SWING_WAVE)
    pitches = _PITCH + _NOD * np.sin(_NOD_RATE * time)
    return camera_poses(np.column_stack([places, np.full(frames, loop.height)]), yaws, pitches)


@functools.cache
def _around(loop: _Loop) -> tuple[Array, Array]:
    """Angles around a loop and the way to each, so that it can be walked at an even speed."""
    angles = np.linspace(0.0, 2.0 * np.pi, 4097)
    steps = np.linalg.norm(np.diff(_on(loop, angles), axis=0), axis=1)
    return angles, np.concatenate([[0.0], np.cumsum(steps)])


def _on(loop: _Loop, angle: Array) -> Array:
    """Points of a loop in coordinates of its room; at 0 it begins."""
    along = loop.long * (1.0 - np.cos(angle))
    across = loop.turn * loop.short * np.sin(angle)
    points: Array = loop.start + along[:, None] * _AXIS + across[:, None] * np.array([-_AXIS[1], _AXIS[0]])
    return points


def visit_path(robot: int, workers: int, frames: int) -> Array:
    """Where a robot walks at the end: from where it began in the hall into a room that others mapped.

    That is the room of the next robot; of a single robot room 1, which nobody maps. With very many frames it goes back
    and comes again.

    Returns:
        float64 [frames, 4, 4]; the first is the first of :func:`team_path`.

    Raises:
        ConfigError: as :func:`team_path`.
    """
    room, target = _check(robot, workers), visited_room(robot, workers)
    first = _team_path(robot, 1)[0]
    places, lengths = _visit_way(first[:2, 3], room, target)
    began = math.atan2(first[1, 2], first[0, 2])
    turn, part = (_ahead(target) - began + np.pi) % (2.0 * np.pi) - np.pi, 0.75
    if _opposite(room, target):
        # Over the room between, which the team maps as well, and not over the one that it does not.
        turn, part = -(-turn % (2.0 * np.pi)), 1.0
    # At the peak of both waves neither speed nor turn is more than it may be.
    peak = np.pi / 2.0 * _WAVE / np.arcsin(_WAVE)
    duration = peak * max(lengths[-1] / _SPEED, 1.5 * abs(turn) / part / _TURN)
    wave = np.cos(np.pi * np.arange(frames) / duration)
    share = 0.5 - 0.5 * _even(wave, _WAVE)
    place = np.column_stack([np.interp(share * lengths[-1], lengths, places[:, axis]) for axis in range(2)])
    yaws = began + turn * _smooth(share / part)
    return camera_poses(np.column_stack([place, np.full(frames, first[2, 3])]), yaws, np.full(frames, _PITCH))


def _ahead(room: int) -> float:
    """Yaw of the long axis of the loops of a room."""
    side = _SIDES[room]
    return math.atan2(side[1] * _AXIS[1], side[0] * _AXIS[0])


def _opposite(room: int, target: int) -> bool:
    return bool((_SIDES[room] != _SIDES[target]).all())


def _even(wave: Array, part: float) -> Array:
    """A sine or cosine wave, from -1 to 1, made an arcsine wave: even but for its ends, which ``part`` < 1 rounds."""
    evened: Array = np.arcsin(part * wave) / np.arcsin(part)
    return evened


def _smooth(share: Array) -> Array:
    """From 0 to 1 with a level beginning and end; the steepest is 1.5."""
    within = np.clip(share, 0.0, 1.0)
    smooth: Array = within * within * (3.0 - 2.0 * within)
    return smooth


def _visit_way(start: Array, room: int, target: int) -> tuple[Array, Array]:
    """The curve of a visitor: points [n, 2], and the way to each [n]."""
    door = CENTRE + _SIDES[target] * _START
    end = door + _VISIT_DEPTH * _SIDES[target] * _AXIS
    bend = CENTRE if _opposite(room, target) else door
    t = np.linspace(0.0, 1.0, 1025)[:, None]
    places = (1.0 - t) ** 2 * start + 2.0 * t * (1.0 - t) * bend + t**2 * end
    return places, np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(places, axis=0), axis=1))])


@functools.cache
def ways() -> Array:
    """Points of all ways that any team walks, a few centimetres apart: float64 [n, 2]."""
    loops = [CENTRE + _SIDES[room] * _on(loop, _around(loop)[0][::32]) for room in range(ROOMS) for loop in _LOOPS]
    visits = {
        (robot, visited_room(robot, workers)) for workers in range(1, MOST_ROBOTS + 1) for robot in range(workers)
    }
    walks = [
        _visit_way(_team_path(robot, 1)[0, :2, 3], robot % ROOMS, target)[0][::16] for robot, target in sorted(visits)
    ]
    return np.concatenate([*loops, *walks])


def test_poses(robot: int, workers: int, count: int, rng: np.random.Generator, *, frames: int = 70) -> Array:
    """Poses near those from which other robots mapped their rooms, and none of them: other places, other directions.

    Of each robot that has another room than this one as many, but for one; of a single robot, in room 1, which nobody
    maps.

    Args:
        robot, workers: who is tested, and the size of the team.
        count: how many poses.
        rng: where they come from.
        frames: of each robot's way that are mapped.

    Returns:
        float64 [count, 4, 4].

    Raises:
        ConfigError: as :func:`team_path`.
    """
    room = _check(robot, workers)
    others = [other for other in range(workers) if other % ROOMS != room] or [1]
    paths = np.stack([_team_path(other, frames) for other in others])
    near = paths[np.arange(count) % len(others), rng.integers(frames, size=count)]
    away, angle = rng.uniform(*_TEST_APART, size=count), rng.uniform(0.0, 2.0 * np.pi, size=count)
    height = rng.uniform(-_TEST_HEIGHT, _TEST_HEIGHT, size=count)
    places = near[:, :3, 3] + np.column_stack([away * np.cos(angle), away * np.sin(angle), height])
    yaw = np.arctan2(near[:, 1, 2], near[:, 0, 2]) + rng.uniform(-_TEST_YAW, _TEST_YAW, size=count)
    pitch = np.arcsin(near[:, 2, 2]) + rng.uniform(-_TEST_PITCH, _TEST_PITCH, size=count)
    return camera_poses(places, yaw, pitch)
