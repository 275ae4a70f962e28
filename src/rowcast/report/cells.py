"""What a comparison left behind: its finished cells, read from their journals once."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rowcast.energy import PowerStates, WorkerEnergy, worker_energy
from rowcast.errors import ConfigError, visible
from rowcast.journal import read_journal
from rowcast.report.summary import SERVER_JOURNAL, complete_step, is_accuracy

__all__ = ["CellRun", "Experiment", "Robot", "Scene", "TeamCurve", "read_experiment"]

Array = npt.NDArray[np.float64]

#: Fields of the event 'step' that a report uses, beside its time.
FIELDS = (
    "iteration",
    "compute_s",
    "communicate_s",
    "stall_s",
    "push_share",
    "push_bytes",
    "pull_bytes",
    "rate_bps",
    "staleness",
    "skipped",
    "overlap_s",
    "quota_s",
    "mta_time_s",
)


#: Places of curves that are nearer to each other than this share of the whole are the same.
_SAME = 1e-9
#: Characters of the devices of a team that a heading has room for.
_LONGEST = 40


@dataclass(frozen=True, eq=False)
class Robot:
    """What one worker's journal says.

    Attributes:
        name: of the worker.
        ends_s: float64 [steps], when each step ended, since the start of the run.
        steps: for each of :data:`FIELDS` float64 [steps]; not-a-number where the journal has null.
        looks_s, looks_at, accuracy: float64 [looks], when the accuracy was measured, at which iteration, and what it
            was (percent).
        energy: what the worker spent, over the whole run.
    """

    name: str
    ends_s: Array
    steps: Mapping[str, Array]
    looks_s: Array
    looks_at: Array
    accuracy: Array
    energy: WorkerEnergy


@dataclass(frozen=True)
class TeamCurve:
    """Accuracy of a team: the mean over its robots, each with its own replica; arrays of one length."""

    along: Array  #: seconds, iterations or joules of the team
    accuracy: Array  #: percent

    def at(self, places: Array) -> TeamCurve:
        """The curve at those of ``places`` (increasing) where all robots have been, straight lines between.

        A team has more places than its robots have looks: each robot's look is one. A moving average over the places
        of two runs spans a different part of each; over the same places it does not.
        """
        if len(self.along) == 0:
            return self
        low, high = self.along[0], self.along[-1]
        slack = _SAME * max(abs(high), 1.0)
        inside = np.clip(places[(places >= low - slack) & (places <= high + slack)], low, high)
        return TeamCurve(inside, np.interp(inside, self.along, self.accuracy))

    def every(self, distance: float) -> TeamCurve:
        """The curve at multiples of ``distance``; see :meth:`at`."""
        if len(self.along) == 0:
            return self
        return self.at(np.arange(math.ceil(self.along[-1] / distance) + 1) * distance)


@dataclass(frozen=True)
class Scene:
    """What is the same for the cells of one figure."""

    links: str
    devices: str | None
    workers: int
    batch: int | None

    def __str__(self) -> str:
        batch = "" if self.batch is None else f", batch {self.batch}"
        robots = "1 robot" if self.workers == 1 else f"{self.workers} robots"
        return f"{Path(self.links).name}, {robots}{self._gradient}{batch}"

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
class CellRun:
    """One finished cell.

    Attributes:
        folder: where its journals are.
        policy, seed: what it ran; ``scene``: and where.
        seconds: length of the run.
        settings: of the cell, by name; ``versions``: of what ran it.
        robots: sorted by name.
    """

    folder: Path
    policy: str
    seed: int
    scene: Scene
    seconds: float
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    robots: tuple[Robot, ...]

    def step_values(self, field: str) -> Array:
        """A field of all steps of all robots."""
        return np.concatenate([robot.steps[field] for robot in self.robots])

    @property
    def step_count(self) -> int:
        """Steps of all robots together."""
        return sum(len(robot.ends_s) for robot in self.robots)

    @property
    def final_accuracy(self) -> float | None:
        """Percent, mean over the robots of the last that each measured; ``None`` if one measured none."""
        last = [float(robot.accuracy[-1]) for robot in self.robots if len(robot.accuracy)]
        return math.fsum(last) / len(last) if len(last) == len(self.robots) else None

    @cached_property
    def over_time(self) -> TeamCurve | None:
        """Accuracy against seconds; ``None`` if the robots' measurements have no time in common."""
        return _team_curve([(robot.looks_s, robot.accuracy) for robot in self.robots])

    @cached_property
    def over_steps(self) -> TeamCurve | None:
        """Accuracy against iterations."""
        return _team_curve([(robot.looks_at, robot.accuracy) for robot in self.robots])

    @cached_property
    def over_energy(self) -> TeamCurve | None:
        """Accuracy against the joules that the robots have spent together by then."""
        curve = self.over_time
        return None if curve is None else TeamCurve(self.joules_at(curve.along), curve.accuracy)

    def joules_at(self, times_s: Array) -> Array:
        """J of the whole team until these times (s since the start), the server left out."""
        return np.array([math.fsum(robot.energy.joules_after(float(t)) for robot in self.robots) for t in times_s])


