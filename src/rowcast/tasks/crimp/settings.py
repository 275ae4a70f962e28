"""Settings of CRIMP: the map, what trains it, what tracks with it, and when frames arrive."""

from __future__ import annotations

import dataclasses

from rowcast.config import setting
from rowcast.errors import ConfigError
from rowcast.tasks.base import TaskSettings

__all__ = ["CrimpSettings", "RecordedSettings", "RedKitchenSettings", "RoomSettings", "SevenScenesSettings"]

#: A pixel is colour (3 bytes) and depth (4). So much of them has a robot that makes its frames.
_PIXEL_BYTES, _MOST_BYTES = 7, 2 << 30


@dataclasses.dataclass(frozen=True)
class CrimpSettings(TaskSettings):
    """What every CRIMP task has. Lengths in metres, angles in radians, depths along the optical axis.

    Raises:
        ConfigError: a value out of its range, or a voxel that is larger than the truncation.
    """

    voxel: float = setting(0.20, "Distance of the vertices of the feature grid.", unit="m", low=0.001, high=10.0)
    truncation: float = setting(
        0.20, "Distance from a surface at which the signed distance is cut off.", unit="m", low=0.001, high=10.0
    )
    max_depth: float = setting(10.0, "Pixels that are farther away are not used.", unit="m", low=0.1, high=1000.0)
    min_depth: float = setting(0.1, "Pixels that are nearer are not used.", unit="m", low=0.0, high=100.0)

    rays: int = setting(512, "Rays of a mapping step.", low=2, high=1_000_000)
    newest_share: float = setting(
        0.5, "Share of those rays that are of the newest frame; the others are of all earlier ones.", low=0.0, high=1.0
    )
    near_points: int = setting(5, "Points of a ray within the truncation, the measured one included.", low=1, high=1000)
    free_points: int = setting(3, "Points of a ray between the camera and the truncation.", low=0, high=1000)
    colour_weight: float = setting(5.0, "Weight of the colour in the loss.", low=0.0, high=1e6)
    lr: float = setting(0.08, "Learning rate of the grid (lazy Adam).", low=0.0, high=10.0)
    lr_decay: float = setting(
        0.2,
        "The rate of an element is lr / (1 + lr_decay * steps), of its own steps; 0: it stays.",
        low=0.0,
        high=1000.0,
    )
    momentum: float = setting(
        0.0,
        "Decay of the mean of the gradient in lazy Adam (its first beta). Updates that come late act as momentum "
        "already.",
        low=0.0,
        high=0.999,
    )
    weight: float = setting(
        1.0,
        "Averaging weight of each step. Most rows are seen by one robot: 1 sums what the robots contribute, where the "
        "usual 1 / members would let each row learn as many times too slowly. 0: 1 / members.",
        low=0.0,
        high=1000.0,
    )

    track_pixels: int = setting(1000, "Pixels of a frame that is tracked.", low=6, high=1_000_000)
    track_iterations: int = setting(20, "Gauss-Newton iterations of a frame, at most.", low=1, high=1000)
    distance_sigma: float = setting(0.02, "Standard deviation of a signed distance.", unit="m", low=1e-6, high=10.0)
    grey_sigma: float = setting(0.06, "Standard deviation of a grey value from 0 to 1.", low=1e-6, high=10.0)
    prior_m: float = setting(
        0.1, "Standard deviation of the motion prior (constant velocity).", unit="m", low=1e-6, high=100.0
    )
    prior_rad: float = setting(0.1, "The same for the rotation.", unit="rad", low=1e-6, high=10.0)
    lost_share: float = setting(
        0.35,
        "A frame is lost where fewer of its points lie within the truncation of a surface of the map.",
        low=0.001,
        high=1.0,
    )
    lost_frames: int = setting(
        3, "After so many lost frames in a row a robot contributes nothing until it is found again.", low=1, high=10_000
    )

    first_s: float = setting(
        60.0, "Seconds for which a robot stands and maps its first frame.", unit="s", low=0.0, high=1e9
    )
    frame_every_s: float = setting(4.0, "Seconds between two frames.", unit="s", low=0.001, high=1e6)
    tests: int = setting(
        120, "Frames of a localisation test of a robot, in what only others mapped.", unit="frames", low=1, high=100_000
    )
    test_every_s: float = setting(
        0.0,
        "Seconds between two such tests and walks; 0: with each look at the metrics. In real time they take a fifth "
        "of it at most.",
        unit="s",
        low=0.0,
        high=1e9,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.voxel > self.truncation:
            raise ConfigError(
                f"voxel: {self.voxel:g} m is larger than the truncation of {self.truncation:g} m, so that surfaces "
                "fall between the vertices; expected voxel <= truncation: make the one smaller or the other larger"
            )
        if self.min_depth >= self.max_depth:
            raise ConfigError(
                f"min_depth: expected less than max_depth, {self.max_depth:g} m, got {self.min_depth:g} m"
            )


@dataclasses.dataclass(frozen=True)
class RoomSettings(CrimpSettings):
    """Settings of ``crimp-room``.

    Raises:
        ConfigError: as :class:`CrimpSettings`, or frames that would not fit into memory.
    """

    frames: int = setting(70, "Frames of a robot.", unit="frames", low=2, high=100_000)
    visit_frames: int = setting(60, "Frames of a walk into another robot's room.", unit="frames", low=2, high=100_000)
    width: int = setting(64, "Width of an image.", unit="pixels", low=8, high=4096)
    height: int = setting(48, "Height of an image.", unit="pixels", low=8, high=4096)
    focal: float = setting(40.0, "Focal length.", unit="pixels", low=1.0, high=1e5)
    depth_noise: float = setting(
        0.002,
        "Standard deviation of a measured depth at one metre; it grows with the square.",
        unit="m",
        low=0.0,
        high=10.0,
    )
    colour_noise: float = setting(0.02, "Standard deviation of a colour from 0 to 1.", low=0.0, high=1.0)
    invalid_share: float = setting(0.03, "Share of the pixels without a depth.", low=0.0, high=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        frames = self.frames + self.visit_frames + self.tests
        size = frames * self.width * self.height * _PIXEL_BYTES
        if size > _MOST_BYTES:
            raise ConfigError(
                f"width, height: {frames} frames of {self.width} x {self.height} pixels (frames, visit_frames and "
                f"tests) would take {size / 2**30:.3g} GiB of a robot; expected {_MOST_BYTES / 2**30:g} GiB at most: "
                "smaller images or fewer frames"
            )


@dataclasses.dataclass(frozen=True)
class RecordedSettings(CrimpSettings):
    """Settings of the tasks with recorded frames.

    Raises:
        ConfigError: as :class:`CrimpSettings`.
    """

    voxel: float = setting(0.12, "Distance of the vertices of the feature grid.", unit="m", low=0.001, high=10.0)
    truncation: float = setting(
        0.15, "Distance from a surface at which the signed distance is cut off.", unit="m", low=0.001, high=10.0
    )
    max_depth: float = setting(4.5, "Pixels that are farther away are not used.", unit="m", low=0.1, high=1000.0)
    grey_sigma: float = setting(0.10, "Standard deviation of a grey value from 0 to 1.", low=1e-6, high=10.0)
    layout: str | None = setting(
        None, "Layout of the files: 7scenes, tum, scannet, replica or npz; none: the one that is found."
    )
    intrinsics: tuple[float, ...] | None = setting(
        None,
        "fx, fy, cx, cy of the depth camera, for images as they are in the files; none: as the data set has them.",
        unit="pixels",
    )
    depth_scale: float | None = setting(
        None, "Units of a depth image in one metre; none: as the data set has it.", low=1e-3, high=1e6
    )
    largest_side: int = setting(80, "Images are made smaller until no side is longer.", unit="pixels", low=8, high=4096)
    stride: int = setting(1, "Of so many frames one is used.", unit="frames", low=1, high=100_000)
    held_out: int = setting(
        5,
        "Of so many frames one is kept for the tests and not mapped; 0: none is, and tests are of mapped frames.",
        unit="frames",
        low=0,
        high=100_000,
    )
    visit_frames: int = setting(
        200, "Frames of a walk along another robot's part, at most.", unit="frames", low=2, high=100_000
    )


@dataclasses.dataclass(frozen=True)
class RedKitchenSettings(RecordedSettings):
    """Settings of ``crimp-redkitchen``.

    Raises:
        ConfigError: as :class:`CrimpSettings`.
    """

    layout: str | None = setting("npz", "Layout of the files.")


@dataclasses.dataclass(frozen=True)
class SevenScenesSettings(RecordedSettings):
    """Settings of ``crimp-7scenes``.

    Raises:
        ConfigError: as :class:`CrimpSettings`.
    """

    layout: str | None = setting("7scenes", "Layout of the files.")
