"""Small places for the tests of CRIMP: frames of a wall, the rooms with few small frames, maps of them, and a robot."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch

from rowcast.tasks.crimp.decoder import load_decoder
from rowcast.tasks.crimp.field import ImplicitMap
from rowcast.tasks.crimp.frames import Frames, Intrinsics
from rowcast.tasks.crimp.lazy_adam import LazyAdam
from rowcast.tasks.crimp.mapping import MapSampler, map_loss
from rowcast.tasks.crimp.pixels import usable_pixels
from rowcast.tasks.crimp.rooms import Room, room_view
from rowcast.tasks.crimp.scene import Bounds, View
from rowcast.tasks.crimp.settings import CrimpSettings, RoomSettings
from rowcast.tasks.crimp.worker import CrimpWorker
from wall_task import WallTask

#: Options of crimp-room with which a test is fast.
FEW: dict[str, Any] = {
    "frames": 6,
    "visit_frames": 6,
    "tests": 8,
    "width": 32,
    "height": 24,
    "focal": 20.0,
    "rays": 128,
}
#: A coarse map and few pixels, for tests of what has nothing to do with how well a map is.
QUICK: dict[str, Any] = {
    "voxel": 0.3,
    "truncation": 0.3,
    "rays": 64,
    "track_pixels": 200,
    "tests": 4,
    "first_s": 10.0,
    "frame_every_s": 2.0,
}
CAMERA = Intrinsics(20.0, 20.0, 15.5, 11.5)
#: What the frames of a wall are in.
BOX = Bounds((-1.5, -1.2, -0.2), (1.5, 1.2, 2.2))


def wall(count: int = 1, metres: float = 2.0, grey: int = 120, **changed: Any) -> Frames:
    """A camera at the origin that stands before a wall of one colour across its axis; ``changed`` in place of that."""
    frames = Frames(
        name="wall",
        colours=np.full((count, 24, 32, 3), grey, np.uint8),
        depths=np.full((count, 24, 32), metres, np.float32),
        poses=np.tile(np.eye(4), (count, 1, 1)),
        intrinsics=CAMERA,
        times_s=np.arange(count, dtype=np.float64),
        labels=[f"frame {number}" for number in range(count)],
    )
    return Frames(**{**vars(frames), **changed})


def empty_map(bounds: Bounds, settings: CrimpSettings) -> ImplicitMap:
    """A map as tasks make it."""
    field = ImplicitMap(bounds, settings.voxel, settings.truncation)
    field.decoder.load_state_dict(load_decoder())
    field.decoder.requires_grad_(False)
    return field


def fit(field: ImplicitMap, frames: Frames, settings: CrimpSettings, steps: int = 60) -> ImplicitMap:
    """Train a map with frames from their true poses."""
    sampler = MapSampler(settings, np.random.default_rng(0))
    for place, pose in enumerate(frames.poses):
        sampler.add(usable_pixels(frames, place, settings), pose)
    optimizer = LazyAdam([field.grid], lr=0.03)
    for _ in range(steps):
        optimizer.zero_grad()
        map_loss(field, sampler.draw(), settings.colour_weight).backward()
        optimizer.step()
    return field


def wall_map(settings: CrimpSettings, steps: int = 60) -> ImplicitMap:
    """A map of the wall."""
    return fit(empty_map(BOX, settings), wall(), settings, steps)


@functools.lru_cache(maxsize=1)
def room() -> tuple[RoomSettings, View, ImplicitMap]:
    """What the first of two robots sees in larger images, and a map of its own frames; nobody changes them."""
    settings = RoomSettings(**{**FEW, "width": 64, "height": 48, "focal": 40.0, "rays": 512})
    view = room_view(settings, 0, 2)
    return settings, view, fit(empty_map(Room.bounds, settings), view.own, settings, steps=100)


def filled(field: ImplicitMap, value: float) -> ImplicitMap:
    """Another map of the same place, with one number everywhere."""
    found = ImplicitMap(Bounds(tuple(field.low), tuple(field.high)), field.voxel, 0.0)
    found.load_state_dict(field.state_dict())
    with torch.no_grad():
        found.grid.fill_(value)
    return found


class Timed:
    """A clock that a test sets; each look at it takes ``look_s``."""

    def __init__(self, look_s: float = 0.0) -> None:
        self.now_s, self.look_s = 0.0, look_s

    def __call__(self) -> float:
        self.now_s += self.look_s
        return self.now_s


def made(view: View | None = None, **options: Any) -> tuple[CrimpWorker, Timed]:
    """A robot alone before the wall, or with a view of the test's own, and its clock."""
    task = WallTask.build({**QUICK, **options})
    assert isinstance(task, WallTask)
    worker = CrimpWorker(task, task.view(0, 1) if view is None else view, 0, 1)
    worker.clock = clock = Timed()
    return worker, clock


def view_of(**options: Any) -> View:
    task = WallTask.build({**QUICK, **options})
    assert isinstance(task, WallTask)
    return task.view(0, 1)


def stepped(worker: CrimpWorker, steps: int = 1) -> float:
    for _ in range(steps):
        loss = worker.compute()
        worker.optimizer.step()
    return loss
