"""Which way does it move? Frames by themselves against the Temporal Shift Module, both ways and one way.

The task ``motion`` with its defaults: short clips of digits that move in one of eight directions, of which one frame
says nothing. ``alone``: one robot, whole gradients, no link. ``team``: four robots in virtual time over outdoor links.
FLOPs of one clip are those that PyTorch's ``FlopCounterMode`` counts: of convolutions and the linear layer. The model
``online`` is measured frame by frame as well, as a robot runs it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from common import Figure, arguments, finish
from rowcast.experiment import Comparison, run_comparison
from rowcast.report import metric_over, read_experiment
from rowcast.report.values import Run
from rowcast.tasks import build_task
from rowcast.tasks.cruda import count_parameters
from rowcast.tasks.motion import MODELS, FrameByFrame, MotionNet, MotionTask

POLICIES = ("bsp", "rowcast")
#: Percent of the test clips that are told: what each model is asked for; chance is 12.5.
AT_MOST, AT_LEAST = {"2d": 20.0}, {"tsm": 95.0}


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        steps: of the robot that trains alone.
        hours: of a team, in virtual time; ``eval_every_s``: between two looks.
        seeds: runs of each.
        clips: of an evaluation.
    """

    steps: int = 500
    hours: float = 0.4
    eval_every_s: float = 360.0
    seeds: int = 2
    clips: int = 500


TINY = Size(steps=2, hours=0.008, eval_every_s=9.0, seeds=1, clips=8)


def asked(model: str) -> tuple[float | None, bool]:
    """The bound of the accuracy of a model, and whether it is one from below."""
    return AT_MOST.get(model, AT_LEAST.get(model)), model in AT_LEAST


def flops(task: MotionTask) -> int:
    """FLOPs of the model for one test clip."""
    clip = task.labelled_tests().inputs[:1]
    model = task.make_model().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(clip)
    return counter.get_total_flops()


def sizes(size: Size) -> Iterator[Figure]:
    """Parameters and FLOPs of each model, and that they are the same."""
    tasks = {model: build_task("motion", model=model, test_clips=size.clips) for model in MODELS}
    parameters = {model: count_parameters(task.make_model()) for model, task in tasks.items()}
    computed = {model: flops(task) for model, task in tasks.items()}
    for model in MODELS:
        yield Figure(f"{model}: parameters", parameters[model], "", note=f"{computed[model]:,} FLOPs for a clip")
    for name, values in (("parameters", parameters), ("FLOPs for a clip", computed)):
        yield Figure(f"most over least {name}", max(values.values()) / min(values.values()), "", 1.0)


def by_frames(task: MotionTask, model: MotionNet) -> list[float]:
    """Percent of the test clips that are told after each frame."""
    tests = task.labelled_tests()
    robot = FrameByFrame(model.eval())
    with torch.no_grad():
        told = [robot.next(frame).argmax(dim=1) for frame in tests.inputs.unbind(dim=1)]
    return [100.0 * float((each == tests.labels).double().mean()) for each in told]


def alone(size: Size, models: Sequence[str]) -> Iterator[Figure]:
    """Each model trained by one robot; ``online`` also frame by frame."""
    for model in models:
        ends, axes, frames = [], [], []
        for seed in range(size.seeds):
            task = build_task("motion", model=model, test_clips=size.clips, seed=seed)
            worker = task.worker(0, 1)
            for _ in range(size.steps):
                worker.compute()
                worker.optimizer.step()
            found = worker.evaluate()
            ends.append(found["accuracy"])
            axes.append(found["axis_accuracy"])
            if model == "online":
                frames.append(by_frames(task, worker.model))
        bound, at_least = asked(model)
        note = f"seeds {listed(ends)}; the axis {fmean(axes):.1f} %"
        yield Figure(f"alone, {model}: accuracy after {size.steps} steps", fmean(ends), "%", bound, at_least, note)
        if frames:
            means = np.mean(frames, axis=0)
            yield Figure("alone, online: after the last frame", means[-1], "%", note=f"after each: {listed(means)}")


def team(size: Size, models: Sequence[str], out: Path, jobs: int) -> Iterator[Figure]:
    """Each model trained by four robots over outdoor links."""
    for model in models:
        for policy in POLICIES:
            settings = Comparison(
                task="motion",
                task_options=(f"model={model}",),
                policies=(policy,),
                links=("outdoor",),
                workers=(4,),
                hours=size.hours,
                seeds=size.seeds,
                eval_every_s=size.eval_every_s,
                eval_items=size.clips,
            )
            folder = out / f"{model}-{policy}"
            run_comparison(settings, folder, jobs=jobs)
            yield of_team(f"team, {policy}, {model}", model, read_experiment(folder).runs)


def of_team(name: str, model: str, runs: Sequence[Run]) -> Figure:
    """The accuracy at the end of the runs of one policy, mean of the robots."""
    ends = []
    for run in runs:
        curve = metric_over(run, run.metrics[0], "time")
        assert curve is not None, f"{run.folder}: its robots measured nothing at the same time"
        ends.append(float(curve.values[-1]))
    steps = fmean(len(robot.steps["iteration"]) for run in runs for robot in run.robots)
    bound, at_least = asked(model)
    note = f"seeds {listed(ends)}; {steps:.0f} steps a robot"
    return Figure(f"{name}: accuracy after {runs[0].seconds / 60:g} min", fmean(ends), "%", bound, at_least, note)


def listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def names(text: str, known: Sequence[str]) -> list[str]:
    """The names in a list of them, each of which is one of ``known``."""
    found = text.split(",")
    for name in found:
        if name not in known:
            raise SystemExit(f"expected names of {', '.join(known)}, got {name!r}")
    return found


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--parts", default="alone,team", help="of alone and team (default both)")
    parser.add_argument("--models", default=",".join(MODELS), help="to train, by commas (default all)")
    parser.add_argument("--seeds", type=int, help=f"runs of each (default {Size.seeds})")
    parser.add_argument("--jobs", type=int, default=2, help="runs of a team at the same time (default 2; 0: here)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="keep the runs of teams, and go on with those there")
    options = parser.parse_args()
    size = TINY if options.tiny else Size() if options.seeds is None else Size(seeds=options.seeds)
    parts, models = names(options.parts, ("alone", "team")), names(options.models, tuple(MODELS))
    torch.set_num_threads(1)
    figures = list(sizes(size))
    if "alone" in parts:
        figures += alone(size, models)
    if "team" in parts:
        with tempfile.TemporaryDirectory() as folder:
            figures += team(size, models, options.out or Path(folder), options.jobs)
    title = f"Which way does it move? {size.steps} steps alone, teams of four, {size.seeds} seeds"
    finish(title, figures, options)


if __name__ == "__main__":
    main()
