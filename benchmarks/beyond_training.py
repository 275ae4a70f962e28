"""The parts of ``beyond.py`` that train with real gradients: accuracy, time and energy to it, and what a silence costs.

They take hours of a processor. Everything is kept in one folder: what was finished is not run again, so the command
can be ended with Ctrl-C and called again.

What a policy loses in accuracy is told at equal samples, against ``bsp`` on links that never make anybody wait: the
parameters of ``bsp`` after n iterations do not depend on the links.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from beyond_cells import Sweep
from common import Figure
from rowcast.drivers.virtual import Device
from rowcast.energy import time_to_metric, worker_energy
from rowcast.energy.reaching import HOLD
from rowcast.experiment import Comparison, MeasuredRun
from rowcast.experiment.devices import place_in_recording
from rowcast.experiment.timing_team import timing_team
from rowcast.journal import Journal
from rowcast.links import Trace, load_team, save_csv
from rowcast.report import Curve, Run, interval, metric_over, read_experiment
from rowcast.report.reference import Reading, at_equal_samples, behind_over, to_level
from rowcast.rows import Layout

WORKERS = 4
BATCH = 16
#: Seconds between two looks, and how many are averaged: one alone is as good as its thousand images.
LOOK_S, WINDOW = 120.0, 3
NEVER_WAITS = "constant:1000"
HOUR_S = 3600.0
#: ``bsp`` needs longer than the hour for what the others reach.
BSP_S = 5 * HOUR_S
#: A robot is silent from here, for so long, of so much (s).
SILENT_AT_S, SILENT_S, SILENT_OF_S = 300.0, 120.0, 900.0
GOOD_BPS = 30e6

Array = npt.NDArray[np.float64]


def save_schedules(run: MeasuredRun, folder: Path) -> Path:
    """The bandwidth of a measured run, a file for each robot."""
    folder.mkdir(parents=True, exist_ok=True)
    for worker in run.workers:
        save_whole(run.traces[worker], folder / f"worker{worker}.csv")
    return folder


def save_whole(trace: Trace, path: Path) -> None:
    """The file is there with all of its content, or not at all: others may read, or write, the same at this time."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    save_csv(trace, part)
    part.replace(path)


def settled_cost(out: Path, cost: tuple[float, float]) -> tuple[float, float]:
    """The software's cost in whole milliseconds: that of the first call, so that all runs of a folder have the same."""
    path = out / "cost.json"
    if not path.exists():
        part = out / f".cost.{secrets.token_hex(4)}.part"
        part.write_text(json.dumps([round(part, 3) for part in cost]) + "\n", encoding="utf-8")
        with contextlib.suppress(FileExistsError):  # of several that come at the same time the first one counts
            path.hardlink_to(part)
        part.unlink()
    encode_s, decode_s = json.loads(path.read_text(encoding="utf-8"))
    return float(encode_s), float(decode_s)


def plan(device: Device, seeds: int, **more: Any) -> Comparison:
    """Settings that all runs share."""
    settings: dict[str, Any] = {
        "workers": (WORKERS,),
        "batch": (BATCH,),
        "devices": (f"{device.compute_s:.3f}",),
        "encode_s": device.encode_s,
        "decode_s": device.decode_s,
        "seeds": seeds,
        "eval_every_s": LOOK_S,
        "eval_items": 1000,
    }
    return Comparison(**{**settings, **more})


def cells_of(out: Path, policy: str, links: str) -> dict[int, Run]:
    """The finished runs of a policy on some links, by seed."""
    return {
        run.seed: run
        for run in read_experiment(out).runs
        if run.policy == policy and Path(run.conditions.links).name == Path(links).name
    }


def accuracy_over(run: Run, along: Literal["steps", "time"]) -> Curve:
    """The accuracy of a run against iterations or seconds."""
    curve = metric_over(run, run.metrics[0], along)
    assert curve is not None
    return curve


def reading(runs: Iterable[Run]) -> Reading:
    """How the accuracy of all runs is read."""
    return Reading(next(iter(runs)).metrics[0], LOOK_S, WINDOW)


def summary(name: str, values: Sequence[float], unit: str, bound: float | None = None, note: str = "") -> Figure:
    """The mean over seeds, with its interval in the note."""
    found = interval(values)
    spread = "one seed" if found.low is None else f"95 %: {found.low:.2f} .. {found.high:.2f}, {found.count} seeds"
    return Figure(name, found.mean, unit, bound, note="; ".join(filter(None, (spread, note))))


# -- accuracy at equal samples -----------------------------------------------------------------------------------------