@dataclass(frozen=True)
class Experiment:
    """The finished cells of a folder, and what they have in common.

    Attributes:
        settings: of the comparison, by name; empty where the folder is one of ``rowcast demo``.
        power: what a robot draws.
        missing: cells of the last call that are not finished.
    """

    folder: Path
    settings: Mapping[str, Any]
    power: PowerStates
    cells: tuple[CellRun, ...]
    missing: int

    @property
    def scenes(self) -> list[Scene]:
        """Those of the main figures: every kind of link and device, with the first size of team and of batch."""
        found = list(dict.fromkeys(cell.scene for cell in self.cells))
        base = self.base
        kept = [scene for scene in found if (scene.workers, scene.batch) == (base.workers, base.batch)]
        return kept or found[:1]

    @property
    def base(self) -> Scene:
        """The first scene of the settings that has a finished cell, by workers and batch."""
        wanted = [first(self.settings.get(name), None) for name in ("workers", "batch")]
        for cell in self.cells:
            if [cell.scene.workers, cell.scene.batch] == wanted:
                return cell.scene
        return self.cells[0].scene

    def by_policy(self, scene: Scene) -> dict[str, list[CellRun]]:
        """The cells of a scene: for each policy one for each seed, in the order of the settings."""
        listed = list(self.settings.get("policies", ()))
        found = dict.fromkeys([*listed, *(cell.policy for cell in self.cells)])
        groups = {
            policy: sorted(
                (cell for cell in self.cells if cell.scene == scene and cell.policy == policy),
                key=lambda cell: cell.seed,
            )
            for policy in found
        }
        return {policy: cells for policy, cells in groups.items() if cells}


def first(value: Any, default: Any) -> Any:
    """The first of a list, if it has one."""
    return value[0] if isinstance(value, Sequence) and value else default


