"""How fast virtual time passes: timing only, the unchanged nodes, journals kept by nobody; then with real gradients.

The limit is the interpreter: an event is some tens of microseconds of Python in the nodes. What may not grow is the
cost of an event with the number of workers; the last rows of the timing show it.

With real gradients (``cruda-digits``, the command ``rowcast compare`` in this process) processor time is compared with
that of the same number of gradients alone, inner optimizer included, which is taken between the runs: what is left is
the cost of the team. So the machine, and what else runs on it, is in both.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from common import Figure, arguments, finish, reference_layout
from rowcast.config import LinkSettings
from rowcast.drivers.virtual import Device
from rowcast.experiment.cell import Cell
from rowcast.experiment.plan import plan_cells
from rowcast.experiment.runners.links import model_bytes
from rowcast.experiment.runners.virtual import one_thread, run_virtual
from rowcast.experiment.settings import Comparison
from rowcast.experiment.starting import keep_starting_state
from rowcast.experiment.timing_team import timing_team
from rowcast.journal import Journal, Record, read_journal
from rowcast.links import PROFILES, synthesise
from rowcast.rows import Layout
from rowcast.tasks import Task

HOUR_S = 3600.0
LINK_BPS = 50e6
COMPUTE_S = 2.18
#: Traces are shared by several workers where there are many: their memory is not what is measured.
TRACES = 64
#: Half of the 1.3 that this script measures of the code before issue 16.
TEAM_BOUND = 0.65


@dataclass(frozen=True)
class Run:
    """What came of a simulation.

    Attributes:
        start_s: real time until all workers have joined (s).
        run_s: real time of what came then (s).
        messages: messages delivered.
        steps: steps of a worker.
    """

    start_s: float
    run_s: float
    messages: int
    steps: float


def simulate(policy: str, workers: int, layout: Layout, seconds: float, frame_s: float) -> Run:
    """Simulate a team for so many seconds."""
    scale = model_bytes(layout) / Task.reference_bytes
    # The first parameters travel before time 0; with the rate that is assumed by default they make many small frames.
    links = LinkSettings(frame_s=frame_s, initial_rate_bps=max(LINK_BPS * scale, 1e5))
    traces = [synthesise(PROFILES["outdoor"], (0, k), HOUR_S).scaled(scale) for k in range(min(2 * workers, TRACES))]
    steps = 0

    def count(record: Record) -> None:
        nonlocal steps
        steps += record["event"] == "step"

    journals = [Journal(f"robot-{index}", count) for index in range(workers)]
    pairs = [tuple(traces[(2 * index + way) % len(traces)] for way in (0, 1)) for index in range(workers)]
    simulation = timing_team(policy, layout, [Device(COMPUTE_S)] * workers, pairs, journals, link_settings=links)
    began = time.perf_counter()
    simulation.run(0.0)
    joined = time.perf_counter()
    simulation.run(seconds)
    return Run(joined - began, time.perf_counter() - joined, simulation.messages, steps / workers)


@dataclass(frozen=True)
class Cost:
    """What a run with real gradients took.

    Attributes:
        start_s: processor time before the first gradient: data, model, links (s).
        run_s: processor time of the whole run, its start included (s).
        gradient_s: processor time of one of its gradients and steps of the inner optimizer alone (s).
        steps: gradients of all workers.
    """

    start_s: float
    run_s: float
    gradient_s: float
    steps: int

    @property
    def team(self) -> float:
        """Processor time of the run beside its start and its gradients, in units of theirs."""
        return (self.run_s - self.start_s) / (self.steps * self.gradient_s) - 1.0


def cell_of(policy: str, hours: float, *, tiny: bool) -> Cell:
    """A short run of which almost all is training: of each worker one look, at few images."""
    options = ("pretrain_epochs=0", "train_images=400") if tiny else ()
    settings = Comparison(
        task="cruda-digits",
        policies=(policy,),
        links=("outdoor",),
        workers=(4,),
        hours=hours,
        seeds=(0,),
        eval_every_s=3600.0,
        eval_items=64,
        task_options=options,
    )
    (cell,) = plan_cells(settings)
    return cell


def gradients_s(cell: Cell, folder: Path, count: int) -> float:
    """Processor time of a gradient and a step of the inner optimizer, by all workers in turns (s)."""
    task = cell.build_task()
    keep_starting_state(task, folder / "states")
    workers = [task.worker(index, cell.workers) for index in range(cell.workers)]
    for worker in workers:
        worker.compute()
        worker.optimizer.step()
    began = time.process_time()
    for step in range(count):
        worker = workers[step % len(workers)]
        worker.compute()
        worker.optimizer.step()
    return (time.process_time() - began) / count


def run_s_of(cell: Cell, folder: Path) -> float:
    """Processor time of a run (s)."""
    began = time.process_time()
    run_virtual(cell, folder, lambda _: None)
    return time.process_time() - began


def processor_time(cell: Cell, folder: Path, gradients: int) -> Cost:
    """Run a cell, and its gradients alone before and afterwards."""
    place, begun = folder / "cells" / cell.name, folder / "cells" / "begun"
    place.mkdir(parents=True)
    begun.mkdir()
    with one_thread():
        before_s = gradients_s(cell, folder, gradients)
        start_s = run_s_of(replace(cell, hours=1.0 / 3600.0), begun)
        run_s = run_s_of(cell, place)
        after_s = gradients_s(cell, folder, gradients)
    records = (record for file in place.glob("robot-*.jsonl") for record in read_journal(file))
    steps = sum(record["event"] == "step" for record in records)
    return Cost(start_s, run_s, (before_s + after_s) / 2, steps)


def real_gradients(*, tiny: bool) -> list[Figure]:
    """What the team costs beside the gradients, and how ``rowcast`` compares with ``bsp``."""
    hours, repeat, gradients = (0.006, 1, 8) if tiny else (0.05, 3, 120)
    costs: dict[str, list[Cost]] = {"bsp": [], "rowcast": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(0 if tiny else -1, repeat):  # the first is to make and load what is kept: models, kernels
            for policy, found in costs.items():
                cell = cell_of(policy, hours if turn >= 0 else hours / 10, tiny=tiny)
                cost = processor_time(cell, Path(folder) / f"{policy}-{turn}", gradients)
                if turn >= 0:
                    found.append(cost)
    figures = []
    for policy, found in costs.items():
        each_ms = 1e3 * statistics.median(cost.run_s / cost.steps for cost in found)
        alone_ms = 1e3 * statistics.median(cost.gradient_s for cost in found)
        note = f"{found[0].steps} gradients; {each_ms:.1f} ms of processor time each, {alone_ms:.1f} alone"
        team = statistics.median(cost.team for cost in found)
        bound = TEAM_BOUND if policy == "rowcast" else None
        figures.append(Figure(f"{policy}, the team's cost, of that of its gradients", team, "ratio", bound, note=note))
    pairs = list(zip(costs["rowcast"], costs["bsp"], strict=True))
    whole = statistics.median(one.run_s / other.run_s for one, other in pairs)
    each = statistics.median(one.run_s / one.steps / (other.run_s / other.steps) for one, other in pairs)
    figures.append(Figure("rowcast / bsp, a virtual hour", whole, "ratio", note="it makes more gradients in it"))
    figures.append(Figure("rowcast / bsp, a gradient", each, "ratio"))
    return figures


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--frame-s", type=float, default=0.05, help="link time of a frame")
    parser.add_argument(
        "--large-frame-s",
        type=float,
        default=10.0,
        help="the same with 1000 workers: a whole model in a frame. Steps differ by less than 1 %% from those with 1 s",
    )
    parser.add_argument("--only", choices=("gradients",), help="measure this alone")
    options = parser.parse_args()
    if options.only:
        finish("Simulation, real gradients", real_gradients(tiny=options.tiny), options)
        return
    layout, name = reference_layout(tiny=options.tiny)
    small = layout if options.tiny else Layout.from_shapes([(f"layer{k}", (50, 509)) for k in range(10)])
    hour_s, large, teams = (10.0, 8, (4, 8)) if options.tiny else (HOUR_S, 1000, (4, 16, 64, 256, 1000))
    figures = []
    for policy in ("bsp", "rog:4"):
        run = simulate(policy, 4, layout, hour_s, options.frame_s)
        note = f"{run.steps:.0f} steps each, {run.messages} messages; {name}"
        figures.append(Figure(f"{policy}, 4 workers, an hour", run.start_s + run.run_s, "s", bound=10.0, note=note))
    for policy, parts, bound_s in (("bsp", 1, 90.0), ("rog:4", 10, 240.0)):
        run = simulate(policy, large, small, hour_s / parts, options.large_frame_s)
        note = f"{run.steps:.0f} steps each, {run.messages} messages, {small.rows} rows"
        if parts > 1:
            note += f"; from the start on measured over 1/{parts} h and multiplied"
        took_s = run.start_s + parts * run.run_s
        figures.append(Figure(f"{policy}, {large} workers, an hour", took_s, "s", bound=bound_s, note=note))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    figures.append(Figure("memory", memory, "GB", bound=4.0, note="the most, of all runs above"))
    per_message = {}
    for workers in teams:
        seconds = hour_s if options.tiny else 8000.0 / workers + 30.0
        run = simulate("rog:4", workers, small, seconds, options.frame_s)
        per_message[workers] = 1e6 * (run.start_s + run.run_s) / run.messages
        figures.append(Figure(f"rog:4, {workers} workers", per_message[workers], "us", note="a message"))
    few, many = (teams[0], teams[-1]) if options.tiny else (16, 1000)
    growth = per_message[many] / per_message[few]
    figures.append(Figure(f"{many} workers / {few} workers, a message", growth, "ratio", bound=1.5))
    figures += real_gradients(tiny=options.tiny)
    finish("Simulation", figures, options)


if __name__ == "__main__":
    main()
