"""What a mapping step is trained on: points along rays of the newest frame and of all earlier ones.

No volume is rendered: along a ray the signed distance is known near the measured point, and above the truncation in
front of it (algorithms.md 14.1). iMAP (Sucar et al., ICCV 2021, arXiv 2103.12352) renders.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rowcast.errors import LocalProtocolError
from rowcast.tasks.crimp.field import ImplicitMap
from rowcast.tasks.crimp.pixels import Pixels
from rowcast.tasks.crimp.settings import CrimpSettings

__all__ = ["MapBatch", "MapSampler", "map_loss"]


@dataclass(frozen=True, eq=False)
class MapBatch:
    """Points of a mapping step, in the shared frame.

    Attributes:
        points: float32 [rays, points of a ray, 3]; the first of each ray is the measured one.
        targets: float32 [rays, points of a ray], signed distances as shares of the truncation; 1 in free space.
        colours: float32 [rays, 3]; negative where there is none.
        near: how many of the points of a ray are within the truncation, the measured one included.
    """

    points: Tensor
    targets: Tensor
    colours: Tensor
    near: int


class MapSampler:
    """Keeps what a robot has mapped, and draws rays from it.

    Args:
        settings: of the task.
        rng: what is drawn follows from it.
    """

    def __init__(self, settings: CrimpSettings, rng: np.random.Generator) -> None:
        self._settings, self._rng = settings, rng
        self._pixels: list[Pixels] = []
        self._poses: list[npt.NDArray[np.float32]] = []
        self._ends: list[int] = []

    def __len__(self) -> int:
        return len(self._pixels)

    def add(self, pixels: Pixels, pose: npt.NDArray[np.float64]) -> None:
        """A frame that was seen from ``pose``, float64 [4, 4]; one without pixels is left out."""
        if len(pixels):
            self._pixels.append(pixels)
            self._poses.append(pose[:3].astype(np.float32))
            self._ends.append(len(pixels) + (self._ends[-1] if self._ends else 0))

    def draw(self) -> MapBatch:
        """Rays of the newest frame and of all earlier ones, as the settings share them out; each with its points.

        Raises:
            LocalProtocolError: no frame with pixels was added yet.
        """
        if not self._pixels:
            raise LocalProtocolError("no frame with usable pixels was added yet; add one before rays are drawn")
        settings, rng = self._settings, self._rng
        newest = round(settings.rays * settings.newest_share) if len(self._pixels) > 1 else settings.rays
        before = self._ends[-2] if len(self._ends) > 1 else 0
        chosen = np.concatenate(
            [rng.integers(before, self._ends[-1], newest), rng.integers(0, max(before, 1), settings.rays - newest)]
        )
        frames = np.searchsorted(self._ends, chosen, side="right")
        rays, depths, colours = self._gathered(chosen, frames)
        poses = np.stack([self._poses[frame] for frame in frames.tolist()])
        ways = np.einsum("nij,nj->ni", poses[:, :, :3], rays)
        lengths = np.linalg.norm(rays, axis=1)
        ends = (depths * lengths)[:, None]  # the measured points, as distances along their rays
        cut = settings.truncation
        offsets = np.zeros((len(chosen), settings.near_points), np.float32)
        offsets[:, 1:] = cut * (2 * rng.random((len(chosen), settings.near_points - 1), np.float32) - 1)
        free = settings.free_points
        # Between the camera and the truncation; where the surface is nearer than that, near the camera.
        front = np.maximum(ends - cut, 0.0)
        strata = (np.arange(free, dtype=np.float32) + rng.random((len(chosen), free), np.float32)) / max(free, 1)
        along = np.concatenate([ends + offsets, front * strata], axis=1)
        targets = np.concatenate([-offsets / cut, np.minimum((ends - front * strata) / cut, 1.0)], axis=1)
        points = poses[:, None, :, 3] + (along / lengths[:, None])[:, :, None] * ways[:, None, :]
        return MapBatch(
            torch.from_numpy(points.astype(np.float32)),
            torch.from_numpy(targets.astype(np.float32)),
            torch.from_numpy(colours),
            settings.near_points,
        )

    def _gathered(
        self, chosen: npt.NDArray[np.int64], frames: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Rays, depths and colours of chosen pixels, which are counted through all frames."""
        rays, colours = np.empty((len(chosen), 3), np.float32), np.empty((len(chosen), 3), np.float32)
        depths = np.empty(len(chosen), np.float32)
        for frame in np.unique(frames).tolist():
            mine = frames == frame
            pixels = self._pixels[frame]
            places = chosen[mine] - (self._ends[frame] - len(pixels))
            rays[mine], depths[mine], colours[mine] = pixels.rays[places], pixels.depths[places], pixels.colours[places]
        return rays, depths, colours


def map_loss(field: ImplicitMap, batch: MapBatch, colour_weight: float) -> Tensor:
    """The loss of a batch: squared errors of the signed distance, near and in free space, and of the colour.

    Each is a mean over its points; points outside the map do not count.

    Args:
        field: the map.
        batch: of points.
        colour_weight: of the colour; the other two weigh 1.
    """
    rays, each = batch.targets.shape
    points = batch.points.reshape(-1, 3)
    inside = field.inside(points).view(rays, each)
    distances, colours = field(points)
    errors = (distances.view(rays, each) - batch.targets).square() * inside
    lit = inside[:, 0] & (batch.colours[:, 0] >= 0)
    differences = (colours.view(rays, each, 3)[:, 0] - batch.colours).square().mean(dim=1) * lit
    near, free = errors[:, : batch.near], errors[:, batch.near :]
    parts = [
        near.sum() / inside[:, : batch.near].sum().clamp_min(1),
        free.sum() / inside[:, batch.near :].sum().clamp_min(1),
        colour_weight * differences.sum() / lit.sum().clamp_min(1),
    ]
    return torch.stack(parts).sum()
