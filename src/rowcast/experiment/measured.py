"""Measured runs of a team: logs, read row by row, and what can be told from them.

A folder holds the files below. A run is what has its name in the column ``run``; a table of runs (``runs.toml`` or
``runs.csv``) may say more about each, see :func:`read_runs`.

============================== ======================================================================================
``timing.csv``                 ``run, worker`` and the mean seconds of each part of an iteration: ``compute_mean_s``
                               (needed), ``sleep_mean_s``, ``compress_mean_s``, ``rank_serialise_mean_s``,
                               ``decompress_mean_s``, ``bookkeep_mean_s`` (0 where they are not there or empty)
``iterations.csv.gz``          ``run, worker, t_end_s, stall_s, push_bytes, pull_bytes`` (needed); ``push_rate``,
                               ``pull_rate`` (shares of the rows, 1 where not there); ``push_send_s, push_s,
                               pull_wait_s, pull_s, decompress_s, bookkeep_s`` for the server's work; ``compute_s,
                               sleep_s, compress_s, rank_serialise_s`` for the start; ``pull_timeout_s`` (all of these
                               0 where not there). A column that is empty throughout a run is not there for it; a
                               single empty cell (not of ``t_end_s``) was not recorded, and its row is left out of
                               what needs it
``model_tensors.csv``          ``name, shape`` of each tensor, as ``32x3x3``
``bandwidth/RUN/workerN.csv``  the bandwidth in force, see :mod:`rowcast.links.files`
============================== ======================================================================================

Times count from the start of the team. A cell that cannot be read is an error with file, line and column.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from rowcast.drivers.virtual import ServerCosts
from rowcast.errors import DataError
from rowcast.experiment.csv_table import Line, Table, expect_files
from rowcast.experiment.run_table import RUN_TABLES, RunSettings, run_settings
from rowcast.links import Trace, load_trace
from rowcast.rows import Layout

__all__ = ["MeasuredRun", "Minimum", "read_run", "read_runs"]

#: A link this fast (bit/s) takes little of the time from which the server's work is read.
FAST_BPS = 50e6
#: The first iterations hold warm-up and first connections: the server's work and the minimum are read after them.
WARM_UP = 2
#: The minimum share is this quantile of all shares: a few odd rows do not decide it.
LEAST_QUANTILE = 0.02
#: Bytes of a minimum so many times the median, or less than the median over it, are not those of a minimum.
ODD_BYTES = 5.0
#: A stall above this (s) is one: the gate has held the worker.
HELD_S = 0.3
#: Iterations on a fast link that the server's work is read from, at least.
ENOUGH = 5

_PARTS = ("compute", "sleep", "compress", "rank_serialise", "decompress", "bookkeep")
#: Columns that are needed; a cell may be empty (NaN) where a value was not recorded.
_ITERATION_NEEDED = ("stall_s", "push_bytes", "pull_bytes")
#: At most this share of the cells of a column.
_EMPTY_SHARE = 0.05
#: Columns that need not be there, and their value where they are not.
_ITERATION_MORE = {
    "push_rate": 1.0,
    "pull_rate": 1.0,
    **dict.fromkeys(
        (
            "compute_s",
            "sleep_s",
            "compress_s",
            "rank_serialise_s",
            "push_send_s",
            "push_s",
            "pull_wait_s",
            "pull_s",
            "decompress_s",
            "bookkeep_s",
            "pull_timeout_s",
        ),
        0.0,
    ),
}

#: What the server's work is read from besides those that are needed, without and with the phases of ROG.
_WORK_COLUMNS = (
    ("push_send_s", "push_s", "pull_s", "decompress_s"),
    ("push_send_s", "pull_wait_s", "pull_s", "bookkeep_s"),
)

Row = Mapping[str, float]


@dataclass(frozen=True)
class Minimum:
    """What the smallest push or pull of a run carries.

    Attributes:
        share: of the rows; ``bytes``: mean.
        count: transfers that were read; ``left_out``: in words, those that were not, and why.
    """

    share: float
    bytes: float
    count: int
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class MeasuredRun:
    """One measured run.

    Attributes:
        settings: what is said of it.
        layout: the model's rows.
        workers: their names.
        timing: seconds of each part of an iteration of each worker (means), by part.
        iterations: each worker's iterations, by column; NaN: not recorded.
        traces: goodput of each worker's link, both directions.
        notes: what was left out or set by default, and why, in words.
    """

    settings: RunSettings
    layout: Layout
    workers: tuple[str, ...]
    timing: Mapping[str, Row]
    iterations: Mapping[str, Sequence[Row]]
    traces: Mapping[str, Trace]
    notes: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def ends_s(self) -> float:
        """Until when all workers were recorded (s)."""
        return min(rows[-1]["t_end_s"] for rows in self.iterations.values())

    def steps(self, until_s: float) -> float:
        """Iterations finished by then, mean over the workers."""
        return statistics.fmean(sum(row["t_end_s"] <= until_s for row in rows) for rows in self.iterations.values())

    def mean(self, column: str, until_s: float) -> float:
        """Mean of a column over the iterations finished by then, mean over the workers; 0 where there are none."""
        return statistics.fmean(
            statistics.fmean(
                [row[column] for row in rows if row["t_end_s"] <= until_s and not math.isnan(row[column])] or [0.0]
            )
            for rows in self.iterations.values()
        )

    def minimum(self, direction: str) -> Minimum | None:
        """The smallest share of 'push' or 'pull', or ``None`` where every transfer is whole.

        A low quantile of all shares, so that odd rows do not decide it.
        """
        rate, size = f"{direction}_rate", f"{direction}_bytes"
        rows = [
            row for each in self.iterations.values() for row in each[WARM_UP:] if not _lacks(row, (size, rate))
        ]  # those that were not recorded are said elsewhere
        good = [row for row in rows if row[size] > 0 and row[rate] > 0]
        left_out = []
        if len(good) < len(rows):
            left_out.append(f"{len(rows) - len(good)} of {len(rows)} transfers of no bytes or of a share of 0")
        if not good:
            return None
        share = float(np.quantile([row[rate] for row in good], LEAST_QUANTILE, method="lower"))
        if share >= 1:
            return None
        lower = sum(row[rate] < 0.99 * share for row in good)
        if lower:
            left_out.append(
                f"{lower} of {len(good)} of a share below {share:.4f}, the {LEAST_QUANTILE:.0%} quantile of all"
            )
        sizes = [row[size] for row in good if 0.99 * share <= row[rate] <= 1.01 * share]
        middle = statistics.median(sizes)
        usual = [each for each in sizes if middle / ODD_BYTES <= each <= middle * ODD_BYTES]
        if len(usual) < len(sizes):
            left_out.append(
                f"{len(sizes) - len(usual)} of {len(sizes)} of that share whose bytes are more than {ODD_BYTES:g} "
                f"times off the median of {middle:.0f}"
            )
        return Minimum(share, statistics.fmean(usual), len(usual), tuple(left_out))

    def race(self) -> float:
        """Of the iterations that the gate held, the share that was given no time beyond the minimum (0 where none)."""
        held = [
            row
            for rows in self.iterations.values()
            for row in rows[WARM_UP:]
            if row["stall_s"] > HELD_S and not _lacks(row, ("pull_timeout_s",))
        ]
        return sum(row["pull_timeout_s"] == 0 for row in held) / len(held) if held else 0.0

    def server_costs(self) -> ServerCosts:
        """What the server does for a push and for a pull: as given, or medians over the iterations on a fast link.

        With a barrier, sending ends when the server has decoded. In ROG sending ends in the sender's buffer, and the
        time until the first byte of the pull holds the rest of the push, the server's work and the stall.

        Raises:
            DataError: the logs have too few iterations on a fast link.
        """
        given = self.settings.server_push_s, self.settings.server_pull_s
        if given[0] is not None and given[1] is not None:
            return ServerCosts(given[0], given[1])
        pushes, pulls = [], []
        for worker, rows in self.iterations.items():
            trace = self.traces[worker]
            for row in rows[WARM_UP:]:
                work = _server_work_s(row, trace, rog=self.settings.is_rog)
                if work is not None:
                    pushes.append(work[0])
                    pulls.append(work[1])
        if len(pushes) < ENOUGH:
            raise DataError(
                f"run {self.name}: expected {ENOUGH} iterations or more on a link above {FAST_BPS / 1e6:g} Mbit/s, to "
                f"read the server's work from, got {len(pushes)}; give server_push_s and server_pull_s in "
                f"{' or '.join(RUN_TABLES)}"
            )
        read = max(statistics.median(pushes), 0.0), max(statistics.median(pulls), 0.0)
        return ServerCosts(*(there if there is not None else mine for there, mine in zip(given, read, strict=True)))


def _server_work_s(row: Row, trace: Trace, *, rog: bool) -> tuple[float, float] | None:
    """What an iteration leaves over of its push and pull once time on air is taken away.

    ``None``: the link is slow, or something was not recorded.
    """
    if _lacks(row, (*_ITERATION_NEEDED, *_WORK_COLUMNS[rog])):
        return None
    after_s = row["bookkeep_s"] if rog else row["decompress_s"]
    pull_at = row["t_end_s"] - after_s - row["pull_s"]
    push_at = pull_at - (row["push_send_s"] if rog else row["push_s"])
    if push_at < 0 or row["t_end_s"] >= trace.duration_s or trace.rate(push_at) < FAST_BPS:
        return None
    on_air_s = trace.finish(push_at, 8 * row["push_bytes"]) - push_at
    if rog:
        return 0.0, row["push_send_s"] + row["pull_wait_s"] - row["stall_s"] - on_air_s
    return row["push_send_s"] - on_air_s, row["pull_s"] - (trace.finish(pull_at, 8 * row["pull_bytes"]) - pull_at)


def _lacks(row: Row, columns: Sequence[str]) -> bool:
    """Whether one of these was not recorded."""
    return any(math.isnan(row[column]) for column in columns)


def read_runs(data: str | Path, table: str | Path | None = None) -> Iterator[MeasuredRun]:
    """The runs of a folder, one after the other; what is said of them is checked before the first is read.

    Args:
        data: the folder; paths in the table are relative to it.
        table: ``.toml`` with entries ``[[run]]``, or ``.csv``; both have the fields of :class:`RunSettings`. By
            default ``runs.toml`` or ``runs.csv`` in the folder; where there is none, each run of ``timing.csv``.

    Raises:
        ConfigError: the table cannot be read, or a run says nothing of its policy.
        DataError: files are missing (all are named) or do not hold what they should.
    """
    folder = Path(data)
    settings = run_settings(folder, table)
    tables: dict[Path, Table] = {}
    return (read_run(folder, one, tables) for one in settings)


def read_run(folder: Path, settings: RunSettings, tables: dict[Path, Table] | None = None) -> MeasuredRun:
    """One run.

    Args:
        tables: files that were read for other runs, and are not read again; those read here are added.

    Raises:
        DataError, TraceError: as :func:`read_runs`; a worker that is in one file and not in another is named.
    """
    records = settings.records or settings.name
    bandwidth = settings.bandwidth or f"bandwidth/{records}"
    expect_files(folder, (settings.timing, settings.iterations, settings.model, bandwidth))
    tables = {} if tables is None else tables
    for file in (settings.timing, settings.iterations):
        if folder / file not in tables:
            tables[folder / file] = Table.read(folder / file)
    timing: dict[str, Row] = {}
    for row in tables[folder / settings.timing].of(records):
        worker = row.text("worker")
        if worker in timing:
            raise row.error("worker", f"worker {worker} of run {records} is there twice")
        timing[worker] = {part: row.number(f"{part}_mean_s", None if part == "compute" else 0.0) for part in _PARTS}
        if sum(timing[worker].values()) <= 0:
            raise row.error("compute_mean_s", "expected parts that take some time, got 0 s for all of them")
    iterations: dict[str, list[Row]] = {}
    for row in tables[folder / settings.iterations].of(records):
        iterations.setdefault(row.text("worker"), []).append(_iteration(row, iterations))
    _same_workers(folder, settings, timing, iterations)
    iterations = _without_empty_columns(iterations)
    workers = tuple(sorted(timing))
    traces = {worker: _goodput(folder / bandwidth / f"worker{worker}.csv", settings) for worker in workers}
    _mostly_recorded(folder / settings.iterations, iterations)
    run = MeasuredRun(settings, _layout(folder / settings.model), workers, timing, iterations, traces)
    return replace(run, notes=tuple(_notes(run)))


def _iteration(row: Line, before: Mapping[str, Sequence[Row]]) -> Row:
    values = {"t_end_s": row.number("t_end_s")}
    values.update({column: row.recorded(column) for column in _ITERATION_NEEDED})
    values.update({column: row.recorded(column, absent) for column, absent in _ITERATION_MORE.items()})
    earlier = before.get(row.text("worker"))
    if earlier and values["t_end_s"] < earlier[-1]["t_end_s"]:
        raise row.error(
            "t_end_s",
            f"expected {earlier[-1]['t_end_s']:g} or more, the end of the iteration before, got {values['t_end_s']:g}; "
            "are two runs in the file under one name?",
        )
    return values


def _without_empty_columns(iterations: Mapping[str, list[Row]]) -> dict[str, list[Row]]:
    """A column that a run has no value of is as good as not there: runs of several policies share a file."""
    absent = {
        column: value
        for column, value in _ITERATION_MORE.items()
        if all(math.isnan(row[column]) for rows in iterations.values() for row in rows)
    }
    return {worker: [{**row, **absent} for row in rows] for worker, rows in iterations.items()}


def _same_workers(
    folder: Path, settings: RunSettings, timing: Mapping[str, Row], iterations: Mapping[str, Sequence[Row]]
) -> None:
    files = {settings.timing: set(timing), settings.iterations: set(iterations)}
    records = settings.records or settings.name
    for file, found in files.items():
        if not found:
            raise DataError(f"{folder / file}: expected rows of run {records!r}, found none")
        lacking = set().union(*files.values()) - found
        if lacking:
            raise DataError(
                f"{folder / file}: run {records!r} lacks worker {', '.join(sorted(lacking))}, which the other file "
                "has; a team without one of its workers stalls for others: give its rows, or take it out of both files"
            )
    bandwidth = folder / (settings.bandwidth or f"bandwidth/{records}")
    missing = [f"worker{worker}.csv" for worker in sorted(timing) if not (bandwidth / f"worker{worker}.csv").is_file()]
    if missing:
        raise DataError(
            f"{bandwidth}: expected a bandwidth file for each worker of the run; missing: {', '.join(missing)}"
        )


def _mostly_recorded(path: Path, iterations: Mapping[str, Sequence[Row]]) -> None:
    for worker, rows in iterations.items():
        for column in _ITERATION_NEEDED:
            empty = sum(math.isnan(row[column]) for row in rows)
            if empty > _EMPTY_SHARE * len(rows):
                raise DataError(
                    f"{path}, column {column}: {empty} of the {len(rows)} cells of worker {worker} are empty; a few "
                    "are left out, so many cannot be"
                )


def _notes(run: MeasuredRun) -> Iterator[str]:
    ends = {worker: rows[-1]["t_end_s"] for worker, rows in run.iterations.items()}
    for worker, end in ends.items():
        if end < 0.9 * max(ends.values()):
            yield f"worker {worker} was recorded until {end:g} s only: nothing later is compared"
    later = [moment for moment in run.settings.moments_s if moment > run.ends_s]
    if later and run.settings.moments_s != RunSettings.moments_s:  # those of every run are left out without a word
        yield f"moments after the end at {run.ends_s:g} s are left out: {', '.join(f'{each:g} s' for each in later)}"
    for column in (*_ITERATION_NEEDED, *_ITERATION_MORE):
        empty = sum(math.isnan(row[column]) for rows in run.iterations.values() for row in rows)
        if empty:
            yield f"{column}: left out {empty} that were not recorded (empty cells)"
    if run.settings.is_rog:
        for direction in ("push", "pull"):
            least = run.minimum(direction)
            for words in least.left_out if least is not None else ():
                yield f"minimum of a {direction}: left out {words}"


def _goodput(path: Path, settings: RunSettings) -> Trace:
    trace = load_trace(path, loop=False)
    rates = np.minimum(trace.rates_bps * settings.goodput, settings.ceiling_mbps * 1e6)
    return Trace(trace.times_s, rates, trace.name, loop=False, duration_s=trace.duration_s)


def _layout(path: Path) -> Layout:
    shapes = []
    for row in Table.read(path).rows:
        text = row.text("shape")
        if not re.fullmatch(r"[1-9]\d{0,8}(x[1-9]\d{0,8})*", text):
            raise row.error("shape", f"expected sizes as 32x3x3, got {text!r}")
        shapes.append((row.text("name"), [int(size) for size in text.split("x")]))
    if not shapes:
        raise DataError(f"{path}: expected a line for each tensor of the model, found none")
    return Layout.from_shapes(shapes)
