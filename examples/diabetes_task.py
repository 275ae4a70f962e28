"""A job of one's own: a regression on a table, judged by an error that shall be low.

    rowcast compare --task examples/diabetes_task.py:Diabetes --policies bsp,rowcast --hours 0.1 --seeds 2
    rowcast train --task examples/diabetes_task.py:Diabetes --parts 4 --index 0   # a robot of a team

A class is all it takes: a model, the data of each robot, and a metric. Its settings are options of the commands
(``--set lr=0.02``).
"""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_diabetes
from torch import nn

from rowcast.config import setting
from rowcast.tasks import Metric, Task, TaskSettings


class Diabetes(Task):
    """How far a disease has come a year later (25 to 346 points), from ten measures of a patient."""

    metrics = (Metric("test_error", "points", "lower"),)

    @dataclass(frozen=True)
    class Settings(TaskSettings):
        """Settings of the task."""

        lr: float = setting(0.05, "Learning rate.", low=0.0, high=10.0)
        batch: int = setting(32, "Patients of one step of one robot.", low=1, high=100)

    def __init__(self, settings):
        super().__init__(settings)
        measures, points = load_diabetes(return_X_y=True)
        order = self.rng(0).permutation(len(points))
        self.inputs = torch.tensor(measures[order] * 21, dtype=torch.float32)  # deviation 1
        self.points = torch.tensor(points[order, None], dtype=torch.float32)

    def make_model(self):
        return nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1))

    def make_optimizer(self, model):
        return torch.optim.SGD(model.parameters(), lr=self.settings.lr, momentum=0.5)

    def batches(self, index, workers):
        mine, rng = range(100 + index, len(self.points), workers), self.rng(1, index)  # the first 100 are for tests
        while True:
            yield torch.tensor(rng.choice(mine, self.settings.batch))

    def loss(self, model, batch):
        return (model(self.inputs[batch]) - (self.points[batch] - 150) / 75).square().mean()

    def evaluate(self, worker):
        predicted = 150 + 75 * worker.model(self.inputs[:100])
        return {"test_error": (predicted - self.points[:100]).abs().mean()}
