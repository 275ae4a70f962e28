"""How true the simulator is: measured runs of the ROG artifact, replayed and compared.

What goes in is measured, none of it fitted: the bandwidth that was in force (times the share that arrived as goodput),
each robot's seconds of computing, compressing, ranking and decompressing, the sizes of the model's rows, the bytes of
the artifact's minimum, and the server's work. The last is what the logs leave over once a transfer's own time is taken
away, on fast links, where there is least to take away: one number for the runs with a barrier and one for ROG, whose
server does other work. What comes out is compared: steps after 1800, 3600 and 5400 s, and the mean stall of a step.

Data: see the README of the folder (``bandwidth/RUN/worker*.csv``, ``timing.csv``, ``iterations.csv.gz``,
``model_tensors.csv``).
"""

from __future__ import annotations

import csv
import gzip
import statistics
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rowcast.drivers.virtual import Device, ServerCosts
from rowcast.errors import DataError
from rowcast.experiment.hollow_team import hollow_team
from rowcast.journal import Journal
from rowcast.links import Trace, load_trace
from rowcast.rows import Layout
from rowcast.sync import parse_policy

__all__ = ["MOMENTS_S", "Measurements", "Replay", "read_measurements", "replay"]

#: When steps are counted (s).
MOMENTS_S = (1800.0, 3600.0, 5400.0)

#: Measured application goodput over the shaping rate in force, and its ceiling (bit/s): README of the data.
GOODPUT = 0.957
CEILING_BPS = 120e6

#: A link this fast (bit/s) takes little of the time from which the server's work is read.
FAST_BPS = 50e6
#: The first iterations hold warm-up and first connections.
WARM_UP = 2
FAMILIES = {"BSP": "bsp", "SSP": "ssp:{}", "ROG": "rog:{}?compat=artifact", "FLOWN": "flown:{}", "ASP": "asp"}

_Row = dict[str, float]


@dataclass(frozen=True)
class Measurements:
    """One measured run.

    Attributes:
        name: as in the files, FAMILY-S.
        workers: their numbers.
        timing: seconds and shares of each worker (means of the run), by column.
        iterations: each worker's iterations, by column; empty fields are 0.
        traces: goodput of each worker's link, both directions.
    """

    name: str
    workers: tuple[str, ...]
    timing: dict[str, _Row]
    iterations: dict[str, list[_Row]]
    traces: dict[str, Trace]

    @property
    def family(self) -> str:
        return self.name.partition("-")[0]

    @property
    def is_rog(self) -> bool:
        return self.family == "ROG"

    def steps(self, until_s: float) -> float:
        """Iterations finished by then, mean over the workers."""
        return statistics.fmean(sum(row["t_end_s"] <= until_s for row in rows) for rows in self.iterations.values())

    def stall_s(self, until_s: float) -> float:
        """Mean stall of an iteration until then (s), mean over the workers."""
        return statistics.fmean(
            statistics.fmean(row["stall_s"] for row in rows if row["t_end_s"] <= until_s)
            for rows in self.iterations.values()
        )

    def minimum_bytes(self, direction: str) -> float | None:
        """Mean bytes of a push or pull of the smallest share, or ``None`` where every transfer is whole."""
        rows = [row for rows in self.iterations.values() for row in rows[WARM_UP:] if row[f"{direction}_bytes"] > 0]
        least = min(row[f"{direction}_rate"] for row in rows)
        if least >= 1:
            return None
        return statistics.fmean(row[f"{direction}_bytes"] for row in rows if row[f"{direction}_rate"] <= 1.01 * least)

    def server_work_s(self) -> tuple[float, float]:
        """What the server does for a push and for a pull (s): medians over the iterations on a fast link.

        With a barrier, sending ends when the server has decoded. In ROG sending ends in the sender's buffer, and the
        time until the first byte of the pull holds the rest of the push, the server's work and the stall.
        """
        pushes, pulls = [], []
        for worker, rows in self.iterations.items():
            trace = self.traces[worker]
            for row in rows[WARM_UP:]:
                after_s = row["bookkeep_s"] if self.is_rog else row["decompress_s"]
                pull_at = row["t_end_s"] - after_s - row["pull_s"]
                push_at = pull_at - (row["push_send_s"] if self.is_rog else row["push_s"])
                if push_at < 0 or row["t_end_s"] >= trace.duration_s or trace.rate(push_at) < FAST_BPS:
                    continue
                on_air_s = trace.finish(push_at, 8 * row["push_bytes"]) - push_at
                if self.is_rog:
                    pushes.append(0.0)
                    pulls.append(row["push_send_s"] + row["pull_wait_s"] - row["stall_s"] - on_air_s)
                else:
                    pushes.append(row["push_send_s"] - on_air_s)
                    pulls.append(row["pull_s"] - (trace.finish(pull_at, 8 * row["pull_bytes"]) - pull_at))
        if not pushes:
            raise DataError(f"run {self.name}: expected iterations on a link above {FAST_BPS / 1e6:g} Mbit/s, got none")
        return max(statistics.median(pushes), 0.0), max(statistics.median(pulls), 0.0)


