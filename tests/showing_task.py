"""A small job of the tests' own that uses all that a task may do: a clock, events, exhibits, many metrics, a pace.

Each worker fits the same grid of numbers, a picture of 8 x 16, from noisy looks at a half of it that is its own. A
frame arrives every ``frame_every_s`` seconds of the clock, which is an event and changes nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rowcast.config import setting
from rowcast.exhibits import Cells, Exhibit, Path2d, Picture, Plan
from rowcast.tasks import Metric, Task, TaskSettings, TaskWorker

HEIGHT, WIDTH = 8, 16
#: The share of the grid that is within so much of the truth.
NEAR = (0.8, 0.6, 0.4, 0.2, 0.1, 0.05, 0.025)


class Showing(Task):
    """A grid of numbers that is seen in parts."""

    metrics = (
        Metric("localisation_error", "m", "lower"),
        Metric("trajectory_error", "m", "lower"),
        *(Metric(f"near_{round(1000 * near)}", "%") for near in NEAR),
    )
    shown = ("localisation_error", "trajectory_error")
    reference_bytes = 1_000

    @dataclass(frozen=True)
    class Settings(TaskSettings):
        """Settings of the task."""

        lr: float = setting(0.5, "Learning rate.", low=0.0, high=10.0)
        frame_every_s: float = setting(4.0, "Between two frames.", unit="s", low=0.01, high=1e6, flag="--frame-every-s")

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        y, x = np.mgrid[:HEIGHT, :WIDTH]
        self.truth = torch.tensor(np.sin(x / 3) * np.cos(y / 3), dtype=torch.float32)

    def make_model(self) -> nn.Module:
        model = nn.Linear(WIDTH, HEIGHT, bias=False)
        nn.init.zeros_(model.weight)
        return model

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=self.settings.lr)

    def batches(self, index: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        rng = self.rng(1, index)
        seen = torch.zeros(HEIGHT, WIDTH)
        seen[np.arange(HEIGHT) % workers == index] = 1.0
        while True:
            noise = torch.tensor(rng.normal(0.0, 0.01, (HEIGHT, WIDTH)), dtype=torch.float32)
            yield self.truth + noise, seen

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        target, seen = batch
        difference = (model.get_parameter("weight") - target) * seen
        return difference.square().sum() / 4

    def worker(self, index: int, workers: int) -> ShowingWorker:
        self.check_index(index, workers)
        model = self.model()
        return ShowingWorker(
            self, model, self.make_optimizer(model), self.batches(index, workers), index=index, workers=workers
        )

    def evaluate(self, worker: TaskWorker) -> Mapping[str, Any]:
        off = (worker.model.get_parameter("weight") - self.truth).abs()
        shares = {f"near_{round(1000 * near)}": 100 * (off < near).float().mean() for near in NEAR}
        return {"localisation_error": off.mean(), "trajectory_error": off.max(), **shares}

    @classmethod
    def at_pace(cls, options: Mapping[str, Any], pace_s: float) -> dict[str, Any]:
        return {"frame_every_s": 4 * pace_s, **options}


class ShowingWorker(TaskWorker):
    """Counts the frames that have arrived."""

    frames = 0

    def happened(self) -> Sequence[tuple[str, str]]:
        every_s = self.task.settings.frame_every_s
        due = int(self.clock() / every_s)
        told = [("frame", f"number {k}, due at {k * every_s:.2f} s") for k in range(self.frames + 1, due + 1)]
        self.frames = max(due, self.frames)
        return told

    def exhibits(self) -> Sequence[Exhibit]:
        assert isinstance(self.task, Showing) and not self.model.training and not torch.is_grad_enabled()
        weight = self.model.get_parameter("weight").numpy()
        found = np.where(np.abs(weight) < 1e-6, np.nan, weight)  # what nobody has seen
        colours = np.uint8(127 + 120 * np.stack([weight, -weight, 0 * weight], axis=-1).clip(-1, 1))
        where = np.linspace(0, 2 * np.pi, 20)
        true = np.column_stack((4 + 3 * np.cos(where), 3 + 2 * np.sin(where) + self.index))
        rows, columns = np.nonzero(np.arange(HEIGHT)[:, None] % self.workers == self.index + np.zeros(WIDTH, int))
        return (
            Picture("grid", "The grid", self.task.truth.numpy(), -1.0, 1.0, "m", reference=True),
            Picture("grid", "The grid", found, -1.0, 1.0, "m"),
            Picture("colours", "Its colours", colours, row=1),
            Plan(
                "top",
                "From above",
                "m",
                (Path2d("true", true, true=True), Path2d("estimated", true + 0.1 * (self.index + 1))),
                np.array([[0.0, 0.0, 8.0, 0.2], [0.0, 0.0, 0.2, 8.0]]),
                Cells(0.5, np.column_stack((columns, rows)) * 0.5, np.ones(len(rows))),
            ),
        )
