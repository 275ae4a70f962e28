"""How far the policy ``rowcast`` goes beyond the published ones on the recorded outdoor links.

In virtual time, on the bandwidth schedules and the computing times of the measured runs (the folder ``rog-artifact``);
in place of the artifact's software the work of this one counts, measured here. The limit is **the computing robot**: a
step cannot take less than its gradient. Parts, of which ``--parts`` chooses:

- ``timing``: steps and stall of an hour, of the published policies, of ours, and of ours without each of its
  parts and with each alone;
- ``silence``: one of four robots is silent for two minutes: steps that the others lose, accuracy on its own classes;
- ``accuracy``: with real gradients, at equal samples; time and energy to accuracy (hours of a processor);
- ``delivery``: the links of the demo, so poor that much is left to deliver in the end: what that does to the models,
  and what each part does for the accuracy there;
- ``wifi``: time to accuracy on the recordings of ``traces_wifi_robot``, against the published policies and local SGD.

What has trained is kept in the folder ``--out``; the same command goes on from there. ``--list-cells`` prints the key
of each run that is to be trained yet, ``--cell KEY`` trains it and prints no figures (on as many machines at once as
share the folder), and ``--on ray[:ADDRESS]`` trains on a Ray cluster: as of ``rowcast compare``, see
``docs/compare.md``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import beyond_training as training
from beyond_cells import Sweep, cell_arguments, print_keys, run_keys, settle
from beyond_delivery import delivery, delivery_sweeps
from beyond_parts import OWN_WRITES, alone, without
from beyond_wifi import wifi, wifi_sweeps
from common import SHARED, Figure, arguments, finish, reference_layout
from rowcast.codecs import codec_by_name
from rowcast.drivers.virtual import Device
from rowcast.errors import ConfigError
from rowcast.experiment import MeasuredRun, read_runs
from rowcast.experiment.executors import executor_for
from rowcast.experiment.timing_team import timing_team
from rowcast.journal import Journal
from rowcast.links import Trace
from rowcast.report import Timeline, draw_timeline, state_shares, timeline_table
from rowcast.rows import Layout

HOUR_S = 3600.0
#: The robot of the issue: 1,750 gradients in an hour.
ROBOT_S = HOUR_S / 1750
#: The parts of the policy that change its timing, each taken away and each alone; and slacks that stay.
ABLATIONS = {
    **{f"without {part}": without(part) for part in ("elastic", "ahead", "adapt", "refine")},
    **{policy: policy for policy in ("rowcast:4", "rowcast:8", "rowcast:16", "rowcast?pulls=common")},
    "bare": alone(),
    **{f"{part} alone": alone(part) for part in ("auto", "elastic", "adapt", "refine")},
}
PARTS = ("timing", "silence", "accuracy", "delivery", "wifi")
SILENT_AT_S, SILENT_S = 1200.0, 120.0
SLOW_BPS, SLOW_S = 0.3e6, 900.0
#: With ``--tiny`` all times are so many times shorter.
TINY = 60.0
#: And ``delivery`` trains this, for so long (s).
TINY_DELIVERY, TINY_DELIVERY_S = ("rowcast",), 2.0


def software_cost_s(layout: Layout) -> tuple[float, float]:
    """Seconds of encoding and of decoding a whole model in one bit an element, best of five."""
    codec = codec_by_name("onebit")
    vector = np.random.default_rng(0).standard_normal(layout.elements).astype(np.float32)
    rows = np.arange(layout.rows, dtype=np.int64)
    encode, decode = [], []
    for _ in range(5):
        begun = time.perf_counter()
        payload = codec.encode(layout, vector, rows)
        encode.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        codec.add(layout, payload, rows, vector, 1.0)
        decode.append(time.perf_counter() - begun)
    return min(encode), min(decode)


def robot(cost: tuple[float, float]) -> Device:
    """The robot of the issue, of whose time the software takes its part: seconds of encoding, and of decoding."""
    encode_s, decode_s = cost
    return Device(ROBOT_S - (encode_s + decode_s), encode_s=encode_s, decode_s=decode_s)


def hour(
    policy: str, layout: Layout, devices: list[Device], links: list[Trace], seconds: float = HOUR_S
) -> list[list[dict[str, Any]]]:
    """The steps of each robot."""
    journals = [Journal(f"robot-{index}") for index in range(len(links))]
    simulation = timing_team(policy, layout, devices, [(link, link) for link in links], journals)
    simulation.run(seconds)
    return [[record for record in journal.records if record["event"] == "step"] for journal in journals]


def share_of_bound(steps: list[list[dict[str, Any]]], devices: list[Device], seconds: float = HOUR_S) -> float:
    """Steps as a share of what the slowest robot could compute, %, mean over the robots."""
    bound = seconds / max(device.encode_s + device.decode_s + device.gradient_s(0) for device in devices)
    return 100 * statistics.fmean(len(each) for each in steps) / bound


def stall_share(steps: list[list[dict[str, Any]]]) -> float:
    """Mean stall of a step as a share of the mean step, %."""
    stall_s = statistics.fmean(statistics.fmean(step["stall_s"] for step in each) for each in steps)
    step_s = statistics.fmean(each[-1]["t"] / len(each) for each in steps)
    return 100 * stall_s / step_s


def on_schedules(
    layout: Layout, run: str, links: list[Trace], device: Device, *, ablate: bool, seconds: float = HOUR_S
) -> list[Figure]:
    """An hour on one run's bandwidth: published policies, ours, and ours without each of its parts."""
    robots = [device] * len(links)
    figures = []
    for policy in ("bsp", "ssp:4", "rog:4", "rog:20"):
        steps = hour(policy, layout, robots, links, seconds)
        share = share_of_bound(steps, robots, seconds)
        note = f"{statistics.fmean(len(each) for each in steps):.0f} steps, stall {stall_share(steps):.1f} %"
        figures.append(Figure(f"{run}, {policy}", share, "% of bound", note=note))
    for label, policy in {"rowcast": "rowcast", **(ABLATIONS if ablate else {})}.items():
        steps = hour(policy, layout, robots, links, seconds)
        bound = 95.0 if policy == "rowcast" else None
        name = f"{run}, {label}"
        note = f"{statistics.fmean(len(each) for each in steps):.0f} steps"
        share = share_of_bound(steps, robots, seconds)
        figures.append(Figure(name, share, "% of bound", bound, at_least=True, note=note))
        figures.append(Figure(f"{name}: stall", stall_share(steps), "% of step", 2.0 if policy == "rowcast" else None))
    return figures


