"""What the journals of an experiment say, as values: robots, runs, and what runs have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rowcast.energy import PowerStates, WorkerEnergy
from rowcast.metric import Metric

__all__ = [
    "STARVE",
    "STATES",
    "STEP_FIELDS",
    "Array",
    "Conditions",
    "Experiment",
    "Feeding",
    "Groups",
    "Robot",
    "Run",
    "Series",
    "Told",
    "states_of",
]

Array = npt.NDArray[np.float64]

#: What a worker does in a step, in order: the fields of the event 'step' are these with ``_s``.
STATES = ("compute", "communicate", "stall")
#: What a worker with a stream does before: it waits for data.
STARVE = "starve"
#: Fields of the event 'step' that a report uses, beside its time.
STEP_FIELDS = (
    "iteration",
    "compute_s",
    "communicate_s",
    "stall_s",
    "push_share",
    "push_rows",
    "push_bytes",
    "pull_bytes",
    "rate_bps",
    "staleness",
    "skipped",
    "overlap_s",
    "own_s",
    "quota_s",
    "mta_time_s",
    "starve_s",
    "samples",
    "queued",
    "dropped",
    "age_s",
    "exposed",
    "exposed_bytes",
    "floats",
    "gradient_floats",
    "compressed",
)
#: Characters of the devices of a team that a heading has room for.
_LONGEST = 40


@dataclass(frozen=True, eq=False)
class Series:
    """The measurements of one metric by one robot; three arrays, float64 [measurements].

    Attributes:
        times_s: since the start of the run.
        iterations: at which it was measured.
        values: in the unit of the metric; not-a-number where that is what came out.
    """

    times_s: Array
    iterations: Array
    values: Array


@dataclass(frozen=True)
class Told:
    """An event that a task told.

    Attributes:
        time_s: since the start of the run.
        what: of a kind; ``detail``: what differs from one to the next.
    """

    time_s: float
    what: str
    detail: str


@dataclass(frozen=True, eq=False)
class Robot:
    """What one worker's journal says.

    Attributes:
        name: of the worker.
        ends_s: float64 [steps], when each step ended, since the start of the run.
        steps: for each of :data:`STEP_FIELDS` float64 [steps]; not-a-number where the journal has null.
        measured: for each metric of the run what this robot measured, maybe nothing.
        energy: what the worker spent, over the whole run.
        told: what its task told, in order of time.
    """

    name: str
    ends_s: Array
    steps: Mapping[str, Array]
    measured: Mapping[str, Series]
    energy: WorkerEnergy
    told: tuple[Told, ...] = ()


@dataclass(frozen=True)
class Feeding:
    """Where the batches of a run are from that a rule makes; texts as in the settings.

    Attributes:
        rates: of the streams; '' where there were always enough samples.
        batch: the rule.
        buffer, inject: '' for none.
    """

    rates: str
    batch: str
    buffer: str
    inject: str

    @property
    def stream(self) -> str:
        """The stream in a few words; '' without one."""
        return Path(self.rates).name if Path(self.rates).is_absolute() else self.rates

    @property
    def words(self) -> tuple[str, ...]:
        """Batch, buffer and injection, as far as there are any."""
        return tuple(filter(None, (self.batch, self.buffer, self.inject and f"injection {self.inject}")))


@dataclass(frozen=True)
class Conditions:
    """What is the same for the runs of one figure; ``topk``: what is used of gradients, '' for all."""

    links: str
    devices: str | None
    workers: int
    batch: int | None
    feeding: Feeding | None = None
    topk: str = ""

    def __str__(self) -> str:
        words = [] if self.batch is None else [f"batch {self.batch}"]
        words += self.feeding.words if self.feeding else ()
        words += [f"top-k {self.topk}"] if self.topk else []
        return ", ".join([self.team, *words])

    @property
    def team(self) -> str:
        """All but the batches."""
        robots = "1 robot" if self.workers == 1 else f"{self.workers} robots"
        stream = f", stream {self.feeding.stream}" if self.feeding and self.feeding.rates else ""
        return f"{self.links_name}, {robots}{self._gradient}{stream}"

    @property
    def links_name(self) -> str:
        """The links as headings have them: of a path its last part."""
        return self.links if self.links.startswith("wide:") else Path(self.links).name

    @property
    def devices_name(self) -> str:
        """The devices, as much of them as a heading has room for; empty where nothing is known."""
        name = Path(self.devices).name if self.devices and self._recorded else self.devices or ""
        return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..."

    @property
    def _gradient(self) -> str:
        if self.devices is None:
            return ""
        return f", gradients of {self.devices_name}" if self._recorded else f", {self.devices_name} s a gradient"

    @property
    def _recorded(self) -> bool:
        return self.devices is not None and Path(self.devices).is_absolute()


@dataclass(frozen=True, eq=False)
class Run:
    """One finished run: a policy with a seed under some conditions.

    Attributes:
        folder: where its journals are.
        policy, seed: what ran; ``conditions``: and under which.
        seconds: its length.
        settings: of the run, by name; ``versions``: of what ran it.
        metrics: what the job is judged by, the primary one first; at least one.
        robots: sorted by name; at least one.
    """

    folder: Path
    policy: str
    seed: int
    conditions: Conditions
    seconds: float
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    metrics: tuple[Metric, ...]
    robots: tuple[Robot, ...]

    @property
    def streams(self) -> bool:
        """Whether a robot was fed by a stream."""
        return any(bool(np.isfinite(robot.steps["samples"]).any()) for robot in self.robots)


def states_of(runs: Iterable[Run]) -> tuple[str, ...]:
    """What the workers of some runs do in a step, in order; the wait for data is there where one has a stream."""
    return (STARVE, *STATES) if any(run.streams for run in runs) else STATES


#: For each policy its runs under the same conditions, by seed.
Groups = Mapping[str, Sequence[Run]]


@dataclass(frozen=True)
class Experiment:
    """The finished runs of a folder, and what they have in common.

    Attributes:
        settings: of the comparison, by name; empty where the folder is one of ``rowcast demo``.
        power: what a robot draws.
        runs: at least one.
        missing: runs of the last call that are not finished.
        notes: what the files hold that no figure shows, a sentence each.
    """

    folder: Path
    settings: Mapping[str, Any]
    power: PowerStates
    runs: tuple[Run, ...]
    missing: int
    notes: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those of all runs, the primary one first."""
        return tuple(dict.fromkeys(metric for run in self.runs for metric in run.metrics))

    @property
    def conditions(self) -> list[Conditions]:
        """Those of the main figures: every kind of link, device and stream, with the first of all else."""
        found = list(dict.fromkeys(run.conditions for run in self.runs))
        base = self.base

        def rest(of: Conditions) -> tuple[object, ...]:
            return of.workers, of.batch, of.feeding and of.feeding.words, of.topk

        return [each for each in found if rest(each) == rest(base)] or found[:1]

    @property
    def base(self) -> Conditions:
        """The first conditions of the settings that have a finished run, by workers and batch."""
        wanted = [_first(self.settings.get(name)) for name in ("workers", "batch")]
        if isinstance(wanted[1], str):
            wanted[1] = None  # a rule: of several, runs with the first stand first
        for run in self.runs:
            if [run.conditions.workers, run.conditions.batch] == wanted:
                return run.conditions
        return self.runs[0].conditions

    def by_policy(self, conditions: Conditions) -> dict[str, list[Run]]:
        """The runs under some conditions: for each policy one for each seed, in the order of the settings."""
        listed = list(self.settings.get("policies", ()))
        found = dict.fromkeys([*listed, *(run.policy for run in self.runs)])
        groups = {
            policy: sorted(
                (run for run in self.runs if run.conditions == conditions and run.policy == policy),
                key=lambda run: run.seed,
            )
            for policy in found
        }
        return {policy: runs for policy, runs in groups.items() if runs}


def _first(value: Any) -> Any:
    """The first of a list, if it has one."""
    return value[0] if isinstance(value, Sequence) and value else None
