"""What the robots of ``agreement.py`` compute where there is no team: the same job and pace, at the same time."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier

import torch

from rowcast.experiment.robot import load_robot
from rowcast.experiment.settings import RobotSettings

__all__ = ["steps_alone"]

#: The barrier that a process has.
_ready: list[Barrier] = []


def steps_alone(task: str, workers: int, pace_s: float, seconds: float) -> float:
    """Steps of a robot in so many seconds, mean over the robots: a gradient at its pace, and the optimizer's step.

    Args:
        task: name of the task.
        workers: robots, each in a process of its own; they compute at the same time.
        pace_s: what a gradient takes (s).
        seconds: how long they compute.
    """
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(workers)
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_keep, initargs=(barrier,)) as pool:
        robots = [pool.submit(_steps, task, workers, index, pace_s, seconds) for index in range(workers)]
        return statistics.fmean(robot.result() for robot in robots)


def _keep(barrier: Barrier) -> None:
    _ready.append(barrier)


def _steps(task: str, workers: int, index: int, pace_s: float, seconds: float) -> int:
    """Those of one robot, in this process."""
    settings = RobotSettings(index=index, workers=workers, task=task, task_options={"pretrain_epochs": 0})
    torch.set_num_threads(settings.threads)
    robot = load_robot(settings)  # from where it begins changes nothing of what a step takes
    _ready[0].wait()
    ends, steps = time.monotonic() + seconds, 0
    while True:
        started = time.monotonic()
        robot.compute()
        time.sleep(max(min(started + pace_s, ends) - time.monotonic(), 0.0))
        if time.monotonic() >= ends:
            return steps
        robot.optimizer.step()
        steps += 1
