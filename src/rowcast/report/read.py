"""Reads what ``rowcast compare``, ``demo`` and ``stream demo`` leave behind: folders and JSON files, to values.

A report needs neither the task's code nor PyTorch: which metrics a run was judged by, their units and directions stand
in its ``done.json`` (``metrics``, as :func:`rowcast.metric.metrics_to_json` writes them). Folders from before that
hold an accuracy in percent.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rowcast.energy import PowerStates
from rowcast.errors import ConfigError, visible
from rowcast.metric import Metric, metrics_from_json
from rowcast.report.journals import read_robots
from rowcast.report.values import Conditions, Experiment, Feeding, Run

__all__ = ["ACCURACY", "read_experiment", "read_run", "worker_journals"]

#: What runs were judged by before a run named its metrics.
ACCURACY = Metric("accuracy", "%", "higher")
SERVER_JOURNAL = "server.jsonl"


def read_experiment(folder: str | Path) -> Experiment:
    """Read the finished runs that ``rowcast compare --out FOLDER`` left, or ``demo`` or ``stream demo`` in its place.

    Raises:
        ConfigError: there are none, or a file is not what these commands write.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is not a folder; expected what 'rowcast compare --out' wrote")
    path = folder / "compare.json"
    content = _read_json(path) if path.is_file() else {}
    settings, order = _object(content, "settings", path), content.get("cells", [])
    if not isinstance(order, list) or not all(isinstance(name, str) for name in order):
        raise ConfigError(f"{path}: cells: expected a list of names of folders, got {order!r}")
    power = _power(settings, path)
    place = {name: k for k, name in enumerate(order)}
    done = sorted(folder.glob("cells/*/done.json"), key=lambda path: (place.get(path.parent.name, len(place)), path))
    notes: list[str] = []
    runs = [_read_finished(path, power, notes) for path in done] or list(_read_demo(folder, power, notes))
    if not runs:
        raise ConfigError(f"{folder}: no finished cell; expected what 'rowcast compare --out' or 'rowcast demo' wrote")
    _check_alike(runs)
    missing = len(place.keys() - {path.parent.name for path in done})
    return Experiment(folder, settings, power, tuple(runs), missing, tuple(notes))


def read_run(
    policy: str,
    worker_journals: Sequence[str | Path],
    seconds: float | None = None,
    metrics: Sequence[Metric] = (ACCURACY,),
) -> Run:
    """One run from its workers' journals, one file per worker.

    Its clock starts with the first event of any; the workers' clocks agree, as they do on one machine.

    Args:
        policy: its text.
        worker_journals: the files.
        seconds: the run ends so many seconds after its first step began; ``None``: with its last event.
        metrics: what it is judged by, the primary one first.

    Raises:
        ConfigError: no journals, or one that cannot be read, is empty or lacks a field.
    """
    files = [Path(path) for path in worker_journals]
    if not files:
        raise ConfigError(f"policy {policy!r}: an empty list of journals; expected one for each worker")
    team = read_robots(files, PowerStates(), metrics, training_s=seconds)
    conditions = Conditions("", None, len(files), None)
    return Run(files[0].parent, policy, 0, conditions, team.seconds, {}, {}, tuple(metrics), team.robots)


def worker_journals(out: str | Path, policy: str) -> list[Path]:
    """The journals of the workers that ``rowcast demo --out OUT`` wrote for a policy, sorted by name.

    Raises:
        ConfigError: there are none.
    """
    return _worker_files(Path(out) / policy.replace(":", "-"))


def _worker_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.glob("*.jsonl") if path.name != SERVER_JOURNAL)
    if not files:
        raise ConfigError(
            f"{folder}: no journals of workers (*.jsonl); expected what 'rowcast compare' or 'rowcast demo' wrote"
        )
    return files


# -- runs --------------------------------------------------------------------------------------------------------------


def _read_finished(path: Path, power: PowerStates, notes: list[str]) -> Run:
    """A run of a comparison, from its ``done.json``."""
    content = _read_json(path)
    try:
        cell = content["cell"]
        conditions = Conditions(
            cell["links"],
            cell["devices"],
            cell["workers"],
            cell["batch"],
            _feeding(cell, path),
            cell.get("topk", ""),
        )
        seconds = 3600.0 * cell["hours"]
        policy, seed = cell["policy"], cell["seed"]
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: not what this 'rowcast compare' writes ({error!r}); run the comparison again, in "
            "another folder if it was another version of Rowcast"
        ) from error
    _check_settings(path, policy, seed, conditions, seconds)
    metrics = _metrics(content, path)
    files = _worker_files(path.parent)
    team = read_robots(files, power, metrics, start_s=_start_of(path.parent), run_s=seconds)
    notes += team.notes
    versions = _object(content, "versions", path)
    return Run(path.parent, policy, seed, conditions, seconds, cell, versions, metrics, team.robots)