def equal_samples(title: str, references: dict[int, Run], others: dict[int, Run]) -> list[Figure]:
    """At the end, and where it is furthest below after the first tenth."""
    pairs = at_equal_samples([*references.values()], [*others.values()], reading(references.values()))
    behind = behind_over(pairs)
    assert behind is not None and behind.furthest is not None
    final = statistics.fmean(pair.own[-1] for pair in pairs)
    return [
        summary(
            f"{title}: below bsp at the end",
            behind.ends.tolist(),
            "points",
            0.5,
            f"{final:.1f} % at {behind.end_samples / 1000:.0f} k samples",
        ),
        summary(
            f"{title}: furthest below after the first tenth",
            behind.by_seed[:, behind.furthest].tolist(),
            "points",
            1.5,
            f"at {behind.samples[behind.furthest] / 1000:.0f} k samples",
        ),
    ]


# -- time and energy to accuracy ---------------------------------------------------------------------------------------


def bsp_on(layout: Layout, devices: list[Device], links: Path, seed: int) -> list[list[dict[str, Any]]]:
    """The steps of ``bsp`` on the schedules, timing only, for as long as it needs."""
    traces = [
        trace.shifted(place_in_recording(0, 1, seed) * trace.duration_s) if trace.loop else trace
        for trace in load_team(links)
    ]
    journals = [Journal(f"robot-{index}") for index in range(len(traces))]
    timing_team("bsp", layout, devices, [(trace, trace) for trace in traces], journals).run(BSP_S)
    return [[record for record in journal.records if record["event"] == "step"] for journal in journals]


def to_accuracy(
    title: str,
    layout: Layout,
    devices: list[Device],
    links: Path,
    reference: dict[int, Run],
    rog: dict[int, Run],
    rowcast: dict[int, Run],
) -> list[Figure]:
    """Time and energy to what ``rog:4`` has reached and kept when the hour is over.

    Ours, as a share of ``rog:4``'s and of ``bsp``'s.

    ``bsp`` does not get there within the hour. Its accuracy by the iteration is that of links that never wait; when
    it gets to an iteration is simulated on the schedules.
    """
    shares: dict[str, list[float]] = {"rog:4": [], "bsp": []}
    saved: dict[str, list[float]] = {"rog:4": [], "bsp": []}
    times: dict[str, list[float]] = {"rog:4": [], "bsp": [], "rowcast": []}
    late: list[int] = []
    for found in to_level([*rog.values()], [*rowcast.values()], reading(rog.values())):
        if found.seed not in reference:
            continue
        if not found.seconds.reached:
            late.append(found.seed)  # its time is a lower bound, and so is the share
        ideal = accuracy_over(reference[found.seed], "steps")
        iteration = time_to_metric(ideal.along, ideal.values, found.level, window=WINDOW, hold=HOLD)
        steps = bsp_on(layout, devices, links, found.seed)
        place = min(int(iteration.value), min(map(len, steps))) - 1
        bsp_s = max(own[place]["t"] for own in steps)
        bsp_j = sum(float(worker_energy(own, start_s=0.0).joules_after(bsp_s)) for own in steps)
        for name, seconds, joules in (("rog:4", found.reference_s, found.reference_j), ("bsp", bsp_s, bsp_j)):
            shares[name].append(found.seconds.value / seconds)
            saved[name].append(100 * (1 - found.joules.value / joules))
            times[name].append(seconds)
        times["rowcast"].append(found.seconds.value)
    figures = []
    for name, most, least in (("rog:4", 1 / 3, 40.0), ("bsp", 1 / 6, 60.0)):
        note = f"{np.mean(times['rowcast']):.0f} s of {np.mean(times[name]):.0f} s"
        note += f"; by seed {', '.join(f'{share:.2f}' for share in shares[name])}"
        note += f"; not reached with seed {', '.join(map(str, late))}" if late else ""
        figures.append(summary(f"{title}: time to rog:4's accuracy / {name}'s", shares[name], "ratio", most, note))
        note = f"by seed {', '.join(f'{share:.0f}' for share in saved[name])}"
        energy = summary(f"{title}: energy to it below {name}'s", saved[name], "%", least, note)
        figures.append(replace(energy, at_least=True))
    return figures


IMAGE_SETS = (("Fashion-MNIST", "cruda-fashion-mnist", "fashion_mnist"), ("CIFAR-10", "cruda-cifar10", "cifar10"))


