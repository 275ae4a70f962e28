"""CRIMP, coordinated implicit mapping and positioning: robots train a map together and find themselves in it.

The second job of the ROG paper, whose code was not published. Each robot tracks its RGB-D camera against its replica of
the map, and trains the map where it is; poses stay with their robot, rows of the map travel.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rowcast.errors import ConfigError
from rowcast.metric import Metric
from rowcast.tasks.base import Task, TaskSettings, TaskWorker
from rowcast.tasks.crimp.checks import check_view
from rowcast.tasks.crimp.decoder import load_decoder
from rowcast.tasks.crimp.field import ImplicitMap
from rowcast.tasks.crimp.lazy_adam import LazyAdam
from rowcast.tasks.crimp.mapping import MapBatch, map_loss
from rowcast.tasks.crimp.rooms import Room, room_view, team_path
from rowcast.tasks.crimp.scene import Bounds, View
from rowcast.tasks.crimp.sequences import recorded_bounds, recorded_view
from rowcast.tasks.crimp.settings import (
    CrimpSettings,
    RecordedSettings,
    RedKitchenSettings,
    RoomSettings,
    SevenScenesSettings,
)
from rowcast.tasks.crimp.worker import CrimpWorker

__all__ = ["CrimpTask", "RecordedTask", "RedKitchenTask", "RoomTask", "SevenScenesTask"]

#: Between two tests of a robot in a demo, where a gradient takes a second; the settings' times are for such a pace.
_TEST_EVERY_S = 40.0


class CrimpTask(Task):
    """Robots that map a place together. Derive from it for a place of your own: :meth:`view` and :meth:`bounds`."""

    metrics = (
        Metric("localisation_error", "m", "lower"),
        Metric("localised_share", "%", "higher"),
        Metric("ate", "m", "lower"),
        Metric("aligned_ate", "m", "lower"),
        Metric("visit_ate", "m", "lower"),
        Metric("visit_share", "%", "higher"),
        Metric("hit_share", "%", "higher"),
        Metric("depth_l1", "m", "lower"),
        Metric("touched_rows", "rows", "lower"),
        Metric("tracking_rate", "frames/s", "higher"),
    )
    shown = ("ate", "hit_share")
    #: The map of NICE-SLAM as the ROG paper sends it (0.76 MB).
    reference_bytes = 760_000
    Settings: ClassVar[type[TaskSettings]] = CrimpSettings

    @abstractmethod
    def view(self, index: int, workers: int) -> View:
        """What robot ``index`` of ``workers`` sees.

        Raises:
            ConfigError, DataError: there is no such robot, or nothing for it to see.
        """

    @abstractmethod
    def bounds(self) -> Bounds:
        """The box that the map covers; the same for all robots, however many they are."""

    def make_model(self) -> ImplicitMap:
        """An empty map: nothing but free space."""
        field = ImplicitMap(self.bounds(), self.settings.voxel, self.settings.truncation)
        field.decoder.load_state_dict(load_decoder())
        field.decoder.requires_grad_(False)
        return field

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        trained = [each for each in model.parameters() if each.requires_grad]
        settings = self.settings
        return LazyAdam(trained, lr=settings.lr, betas=(settings.momentum, 0.999), decay=settings.lr_decay)

    def worker(self, index: int, workers: int) -> CrimpWorker:
        self.check_index(index, workers)
        return CrimpWorker(self, self.view(index, workers), index, workers)

    def batches(self, index: int, workers: int) -> Iterable[Any]:
        """None: a robot draws from the frames that have arrived, see :class:`CrimpWorker`."""
        return ()

    def loss(self, model: nn.Module, batch: MapBatch) -> Tensor:
        assert isinstance(model, ImplicitMap)
        return map_loss(model, batch, self.settings.colour_weight)

    def evaluate(self, worker: TaskWorker) -> dict[str, float]:
        if not isinstance(worker, CrimpWorker):
            raise ConfigError(f"task {type(self).__name__}: expected a CrimpWorker, got {type(worker).__name__}")
        return worker.measure()

    def describe_start(self) -> str:
        field = self.model()
        assert isinstance(field, ImplicitMap)
        place = " x ".join(f"{side:.3g}" for side in (field.high - field.low).tolist())
        return f"an empty map of {place} m, {len(field.grid)} rows of {field.grid.shape[1]} numbers"

    @classmethod
    def check(cls, options: Mapping[str, Any], *, data_dir: str | Path | None = None, workers: int = 1) -> None:
        task = cls.build(options, data_dir=data_dir)
        assert isinstance(task, CrimpTask)
        task.model()
        least, most = task.settings.min_depth, task.settings.max_depth
        for index in range(workers):
            check_view(task.view(index, workers), least, most, f"task {cls.__name__}, robot {index}")

    @classmethod
    def at_pace(cls, options: Mapping[str, Any], pace_s: float) -> dict[str, Any]:
        fields = cls.Settings.__dataclass_fields__
        usual: dict[str, Any] = {name: fields[name].default for name in ("first_s", "frame_every_s")}
        usual["test_every_s"] = _TEST_EVERY_S
        return {**{name: seconds * pace_s for name, seconds in usual.items()}, **options}

    @classmethod
    def limit_tests(cls, options: Mapping[str, Any], items: int) -> dict[str, Any]:
        most = options.get("tests", cls.Settings.__dataclass_fields__["tests"].default)
        return {**options, "tests": min(most, items)}


class RoomTask(CrimpTask):
    """``crimp-room``: four rooms around a hall, from the seed. 1 to 4 robots have a room each, 5 to 8 share them."""

    Settings: ClassVar[type[TaskSettings]] = RoomSettings

    def view(self, index: int, workers: int) -> View:
        return room_view(self.settings, index, workers)

    def bounds(self) -> Bounds:
        return Room(self.settings.seed).bounds

    @classmethod
    def check(cls, options: Mapping[str, Any], *, data_dir: str | Path | None = None, workers: int = 1) -> None:
        cls.build(options, data_dir=data_dir).model()
        team_path(workers - 1, workers, 2)


class RecordedTask(CrimpTask):
    """``crimp-folder``: recorded RGB-D frames with poses, in any layout that is known.

    Each robot has a part of them, or a sequence.
    """

    Settings: ClassVar[type[TaskSettings]] = RecordedSettings

    def view(self, index: int, workers: int) -> View:
        return recorded_view(self.settings, index, workers)

    def bounds(self) -> Bounds:
        return recorded_bounds(self.settings)


class RedKitchenTask(RecordedTask):
    """``crimp-redkitchen``: an archive (npz) of frames, such as 200 of the red kitchen of 7-Scenes."""

    Settings: ClassVar[type[TaskSettings]] = RedKitchenSettings


class SevenScenesTask(RecordedTask):
    """``crimp-7scenes``: a folder in the layout of 7-Scenes (Shotton et al., CVPR 2013)."""

    Settings: ClassVar[type[TaskSettings]] = SevenScenesSettings