def slow_link(layout: Layout, device: Device, seconds: float = SLOW_S) -> list[Figure]:
    """A link that cannot carry the quota in one bit an element: what the code ``elements`` buys."""
    robots = [device] * 4
    figures = []
    for policy in ("rowcast", without("adapt")):
        steps = hour(policy, layout, robots, [Trace.constant(SLOW_BPS)] * 4, seconds)
        name = f"{SLOW_BPS / 1e6:g} Mbit/s, {policy}"
        figures.append(Figure(name, share_of_bound(steps, robots, seconds), "% of bound"))
    return figures


def silence(layout: Layout, device: Device, shorter: float = 1.0) -> list[Figure]:
    """One of four robots is silent for two minutes: how many steps do the others lose?"""
    robots = [device] * 4
    good = Trace.constant(30e6)
    at_s, lasting_s = SILENT_AT_S / shorter, SILENT_S / shorter
    times = np.array([0.0, at_s, at_s + lasting_s])
    silent = Trace(times, np.array([30e6, 0.0, 30e6]), "silent for 120 s", loop=False, duration_s=float("inf"))
    seconds = at_s + 5 * lasting_s
    whole = hour("rowcast", layout, robots, [good] * 4, seconds)
    cut = hour("rowcast", layout, robots, [silent, good, good, good], seconds)
    others = 100 * (1 - sum(map(len, cut[1:])) / sum(map(len, whole[1:])))
    window = [sum(at_s <= step["t"] < at_s + lasting_s for step in each) for each in cut]
    note = (
        f"in the {lasting_s:g} s: {window[0]} steps of the silent one, {window[1]} to {max(window[1:])} of the others"
    )
    return [Figure("one of four silent for 120 s: steps the others lose", others, "%", 2.0, note=note)]


def picture(layout: Layout, run: MeasuredRun, device: Device, path: Path) -> list[Figure]:
    """Draw who computed, sent and stalled, and when, in that hour."""
    links = [run.traces[worker] for worker in run.workers]
    robots = [device] * len(links)
    names = [f"robot-{index}" for index in range(len(links))]
    teams = {}
    for policy in ("bsp", "rog:4", "rowcast"):
        steps = hour(policy, layout, robots, links)
        teams[policy] = [Timeline.from_records(name, own) for name, own in zip(names, steps, strict=True)]
    table = timeline_table(teams, HOUR_S, dict(zip(names, links, strict=True)))
    draw_timeline(table, path)
    shares = state_shares(table)
    return [
        Figure(f"{run.name}, {policy}: {column.removesuffix(' (%)')}", value, "%" if "%" in column else "")
        for column in shares.columns[1:]
        for policy, value in zip(shares.distinct("policy"), shares.numbers(column), strict=True)
    ]


def tiny(parts: Sequence[str], options: argparse.Namespace) -> None:
    """The parts that need no recording and no training of hours, cut short."""
    layout = reference_layout(tiny=True)[0]
    cost = software_cost_s(layout)
    device = robot(cost)
    figures = [Figure("encoding a model, measured here", 1e3 * cost[0], "ms")]
    if "timing" in parts:
        links = [Trace.constant(1e6)] * 2
        figures += on_schedules(layout, "stand-in", links, device, ablate=True, seconds=HOUR_S / TINY / 4)
        figures += slow_link(layout, device, SLOW_S / TINY)
    if "silence" in parts:
        figures += silence(layout, device, TINY)
    if "delivery" in parts:
        figures += delivery(options.out, 1, TINY_DELIVERY, TINY_DELIVERY_S)
    finish("Beyond the published policies, cut short", figures, options)


