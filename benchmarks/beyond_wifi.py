"""The part of ``beyond.py`` on recorded Wi-Fi of robots: time to accuracy on each trace, against the baselines.

Two measurements are put together. How many iterations a policy needs to the accuracy: with real gradients, on links
that carry a model in about the time of a gradient. When it has made them: on each trace, timing only. The four robots
of a team enter the trace evenly apart, as everywhere here.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from beyond_cells import Sweep
from beyond_training import WINDOW, WORKERS, accuracy_over, cells_of, plan
from common import Figure
from rowcast.drivers.virtual import Device
from rowcast.energy import smoothed
from rowcast.experiment.devices import place_in_recording
from rowcast.experiment.timing_team import timing_team
from rowcast.journal import Journal
from rowcast.links import Trace, load_trace
from rowcast.rows import Layout

#: Gradients of an iteration where it is not one.
LOCAL = {"localsgd:8": 8, "diloco:8": 8}
BASELINES = ("bsp", "ssp:4", "ssp:20", "flown:4", "rog:4", "rog:20", "localsgd:8", "diloco:8")
POLICIES = (*BASELINES, "rowcast")
#: Links of the training, and how long it lasts: the slowest baseline makes some hundred steps.
LINKS, HOURS = "constant:20", 0.15
#: What has been gained of the way from the first accuracy to the last of ``bsp``.
WAY = 0.9
#: A trace on which a policy needs longer is given up for it (s).
MOST_S = 3 * 3600.0
#: A policy is simulated for so long, then for four times as long, until it has made its iterations (s).
FIRST_S = 600.0


def wifi_sweeps(out: Path, device: Device, seeds: int) -> list[Sweep]:
    """What :func:`wifi` trains."""
    more = {"task": "cruda-digits", "hours": HOURS, "eval_every_s": 20.0, "links": (LINKS,)}
    return [Sweep(plan(device, seeds, policies=POLICIES, **more), out / "wifi")]


def iterations_needed(out: Path, policies: Sequence[str]) -> dict[str, float]:
    """Iterations to the accuracy, mean over the seeds."""
    needed: dict[str, list[float]] = {policy: [] for policy in policies}
    of_bsp = cells_of(out / "wifi", "bsp", LINKS)
    for seed, cell in of_bsp.items():
        reference = accuracy_over(cell, "steps")
        line = smoothed(reference.values, WINDOW)
        target = line[0] + WAY * (line[-1] - line[0])
        for policy in policies:
            curve = accuracy_over(cells_of(out / "wifi", policy, LINKS)[seed], "steps")
            # The same gradients for all; an iteration has several of them where steps are local.
            curve = curve.at(reference.along / LOCAL.get(policy, 1))
            accuracy = smoothed(curve.values, WINDOW)
            above = np.flatnonzero(accuracy >= target)
            if not len(above):
                raise SystemExit(f"wifi, seed {seed}: {policy} has not reached {target:.1f} %; train for longer")
            k = int(above[0])
            share = 1.0 if k == 0 else (target - accuracy[k - 1]) / (accuracy[k] - accuracy[k - 1])
            start = curve.along[max(k - 1, 0)]
            needed[policy].append(float(start + share * (curve.along[k] - start)))
    return {policy: statistics.fmean(values) for policy, values in needed.items()}


def time_for(policy: str, iterations: float, layout: Layout, devices: list[Device], trace: Trace) -> float:
    """Seconds until the slowest robot has made so many iterations on a trace; ``inf`` beyond the most."""
    parts = 2 * len(devices)
    ways = [trace.shifted(place_in_recording(k, parts, 0) * trace.duration_s) for k in range(parts)]
    seconds = FIRST_S
    while True:
        journals = [Journal(f"robot-{index}") for index in range(len(devices))]
        links = list(zip(ways[::2], ways[1::2], strict=True))
        timing_team(policy, layout, devices, links, journals).run(seconds)
        ends = [[record["t"] for record in journal.records if record["event"] == "step"] for journal in journals]
        if min(map(len, ends)) >= iterations:
            return max(float(np.interp(iterations, np.arange(1, len(own) + 1), own)) for own in ends)
        if seconds >= MOST_S:
            return float("inf")
        seconds = min(4 * seconds, MOST_S)


def wifi(out: Path, traces: Path, layout: Layout, device: Device) -> list[Figure]:
    """Our time to the accuracy as a share of that of the best baseline, on every trace, of what has trained."""
    policies = POLICIES
    needed = iterations_needed(out, policies)
    devices = [device] * WORKERS
    figures = [
        Figure(f"wifi, {policy}: gradients to the accuracy", count * LOCAL.get(policy, 1), "", note="each robot")
        for policy, count in needed.items()
    ]
    for path in sorted(traces.glob("*.csv")):
        trace = load_trace(path)
        took = {policy: time_for(policy, needed[policy], layout, devices, trace) for policy in policies}
        ours = took.pop("rowcast")
        best = min(took, key=lambda policy: took[policy])
        mean = trace.bits(0, trace.duration_s) / trace.duration_s / 1e6
        note = f"{ours:.0f} s, {best} {took[best]:.0f} s, bsp {took['bsp']:.0f} s; {mean:.1f} Mbit/s"
        name = f"wifi, {path.stem}: rowcast / best baseline"
        figures.append(Figure(name, ours / took[best], "ratio", 1.03, note=note))
    return figures
