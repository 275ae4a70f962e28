"""How true the simulator is: measured runs, replayed and compared.

What goes in is measured, none of it fitted: the bandwidth that was in force (times the share that arrived as goodput),
each robot's seconds of computing, compressing, ranking and decompressing, the sizes of the model's rows, and the
server's work. The last is what the run's own logs leave over once a transfer's own time is taken away, on fast links,
where there is least to take away. For runs of the ROG artifact also the bytes of its minimum, and how often a thread
lost its race (:meth:`rowcast.experiment.measured.MeasuredRun.race`). What comes out is compared: steps by some moments,
the mean stall of a step, and the bytes of a push and a pull. The files are those of
:mod:`rowcast.experiment.measured`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rowcast.drivers.virtual import Device, ServerCosts
from rowcast.errors import ConfigError, DataError
from rowcast.experiment.measured import MeasuredRun
from rowcast.experiment.timing_team import timing_team
from rowcast.journal import Journal
from rowcast.sync import parse_policy

__all__ = ["Bounds", "Figure", "Replay", "validate_run"]

#: A measured stall below this share of a step is as good as none: the error is then a share of the step.
LITTLE_STALL = 0.01


@dataclass(frozen=True)
class Bounds:
    """Relative errors that are accepted.

    Attributes:
        steps: of steps at each moment; ``stall``: of the mean stall of a step; ``bytes``: of pushes and of pulls.
    """

    steps: float = 0.08
    stall: float = 0.20
    bytes: float = 0.02

    @classmethod
    def of(cls, run: MeasuredRun) -> Bounds:
        """Those of a run: as its settings have them, or those of its policy."""
        settings, usual = run.settings, cls(0.12, 0.20, 0.15) if run.settings.is_rog else cls()
        given = settings.steps_within, settings.stall_within, settings.bytes_within
        own = usual.steps, usual.stall, usual.bytes
        return cls(*(mine if there is None else there for there, mine in zip(given, own, strict=True)))


@dataclass(frozen=True)
class Figure:
    """One comparison.

    Attributes:
        what: in words, with its unit.
        measured, simulated: the two values; ``within``: the relative error that is accepted.
        scale: what the error is relative to: the measured value, or a step where there is hardly a stall.
    """

    what: str
    measured: float
    simulated: float
    within: float
    scale: float

    @property
    def off(self) -> float:
        """The relative error."""
        return (self.simulated - self.measured) / self.scale

    @property
    def met(self) -> bool:
        """Whether it is accepted."""
        return abs(self.off) <= self.within


@dataclass(frozen=True)
class Replay:
    """A measured run beside the simulated one.

    Attributes:
        run: its name; ``policy``: what was simulated.
        costs: the server's work that was put in (s).
        figures: what was compared.
        notes: what was left out of the measured run, and why.
    """

    run: str
    policy: str
    costs: ServerCosts
    figures: tuple[Figure, ...]
    notes: tuple[str, ...]


def validate_run(
    run: MeasuredRun,
    *,
    policy: str | None = None,
    costs: ServerCosts | None = None,
    moments_s: Sequence[float] | None = None,
    bounds: Bounds | None = None,
    seed: int = 0,
) -> Replay:
    """Simulate a run from what was measured, and compare.

    Its figures depend on nothing but the run and these arguments.

    Args:
        run: from :func:`rowcast.experiment.read_runs`.
        policy: policy text; ``None``: as the run's settings and logs say.
        costs: the server's work; ``None``: as the run's settings and logs say.
        moments_s: when steps are counted; ``None``: the moments of the run's settings that it reached, or its end.
        bounds: errors that are accepted; ``None``: those of the run's settings.
        seed: of what is random in the simulation (nonces).

    Raises:
        ConfigError: no such policy; or a moment after the end of the run, or before its first step.
        DataError: the logs do not say what the server's work is.
    """
    text = _policy_of(run) if policy is None else policy
    parse_policy(text)
    costs = run.server_costs() if costs is None else costs
    moments = _moments(run, moments_s)
    bounds = Bounds.of(run) if bounds is None else bounds
    steps: dict[str, list[dict[str, Any]]] = {worker: [] for worker in run.workers}
    devices = [_device(run, worker) for worker in run.workers]
    links = [(run.traces[worker], run.traces[worker]) for worker in run.workers]
    journals = [Journal(worker, _step_sink(steps[worker])) for worker in run.workers]
    simulation = timing_team(text, run.layout, devices, links, journals, costs=costs, seed=seed)
    simulation.run(moments[-1])

    def simulated(field: str) -> float:
        return statistics.fmean(statistics.fmean([step[field] for step in each] or [0.0]) for each in steps.values())

    figures = [
        _figure(f"steps at {moment:g} s", run.steps(moment), _count(steps.values(), moment), bounds.steps)
        for moment in moments
    ]
    end = moments[-1]
    stall_s, step_s = run.mean("stall_s", end), end / run.steps(end)
    figures.append(
        Figure(
            "stall per step (s)",
            stall_s,
            simulated("stall_s"),
            bounds.stall,
            stall_s if stall_s > LITTLE_STALL * step_s else step_s,
        )
    )
    for way in ("push", "pull"):
        measured, mine = run.mean(f"{way}_bytes", end), simulated(f"{way}_bytes")
        figures.append(_figure(f"{way} per step (kB)", measured / 1e3, mine / 1e3, bounds.bytes))
    return Replay(run.name, text, costs, tuple(figures), run.notes)


def _moments(run: MeasuredRun, given: Sequence[float] | None) -> tuple[float, ...]:
    if given is None:
        moments = tuple(sorted(moment for moment in run.settings.moments_s if moment <= run.ends_s)) or (run.ends_s,)
        if run.steps(moments[0]) == 0:
            raise DataError(f"run {run.name}: no worker had finished a step by {moments[0]:g} s; take later moments_s")
        return moments
    moments = tuple(sorted(given))
    if not moments or moments[-1] > run.ends_s or run.steps(moments[0]) == 0:
        raise ConfigError(
            f"run {run.name}: expected moments after the first step and up to its end at {run.ends_s:g} s, got "
            f"{', '.join(f'{moment:g}' for moment in moments) or 'none'}"
        )
    return moments


def _figure(what: str, measured: float, simulated: float, within: float) -> Figure:
    if measured <= 0:
        raise DataError(f"{what}: expected something to compare with, the measured value is 0")
    return Figure(what, measured, simulated, within, measured)


def _count(steps: Any, until_s: float) -> float:
    return statistics.fmean(sum(step["t"] <= until_s for step in each) for each in steps)


def _device(run: MeasuredRun, worker: str) -> Device:
    """The first iterations take what they took, where all parts of it were recorded; all others the mean."""
    means, rows = run.timing[worker], run.iterations[worker]
    compute_s = means["compute"] + means["sleep"]
    encode_s = means["compress"] + means["rank_serialise"]
    decode_s = means["decompress"] + means["bookkeep"]
    first = rows[: run.settings.startup_steps]
    if not any(row["compute_s"] > 0 for row in first):
        return Device(compute_s, encode_s=encode_s, decode_s=decode_s)

    def taken(seconds: float) -> float:
        return compute_s if math.isnan(seconds) else max(seconds, 0.0)

    # Each as it is asked for: the gradient, and before it what the pull of the iteration before left to do.
    before = [None, *first[:-1]]
    seconds = [
        taken(
            row["compute_s"] + row["sleep_s"] + row["compress_s"] + row["rank_serialise_s"] - encode_s
            + (0.0 if last is None else last["decompress_s"] + last["bookkeep_s"] - decode_s)
        )
        for last, row in zip(before, first, strict=True)
    ]  # fmt: skip
    seconds.append(taken(compute_s + first[-1]["decompress_s"] + first[-1]["bookkeep_s"] - decode_s))
    usual = [compute_s] * (2 * len(rows) + 1000)
    return Device([*seconds, *usual], encode_s=encode_s, decode_s=decode_s)


def _policy_of(run: MeasuredRun) -> str:
    """The policy of a run; with ``compat`` 'artifact', minimum and race are what its logs say that they are."""
    text = run.settings.policy_text
    compat = run.settings.compat or ("artifact" if run.settings.is_rog else "none")
    if compat == "none" or "compat=" in text:
        return text
    text += f"{'&' if '?' in text else '?'}compat=artifact"
    if compat == "artifact-rules":
        return text
    total = int(parse_policy(text).row_codec.row_bytes(run.layout).sum())
    text += "&counts=bytes"
    for option, direction in (("share", "push"), ("pull_share", "pull")):
        least = run.minimum(direction)
        text += f"&{option}={1.0 if least is None else min(least.bytes / total, 1.0):.4f}"
    return f"{text}&race={run.race():.3f}"


def _step_sink(steps: list[dict[str, Any]]) -> Callable[[dict[str, Any]], None]:
    def sink(record: dict[str, Any]) -> None:
        if record["event"] == "step":
            steps.append(record)

    return sink
