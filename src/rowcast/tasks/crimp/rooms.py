"""A procedural place of four rooms around a hall, in which a team of robots walks about with RGB-D cameras.

Walls, furniture and textures follow from a seed; where the robots walk does not, so that errors of several seeds can be
compared. Furniture keeps clear of every way (:func:`rowcast.tasks.crimp.walks.ways`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from rowcast.tasks.crimp.frames import Frames, Intrinsics
from rowcast.tasks.crimp.raycast import cast
from rowcast.tasks.crimp.scene import View
from rowcast.tasks.crimp.settings import RoomSettings
from rowcast.tasks.crimp.walks import INNER_WALLS, PLACE, camera_poses, team_path, test_poses, visit_path, ways

__all__ = ["Room", "free_poses", "room_view", "team_path", "test_poses", "visit_path"]

Array = npt.NDArray[np.float64]

_LOW, _HIGH = np.array(PLACE.low), np.array(PLACE.high)
#: Free space around every way, in the plan.
_CLEAR = 0.5
#: What stands against the walls of a room, hangs on them, and stands about in it.
_AGAINST, _HANGING, _ABOUT = 9, 4, 2
#: Waves of a texture, and their lengths: much longer than the voxels of a map that is to learn them.
_WAVES = 4
_WAVE_LENGTHS = (0.7, 2.5)
#: Streams of random numbers.
_FURNITURE, _TEXTURE, _OWN, _VISIT, _TESTS, _TEST_POSES = range(6)


class Room:
    """A place, from a seed.

    Attributes:
        bounds: from the outer walls, the floor and the ceiling to those opposite. The same for all seeds.
        obstacles: inner walls and furniture in the plan, float64 [n, 4] (x0, y0, x1, y1).
        boxes: the place itself and all that stands in it, float64 [1 + n, 6] (x0, y0, z0, x1, y1, z1).
    """

    bounds = PLACE

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, _FURNITURE])
        walls = np.insert(INNER_WALLS, [2, 4], [_LOW[2], _HIGH[2]], axis=1)
        furniture = np.array([piece for room in _quarters() for piece in _furnish(room, rng)])
        self.boxes: Array = np.concatenate([[[*_LOW, *_HIGH]], walls, furniture])
        self.obstacles: Array = self.boxes[1:, [0, 1, 3, 4]].copy()
        self._texture = _texture(6 * len(self.boxes), np.random.default_rng([seed, _TEXTURE]))

    def look(
        self, pose: Array, intrinsics: Intrinsics, height: int, width: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """What a camera in free space sees, exactly.

        Args:
            pose: camera to world, float64 [4, 4]: x right, y down, z forward.
            intrinsics: of the camera.
            height, width: of the image, pixels.

        Returns:
            colours from 0 to 1, float32 [height, width, 3], and depths along the optical axis, metres, float32
            [height, width].
        """
        camera = (intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy)
        return cast(pose, camera, (height, width), self.boxes, self._texture)

    def clearance(self, points: Array) -> Array:
        """Distance of points [n, 3] to the nearest surface, metres, float64 [n]; negative within what is solid."""
        shell = np.minimum(points - _LOW, _HIGH - points).min(axis=1)
        low, high = self.boxes[1:, None, :3], self.boxes[1:, None, 3:]
        beyond = np.maximum(low - points, points - high)  # [boxes, n, 3]
        outside = np.linalg.norm(np.maximum(beyond, 0.0), axis=2)
        inside = np.minimum(beyond.max(axis=2), 0.0)
        distance: Array = np.minimum(shell, (outside + inside).min(axis=0))
        return distance


def _quarters() -> Iterator[Array]:
    """The rectangles of the rooms (x0, y0, x1, y1)."""
    (x0, x1), (y0, y1) = INNER_WALLS[0, [0, 2]], INNER_WALLS[2, [1, 3]]
    yield np.array([_LOW[0], _LOW[1], x0, y0])
    yield np.array([x1, _LOW[1], _HIGH[0], y0])
    yield np.array([x1, y1, _HIGH[0], _HIGH[1]])
    yield np.array([_LOW[0], y1, x0, _HIGH[1]])


def _furnish(room: Array, rng: np.random.Generator) -> list[list[float]]:
    """Furniture of one room that is in nobody's way: boxes (x0, y0, z0, x1, y1, z1)."""
    pieces: list[list[float]] = []
    for kind, number in (("against", _AGAINST), ("hanging", _HANGING), ("about", _ABOUT)):
        wanted = len(pieces) + number
        while len(pieces) < wanted:
            piece = _piece(kind, room, rng)
            if _free(piece):
                pieces.append(piece)
    return pieces