@dataclass(frozen=True)
class Replay:
    """A measured run beside the simulated one.

    Attributes:
        policy: what was simulated.
        measured_steps, simulated_steps: at each of the moments, mean over the workers.
        measured_stall_s, simulated_stall_s: mean of a step up to the last moment.
    """

    run: str
    policy: str
    moments_s: tuple[float, ...]
    measured_steps: tuple[float, ...]
    simulated_steps: tuple[float, ...]
    measured_stall_s: float
    simulated_stall_s: float

    def figures(self) -> list[tuple[str, float, float, float]]:
        """What, measured, simulated, and the relative error that is accepted."""
        steps_within = 0.12 if self.run.startswith("ROG") else 0.08
        steps = zip(self.moments_s, self.measured_steps, self.simulated_steps, strict=True)
        return [
            *((f"steps at {moment:g} s", was, now, steps_within) for moment, was, now in steps),
            ("stall per step (s)", self.measured_stall_s, self.simulated_stall_s, 0.20),
        ]


def read_measurements(data: str | Path) -> tuple[Layout, list[Measurements]]:
    """The model's rows, and the runs of a folder.

    Raises:
        DataError: files are missing (all are named), or do not hold what they should.
    """
    folder = Path(data)
    needed = ["timing.csv", "iterations.csv.gz", "model_tensors.csv", "bandwidth"]
    missing = [name for name in needed if not (folder / name).exists()]
    if missing:
        raise DataError(f"{folder}: expected the measured runs of the ROG artifact; missing: {', '.join(missing)}")
    try:
        shapes = [
            (row["name"], [int(size) for size in row["shape"].split("x")])
            for row in _rows(folder / "model_tensors.csv")
        ]
        timing: dict[str, dict[str, _Row]] = {}
        for row in _rows(folder / "timing.csv"):
            timing.setdefault(row["run"], {})[row["worker"]] = _numbers(row)
        iterations: dict[str, dict[str, list[_Row]]] = {}
        for row in _rows(folder / "iterations.csv.gz"):
            iterations.setdefault(row["run"], {}).setdefault(row["worker"], []).append(_numbers(row))
    except (KeyError, ValueError, OSError) as error:
        raise DataError(f"{folder}: a file does not hold what it should: {error!r}") from error
    runs = []
    for name, by_worker in timing.items():
        if name not in iterations or name.partition("-")[0] not in FAMILIES:
            continue
        workers = tuple(sorted(by_worker))
        traces = {worker: _goodput(folder / "bandwidth" / name / f"worker{worker}.csv") for worker in workers}
        runs.append(Measurements(name, workers, by_worker, iterations[name], traces))
    if not runs:
        raise DataError(f"{folder}: expected runs named FAMILY-S with a family of {', '.join(FAMILIES)}, got none")
    return Layout.from_shapes(shapes), runs


