"""The part of ``beyond.py`` on what poor links leave behind: does the final delivery throw anybody's model?

The job, the pace and the links of ``rowcast demo``, in virtual time. When the time is over the links become good, and
everything that was held back is delivered. What each part of the policy does for the accuracy shows here best, because
these links are the poorest of all benchmarks.
"""

from __future__ import annotations

import contextlib
import functools
import json
import random
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from beyond_cells import Sweep
from beyond_parts import OWN_WRITES, alone, without
from beyond_training import WORKERS, summary
from common import Figure
from rowcast.drivers.virtual import Device, Simulation, VirtualWorker
from rowcast.errors import NonFiniteGradient, WorkerFailed
from rowcast.experiment import Cell, Comparison, plan_cells
from rowcast.experiment.demo import DemoSettings
from rowcast.experiment.folder import cell_folder, write_whole
from rowcast.experiment.preparing import Preparing
from rowcast.experiment.robot import ShapeSettings, shaped_trace
from rowcast.experiment.runners.links import model_bytes
from rowcast.experiment.runners.virtual import CALM_WORKER, calm_server, one_thread
from rowcast.experiment.starting import keep_starting_state
from rowcast.links import Trace
from rowcast.optim import Optimizer
from rowcast.optim.shared import shared_parameters
from rowcast.sync import parse_policy
from rowcast.tasks.cruda import CrudaWorker
from rowcast.training import ServerNode

TASK = "cruda-digits"
#: Links once the time is over (bit/s), and how long the delivery may take (s).
GOOD_BPS, DELIVERY_S = 1e9, 60.0
#: The accuracy is measured after this share of the steps as well.
EARLY = 0.1
#: What is trained, by the name that the figures have.
POLICIES = {
    "rowcast": "rowcast",
    "own writes only": OWN_WRITES,
    **{f"without {part}": without(part) for part in ("anticipate", "auto_lr", "ahead", "refine")},
    "without anticipate and auto_lr": without("auto_lr", "anticipate"),
    "bare": alone(),
    **{f"{part} alone": alone(part) for part in ("anticipate", "auto_lr", "elastic")},
    "elastic and ahead alone": alone("elastic", "ahead"),
}


def poor_until(trace: Trace, end_s: float) -> Trace:
    """``trace`` until ``end_s``, then a good link."""
    kept = trace.times_s < end_s
    times, rates = np.append(trace.times_s[kept], end_s), np.append(trace.rates_bps[kept], GOOD_BPS)
    return Trace(times, rates, trace.name, loop=False, duration_s=float("inf"))


def delivery_sweeps(
    out: Path, seeds: int, names: Iterable[str] = POLICIES, seconds: float | None = None
) -> list[Sweep]:
    """What :func:`delivery` trains; ``seconds`` cuts it short."""
    demo = DemoSettings()
    settings = Comparison(
        task=TASK,
        policies=tuple(POLICIES[name] for name in names),
        links=(demo.trace,),
        workers=(WORKERS,),
        devices=(f"{demo.pace_s:g}",),
        seeds=seeds,
        eval_items=100_000,  # all
        hours=(demo.seconds if seconds is None else seconds) / 3600,
        task_options=() if seconds is None else ("pretrain_epochs=0",),
    )
    return [Sweep(settings, out / "delivery", train)]


@one_thread()
def train(cell: Cell, folder: Path, progress: Callable[[float | Preparing], None]) -> None:
    """Train as the demo does; writes steps and accuracies, means over the robots, to ``result.json``."""
    demo = DemoSettings(seconds=round(cell.seconds, 3), trace=cell.links)
    policy, seed = cell.policy, cell.seed
    task = cell.build_task()
    keep_starting_state(task, folder.parents[1] / "states", lambda share: progress(Preparing(share)))
    robots = [task.worker(index, WORKERS) for index in range(WORKERS)]
    layout = shared_parameters(robots[0].model, robots[0].optimizer).layout
    best_bps = 8 * model_bytes(layout) / (demo.ratio * demo.pace_s)
    entropy = random.Random(seed)
    server = ServerNode(
        parse_policy(policy), settings=calm_server(WORKERS), link_settings=demo.link, entropy=entropy.randbytes
    )
    simulation = Simulation(server)
    found: list[dict[str, float]] = []

    def robot(own: CrudaWorker, worker: VirtualWorker) -> None:
        optimizer = Optimizer(own.optimizer, own.model, worker, nonfinite="skip")
        early = None
        while worker.now < demo.seconds:
            if early is None and worker.iteration >= EARLY * demo.seconds / demo.pace_s:
                with optimizer.evaluating():
                    early = own.accuracy()
            own.compute()
            with contextlib.suppress(NonFiniteGradient):
                optimizer.step()
        with optimizer.evaluating():
            before, steps = own.accuracy(), worker.iteration
        optimizer.close()
        found.append({"early": early or before, "before": before, "after": own.accuracy(), "steps": steps})

    for index, own in enumerate(robots):
        up, down = (
            poor_until(shaped_trace(ShapeSettings(demo.trace, best_bps, seed), index, way), demo.seconds)
            for way in (0, 1)
        )
        worker = VirtualWorker(
            simulation,
            f"robot-{index}",
            Device(demo.pace_s),
            (up, down),
            entropy=entropy.randbytes,
            settings=CALM_WORKER,
            link_settings=demo.link,
        )
        worker.train(functools.partial(robot, own, worker))
    simulation.run(demo.seconds + DELIVERY_S, progress=progress)
    if len(found) < WORKERS:
        left = WORKERS - len(found)
        raise WorkerFailed(f"delivery: {policy}, seed {seed}: {left} robots have not delivered everything")
    write_whole(folder / "result.json", {key: statistics.fmean(one[key] for one in found) for key in found[0]})


def results(sweeps: Iterable[Sweep]) -> dict[tuple[str, int], dict[str, float]]:
    """What finished runs have written, by policy and seed."""
    return {
        (cell.policy, cell.seed): json.loads(
            (cell_folder(sweep.place, cell) / "result.json").read_text(encoding="utf-8")
        )
        for sweep in sweeps
        for cell in plan_cells(sweep.settings)
    }


def delivery(out: Path, seeds: int, names: Iterable[str] = POLICIES, seconds: float | None = None) -> list[Figure]:
    """What the final delivery costs, and how far the training got; each part of the policy taken away, and alone.

    All of what has trained.
    """
    figures = []
    found = results(delivery_sweeps(out, seeds, names, seconds))
    for name in names:
        policy = POLICIES[name]
        runs = [found[policy, seed] for seed in range(seeds)]
        lost = [run["before"] - run["after"] for run in runs]
        note = f"worst of {seeds} seeds; {statistics.fmean(run['steps'] for run in runs):.0f} steps"
        bound = 2.0 if policy == "rowcast" else None
        title = f"poor links, {name}"
        figures.append(Figure(f"{title}: lost by the final delivery", max(lost), "points", bound, note=note))
        early = statistics.fmean(run["early"] for run in runs)
        note = f"{early:.1f} % after a tenth"
        figures.append(summary(f"{title}: accuracy then", [run["after"] for run in runs], "%", note=note))
    return figures