def sweeps_of(
    parts: Sequence[str], options: argparse.Namespace, cost: tuple[float, float], run: MeasuredRun | None
) -> list[Sweep]:
    """What these parts train; without a measured run what ``--tiny`` does."""
    out = options.out
    if run is None:
        return delivery_sweeps(out, 1, TINY_DELIVERY, TINY_DELIVERY_S) if "delivery" in parts else []
    out.mkdir(parents=True, exist_ok=True)
    settled = robot(training.settled_cost(out, cost))
    sweeps = []
    if "silence" in parts:
        sweeps += training.silence_sweeps(out, settled, options.seeds, (without("ahead"),))
    if "accuracy" in parts:
        schedules = training.save_schedules(run, out / "schedules")
        base = training.plan(settled, options.seeds, task_options=(f"device={options.device}",))
        sweeps += training.accuracy_sweeps(out, options.data, schedules, base, options.hours, (OWN_WRITES,))
    if "delivery" in parts:
        sweeps += delivery_sweeps(out, options.seeds)
    if "wifi" in parts:
        sweeps += wifi_sweeps(out, settled, options.seeds)
    return sweeps


def trained(sweeps: Sequence[Sweep], options: argparse.Namespace) -> bool:
    """Whether everything is trained now: not where keys were only listed, or some of them trained."""
    if options.list_cells:
        print_keys(sweeps, options.out)
        return False
    with executor_for(options.on, options.jobs) as executor:
        run_keys(sweeps, options.out, options.cell, executor)
    if options.cell:
        return False
    settle(sweeps)
    return True


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED.parents[1], help="folder of the recorded data")
    parser.add_argument("--runs", default="BSP-0,ROG-4", help="whose bandwidth, by commas; the first is ablated too")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="only draw who did what, and when, in that hour")
    parser.add_argument("--parts", default=",".join(PARTS), help="which figures, by commas")
    parser.add_argument("--out", type=Path, default=Path("bench-out/beyond"), help="folder of what was trained")
    parser.add_argument("--seeds", type=int, default=5, help="of the parts that train")
    parser.add_argument("--hours", type=float, default=0.5, help="how long 'accuracy' trains, in virtual time")
    parser.add_argument("--device", default="cpu", help="where 'accuracy' computes its gradients, as PyTorch names it")
    cell_arguments(parser)
    options = parser.parse_args()
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts: expected some of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    try:
        measure(parser, parts, options)
    except ConfigError as error:
        parser.error(str(error))


def measure(parser: argparse.ArgumentParser, parts: Sequence[str], options: argparse.Namespace) -> None:
    """Train what is to be trained, and print the figures.

    Raises:
        ConfigError: a key or a place that is not known, or data that are not there.
    """
    if options.tiny:
        if trained(sweeps_of(parts, options, (0.0, 0.0), None), options):
            tiny(parts, options)
        return
    measured_at = options.data / SHARED.parent.name
    if not measured_at.exists():
        parser.error(f"{measured_at}: expected the measured runs of the ROG artifact; give its parent with --data")
    runs = {run.name: run for run in read_runs(measured_at)}
    layout = next(iter(runs.values())).layout
    first, *others = options.runs.split(",")
    cost = software_cost_s(layout)
    device = robot(cost)
    if options.picture is not None:
        figures = picture(layout, runs[first], device, options.picture)
        finish(f"An hour of four robots: {options.picture}", figures, options)
        return
    if not trained(sweeps_of(parts, options, cost, runs[first]), options):
        return
    figures = [
        Figure("encoding a model, measured here", 1e3 * cost[0], "ms"),
        Figure("decoding it", 1e3 * cost[1], "ms"),
    ]
    if "timing" in parts:
        for name in (first, *others):
            links = [runs[name].traces[worker] for worker in runs[name].workers]
            figures += on_schedules(layout, name, links, device, ablate=name == first)
        figures += slow_link(layout, device)
    settled = robot(training.settled_cost(options.out, cost))
    if "silence" in parts:
        figures += silence(layout, device)
        figures += training.silence(options.out, options.seeds, (without("ahead"),))
    if "accuracy" in parts:
        figures += training.accuracy(options.out, layout, options.out / "schedules", settled, (OWN_WRITES,))
    if "delivery" in parts:
        figures += delivery(options.out, options.seeds)
    if "wifi" in parts:
        figures += wifi(options.out, options.data / "traces_wifi_robot", layout, settled)
    finish("Beyond the published policies: an hour of four robots", figures, options)


if __name__ == "__main__":
    main()