def replay(
    layout: Layout,
    runs: list[Measurements],
    *,
    only: Collection[str] | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> list[Replay]:
    """Simulate each run from what was measured.

    Args:
        layout: the model's rows.
        runs: all runs of a folder: the server's work is read from all of a kind together.
        only: names of the runs to simulate; ``None``: all.
        seed: of what is random in the simulation (nonces).
        progress: told the name of each run as it begins.
    """
    work = {rog: _pooled(run for run in runs if run.is_rog is rog) for rog in (False, True)}
    results = []
    for run in runs:
        if only is not None and run.name not in only:
            continue
        if progress is not None:
            progress(run.name)
        results.append(_replay(layout, run, work[run.is_rog], seed))
    return results


def _replay(layout: Layout, run: Measurements, costs: ServerCosts, seed: int) -> Replay:
    ends = min(max(row["t_end_s"] for row in rows) for rows in run.iterations.values())
    moments = tuple(moment for moment in MOMENTS_S if moment <= ends) or (ends,)
    policy = _policy(layout, run)
    steps: dict[str, list[dict[str, Any]]] = {worker: [] for worker in run.workers}
    devices = [
        Device(
            timing["compute_mean_s"] + timing["sleep_mean_s"],
            encode_s=timing["compress_mean_s"] + timing["rank_serialise_mean_s"],
            decode_s=timing["decompress_mean_s"] + timing["bookkeep_mean_s"],
        )
        for timing in (run.timing[worker] for worker in run.workers)
    ]
    links = [(run.traces[worker], run.traces[worker]) for worker in run.workers]
    journals = [Journal(worker, _step_sink(steps[worker])) for worker in run.workers]
    simulation = hollow_team(policy, layout, devices, links, journals, costs=costs, seed=seed)
    simulation.run(moments[-1])
    return Replay(
        run=run.name,
        policy=policy,
        moments_s=moments,
        measured_steps=tuple(run.steps(moment) for moment in moments),
        simulated_steps=tuple(
            statistics.fmean(sum(step["t"] <= moment for step in each) for each in steps.values()) for moment in moments
        ),
        measured_stall_s=run.stall_s(moments[-1]),
        simulated_stall_s=statistics.fmean(
            statistics.fmean(step["stall_s"] for step in each) for each in steps.values()
        ),
    )


def _policy(layout: Layout, run: Measurements) -> str:
    """The policy of a run; the artifact's minimum is what its logs say that it is."""
    family, _, slack = run.name.partition("-")
    text = FAMILIES[family].format(slack)
    if run.is_rog:
        total = int(parse_policy(text).row_codec.row_bytes(layout).sum())
        for option, direction in (("share", "push"), ("pull_share", "pull")):
            least = run.minimum_bytes(direction)
            text += f"&{option}={1.0 if least is None else min(least / total, 1.0):.4f}"
    return text


def _pooled(runs: Iterable[Measurements]) -> ServerCosts:
    work = [run.server_work_s() for run in runs]
    if not work:
        return ServerCosts()
    return ServerCosts(*(statistics.fmean(part) for part in zip(*work, strict=True)))


def _step_sink(steps: list[dict[str, Any]]) -> Callable[[dict[str, Any]], None]:
    def sink(record: dict[str, Any]) -> None:
        if record["event"] == "step":
            steps.append(record)

    return sink


def _goodput(path: Path) -> Trace:
    trace = load_trace(path, loop=False)
    rates = np.minimum(trace.rates_bps * GOODPUT, CEILING_BPS)
    return Trace(trace.times_s, rates, trace.name, loop=False, duration_s=trace.duration_s)


def _rows(path: Path) -> list[dict[str, str]]:
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _numbers(row: dict[str, str]) -> _Row:
    """The columns that are numbers; an empty field is 0, a text is left out."""
    values: _Row = {}
    for key, text in row.items():
        if not text:
            values[key] = 0.0
            continue
        try:
            values[key] = float(text)
        except ValueError:
            continue
    return values
