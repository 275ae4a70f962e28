"""A robot of a CRIMP task: it tracks its camera in the team's map and trains the map with what it sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rowcast.exhibits import Cells, Exhibit, Path2d, Picture, Plan
from rowcast.optim import Optimizer
from rowcast.optim.team import TeamLike
from rowcast.tasks.base import TaskWorker
from rowcast.tasks.crimp.checks import check_view
from rowcast.tasks.crimp.field import BLOCK, ImplicitMap
from rowcast.tasks.crimp.frames import Frames
from rowcast.tasks.crimp.mapping import MapBatch, MapSampler, map_loss
from rowcast.tasks.crimp.measuring import MapTests
from rowcast.tasks.crimp.pixels import usable_pixels
from rowcast.tasks.crimp.scene import View
from rowcast.tasks.crimp.settings import CrimpSettings
from rowcast.tasks.crimp.tracking import Tracker
from rowcast.tasks.crimp.trajectory import ate, write_tum
from rowcast.tasks.crimp.views import render

if TYPE_CHECKING:
    from rowcast.tasks.crimp.task import CrimpTask

__all__ = ["CrimpWorker"]

#: Streams of random numbers.
_MAPPING, _TRACKING, _TESTS = 1, 2, 3
#: Of the time of a robot, tests take this share at most; in virtual time they take none.
_TESTS_SHARE = 0.2


class CrimpWorker(TaskWorker):
    """One robot. A frame arrives by the clock, is tracked in the map as it stands in the model, and mapped from there.

    A frame that is lost is not mapped. After several in a row the robot contributes nothing, and goes on looking for
    itself, until a frame is found again.

    Attributes:
        view: what it sees.
        taken: frames that have arrived and were tracked.
        lost: how many of those were lost.
        touched: int64 [rows of the map], in how many steps each had a gradient.
    """

    task: CrimpTask
    model: ImplicitMap

    def __init__(self, task: CrimpTask, view: View, index: int, workers: int) -> None:
        model = task.model()
        assert isinstance(model, ImplicitMap)
        super().__init__(task, model, task.make_optimizer(model), index=index, workers=workers)
        settings: CrimpSettings = task.settings
        check_view(view, settings.min_depth, settings.max_depth, f"task {type(task).__name__}, robot {index}")
        self.view, self.taken, self.lost = view, 0, 0
        self.touched = np.zeros(len(model.grid), np.int64)
        self._settings = settings
        self._sampler = MapSampler(settings, task.rng(_MAPPING, index))
        self._tracker = Tracker(model, view.own.poses[0], settings, task.rng(_TRACKING, index))
        self._tests = MapTests(view, settings, (settings.seed, _TESTS, index))
        self._tests_due_s = -np.inf
        self._told: list[tuple[str, str]] = []
        self._steps, self._rows = 0, 0
        self._tracked, self._tracked_s = 0, 0.0

    # ---- a step -------------------------------------------------------------------------------------------------

    @property
    def contributes(self) -> bool:
        """Whether it knows where it is, so that what it sees may change the map."""
        return self._tracker.lost_frames < self._settings.lost_frames

    def compute(self) -> float:
        """Take in the frames that have arrived, then one mapping step.

        Returns:
            the loss of the step; of a robot that is lost, the loss without a gradient.
        """
        self.arrive()
        return self.compute_on(self._sampler.draw())

    def compute_on(self, batch: MapBatch) -> float:
        self.optimizer.zero_grad()
        if not self.contributes:
            with torch.no_grad():
                return float(self.task.loss(self.model, batch))
        loss = self.task.loss(self.model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        gradient = self.model.grid.grad
        if gradient is not None:
            rows = gradient.ne(0).any(dim=1).numpy()
            self.touched += rows
            self._steps, self._rows = self._steps + 1, self._rows + int(rows.sum())
        return float(loss.detach())

    def arrive(self) -> int:
        """Take in the frames that are there by now, in order.

        Returns:
            how many.
        """
        own, before = self.view.own, self.taken
        due = self._due(self.clock())
        if self.taken == 0:
            self._sampler.add(usable_pixels(own, 0, self._settings), own.poses[0])
            self.taken = 1
        while self.taken < due:
            self._track(own, self.taken)
            self.taken += 1
        return self.taken - before

    def _due(self, now_s: float) -> int:
        """Frames that there are by then: the first at once, and the others when the robot moves."""
        settings = self._settings
        if now_s < settings.first_s:
            return 1
        return min(len(self.view.own), 2 + int((now_s - settings.first_s) / settings.frame_every_s))

    def _track(self, own: Frames, place: int) -> None:
        pixels = usable_pixels(own, place, self._settings)
        missed_before = self._tracker.lost_frames
        began = self.clock()
        found = self._tracker.track(pixels)
        self._tracked, self._tracked_s = self._tracked + 1, self._tracked_s + self.clock() - began
        label = own.labels[place]
        if not len(pixels):
            self._told.append(("frame without depth", f"{label}: no pixel has a usable depth"))
        elif pixels.dark:
            self._told.append(("dark frame", f"{label}: its colours are not used"))
        if found.lost:
            self.lost += 1
            self._told.append(
                ("frame lost", f"{label}: {100 * found.share:.0f} % of its points are near a surface of the map")
            )
            if self._tracker.lost_frames == self._settings.lost_frames:
                self._told.append(("contributes nothing", f"{label}: {self._settings.lost_frames} lost in a row"))
            return
        self._sampler.add(pixels, found.pose)
        if missed_before:
            self._told.append(("found again", f"{label}: after {missed_before} lost"))

    def happened(self) -> Sequence[tuple[str, str]]:
        told, self._told = self._told, []
        return told

    def wrap(self, team: TeamLike, *, nonfinite: str = "raise") -> Optimizer:
        """Join the team with this robot's map; a step counts as the settings have it, most rows being one robot's."""
        weight = self._settings.weight or None
        return Optimizer(self.optimizer, self.model, team, nonfinite=nonfinite, weight=weight)

    # ---- measuring ----------------------------------------------------------------------------------------------

    def measure(self) -> dict[str, float]:
        """The metrics of the task as they are now; a brief look leaves out what takes long and is not yet due.

        Errors of the trajectory are there from the second pose on: the first is given, and an error of nothing that
        was found would count as the best one.
        """
        values: dict[str, float] = {}
        poses = np.stack(self._tracker.poses)
        if len(poses) > 1:
            true = self.view.own.poses[: len(poses)]
            values = {"ate": ate(poses, true, align=False), "aligned_ate": ate(poses, true, align=True)}
        began = self.clock()
        if not self.brief or began >= self._tests_due_s:
            values.update(self._tests.measure(self.model))
            took = self.clock() - began
            self._tests_due_s = began + max(self._settings.test_every_s, took / _TESTS_SHARE)
        if self._steps:
            values["touched_rows"] = self._rows / self._steps
            self._steps = self._rows = 0
        if self._tracked_s > 0:
            values["tracking_rate"] = self._tracked / self._tracked_s
        return values

    def warm_up(self) -> None:
        """Let what is slow the first time be slow before a clock runs; nothing of the robot is changed."""
        self._tests.warm_up(self.model)
        own, settings = self.view.own, self._settings
        sampler = MapSampler(settings, np.random.default_rng(0))
        sampler.add(usable_pixels(own, 0, settings), own.poses[0])
        map_loss(self.model, sampler.draw(), settings.colour_weight).backward()  # type: ignore[no-untyped-call]
        self.optimizer.zero_grad()

    # ---- what a report shows ----------------------------------------------------------------------------------------

    def exhibits(self) -> list[Exhibit]:
        """The ways from above with the rows that this robot trained; the first robot adds what it sees on its walk."""
        name = f"robot {self.index}"
        poses = np.stack(self._tracker.poses)
        paths = (
            Path2d(f"{name}, true", self.view.own.poses[: len(poses), :2, 3], true=True),
            Path2d(name, poses[:, :2, 3]),
        )
        plan = Plan("map", "Ways and rows from above", "m", paths, self.view.obstacles, self._columns_of_rows())
        return [plan, *(self._pictures() if self.index == 0 else ())]

    def write_files(self, folder: Path, name: str) -> None:
        """The trajectory that the robot has found, and the true one, as files of the TUM benchmark.

        Raises:
            DataError: a file cannot be written.
        """
        poses, own = np.stack(self._tracker.poses), self.view.own
        write_tum(folder / f"{name}.found.tum", poses, own.times_s[: len(poses)])
        write_tum(folder / f"{name}.true.tum", own.poses[: len(poses)], own.times_s[: len(poses)])

    def _columns_of_rows(self) -> Cells:
        """The columns of blocks, each with how often one of its rows was trained here."""
        columns = self.model.blocks[0] * self.model.blocks[1]
        corners = self.model.block_corners().reshape(columns, -1, 3)[:, 0, :2]
        weights = self.touched.reshape(columns, -1).sum(axis=1).astype(np.float64)
        return Cells(BLOCK * self.model.voxel, corners, weights)

    def _pictures(self) -> list[Picture]:
        """A frame of the walk, deep in what only others mapped, and the map from there."""
        visit = self.view.visit
        place = 3 * len(visit) // 4
        height, width = visit.depths.shape[1:]
        colour, depth = render(self.model, visit.poses[place], visit.intrinsics, height, width, self._settings)
        measured = (visit.depths[place] > self._settings.min_depth) & (visit.depths[place] < self._settings.max_depth)
        seen = np.where(measured, visit.depths[place], np.nan)
        high = float(np.nanquantile(seen, 0.99)) if measured.any() else self._settings.max_depth
        painted = np.where(np.isnan(colour), 255, np.clip(255 * np.nan_to_num(colour), 0, 255)).astype(np.uint8)
        depths: dict[str, Any] = {"high": high, "unit": "m", "row": 1}
        return [
            Picture("visit_colour", "what the visitor sees", visit.colours[place], reference=True),
            Picture("map_colour", "the map from there", painted),
            Picture("visit_depth", "its depth", seen.astype(np.float32), reference=True, **depths),
            Picture("map_depth", "the depth of the map", depth, **depths),
        ]
