"""What the guard of a server saves when one of four robots goes mad, and what it costs when none does.

Four robots train in virtual time over outdoor links; the last one sends updates that are 100 times too large, or with
the sign flipped, or it trains on labels that are all wrong. The accuracy of the three others at the end is compared
with that of a team of these three alone, with the guard and without; and that of four sound robots with the guard and
without. Jobs: ``cruda-digits`` (a ConvMLP that adapts to fog) and ``Series`` of ``grid_jobs.py`` (an MLP). Shards:
``iid``, or by ``label``. ``--out`` keeps finished runs: started again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import multiprocessing
import os
import random
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from common import Figure, arguments, finish
from rowcast.drivers.virtual import Device, Simulation, TimeOver, VirtualWorker
from rowcast.experiment.runners.links import model_bytes
from rowcast.experiment.runners.virtual import CALM_WORKER, calm_server, one_thread
from rowcast.experiment.settings import VIRTUAL_LINKS
from rowcast.experiment.starting import keep_starting_state
from rowcast.journal import Journal
from rowcast.links import named_trace
from rowcast.rows import Layout
from rowcast.sync import parse_policy
from rowcast.tasks import Task, TaskWorker, build_task
from rowcast.training import ServerNode

GRADIENT_S = 2.18
ROBOTS, CLASSES = 4, 10
#: Gradients of a run, about; looks at the accuracy, of which the last ones are averaged.
GRADIENTS, LOOKS, LAST = 150, 30, 6
GRID_JOBS = Path(__file__).with_name("grid_jobs.py")
#: Task and options of a job, by kind of shards.
JOBS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "digits": ("cruda-digits", {"iid": {"alpha": 1000.0}, "label": {"alpha": 0.1}}),
    "series": (f"{GRID_JOBS}:Series", {"iid": {"skew": False}, "label": {"skew": True}}),
}
#: What is set against each fault.
GUARD = {"large": "quarantine", "sign": "quarantine", "labels": "strict"}
FAULTS = tuple(GUARD)
#: Points of accuracy that the others may lose with the guard, and that it may cost where nobody is mad.
MOST_LOST, MOST_COST = 2.0, 0.3


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        fault: what is wrong with the last robot, 'none', or 'absent': there are only the three others.
    """

    job: str
    shards: str
    policy: str
    guard: str
    fault: str
    seed: int
    gradients: int

    @property
    def name(self) -> str:
        """Of its file."""
        return "-".join(str(value).replace(":", "") for value in asdict(self).values())


def train(run: Run) -> dict[str, Any]:
    """Run it; the accuracy of the sound robots at each look, and who was put aside when."""
    with one_thread():
        return _train(run)


def _train(run: Run) -> dict[str, Any]:
    robots = team_of(run)
    task = robots[0].task
    shapes = [(name, tuple(value.shape)) for name, value in robots[0].model.named_parameters() if value.requires_grad]
    scale = model_bytes(Layout.from_shapes(shapes)) / task.reference_bytes
    entropy = random.Random(run.seed)
    settings = calm_server(len(robots), run.guard)
    journal = Journal("server")
    server = ServerNode(
        parse_policy(run.policy),
        settings=settings,
        link_settings=VIRTUAL_LINKS,
        journal=journal,
        entropy=entropy.randbytes,
    )
    simulation = Simulation(server)
    seconds = 1.3 * GRADIENT_S * run.gradients
    looks: list[list[float]] = [[] for _ in robots]
    for index, robot in enumerate(robots):
        links = [named_trace("outdoor", (run.seed, index, way), 3600.0).scaled(scale) for way in (0, 1)]
        worker = VirtualWorker(
            simulation,
            f"robot-{index}",
            Device(GRADIENT_S),
            (links[0], links[1]),
            entropy=entropy.randbytes,
            settings=CALM_WORKER,
            link_settings=VIRTUAL_LINKS,
        )
        mad = run.fault if index == ROBOTS - 1 else "none"
        worker.train(functools.partial(_loop, robot, worker, mad, seconds / LOOKS, looks[index]))
    simulation.run(seconds)
    told = [record for record in journal.records if record["event"] in ("quarantined", "released")]
    clipped = sum(record["event"] == "clipped" for record in journal.records)
    return {"looks": looks[: ROBOTS - 1], "told": told, "clipped": clipped}


def team_of(run: Run) -> list[TaskWorker]:
    """The robots; each has the part of the data that it would have in a team of four."""
    name, shards = JOBS[run.job]
    count = ROBOTS - 1 if run.fault == "absent" else ROBOTS
    robots = []
    for index in range(count):
        task = build_task(name, seed=run.seed, **shards[run.shards])
        keep_starting_state(task, Path(tempfile.gettempdir()) / "rowcast-guard-states", lambda share: None)
        robot = task.worker(index, ROBOTS)
        if index == ROBOTS - 1 and run.fault == "labels":
            flip_labels(task, robot)
        robots.append(robot)
    return robots


def flip_labels(task: Task, robot: Any) -> None:
    """Class k becomes class 9 - k, for this robot."""
    if hasattr(robot, "labels"):
        robot.labels = CLASSES - 1 - robot.labels
    else:
        train: Any = task.train  # type: ignore[attr-defined]
        task.train = type(train)(train.inputs, CLASSES - 1 - train.targets)  # type: ignore[attr-defined]