def _start_of(folder: Path) -> float | None:
    """When an emulated run started, on the clock of its journals (s); ``None`` for one in virtual time.

    Raises:
        ConfigError: the file of an emulation does not say it.
    """
    path = folder / "emulation.json"
    if not path.is_file():
        return None
    start_s = _read_json(path).get("start_s")
    if isinstance(start_s, bool) or not isinstance(start_s, int | float):
        raise ConfigError(
            f"{path}: start_s: expected seconds, got {start_s!r}; it is not what 'rowcast emulate' writes"
        )
    return float(start_s)


def _feeding(cell: Mapping[str, Any], path: Path) -> Feeding | None:
    """Where the batches of a run are from; ``None``: its task, as of all runs before there were streams."""
    found = cell.get("feeding")
    if found is None:
        return None
    names = [field.name for field in dataclasses.fields(Feeding)]
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in names):
        raise ConfigError(f"{path}: feeding = {found!r} is not what 'rowcast compare' writes")
    return Feeding(**{name: found[name] for name in names})


def _check_settings(path: Path, policy: Any, seed: Any, conditions: Conditions, seconds: float) -> None:
    """What the report computes with has the types that it takes.

    Raises:
        ConfigError: it has not.
    """
    for name, value, kinds in (
        ("policy", policy, str),
        ("seed", seed, int),
        ("links", conditions.links, str),
        ("devices", conditions.devices, str | None),
        ("workers", conditions.workers, int),
        ("batch", conditions.batch, int | None),
        ("topk", conditions.topk, str),
    ):
        if not isinstance(value, kinds):
            raise ConfigError(f"{path}: cell: {name} = {value!r} is not what 'rowcast compare' writes")
    if not 0 < seconds < math.inf:
        raise ConfigError(f"{path}: cell: hours: expected a length above 0, got {seconds / 3600!r}")


def _read_demo(folder: Path, power: PowerStates, notes: list[str]) -> Iterator[Run]:
    """The policies of a demo, or the batches of one of streams, count as runs with one seed."""
    path = folder / "summary.json"
    if not path.is_file():
        return
    summary = _read_json(path)
    settings, versions = (_object(summary, name, path) for name in ("settings", "versions"))
    seconds, pace_s = settings.get("seconds"), settings.get("pace_s")
    metrics = _metrics(summary, path)
    devices = f"{pace_s:g}" if isinstance(pace_s, int | float) else None
    for name, policy, feeding in _runs_of_demo(summary, path):
        if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
            raise ConfigError(f"{path}: settings: seconds: expected the length of a run above 0, got {seconds!r}")
        files = _worker_files(folder / name)
        conditions = Conditions(str(settings.get("trace", "loopback")), devices, len(files), None, feeding)
        team = read_robots(files, power, metrics, training_s=float(seconds))
        notes += team.notes
        seed = int(summary.get("seed", 0))
        yield Run(folder / name, policy, seed, conditions, team.seconds, settings, versions, metrics, team.robots)


def _runs_of_demo(summary: Mapping[str, Any], path: Path) -> Iterator[tuple[str, str, Feeding | None]]:
    """Folder, policy and batches of each run."""
    for policy in _object(summary, "policies", path):
        yield _within(policy.replace(":", "-"), "policy", path), policy, None
    runs = summary.get("runs", [])
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise ConfigError(f"{path}: runs: expected a list of objects, got {runs!r}")
    for run in runs:
        name, policy = run.get("folder"), run.get("policy")
        if not isinstance(name, str) or not isinstance(policy, str):
            raise ConfigError(f"{path}: runs: expected folder and policy of each, got {name!r} and {policy!r}")
        yield _within(name, "folder", path), policy, _feeding(run, path)


def _within(name: str, what: str, path: Path) -> str:
    """A name in a file that is that of a folder beside it, and leads nowhere else."""
    if Path(name).name != name:
        raise ConfigError(f"{path}: expected the name of a {what}, got {name!r}")
    return name


def _metrics(content: Mapping[str, Any], path: Path) -> tuple[Metric, ...]:
    return metrics_from_json(content["metrics"], str(path)) if "metrics" in content else (ACCURACY,)


def _check_alike(runs: Sequence[Run]) -> None:
    """A name stands for one metric in all runs of a folder.

    Raises:
        ConfigError: two runs disagree about unit or direction.
    """
    known: dict[str, tuple[Metric, Run]] = {}
    for run in runs:
        for metric in run.metrics:
            other, where = known.setdefault(metric.name, (metric, run))
            if other != metric:
                raise ConfigError(
                    f"{run.folder}: {metric.label}, {metric.better} is better, is {other.label}, {other.better} is "
                    f"better, in {where.folder}; draw them from two folders"
                )


def _power(settings: Mapping[str, Any], path: Path) -> PowerStates:
    watts = {field.name: settings[field.name] for field in dataclasses.fields(PowerStates) if field.name in settings}
    try:
        return PowerStates(**watts)
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"{path}: settings: {error}") from error


# -- JSON --------------------------------------------------------------------------------------------------------------


def _object(content: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    """An object in a file, empty where there is none."""
    found = content.get(name, {})
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: {name}: expected an object, got {found!r}")
    return found


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
