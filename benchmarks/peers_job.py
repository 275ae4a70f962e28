"""What each robot of ``peers.py`` does, whoever its contender is: the job, the pace, and a log of steps and models.

A contender is a script (``peers_ddp.py`` and so on) that runs once for each robot, and for those that need one once
more as their server. ``peers_net.py`` starts them; they talk in lines:

=========== ======================= ====================================================================================
robot says  it is told
=========== ======================= ====================================================================================
``ready``                           the data are loaded, and what is slow the first time has happened
            ``join``                all are ready, the servers too
``joined``                          it is connected with the others; until then links are unhindered
            ``go T``                the time begins at ``T`` (s, ``time.monotonic()``), and the links have their traces
``finished``                        the time is over; it waits for its end, so that nobody else loses a partner
=========== ======================= ====================================================================================

The log of a robot is ``robot-K.jsonl``: a line for each step (``time_s`` since the beginning, ``step``, and ``rounds``
of the contender), and one for each model that was kept (``model``, a file): models are evaluated when everything is
over, by one program for all, so that evaluating costs nobody time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch.nn.utils import parameters_to_vector

from rowcast.tasks import Task, find_task

__all__ = ["PORT", "Job", "Robot", "Server", "arguments"]

#: Where the server of a contender listens, or its first robot.
PORT = 7117


@dataclass(frozen=True)
class Job:
    """What is the same for all robots and all contenders.

    Args:
        task, data, seed, options: as of ``rowcast compare``; ``state``: file of the starting model.
        workers: robots of the team.
        pace_s: what a gradient takes on a robot; its computation here is stretched to it.
        seconds: how long everybody trains.
        every_s: between two models that are kept.
        folder: of logs and models.
    """

    task: str
    data: str | None
    seed: int
    options: dict[str, Any]
    state: str
    workers: int
    pace_s: float
    seconds: float
    every_s: float
    folder: str

    def build(self) -> Task:
        """The task, with its starting model."""
        task = find_task(self.task, self.data).kind.build(self.options, data_dir=self.data, seed=self.seed)
        task.load_state(self.state)
        return task

    def save(self, file: Path) -> None:
        """Write a file for :meth:`load`."""
        file.write_text(json.dumps(vars(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> Job:
        """Read what :meth:`save` has written."""
        return cls(**json.loads(file.read_text(encoding="utf-8")))


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that each contender has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--job", type=Path, required=True, metavar="FILE", help="what to do, as peers_net.py writes it")
    parser.add_argument("--rank", type=int, default=0, help="which robot, from 0")
    parser.add_argument("--host", default="127.0.0.1", metavar="IP", help="the address of this robot or server")
    parser.add_argument("--address", default=f"127.0.0.1:{PORT}", metavar="IP:PORT", help="where the others are found")
    parser.add_argument("--serve", action="store_true", help="be the server, where there is one")
    return parser


class _Lines:
    """Lines to and from whoever started this; what others print goes to standard error."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def say(self, word: str) -> None:
        print(word, file=self._out, flush=True)

    def expect(self, word: str) -> list[str]:
        """What stands behind the word in the next line; if it never comes, this process ends."""
        line = sys.stdin.readline().split()
        if not line:
            os._exit(0)
        if line[0] != word:
            raise SystemExit(f"expected the word {word!r}, got {line[0]!r}")
        return line[1:]

    def end(self) -> NoReturn:
        """Wait until there is nothing more to do; then end without a goodbye to anybody."""
        sys.stdin.read()
        os._exit(0)


class Robot:
    """One robot: its part of the data, its model, its pace and its log.

    Args:
        options: of :func:`arguments`.

    Attributes:
        job: what is to be done.
        rank: which robot.
        worker: model, optimizer and batches, as the task made them; a contender may put others in their place.
        evaluating: entered when the model is kept, if it holds something else between two steps.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._lines = _Lines()
        self.job = Job.load(options.job)
        self.rank: int = options.rank
        torch.set_num_threads(1)
        self.worker = self.job.build().worker(self.rank, self.job.workers)
        self.worker.warm_up()
        self.evaluating: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
        self.step = 0
        self._model = self.worker.model
        self._folder = Path(self.job.folder)
        self._log = (self._folder / f"robot-{self.rank}.jsonl").open("w", encoding="utf-8", buffering=1)
        self._kept_s = 0.0
        self._began_s = 0.0
        self._lines.say("ready")
        self._lines.expect("join")

    @property
    def batch(self) -> int:
        """Items of a step."""
        return int(self.worker.task.settings.batch)

    @property
    def over(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._began_s + self.job.seconds

    def joined(self) -> None:
        """Say that this robot is connected, and wait for the beginning."""
        self._lines.say("joined")
        self._began_s = float(self._lines.expect("go")[0])

    def gradient(self) -> bool:
        """Compute the next gradient, stretched to the pace; returns whether there is still time to use it.

        What a contender sends during the backward pass is sent at once, and goes on while the rest of the pace is
        waited out: it overlaps with more of the computation than it would on the robot.
        """
        started = time.monotonic()
        self.worker.compute()
        ends = min(started + self.job.pace_s, self._began_s + self.job.seconds)
        time.sleep(max(ends - time.monotonic(), 0.0))
        return not self.over

    def stepped(self, *, keep: bool = True, **facts: Any) -> None:
        """A step is done: write it down, and keep the model now and then.

        Args:
            keep: the model is that of the team as far as it is known here, and not one between two averages.
            facts: what else the contender can tell, as ``rounds``.
        """
        self.step += 1
        self._write(**facts)
        if keep:
            self.keep_now_and_then()

    def keep_now_and_then(self) -> None:
        """Keep the model, if it is the first one since it was time for another."""
        passed_s = time.monotonic() - self._began_s
        if passed_s // self.job.every_s > self._kept_s // self.job.every_s:
            self._keep()

    def _keep(self) -> None:
        with self.evaluating(), torch.no_grad():
            vector = parameters_to_vector(self._model.parameters()).numpy()
        self._kept_s = time.monotonic() - self._began_s
        name = f"model-{self.rank}-{self.step:06d}.npy"
        np.save(self._folder / name, vector)
        self._write(model=name)

    def train(self, step: Callable[[], None], facts: Callable[[], dict[str, Any]] = dict) -> NoReturn:
        """Step until the time is over, and wait for the end.

        Args:
            step: uses the gradient that was computed.
            facts: as of :meth:`stepped`, after each step.
        """
        while not self.over and self.gradient():
            step()
            self.stepped(**facts())
        self._keep()
        self.finish()

    def finish(self) -> NoReturn:
        """The time is over: wait for the end."""
        self._lines.say("finished")
        self._lines.end()

    def _write(self, **facts: Any) -> None:
        line = {"time_s": round(time.monotonic() - self._began_s, 4), "step": self.step, **facts}
        self._log.write(json.dumps(line) + "\n")


class Server:
    """The server of a contender."""

    def __init__(self) -> None:
        self._lines = _Lines()

    def ready(self) -> None:
        """Say that it listens."""
        self._lines.say("ready")

    def wait(self) -> NoReturn:
        """Wait until there is nothing more to serve."""
        self._lines.end()
