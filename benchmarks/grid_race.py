"""The part of ``grid.py`` on time to accuracy: a policy against all others, each at the best of its local steps.

As in ``beyond_wifi.py`` two measurements are put together for the others. How many gradients a policy needs to the
accuracy: with real gradients, where that depends on links on outdoor ones, else on links that never make anybody wait.
When it has made them: on each link, timing only. What the judged policy takes is read from runs on the links
themselves, but for the recorded ones.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from common import Figure
from grid_cells import GridCell
from grid_judge import Judged, gradients_to_target, judge, seconds_to_target, spread
from grid_runs import JOBS_FILE, LINKS, Grid, Wanted, devices_of, each_done, run_all, save_json
from rowcast.experiment.devices import parse_devices, place_in_recording
from rowcast.experiment.runners.links import model_bytes
from rowcast.experiment.timing_team import timing_team
from rowcast.journal import Journal
from rowcast.links import Trace, load_trace, named_trace
from rowcast.rows import Layout
from rowcast.sync import REGISTRY, parse_policy
from rowcast.tasks import find_task

__all__ = ["Course", "Race", "race_cells", "rivals"]

#: Local steps that are tried of each family that has them.
LOCAL_STEPS = (4, 8, 16, 32)
WITH_STEPS = ("localsgd", "diloco", "sparseloco")
OTHERS = ("bsp", "ssp:4", "rog:4", "flown:4", "sparta", "demo", "powersgd:1", "powersgd:4", "rowcast")
#: How many times longer than usual they train, to the accuracy that ``bsp`` has then.
LONGER, LONGER_LOCAL, LONGER_OUTDOOR = 2.0, 3.0, 3.0
#: Links of the race, beside recorded ones.
COURSES = ("outdoor", "slow")
WIFI_FOLDER = "traces_wifi_robot"
#: A policy that needs longer is given up (s).
MOST_S = 5400.0
_PROFILE_S = 3600.0


def rivals(judged: str) -> list[str]:
    """All other policies that there are, each with every number that is tried."""
    own = family_of(judged)
    named = [*OTHERS, *(f"{family}:{steps}" for family in WITH_STEPS for steps in LOCAL_STEPS)]
    return [text for text in named if family_of(text) in REGISTRY and family_of(text) != own]


def family_of(policy: str) -> str:
    return policy.partition("?")[0].partition(":")[0]


def race_cells(jobs: Sequence[str]) -> list[GridCell]:
    """The base cells, and for the first job others of team, optimizer, shards and robots."""
    first = GridCell(jobs[0])
    others = [
        *(dataclasses.replace(first, team=team) for team in (1, 2, 16)),
        dataclasses.replace(first, optimizer="adam"),
        dataclasses.replace(first, shards="skew"),
        dataclasses.replace(first, robots="unequal"),
    ]
    return [*map(GridCell, jobs), *others]


def by_iteration(policy: str) -> bool:
    """Whether the parameters after n iterations depend neither on links nor on who computes how fast."""
    parsed = parse_policy(policy)
    return parsed.slack == 0 and not (parsed.speculative or parsed.streaming or parsed.scheduled)


@dataclass(frozen=True)
class Course:
    """Seconds to the accuracy in one cell on one kind of link.

    Attributes:
        cell: of the grid, with the links; ``links``: their name.
        seconds: by policy, for each seed; ``inf``: not reached.
    """

    cell: GridCell
    links: str
    seconds: Mapping[str, tuple[float, ...]]

    @property
    def name(self) -> str:
        return dataclasses.replace(self.cell, links=self.links).name

    def means(self) -> dict[str, float]:
        return {policy: float(np.mean(values)) for policy, values in self.seconds.items()}

    def best(self, judged: str) -> str:
        """The best of the others."""
        means = self.means()
        return min((policy for policy in means if policy != judged), key=lambda policy: means[policy])

    def ratio(self, judged: str) -> float:
        """Time of the judged policy over that of the best other; ``nan`` where nobody gets there."""
        means = self.means()
        ours, best = means[judged], means[self.best(judged)]
        if not np.isfinite(best):
            return 0.0 if np.isfinite(ours) else float("nan")
        return ours / best

    def figure(self, judged: str) -> Figure:
        """With the bound."""
        means, best = self.means(), self.best(judged)
        shares = [a / b for a, b in zip(self.seconds[judged], self.seconds[best], strict=True) if np.isfinite(b)]
        note = f"{means[judged]:.0f} s, {best} {means[best]:.0f} s, bsp {means.get('bsp', np.nan):.0f} s"
        note += f"; {spread(shares)}" if len(shares) > 1 else ""
        ratio = self.ratio(judged)
        bound = None if np.isnan(ratio) else 1.03
        return Figure(f"{self.name}: time to accuracy / best other", ratio, "ratio", bound, note=note)


@dataclass(frozen=True)
class Timed:
    """A simulation of the timing only: when a team has made so many iterations.

    Attributes:
        shapes: names and shapes of the model's tensors; ``scale``: of the links.
        links: 'outdoor', 'slow', or the path of a trace.
    """

    policy: str
    job: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    scale: float
    links: str
    cell: GridCell
    seed: int
    iterations: float

    @property
    def key(self) -> str:
        """What it is kept by."""
        cell = dataclasses.replace(self.cell, links=Path(self.links).stem, rate=1.0)
        return f"{self.policy} {cell.name} seed {self.seed}: {self.iterations:.3f} iterations"


class Race:
    """Time to accuracy in some cells.

    Args:
        grid: the folder.
        judged: the policy; ``others``: those that it is compared with.
        lr_of: the learning rate of a cell.
        seeds: how many.
        jobs: processes.
        again: what is known of the judged policy is measured again.
    """

    def __init__(
        self,
        grid: Grid,
        judged: str,
        others: Sequence[str],
        lr_of: Mapping[GridCell, float],
        seeds: int,
        jobs: int,
        *,
        again: bool = False,
    ) -> None:
        self._grid, self._judged, self._others = grid, judged, others
        self._lr_of, self._jobs, self._seeds, self._again = lr_of, jobs, range(seeds), again

    def run(self, cells: Sequence[GridCell], wifi: Mapping[str, Sequence[Path]]) -> list[Course]:
        """Train what is missing, simulate what is missing, and put it together.

        Args:
            cells: the links of these do not matter.
            wifi: recorded traces, by job; for its base cell only.
        """
        trained = [each for cell in cells for each in self._training(cell)]
        trained += [self._reference(cell, seed) for cell in cells for seed in self._seeds]
        # What is new may be many runs: first all policies with one seed.
        trained.sort(key=lambda each: each.seed)
        run_all(self._grid, trained, self._jobs, "race", again=self._judged if self._again else "")
        courses: list[tuple[GridCell, str, Sequence[int]]] = []
        for cell in cells:
            courses += [(cell, links, self._seeds) for links in COURSES]
            if cell == GridCell(cell.job):
                courses += [(cell, str(path), (0,)) for path in wifi.get(cell.job, ())]
        timed = {
            (cell, links, policy, seed): found
            for cell, links, seeds in courses
            for policy in (*self._others, self._judged)
            for seed in seeds
            if (found := self._timed(cell, links, policy, seed)) is not None
        }
        seconds = self._simulate([each for each in timed.values() if np.isfinite(each.iterations)])
        found = []
        for cell, links, seeds in courses:
            own = {
                policy: tuple(self._seconds(cell, links, policy, seed, timed, seconds) for seed in seeds)
                for policy in (*self._others, self._judged)
            }
            found.append(Course(cell, Path(links).stem, own))
        return found

    def standings(self, cells: Sequence[GridCell], usual: Mapping[str, float]) -> list[tuple[str, Judged]]:
        """The others at equal samples, in cells that have been run; of each family the first number.

        Args:
            usual: what ``bsp`` gains in the base cell of a job.
        """
        first = {family_of(policy): policy for policy in reversed(self._others) if policy != "bsp"}
        found = []
        for policy in reversed(list(first.values())):
            for cell in cells:
                references = {seed: self._grid.line(self._reference(cell, seed)) for seed in self._seeds}
                lines = {seed: self._grid.line(self._wanted(cell, policy, "outdoor", seed)) for seed in self._seeds}
                found.append((policy, judge(cell, references, lines, usual[cell.job])))
        return found

    def _training(self, cell: GridCell) -> list[Wanted]:
        return [
            self._wanted(cell, policy, links, seed)
            for seed in self._seeds
            for policy in (*self._others, self._judged)
            for links in (COURSES if policy == self._judged else ("",))
        ]

    def _wanted(self, cell: GridCell, policy: str, links: str, seed: int) -> Wanted:
        """The run of a policy; on which links, is said for the judged one only."""
        lr = self._lr_of[cell]
        if policy == self._judged:
            return Wanted(dataclasses.replace(cell, links=links), lr, policy, seed, LONGER)
        if policy == "bsp":
            return self._reference(cell, seed)
        if not by_iteration(policy):
            return Wanted(dataclasses.replace(cell, links="outdoor"), lr, policy, seed, LONGER_OUTDOOR)
        longer = LONGER_LOCAL if parse_policy(policy).local_steps > 1 else LONGER
        return Wanted(cell.reference, lr, policy, seed, longer)

    def _reference(self, cell: GridCell, seed: int) -> Wanted:
        return Wanted(cell.reference, self._lr_of[cell], "bsp", seed)

    def _timed(self, cell: GridCell, links: str, policy: str, seed: int) -> Timed | None:
        """The simulation that a time comes from; ``None``: it is read from a run."""
        recorded = links not in COURSES
        if policy == self._judged and not recorded:
            return None
        counted = [self._iterations(cell, policy, each) for each in (self._seeds if recorded else (seed,))]
        shapes, scale = model_of(self._grid, cell.job)
        return Timed(policy, cell.job, shapes, scale, links, cell, seed, float(np.mean(counted)))

    def _iterations(self, cell: GridCell, policy: str, seed: int) -> float:
        """To the accuracy."""
        reference = self._grid.line(self._reference(cell, seed))
        line = self._grid.line(self._wanted(cell, policy, "outdoor", seed))
        return gradients_to_target(reference, line) / (cell.team * parse_policy(policy).local_steps)

    def _seconds(
        self,
        cell: GridCell,
        links: str,
        policy: str,
        seed: int,
        timed: Mapping[tuple[GridCell, str, str, int], Timed],
        seconds: Mapping[str, float],
    ) -> float:
        simulated = timed.get((cell, links, policy, seed))
        if simulated is not None:
            return seconds.get(simulated.key, float("inf"))
        reference = self._grid.line(self._reference(cell, seed))
        return seconds_to_target(reference, self._grid.line(self._wanted(cell, policy, links, seed)))

    def _simulate(self, wanted: Sequence[Timed]) -> dict[str, float]:
        """Seconds by key; what is known is kept in a file."""
        path = self._grid.out / "times.json"
        known: dict[str, float | None] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if self._again:
            known = {key: value for key, value in known.items() if not key.startswith(f"{self._judged} ")}
        todo = [each for each in {each.key: each for each in wanted}.values() if each.key not in known]
        if todo:
            for place, value in each_done(simulate, [(each,) for each in todo], self._jobs, "timing"):
                known[todo[place].key] = value if np.isfinite(value) else None
                save_json(path, known)
        return {key: float("inf") if value is None else value for key, value in known.items()}


@cache
def model_of(grid: Grid, job: str) -> tuple[tuple[tuple[str, tuple[int, ...]], ...], float]:
    """Tensors of a job's model, and what its links are scaled by."""
    kind = find_task(f"{JOBS_FILE}:{job}").kind
    model = kind.build(data_dir=grid.folder_of(job)).make_model()
    shapes = tuple((name, tuple(value.shape)) for name, value in model.named_parameters())
    return shapes, model_bytes(Layout.from_shapes(shapes)) / kind.reference_bytes


