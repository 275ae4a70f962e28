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
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from beyond_parts import OWN_WRITES, alone, without
from beyond_training import WORKERS, summary
from common import Figure
from rowcast.drivers.virtual import Device, Simulation, VirtualWorker
from rowcast.errors import NonFiniteGradient
from rowcast.experiment.demo import DemoSettings
from rowcast.experiment.robot import ShapeSettings, shaped_trace
from rowcast.experiment.runners.virtual import CALM_WORKER, calm_server, model_bytes, one_thread
from rowcast.links import Trace
from rowcast.optim import Optimizer
from rowcast.optim.shared import shared_parameters
from rowcast.sync import parse_policy
from rowcast.tasks import build_task
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


@one_thread()
def train(policy: str, seed: int, state: Path, seconds: float | None) -> dict[str, float]:
    """Train as the demo does, from the model in ``state``; steps and accuracies, means over the robots."""
    cut_short = seconds is not None
    demo = DemoSettings(seconds=seconds) if cut_short else DemoSettings()
    task = build_task(TASK, seed=seed, **({"pretrain_epochs": 0} if cut_short else {}))
    if state.exists():
        task.load_state(state)
    else:
        task.pretrain()
        task.save_state(state)
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
    simulation.run(demo.seconds + DELIVERY_S)
    if len(found) < WORKERS:
        raise SystemExit(
            f"delivery: {policy}, seed {seed}: {WORKERS - len(found)} robots have not delivered everything"
        )
    return {key: statistics.fmean(one[key] for one in found) for key in found[0]}


def trained(out: Path, policy: str, seed: int, seconds: float | None) -> dict[str, float]:
    """A run, made once."""
    path = out / "delivery" / f"{policy.replace('?', '-').replace(':', '-')}-{seed}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        run = train(policy, seed, path.with_name(f"state-{seed}.npz"), seconds)
        path.write_text(json.dumps(run) + "\n", encoding="utf-8")
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return kept


def delivery(out: Path, seeds: int, names: Iterable[str] = POLICIES, seconds: float | None = None) -> list[Figure]:
    """What the final delivery costs, and how far the training got; each part of the policy taken away, and alone."""
    figures = []
    for name in names:
        policy = POLICIES[name]
        runs = [trained(out, policy, seed, seconds) for seed in range(seeds)]
        lost = [run["before"] - run["after"] for run in runs]
        note = f"worst of {seeds} seeds; {statistics.fmean(run['steps'] for run in runs):.0f} steps"
        bound = 2.0 if policy == "rowcast" else None
        title = f"poor links, {name}"
        figures.append(Figure(f"{title}: lost by the final delivery", max(lost), "points", bound, note=note))
        early = statistics.fmean(run["early"] for run in runs)
        note = f"{early:.1f} % after a tenth"
        figures.append(summary(f"{title}: accuracy then", [run["after"] for run in runs], "%", note=note))
    return figures
