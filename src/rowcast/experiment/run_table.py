"""What is said of measured runs: a table of them, or their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rowcast.config import Checked, as_number, load_values, read_file, setting
from rowcast.config.fields import hints_of
from rowcast.config.reading import from_text
from rowcast.errors import ConfigError, DataError, near_match
from rowcast.experiment.csv_table import Line, Table, expect_files
from rowcast.sync import parse_policy

__all__ = ["COMPATS", "RUN_TABLES", "RunSettings", "run_settings"]

#: Families, as the first part of a run's name says them, and the policy that each stands for; ``{}`` is its number.
FAMILIES = {
    "bsp": "bsp",
    "ssp": "ssp:{}",
    "rog": "rog:{}",
    "flown": "flown:{}",
    "asp": "asp",
    "rowcast": "rowcast:{}",
    "localsgd": "localsgd:{}",
    "diloco": "diloco:{}",
    "sparseloco": "sparseloco:{}",
    "demo": "demo",
    "powersgd": "powersgd:{}",
}
#: Families that need no number.
_ALONE = {"bsp": "bsp", "asp": "asp", "demo": "demo", "rowcast": "rowcast"}
_NAME = re.compile(r"([A-Za-z]+)(?:[-:_](\d+))?(?:[-_].*)?")
COMPATS = ("none", "artifact", "artifact-rules")
RUN_TABLES = ("runs.toml", "runs.csv")


@dataclass(frozen=True)
class RunSettings(Checked):
    """What is said of one measured run: an entry ``[[run]]`` of ``runs.toml``, or a line of ``runs.csv``.

    Raises:
        ConfigError: a value out of its range.
    """

    name: str = setting("", "Name of the run; the files are looked for under it where nothing else is said.")
    policy: str | None = setting(None, "Policy text; none: the name says it, as in 'SSP-4' or 'rog-20-second'.")
    compat: str | None = setting(
        None,
        "Whose rules, for 'rog:S': 'artifact' (those of the published software, with the minimum and the race that the "
        "logs show), 'artifact-rules' (the rules alone) or 'none'; none given: 'artifact' for 'rog:S'.",
    )
    records: str | None = setting(None, "The run's name in the column 'run' of the files; none: its name.")
    timing: str = setting("timing.csv", "File of mean seconds.")
    iterations: str = setting("iterations.csv.gz", "File of iterations; plain or gzip'd.")
    model: str = setting("model_tensors.csv", "File of tensors.")
    bandwidth: str | None = setting(
        None, "Folder of the bandwidth files workerN.csv; none: 'bandwidth/' and 'records'."
    )
    goodput: float = setting(0.957, "Measured goodput over the bandwidth in the files.", low=0.01, high=1.0)
    ceiling_mbps: float = setting(120.0, "No link gives more than this.", unit="Mbit/s", low=0.001, high=1e6)
    moments_s: tuple[float, ...] = setting(
        (900.0, 1800.0, 3600.0, 5400.0),
        "When steps are counted; those after the end are left out.",
        unit="s",
        low=0.1,
        high=1e7,
    )
    server_push_s: float | None = setting(
        None, "The server's work on a push; none: read from the logs.", unit="s", low=0.0, high=3600.0
    )
    server_pull_s: float | None = setting(
        None, "The server's work on a pull; none: read from the logs.", unit="s", low=0.0, high=3600.0
    )
    startup_steps: int = setting(
        5,
        "So many first iterations compute for as long as they did, the others for the mean: the start-up is replayed.",
        unit="steps",
        low=0,
        high=100_000,
    )
    steps_within: float | None = setting(
        None, "Relative error of steps that is accepted; none: 0.12 for 'rog', else 0.08.", low=0.0, high=10.0
    )
    stall_within: float | None = setting(
        None, "Relative error of the stall that is accepted; none: 0.2.", low=0.0, high=10.0
    )
    bytes_within: float | None = setting(
        None, "Relative error of bytes that is accepted; none: 0.15 for 'rog', else 0.02.", low=0.0, high=10.0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.name:
            raise ConfigError("a run needs a name")
        if self.compat is not None and self.compat not in COMPATS:
            raise ConfigError(f"run {self.name}: unknown compat {self.compat!r}; {near_match(self.compat, COMPATS)}")
        if not self.moments_s:
            raise ConfigError(f"run {self.name}: moments_s: expected at least one")
        parse_policy(self.policy_text)
        if self.compat not in (None, "none") and not self.is_rog:
            raise ConfigError(f"run {self.name}: compat {self.compat!r} goes with 'rog:S', got {self.policy_text!r}")

    @property
    def policy_text(self) -> str:
        """The policy: as given, or as the name says.

        Raises:
            ConfigError: nothing is given, and the name says none.
        """
        if self.policy is not None:
            return self.policy
        found = _NAME.fullmatch(self.name)
        family = found[1].lower() if found else ""
        if found is None or family not in FAMILIES:
            raise ConfigError(
                f"run {self.name!r}: expected a name that begins with a policy, as SSP-4 or rog-20-second does, or a "
                f"table {' or '.join(RUN_TABLES)} in the folder that gives the run a policy; "
                f"{near_match(family or self.name, FAMILIES)}"
            )
        if family in ("bsp", "asp") or found[2] is None:
            if family not in _ALONE:
                raise ConfigError(
                    f"run {self.name!r}: expected a number behind {found[1]}, as in {found[1]}-4, or a policy in "
                    f"{' or '.join(RUN_TABLES)}"
                )
            return _ALONE[family]
        return FAMILIES[family].format(found[2])

    @property
    def is_rog(self) -> bool:
        """It goes by the phases of ROG: its push ends in the sender's buffer, its work is done within the pull."""
        return parse_policy(self.policy_text).speculative