def simulate(timed: Timed) -> float:
    """Seconds until the slowest robot has made so many iterations; ``inf`` beyond :data:`MOST_S`."""
    cell, layout = timed.cell, Layout.from_shapes(timed.shapes)
    devices = parse_devices(devices_of(cell)).team(cell.team, timed.seed)
    links = [(_way(timed, index, 0), _way(timed, index, 1)) for index in range(cell.team)]
    slowest_s = max(device.gradient_s(0) for device in devices)
    seconds = 1.3 * timed.iterations * parse_policy(timed.policy).local_steps * slowest_s + 60
    while True:
        seconds = min(seconds, MOST_S)
        journals = [Journal(f"robot-{index}") for index in range(cell.team)]
        timing_team(timed.policy, layout, devices, links, journals).run(seconds)
        ends = [[record["t"] for record in journal.records if record["event"] == "step"] for journal in journals]
        if min(map(len, ends)) >= timed.iterations:
            return max(
                float(np.interp(timed.iterations, np.arange(len(own) + 1.0), np.append(0.0, own))) for own in ends
            )
        if seconds >= MOST_S:
            return float("inf")
        seconds *= 3


def _way(timed: Timed, index: int, way: int) -> Trace:
    """The link of a robot in one direction, as runs have it."""
    if timed.links in LINKS:
        return named_trace(LINKS[timed.links], (timed.seed, index, way), _PROFILE_S).scaled(timed.scale)
    trace = load_trace(timed.links)
    place = place_in_recording(2 * index + way, 2 * timed.cell.team, timed.seed)
    return trace.shifted(place * trace.duration_s).scaled(timed.scale)