def read_experiment(folder: str | Path) -> Experiment:
    """Read the finished cells that ``rowcast compare --out FOLDER``, or ``rowcast demo --out FOLDER``, left.

    Raises:
        ConfigError: there are none, or a file is not what these commands write.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is not a folder; expected what 'rowcast compare --out' wrote")
    path = folder / "compare.json"
    content = _read_json(path) if path.is_file() else {}
    settings, order = content.get("settings", {}), content.get("cells", [])
    watts = {field.name: settings[field.name] for field in dataclasses.fields(PowerStates) if field.name in settings}
    power = PowerStates(**watts)
    place = {name: k for k, name in enumerate(order)}
    done = sorted(folder.glob("cells/*/done.json"), key=lambda path: (place.get(path.parent.name, len(place)), path))
    cells = [_read_cell(path.parent, power) for path in done] or list(_demo_cells(folder, power))
    if not cells:
        raise ConfigError(f"{folder}: no finished cell; expected what 'rowcast compare --out' or 'rowcast demo' wrote")
    missing = len(place.keys() - {path.parent.name for path in done})
    return Experiment(folder, settings, power, tuple(cells), missing)


def _read_cell(folder: Path, power: PowerStates) -> CellRun:
    path = folder / "done.json"
    content = _read_json(path)
    try:
        cell = content["cell"]
        scene = Scene(cell["links"], cell["devices"], cell["workers"], cell["batch"])
        seconds = 3600.0 * cell["hours"]
        policy, seed = cell["policy"], cell["seed"]
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: not what this 'rowcast compare' writes ({error!r}); run the comparison again, in "
            "another folder if it was another version of Rowcast"
        ) from error
    robots = _read_robots(_worker_files(folder), power, seconds)
    return CellRun(folder, policy, seed, scene, seconds, cell, content.get("versions", {}), robots)


def _demo_cells(folder: Path, power: PowerStates) -> Iterator[CellRun]:
    """The policies of a demo count as cells with one seed."""
    path = folder / "summary.json"
    if not path.is_file():
        return
    summary = _read_json(path)
    settings = summary.get("settings", {})
    for policy in summary.get("policies", {}):
        name = policy.replace(":", "-")
        if Path(name).name != name:
            raise ConfigError(f"{path}: expected the name of a policy, got {policy!r}")
        place = folder / name
        files = _worker_files(place)
        pace_s = settings.get("pace_s")
        scene = Scene(settings.get("trace", ""), None if pace_s is None else f"{pace_s:g}", len(files), None)
        seconds = float(settings.get("seconds", 0.0))
        robots = _read_robots(files, power, seconds)
        yield CellRun(
            place, policy, summary.get("seed", 0), scene, seconds, settings, summary.get("versions", {}), robots
        )


def _worker_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.glob("*.jsonl") if path.name != SERVER_JOURNAL)
    if not files:
        raise ConfigError(f"{folder}: no journals of workers (*.jsonl)")
    return files


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected an object")
    return {visible(key): _shown(value) for key, value in content.items()}


def _shown(value: Any) -> Any:
    """The texts in a value of JSON, as they may be shown: the file may come from others."""
    if isinstance(value, dict):
        return {visible(key): _shown(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_shown(each) for each in value]
    return visible(value) if isinstance(value, str) else value


def _read_robots(files: Sequence[Path], power: PowerStates, seconds: float) -> tuple[Robot, ...]:
    """All workers of a run; their clocks agree, and the run starts with the first event of any."""
    records = {path: list(read_journal(path)) for path in files}
    empty = [path for path, own in records.items() if not own]
    if empty:
        raise ConfigError(f"{empty[0]}: an empty journal")
    start_s = min(float(record["t"]) for own in records.values() for record in own)
    return tuple(_read_robot(path, own, power, start_s, start_s + seconds) for path, own in records.items())


def _read_robot(path: Path, records: list[dict[str, Any]], power: PowerStates, start_s: float, end_s: float) -> Robot:
    inside = [record for record in records if record["t"] <= end_s]
    steps = [complete_step(record, path) for record in inside if record["event"] == "step"]
    looks = [record for record in inside if is_accuracy(record) and record["value"] is not None]
    return Robot(
        name=path.stem,
        ends_s=np.array([step["t"] - start_s for step in steps], dtype=np.float64),
        steps={field: _column(steps, field) for field in FIELDS},
        looks_s=np.array([look["t"] - start_s for look in looks], dtype=np.float64),
        looks_at=np.array([look["iteration"] for look in looks], dtype=np.float64),
        accuracy=np.array([look["value"] for look in looks], dtype=np.float64),
        energy=worker_energy(records, power, start_s=start_s, end_s=end_s),
    )


def _column(steps: Sequence[Mapping[str, Any]], field: str) -> Array:
    values = (step.get(field) for step in steps)
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def _team_curve(robots: Sequence[tuple[Array, Array]]) -> TeamCurve | None:
    """The mean over the robots wherever all of them have been, straight lines between measurements."""
    each = [increasing(along, accuracy) for along, accuracy in robots]
    grid = common_grid([along for along, _ in each])
    if len(grid) == 0:
        return None
    mean: Array = np.mean([np.interp(grid, along, accuracy) for along, accuracy in each], axis=0)
    return TeamCurve(grid, mean)


def increasing(along: Array, values: Array) -> tuple[Array, Array]:
    """The same curve with each place once: of several measurements at one place, the last."""
    last = np.append(np.diff(along) > 0, True)[: len(along)]
    return along[last], values[last]


def common_grid(places: Sequence[Array]) -> Array:
    """All places of all curves, within the range that all of them cover; empty if there is none."""
    if not places or any(len(own) == 0 for own in places):
        return np.empty(0)
    low, high = max(own[0] for own in places), min(own[-1] for own in places)
    every: Array = np.unique(np.concatenate(places))
    inside: Array = every[(every >= low) & (every <= high)]
    # Sums of the same joules in another order are neighbours, not two places.
    apart: Array = inside[np.append(True, np.diff(inside) > _SAME * (high - low))[: len(inside)]]
    return apart