def _piece(kind: str, room: Array, rng: np.random.Generator) -> list[float]:
    """A box at random in a room: against one of its walls, hanging on one, or anywhere on the floor."""
    if kind == "about":
        size = rng.uniform([0.25, 0.25], [0.6, 0.6])
        x, y = rng.uniform(room[:2], room[2:] - size)
        return [x, y, _LOW[2], x + size[0], y + size[1], rng.uniform(0.3, 1.5)]
    wide = rng.uniform(0.35, 1.2)
    deep = rng.uniform(0.25, 0.8) if kind == "against" else rng.uniform(0.08, 0.3)
    axis, far = rng.integers(2), rng.integers(2)  # the wall: across which axis, at its low or its high end
    size = np.array([deep, wide] if axis == 0 else [wide, deep])
    place = rng.uniform(room[:2], room[2:] - size)
    place[axis] = room[axis + 2] - deep if far else room[axis]
    low = _LOW[2] if kind == "against" else rng.uniform(1.1, 1.7)
    high = rng.uniform(0.4, 2.1) if kind == "against" else low + rng.uniform(0.3, 0.8)
    return [*place, low, *(place + size), high]


def _free(piece: list[float]) -> bool:
    """Whether a box keeps clear of all ways and of the openings between the rooms, in the plan."""
    points = ways()
    beyond = np.maximum(np.maximum(piece[:2] - points, points - piece[3:5]), 0.0)
    return bool((beyond**2).sum(axis=1).min() >= _CLEAR**2)


def _texture(faces: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """A colour of each face and waves on it, as :func:`rowcast.tasks.crimp.raycast.cast` takes them: from 0 to 1."""
    bases = rng.uniform(0.3, 0.7, size=(faces, 3))
    waves = np.zeros((faces, _WAVES, 7))
    numbers = 2.0 * np.pi / rng.uniform(*_WAVE_LENGTHS, size=(faces, _WAVES))
    angles, phases = rng.uniform(0.0, 2.0 * np.pi, size=(2, faces, _WAVES))
    normal = np.arange(faces) % 6 // 2
    each = np.arange(faces)
    waves[each, :, (normal + 1) % 3] = numbers * np.cos(angles)
    waves[each, :, (normal + 2) % 3] = numbers * np.sin(angles)
    waves[:, :, 3] = phases
    # A wave brightens and darkens all of a colour, each part of it by another amount: grey values vary as colours do.
    parts = rng.uniform(0.2, 1.0, size=(faces, _WAVES, 3))
    room = 0.95 * np.minimum(bases, 1.0 - bases)
    waves[:, :, 4:] = parts * (room / np.abs(parts).sum(axis=1))[:, None, :]
    return bases, waves


def free_poses(room: Room, count: int, rng: np.random.Generator) -> Array:
    """Poses of cameras anywhere with 0.3 m of free space around them, heading anywhere: float64 [count, 4, 4]."""
    places = np.empty((0, 3))
    while len(places) < count:
        tried = rng.uniform(_LOW, _HIGH, size=(4 * count, 3))
        places = np.concatenate([places, tried[room.clearance(tried) >= 0.3]])
    yaws = rng.uniform(-np.pi, np.pi, size=count)
    return camera_poses(places[:count], yaws, rng.uniform(-0.4, 0.2, size=count))


def room_view(settings: RoomSettings, index: int, workers: int) -> View:
    """What robot ``index`` of ``workers`` sees in the place of ``settings.seed``, with the noise of its camera.

    Raises:
        ConfigError: more robots than the place has ways, or a robot that the team does not have.
    """
    room = Room(settings.seed)
    own = team_path(index, workers, settings.frames)
    visit = visit_path(index, workers, settings.visit_frames)
    rng = np.random.default_rng([settings.seed, _TEST_POSES, index])
    tests = test_poses(index, workers, settings.tests, rng, frames=settings.frames)
    return View(
        own=_frames(room, settings, own, f"robot {index}", (_OWN, index)),
        visit=_frames(room, settings, visit, f"robot {index}, visit", (_VISIT, index)),
        tests=_frames(room, settings, tests, f"robot {index}, test", (_TESTS, index)),
        obstacles=room.obstacles,
    )


def _frames(room: Room, settings: RoomSettings, poses: Array, name: str, stream: tuple[int, int]) -> Frames:
    """What a camera with noise sees from these poses; of each frame the noise follows from those before alone."""
    height, width = settings.height, settings.width
    intrinsics = Intrinsics(settings.focal, settings.focal, (width - 1) / 2.0, (height - 1) / 2.0)
    rng = np.random.default_rng([settings.seed, *stream])
    colours = np.empty((len(poses), height, width, 3), dtype=np.uint8)
    depths = np.empty((len(poses), height, width), dtype=np.float32)
    for i, pose in enumerate(poses):
        colour, depth = room.look(pose, intrinsics, height, width)
        colour += settings.colour_noise * rng.standard_normal(colour.shape, dtype=np.float32)
        colours[i] = np.rint(255.0 * np.clip(colour, 0.0, 1.0))
        noise = settings.depth_noise * rng.standard_normal(depth.shape, dtype=np.float32)
        measured = depth + noise * depth**2
        depths[i] = np.where(rng.random(depth.shape) < settings.invalid_share, 0.0, np.maximum(measured, 0.0))
    return Frames(
        name=name,
        colours=colours,
        depths=depths,
        poses=poses,
        intrinsics=intrinsics,
        times_s=settings.frame_every_s * np.arange(len(poses), dtype=np.float64),
        labels=[f"{name}, frame {i}" for i in range(len(poses))],
    )
