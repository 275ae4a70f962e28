"""Runs of split inference, from the journals of robots: what each method came to."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rowcast.energy import PowerStates
from rowcast.errors import ConfigError, visible
from rowcast.journal import read_journal
from rowcast.links import Trace
from rowcast.report.table import Table, Value, table_of

__all__ = [
    "COLUMNS",
    "SUMMARY",
    "Comparison",
    "InferenceRun",
    "exactness_lines",
    "methods_notes",
    "methods_table",
    "read_comparison",
    "read_inferences",
    "states_table",
]

#: The file that ``rowcast split bench`` and ``rowcast split demo`` leave, and what it begins with.
SUMMARY, FORMAT = "split.json", "rowcast split 1"
#: Of an inference: numbers of its event in the journal.
_NUMBERS = (
    "latency_s",
    "robot_s",
    "sending_s",
    "server_s",
    "queued_s",
    "up_bytes",
    "down_bytes",
    "rate_bps",
    "joules",
)
#: Columns of :attr:`InferenceRun.inferences`. ``asked_s`` and ``done_s`` count from the begin of the run; ``outcome``
#: is who computed the answer, or ``late``, ``none`` (no answer) or ``superseded``.
COLUMNS = ("ticket", "asked_s", "done_s", "by", "plan", "slabs", "outcome", *_NUMBERS)


@dataclass(frozen=True, eq=False)
class InferenceRun:
    """One robot that asked with one method.

    Attributes:
        method: its name.
        seconds: how long inputs came (s).
        deadline_s: what answers are judged by, or ``None``.
        begun_s: the clock of the journal when it began (s).
        inferences: one row for each input of the run; columns :data:`COLUMNS`.
        checked: what the comparison with the undivided model gave: ``compared``, ``equal``, ``worst``; or nothing.
        meaning: what the method is, in words.
    """

    method: str
    seconds: float
    deadline_s: float | None
    begun_s: float
    inferences: Table
    checked: Mapping[str, float]
    meaning: str = ""

    @property
    def answered(self) -> Table:
        """The rows with an answer."""
        outcome = self.inferences.columns.index("outcome")
        kept = tuple(row for row in self.inferences.rows if row[outcome] not in ("none", "superseded"))
        return Table(self.inferences.columns, kept)

    def count(self, *outcomes: str) -> int:
        """Inputs with one of these outcomes."""
        return sum(value in outcomes for value in self.inferences.values("outcome"))

    def mean_age_s(self) -> float:
        """How old the input of the newest answer is, on average over the run (s); the first input counts until then."""
        answered = self.answered
        pairs = sorted(zip(answered.numbers("done_s"), answered.numbers("asked_s"), strict=True))
        newest = here = area = 0.0
        for done, asked in [*pairs, (self.seconds, math.inf)]:
            until = min(max(done, here), self.seconds)
            area += (until - here) * ((until + here) / 2 - newest)
            here, newest = until, max(newest, asked)
        return area / self.seconds


@dataclass(frozen=True, eq=False)
class Comparison:
    """Methods, one after the other over the same link.

    Attributes:
        title: what was compared.
        runs: one for each method.
        power: what energy was counted with.
        settings, versions: as they were.
        trace: of the link, from each run's begin on; ``None`` where it is not known.
        answers: events ``answer`` of the server, where its clock is that of the robot.
    """

    title: str
    runs: tuple[InferenceRun, ...]
    power: PowerStates
    settings: Mapping[str, Any]
    versions: Mapping[str, Any]
    trace: Trace | None
    answers: tuple[Mapping[str, Any], ...]


def read_inferences(
    journal: str | Path,
    method: str,
    begun_s: float | None = None,
    seconds: float | None = None,
    deadline_s: float | None = None,
    checked: Mapping[str, float] | None = None,
) -> InferenceRun:
    """The inferences of a robot's journal whose inputs came in a run, which ends with the journal.

    Args:
        journal: the file.
        method: name of the run.
        begun_s: when it began (s, the robot's clock); ``None``: with the first input.
        seconds: how long inputs came (s); ``None``: until the last event.
        deadline_s: what answers are judged by; ``None``: by the deadline that the robot had.
        checked: see :class:`InferenceRun`.

    Raises:
        ConfigError: it cannot be read, an event lacks a number, or there is no inference in it.
    """
    events = [_complete(record, journal) for record in read_journal(journal) if record["event"] == "inference"]
    if not events:
        raise ConfigError(f"journal {journal}: expected events 'inference' of a robot, found none")
    first = min(event["t"] - event["latency_s"] for event in events) if begun_s is None else begun_s
    last = max(event["t"] for event in events) - first if seconds is None else seconds
    rows = []
    for event in events:
        asked = event["t"] - event["latency_s"] - first
        if asked >= -1e-6:  # what went before warms up; nothing comes behind
            texts = str(event.get("by") or ""), str(event.get("plan") or "")
            slabs = event.get("slabs")
            numbers = (event[name] for name in _NUMBERS)
            place = int(event.get("ticket") or 0), asked, event["t"] - first
            rows.append((*place, *texts, slabs, _outcome(event, deadline_s), *numbers))
    rows.sort(key=lambda row: row[1])
    return InferenceRun(method, max(last, 1e-9), deadline_s, first, table_of(COLUMNS, rows), checked or {})


def _complete(record: Mapping[str, Any], path: str | Path) -> Mapping[str, Any]:
    for name in ("t", *_NUMBERS):
        value = record.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(
                f"journal {path}: inference {record.get('ticket')} has {name} = {value!r}, expected a number (the "
                "schema is rowcast.journal.EVENTS)"
            )
    return record


def _outcome(event: Mapping[str, Any], deadline_s: float | None) -> str:
    if event.get("superseded"):
        return "superseded"
    if event.get("error") is not None:
        return "none"
    limit = event.get("deadline_s") if deadline_s is None else deadline_s
    late = limit is not None and event["latency_s"] > limit + 1e-6
    return "late" if late else str(event.get("by") or "none")


def read_comparison(folder: str | Path) -> Comparison:
    """What ``rowcast split bench`` or ``rowcast split demo`` left in a folder.

    Raises:
        ConfigError: a file that cannot be read, or that is not what these commands write.
    """
    path = Path(folder) / SUMMARY
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ConfigError(f"{path}: expected a file with \"format\": {FORMAT!r}, as 'rowcast split demo' writes")
    try:
        runs = tuple(_run(path.parent, entry, content["deadline_s"]) for entry in content["methods"])
        link, server = content["link"], content["server_journal"]
        trace = None if link is None else _trace(link)
        answers = [] if server is None else read_journal(_beside(path.parent, server))
        return Comparison(
            visible(str(content["title"])),
            runs,
            PowerStates(**content["power"]),
            content["settings"],
            content["versions"],
            trace,
            tuple(record for record in answers if record["event"] == "answer"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: not what this 'rowcast split' writes: {error!r}; run it again") from error


def _run(folder: Path, entry: Mapping[str, Any], deadline_s: float | None) -> InferenceRun:
    journal = _beside(folder, entry["journal"])
    method, begun_s, seconds = visible(str(entry["method"])), float(entry["begun_s"]), float(entry["seconds"])
    run = read_inferences(journal, method, begun_s, seconds, deadline_s, entry["exactness"])
    return replace(run, meaning=visible(str(entry["meaning"])))


def _trace(link: Mapping[str, Any]) -> Trace:
    times_s, rates_bps = (np.array(link[name], dtype=np.float64) for name in ("times_s", "rates_bps"))
    return Trace(times_s, rates_bps, "link", duration_s=float(link["duration_s"]))


def _beside(folder: Path, name: str) -> Path:
    if Path(name).name != name:
        raise ValueError(f"expected the name of a file in the folder, got {name!r}")
    return folder / name


def methods_table(runs: Iterable[InferenceRun]) -> Table:
    """What each method came to.

    Columns: method, inputs, answers, late (after the deadline, or no answer), skipped (a newer input took its place),
    mean_ms, p50_ms, p99_ms, age_ms (of the input of the newest answer, on average over the time), server_% (of the
    answers, those the server had a part in), up_kB and J (mean over inputs that were not skipped; without the server's
    energy).
    """
    rows: list[tuple[Value, ...]] = []
    for run in runs:
        answered = run.answered
        latency_ms = sorted(1e3 * value for value in answered.numbers("latency_s"))
        tried = _not_superseded(run)
        by = answered.values("by")
        rows.append(
            (
                run.method,
                len(run.inferences.rows),
                len(answered.rows),
                run.count("late", "none"),
                run.count("superseded"),
                float(np.mean(latency_ms)) if latency_ms else None,
                _quantile(latency_ms, 0.5),
                _quantile(latency_ms, 0.99),
                1e3 * run.mean_age_s(),
                100 * sum(who != "robot" for who in by) / len(by) if by else None,
                _mean(tried.numbers("up_bytes"), 1e-3),
                _mean(tried.numbers("joules")),
            )
        )
    columns = "method inputs answers late skipped mean_ms p50_ms p99_ms age_ms server_% up_kB J"
    return table_of(columns.split(), rows)


def methods_notes(power: PowerStates) -> list[str]:
    """What stands below the table of methods."""
    return [
        "late: after the deadline, or no answer; skipped: a newer input took its place; age: of the newest answer's",
        f"input, mean over the time; J: of the robot, by {power.source}; the server's is excluded",
    ]


def _not_superseded(run: InferenceRun) -> Table:
    outcome = run.inferences.columns.index("outcome")
    return Table(COLUMNS, tuple(row for row in run.inferences.rows if row[outcome] != "superseded"))


def _quantile(values: Sequence[float], share: float) -> float | None:
    return values[int(share * (len(values) - 1))] if values else None


def _mean(values: Sequence[float], factor: float = 1.0) -> float | None:
    return factor * float(np.mean(values)) if values else None


def states_table(runs: Iterable[InferenceRun], power: PowerStates) -> Table:
    """Energy of an inference by state: mean over inputs that were not skipped (J). The server's energy is excluded.

    A robot computes for ``robot_s``, sends for ``sending_s``, and waits for the rest of the latency. While both are
    done at once, sending has what it draws on top of a board without work; so the parts add up to ``joules``.

    Columns: policy (the method), joules_per_inference_in (compute, communicate, stall, whole), mean, low, high, seeds.
    """
    rows: list[tuple[Value, ...]] = []
    for run in runs:
        tried = _not_superseded(run)
        latency = np.array(tried.numbers("latency_s"))
        computing = np.minimum(tried.numbers("robot_s"), latency)
        sending = np.minimum(tried.numbers("sending_s"), latency)
        alone = np.minimum(sending, latency - computing)
        parts = {
            "compute": power.compute_w * computing,
            "communicate": power.communicate_w * alone + (power.communicate_w - power.stall_w) * (sending - alone),
            "stall": power.stall_w * (latency - computing - alone),
        }
        means = {name: float(np.mean(values)) if len(latency) else 0.0 for name, values in parts.items()}
        for name, mean in [*means.items(), ("whole", math.fsum(means.values()))]:
            rows.append((run.method, name, mean, None, None, 1))
    return table_of(("policy", "joules_per_inference_in", "mean", "low", "high", "seeds"), rows)


def exactness_lines(comparison: Comparison) -> list[str]:
    """A sentence for each method: whether its answers are those of the undivided model."""
    lines = []
    for run in comparison.runs:
        compared, equal = (int(run.checked.get(name, 0)) for name in ("compared", "equal"))
        if compared:
            verdict = "all" if equal == compared else f"ONLY {equal} OF"
            lines.append(
                f"{run.method}: {verdict} {compared} answers equal those of the undivided model to 1e-5 (largest "
                f"difference {float(run.checked.get('worst', 0.0)):.1e})"
            )
    return lines
