"""How fast virtual time passes: timing only, the unchanged nodes, journals kept by nobody.

The limit is the interpreter: an event is some tens of microseconds of Python in the nodes. What may not grow is the
cost of an event with the number of workers; the last rows show it.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

from common import Figure, arguments, finish, reference_layout
from rowcast.config import LinkSettings
from rowcast.drivers.virtual import Device
from rowcast.experiment.runners.virtual import model_bytes
from rowcast.experiment.timing_team import timing_team
from rowcast.journal import Journal, Record
from rowcast.links import PROFILES, synthesise
from rowcast.rows import Layout
from rowcast.tasks import Task

HOUR_S = 3600.0
LINK_BPS = 50e6
COMPUTE_S = 2.18
#: Traces are shared by several workers where there are many: their memory is not what is measured.
TRACES = 64


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


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--frame-s", type=float, default=0.05, help="link time of a frame")
    parser.add_argument(
        "--large-frame-s",
        type=float,
        default=10.0,
        help="the same with 1000 workers: a whole model in a frame. Steps differ by less than 1 %% from those with 1 s",
    )
    options = parser.parse_args()
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
    finish("Simulation, timing only", figures, options)


if __name__ == "__main__":
    main()