def run_settings(
    folder: Path,
    table: str | Path | None = None,
    only: Sequence[str] | None = None,
    *,
    compat: str | None = None,
    **changes: Any,
) -> list[RunSettings]:
    """What is said of the runs of a folder; see :func:`read_runs`.

    Args:
        only: names of the runs that are wanted; ``None``: all.
        compat: whose rules the runs of ``rog:S`` go by; ``None``: as each says.
        changes: other fields, the same for all of them.
    """
    if compat is not None and compat not in COMPATS:
        raise ConfigError(f"unknown compat {compat!r}; {near_match(compat, COMPATS)}")
    path = (
        Path(table) if table is not None else next(filter(Path.is_file, (folder / name for name in RUN_TABLES)), None)
    )
    if path is not None:
        entries = _entries(path)
    else:
        expect_files(folder, ("timing.csv", "iterations.csv.gz", "model_tensors.csv", "bandwidth"))
        names = dict.fromkeys(row.text("run") for row in Table.read(folder / "timing.csv").rows)
        entries = [(f"{folder / 'timing.csv'}", {"name": name}) for name in names]
    known = [str(entry.get("name")) for _, entry in entries]
    for name in known:
        if known.count(name) > 1:
            raise ConfigError(f"{path}: two runs are named {name!r}; 'records' may be the same, names may not")
    for name in only or ():
        if name not in known:
            raise ConfigError(f"unknown run {name!r}; {near_match(name, known)}")
    found = []
    for where, entry in entries:
        if only is None or entry.get("name") in only:
            try:
                one = load_values(RunSettings, {**entry, **changes})
                found.append(replace(one, compat=compat) if compat is not None and one.is_rog else one)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from error
    if not found:
        raise DataError(f"{path or folder}: expected measured runs, found none")
    return found


def _entries(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """What a table says of each run, and where it says it."""
    if path.suffix.lower() == ".csv":
        return [(f"{path}, line {row.line}", _typed(row)) for row in Table.read(path).rows]
    content = read_file(path)
    for key in content:
        if key != "run":
            raise ConfigError(f"{path}: unknown key {key!r}; expected entries [[run]], each with a name")
    runs = content.get("run", [])
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise ConfigError(f"{path}: expected entries [[run]], each with a name")
    return [(f"{path}, run {number}", run) for number, run in enumerate(runs, start=1)]


def _typed(row: Line) -> dict[str, Any]:
    """A line of a table of runs: numbers where settings have numbers; an empty cell says nothing."""
    hints = hints_of(RunSettings)
    values: dict[str, Any] = {}
    for column, text in row.cells.items():
        if not text:
            continue
        if column == "moments_s":
            values[column] = [as_number(part) for part in re.split(r"[ ;/]+", text)]
            if None in values[column]:
                raise row.error(column, f"expected seconds, separated by blanks, got {text!r}")
        else:
            values[column] = from_text(hints.get(column, str), text)
    return values
