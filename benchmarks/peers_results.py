"""What becomes of the logs and models of a run of ``peers.py``: a result, and what is read from results."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils import vector_to_parameters

from peers_job import Job
from peers_net import Outage, steps_of

__all__ = ["Result", "evaluated"]

#: An accuracy is the mean of so many looks in a row.
LOOKS = 3


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        contender, scenario: which run.
        seconds: how long it trained; ``every_s``: between two looks.
        best_bps: best rate of the links; ``congestion_control``: of TCP.
        times_s: of each step, of each robot.
        rounds: of the contender, where they are not the steps.
        accuracy: of the team at each look, the mean over the robots; the first is of the starting model.
        up_bytes, down_bytes: IP packets that came out of all links of the robots.
        ended: processes that ended before their time, and how.
        outage: of one robot, if there was one.
        medium: the counters of the medium.
    """

    contender: str
    scenario: str
    seconds: float
    every_s: float
    best_bps: float
    congestion_control: str
    times_s: list[list[float]]
    rounds: int | None
    accuracy: list[float]
    up_bytes: int
    down_bytes: int
    ended: dict[str, str] = field(default_factory=dict)
    outage: dict[str, float] | None = None
    medium: dict[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> float:
        """Of a robot, mean."""
        return float(np.mean([len(each) for each in self.times_s]))

    @property
    def bytes(self) -> int:
        """Over all links, both ways; what goes from robot to robot is on two of them."""
        return self.up_bytes + self.down_bytes

    def smooth(self) -> list[float]:
        """The accuracy at each look, as the mean of the last looks."""
        return [float(np.mean(self.accuracy[max(0, k + 1 - LOOKS) : k + 1])) for k in range(len(self.accuracy))]

    def at(self, time_s: float) -> float:
        """The accuracy at a time."""
        return self.smooth()[min(int(time_s / self.every_s + 1e-6), len(self.accuracy) - 1)]

    @property
    def end(self) -> float:
        """The accuracy at the end."""
        return self.smooth()[-1]

    def reaches_s(self, level: float) -> float:
        """When the accuracy is at a level for the first time (s); ``inf``: not within the run."""
        return next((k * self.every_s for k, value in enumerate(self.smooth()) if value >= level), math.inf)

    # -- the outage ----------------------------------------------------------------------------------------------------

    def _gap(self) -> Outage:
        assert self.outage is not None
        return Outage(int(self.outage["robot"]), self.outage["begin_s"], self.outage["end_s"])

    def _others(self) -> list[list[float]]:
        return [times for index, times in enumerate(self.times_s) if index != self._gap().robot]

    def others_steps(self, begin_s: float, end_s: float) -> float:
        """Steps of the slowest of the robots that keep their links."""
        return float(min(sum(begin_s <= time_s < end_s for time_s in times) for times in self._others()))

    def in_outage(self) -> tuple[float, float, float]:
        """Steps of the slowest of the others in as long before the outage, in it, and in as long after it."""
        gap = self._gap()
        length_s = gap.end_s - gap.begin_s
        begins = (gap.begin_s - length_s, gap.begin_s, gap.end_s)
        before, during, after = (self.others_steps(begin, begin + length_s) for begin in begins)
        return before, during, after

    def longest_pause_s(self) -> float:
        """The longest time without a step of one of the others that is, in part, in the outage."""
        gap = self._gap()
        longest = 0.0
        for times in self._others():
            marks = [0.0, *times, self.seconds]
            for begin_s, end_s in itertools.pairwise(marks):
                if begin_s < gap.end_s and end_s > gap.begin_s:
                    longest = max(longest, end_s - begin_s)
        return longest

    def back_s(self) -> float:
        """From the end of the outage to the first step of the robot that was away; ``inf``: there is none."""
        gap = self._gap()
        return min((time_s - gap.end_s for time_s in self.times_s[gap.robot] if time_s >= gap.end_s), default=math.inf)


def evaluated(name: str, scenario: str, job: Job, told: Mapping[str, Any], links: Any) -> Result:
    """Look at the models that were kept, and delete them.

    Args:
        name: of the contender.
        told: what :func:`peers_net.run` returned.
        links: of the run.

    Raises:
        WorkerFailed: a robot has left no log.
    """
    logs = steps_of(job)
    steps = [[line for line in log if "model" not in line] for log in logs]
    rounds = [line["rounds"] for log in steps for line in log if "rounds" in line]
    ways = {"up": 0, "down": 0}
    for link in told["medium"]["links"]:
        ways[link["way"]] += link["bytes_out"]
    return Result(
        contender=name,
        scenario=scenario,
        seconds=job.seconds,
        every_s=job.every_s,
        best_bps=links.best_bps,
        congestion_control=told["congestion_control"],
        times_s=[[line["time_s"] for line in log] for log in steps],
        rounds=max(rounds, default=None),
        accuracy=_curve(job, logs),
        up_bytes=ways["up"],
        down_bytes=ways["down"],
        ended=dict(told["ended"]),
        outage=None if links.outage is None else asdict(links.outage),
        medium=dict(told["medium"]),
    )


def _curve(job: Job, logs: Sequence[Iterable[Mapping[str, Any]]]) -> list[float]:
    """The mean accuracy at each look: of the models that the robots had kept last.

    A robot keeps a model with the first step after it was time to, so that a look is a step late, for all alike.
    """
    task = job.build()
    worker = task.worker(0, job.workers)
    first = worker.evaluate()["accuracy"]
    known: dict[str, float] = {}
    looks = int(job.seconds / job.every_s + 1e-6) + 1
    curves = []
    for log in logs:
        kept = [(0.0, first)]
        for line in log:
            if "model" not in line:
                continue
            file = Path(job.folder) / line["model"]
            vector = np.load(file)
            digest = hashlib.sha256(vector.tobytes()).hexdigest()
            if digest not in known:
                with torch.no_grad():
                    vector_to_parameters(torch.from_numpy(vector), worker.model.parameters())
                known[digest] = worker.evaluate()["accuracy"]
            kept.append((line["time_s"], known[digest]))
        curves.append([max(each for each in kept if each[0] <= k * job.every_s + job.pace_s)[1] for k in range(looks)])
    for file in Path(job.folder).glob("model-*.npy"):
        file.unlink()
    return [float(value) for value in np.mean(curves, axis=0)]