def accuracy_sweeps(
    out: Path, data: Path, links: Path, base: Comparison, hours: float, ablate: Sequence[str]
) -> list[Sweep]:
    """What :func:`accuracy` trains."""
    return [
        Sweep(
            replace(base, task=task, data=str(data / folder), policies=policies, links=(where,), hours=length),
            out / folder,
        )
        for _, task, folder in IMAGE_SETS
        for policies, where, length in (
            (("bsp",), NEVER_WAITS, hours),
            (("rowcast", *ablate), str(links), hours),
            (("rog:4",), str(links), 1.0),
        )
    ]


def accuracy(out: Path, layout: Layout, links: Path, device: Device, ablate: Sequence[str]) -> list[Figure]:
    """Accuracy at equal samples, and time and energy to accuracy, on both image sets, of what has trained.

    Policies of ``ablate`` train on the same links; nothing is asked of them.
    """
    figures = []
    devices = [device] * WORKERS
    for title, _, folder in IMAGE_SETS:
        place = out / folder
        reference, rog = cells_of(place, "bsp", NEVER_WAITS), cells_of(place, "rog:4", str(links))
        for policy in ("rowcast", *ablate):
            name = title if policy == "rowcast" else f"{title}, {policy}"
            ours = cells_of(place, policy, str(links))
            found = [
                *equal_samples(name, reference, ours),
                *to_accuracy(name, layout, devices, links, reference, rog, ours),
            ]
            figures += found if policy == "rowcast" else [replace(figure, bound=None) for figure in found]
    return figures


# -- a silence ---------------------------------------------------------------------------------------------------------


def own_accuracy(cell: Run, robot: str) -> tuple[Array, Array]:
    """Seconds and percent of a robot's looks at its own classes."""
    journal = (json.loads(line) for line in (cell.folder / f"{robot}.jsonl").read_text(encoding="utf-8").splitlines())
    looks = [record for record in journal if record["event"] == "metric" and record["name"] == "own_accuracy"]
    return np.array([look["t"] for look in looks]), np.array([look["value"] for look in looks])


def save_silence(folder: Path, seed: int, rates_bps: Sequence[float]) -> Path:
    """A folder of traces of which the first robot's has these rates before, in and after the silence."""
    length_s = 2 * SILENT_OF_S
    times = np.array([0.0, SILENT_AT_S, SILENT_AT_S + SILENT_S])
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(WORKERS):
        rates = np.array(rates_bps if index == 0 else (GOOD_BPS,) * 3)
        trace = Trace(times, rates, folder.name, duration_s=length_s)
        # Every seed enters a recording at another moment; the silence is to be at the same.
        back_s = (1 - place_in_recording(0, 1, seed)) * length_s
        save_whole(trace.shifted(back_s), folder / f"robot{index}.csv")
    return folder


def silence_sweeps(out: Path, device: Device, seeds: int, ablate: Sequence[str]) -> list[Sweep]:
    """What :func:`silence` trains; the traces are written."""
    base = plan(device, seeds, task="cruda-digits", hours=SILENT_OF_S / HOUR_S, eval_every_s=30.0)
    place = out / "silence"
    sweeps = []
    for seed in range(seeds):
        for name, rates in (("whole", (GOOD_BPS,) * 3), ("silent", (GOOD_BPS, 0.0, GOOD_BPS))):
            links = save_silence(place / f"{name}-{seed}", seed, rates)
            settings = replace(base, policies=("rowcast", *ablate), links=(str(links),), seeds=(seed,))
            sweeps.append(Sweep(settings, place / "runs"))
    return sweeps


def silence(out: Path, seeds: int, ablate: Sequence[str]) -> list[Figure]:
    """One of four robots is silent for two minutes: its accuracy on its own classes, with and without the silence."""
    place = out / "silence"
    policies = ("rowcast", *ablate)
    figures = []
    for policy in policies:
        lost: list[float] = []
        during: list[float] = []
        for seed in range(seeds):
            whole, cut = (
                own_accuracy(cells_of(place / "runs", policy, f"{name}-{seed}")[seed], "robot-0")
                for name in ("whole", "silent")
            )
            at = whole[0][whole[0] <= cut[0][-1]]
            gap = whole[1][: len(at)] - np.interp(at, *cut)
            after = at > SILENT_AT_S + 2 * SILENT_S
            within = (at > SILENT_AT_S) & (at <= SILENT_AT_S + SILENT_S)
            lost.append(float(gap[after].mean()))
            during.append(float(gap[within].mean()))
        note = f"{np.mean(during):.1f} points during the silence; from {SILENT_S:.0f} s after its end on"
        bound = 2.0 if policy == "rowcast" else None
        figures.append(summary(f"silence, {policy}: own classes, points lost", lost, "points", bound, note))
    return figures
