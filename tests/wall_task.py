"""A user's own place for CRIMP: robots that go along a painted wall, each before a part of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rowcast.config import setting
from rowcast.tasks.crimp import CrimpTask
from rowcast.tasks.crimp.frames import Frames, Intrinsics
from rowcast.tasks.crimp.scene import Bounds, View
from rowcast.tasks.crimp.settings import CrimpSettings


class WallTask(CrimpTask):
    """A wall 2 m ahead, four metres wide."""

    @dataclass(frozen=True)
    class Settings(CrimpSettings):
        """Settings of the task."""

        frames: int = setting(8, "Frames of a robot.", low=1, high=100)

    settings: Settings

    def bounds(self) -> Bounds:
        return Bounds((-1.6, -1.2, -0.2), (2.4, 1.2, 2.0))

    def view(self, index: int, workers: int) -> View:
        frames, other = self.settings.frames, (index + 1) % workers
        return View(
            own=self.look(f"robot {index}", index / workers, frames),
            visit=self.look(f"robot {index}, visit", other / workers, max(frames, 2)),
            tests=self.look(f"robot {index}, test", other / workers + 0.01, frames),
            obstacles=np.array([[-1.6, 2.0, 2.4, 2.1]]),
        )

    def look(self, name: str, x: float, count: int) -> Frames:
        """So many frames of a camera that goes to the right by 3 cm each."""
        intrinsics = Intrinsics(20.0, 20.0, 15.5, 11.5)
        poses = np.tile(np.eye(4), (count, 1, 1))
        poses[:, 0, 3] = x + 0.03 * np.arange(count)
        rays = 2.0 * intrinsics.rays(24, 32)
        across = rays[None, :, :, 0] + poses[:, 0, 3, None, None]
        grey = 128 + 100 * np.sin(4 * across) * np.cos(4 * rays[None, :, :, 1])
        return Frames(
            name=name,
            colours=np.repeat(grey[..., None], 3, axis=3).astype(np.uint8),
            depths=np.full(grey.shape, 2.0, np.float32),
            poses=poses,
            intrinsics=intrinsics,
            times_s=np.arange(count, dtype=np.float64),
            labels=[f"frame {number}" for number in range(count)],
        )


class NoTests(WallTask):
    """One that forgets what its robots are tested on."""

    def view(self, index: int, workers: int) -> View:
        found = super().view(index, workers)
        return View(found.own, found.visit, found.tests.take([]), found.obstacles)