def _loop(robot: TaskWorker, worker: VirtualWorker, mad: str, every_s: float, looks: list[float]) -> None:
    optimizer = robot.wrap(worker, nonfinite="skip")
    factor = {"large": 100.0, "sign": -1.0}.get(mad, 1.0)
    look_at = 0.0
    with contextlib.suppress(TimeOver):
        while True:
            if worker.now >= look_at:
                with optimizer.evaluating():
                    looks.append(robot.evaluate(brief=True)["accuracy"])
                look_at = (worker.now // every_s + 1) * every_s
            robot.compute()
            if factor != 1.0:  # the optimizers here are SGD: a gradient times 100 is an update times 100
                for value in robot.model.parameters():
                    if value.grad is not None:
                        value.grad.mul_(factor)
            optimizer.step()


def accuracy(found: dict[str, Any]) -> float:
    """Percent, of the sound robots at the end."""
    return fmean(fmean(looks[-LAST:]) for looks in found["looks"])


# -- many runs -----------------------------------------------------------------------------------------------------


def plan(options: argparse.Namespace) -> list[Run]:
    """All runs, those that say most first."""
    kinds = [("off", "none"), ("quarantine", "none"), ("off", "absent")]
    kinds += [(GUARD[fault], fault) for fault in options.faults] + [("off", fault) for fault in options.faults]
    return [
        Run(job, shards, policy, guard, fault, seed, options.gradients)
        for seed in range(options.seeds)
        for job, shards, policy, (guard, fault) in itertools.product(
            options.jobs, options.shards, options.policies, kinds
        )
        if fault in faults_of(shards, options) or fault in ("none", "absent")
    ]


def faults_of(shards: str, options: argparse.Namespace) -> list[str]:
    """Wrong labels can only be told where all robots see the same classes."""
    return [fault for fault in options.faults if fault != "labels" or shards == "iid"]


def run_all(runs: list[Run], out: Path | None, processes: int) -> dict[Run, dict[str, Any]]:
    """The results, old and new."""
    done: dict[Run, dict[str, Any]] = {}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for run in runs:
            if (file := out / f"{run.name}.json").exists():
                done[run] = json.loads(file.read_text(encoding="utf-8"))
    todo = [run for run in runs if run not in done]
    for run, found in _each(todo, processes):
        done[run] = found
        if out is not None:
            part = out / f"{run.name}.part"
            part.write_text(json.dumps(found), encoding="utf-8")
            part.replace(out / f"{run.name}.json")
            print(f"{run.name}: {accuracy(found):.2f} {found['told']}", flush=True)
    return done


def _each(todo: list[Run], processes: int) -> Any:
    if processes == 0:
        yield from ((run, train(run)) for run in todo)
        return
    context = multiprocessing.get_context("spawn")  # never fork: PyTorch's threads do not survive it
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_be_nice) as pool:
        futures = {pool.submit(train, run): run for run in todo}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _be_nice() -> None:
    os.nice(19)


def figures_of(options: argparse.Namespace, done: dict[Run, dict[str, Any]]) -> list[Figure]:
    """For each job, kind of shards and policy: means over the seeds."""
    figures = []
    for job, shards, policy in itertools.product(options.jobs, options.shards, options.policies):

        def mean(guard: str, fault: str, job: str = job, shards: str = shards, policy: str = policy) -> float:
            runs = [Run(job, shards, policy, guard, fault, seed, options.gradients) for seed in range(options.seeds)]
            return fmean(accuracy(done[run]) for run in runs)

        what = f"{job}, {shards}, {policy}"
        three, four = mean("off", "absent"), mean("off", "none")
        for fault in faults_of(shards, options):
            lost = three - mean(GUARD[fault], fault)
            without = three - mean("off", fault)
            note = f"without the guard {without:.1f}; the three alone {three:.1f} %"
            figures.append(Figure(f"{what}: lost, {fault}", lost, "points", MOST_LOST, note=note))
        cost = four - mean("quarantine", "none")
        figures.append(Figure(f"{what}: cost, nobody mad", cost, "points", MOST_COST, note=f"of {four:.1f} %"))
    return figures


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--policies", nargs="+", default=["rog:4", "rowcast"])
    parser.add_argument("--shards", nargs="+", default=["label", "iid"], choices=["label", "iid"])
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--faults", nargs="+", default=list(FAULTS), choices=list(FAULTS))
    parser.add_argument("--seeds", type=int, default=2, help="runs of each kind")
    parser.add_argument("--gradients", type=int, default=GRADIENTS, help="of each robot in a run, about")
    parser.add_argument("--processes", type=int, default=2, help="at a time, one thread each; 0: this one")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="keep finished runs here, and go on from them")
    options = parser.parse_args()
    if options.tiny:
        options.policies, options.shards, options.jobs, options.faults = ["rowcast"], ["iid"], ["series"], ["sign"]
        options.seeds, options.gradients, options.processes = 1, 12, 0
    torch.set_num_threads(1)
    done = run_all(plan(options), options.out, options.processes)
    finish("The guard", figures_of(options, done), options)


if __name__ == "__main__":
    main()
