"""What a run came to: numbers of one policy, computed from the journals of its workers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rowcast.errors import ConfigError
from rowcast.journal import read_journal

__all__ = ["PolicySummary", "summarise", "worker_journals"]

SERVER_JOURNAL = "server.jsonl"


@dataclass(frozen=True)
class PolicySummary:
    """A run of one policy. Means per step are over all steps of all workers."""

    policy: str  #: policy text, as in ``rog:4``
    workers: int  #: journals read
    steps: float  #: mean over workers of the number of steps
    seconds: float  #: mean over workers of the time from the start of the first step to the end of the last
    final_accuracy: float | None  #: percent, mean over workers of the last one measured; None if none was
    compute_s: float  #: mean seconds per step until the update was computed
    communicate_s: float  #: mean seconds per step of push and pull
    stall_s: float  #: mean seconds per step held at the gate
    push_share: float  #: mean share of the rows that a push settled, 0..1
    push_bytes: int  #: row frames sent by all workers
    pull_bytes: int  #: row frames received by all workers
    skipped: int  #: steps of all workers that made no contribution
    overlap_s: float = 0.0  #: mean seconds per step, of those of compute_s, in which rows may have travelled as well

    @property
    def step_s(self) -> float:
        """Mean seconds per step: compute, communicate and stall together."""
        return self.compute_s + self.communicate_s + self.stall_s


def worker_journals(out: str | Path, policy: str) -> list[Path]:
    """The journals of the workers that ``rowcast demo --out OUT`` wrote for a policy, sorted by name.

    Raises:
        ConfigError: there are none.
    """
    folder = Path(out) / policy.replace(":", "-")
    found = sorted(path for path in folder.glob("*.jsonl") if path.name != SERVER_JOURNAL)
    if not found:
        raise ConfigError(f"no journals of workers (*.jsonl) in {folder}; is it what 'rowcast demo --out' wrote?")
    return found


def summarise(policy: str, worker_journals: Sequence[str | Path], seconds: float | None = None) -> PolicySummary:
    """Numbers of one run from its workers' journals, one file per worker.

    A worker that finished no step counts as one with 0 steps; it has no say in the means per step.

    Args:
        policy: its text.
        worker_journals: the files.
        seconds: count only what ended within so many seconds of the start of the worker's first step; ``None``
            counts everything.

    Raises:
        ConfigError: a journal cannot be read or lacks a field; or there is no step in any of them.
    """
    steps: list[Mapping[str, Any]] = []
    counts: list[int] = []
    spans: list[float] = []
    accuracies: list[float] = []
    for path in worker_journals:
        records = [record for record in read_journal(path) if record["event"] == "step" or is_accuracy(record)]
        own = [complete_step(record, path) for record in records if record["event"] == "step"]
        start = _start(own[0]) if own else 0.0
        end = math.inf if seconds is None or not own else start + seconds
        own = [step for step in own if step["t"] <= end]
        measured = [float(record["value"]) for record in records if is_accuracy(record) and record["t"] <= end]
        counts.append(len(own))
        steps += own
        if own:
            spans.append(own[-1]["t"] - start)
        accuracies += measured[-1:]
    if not steps:
        raise ConfigError(
            f"policy {policy!r}: no 'step' event in {_listed(worker_journals)}; expected journals of workers that ran"
        )
    return PolicySummary(
        policy=policy,
        workers=len(counts),
        steps=_mean(counts),
        seconds=_mean(spans),
        final_accuracy=_mean(accuracies) if accuracies else None,
        compute_s=_mean([step["compute_s"] for step in steps]),
        communicate_s=_mean([step["communicate_s"] for step in steps]),
        stall_s=_mean([step["stall_s"] for step in steps]),
        push_share=_mean([step["push_share"] for step in steps]),
        push_bytes=sum(step["push_bytes"] for step in steps),
        pull_bytes=sum(step["pull_bytes"] for step in steps),
        skipped=sum(bool(step["skipped"]) for step in steps),
        overlap_s=_mean([step.get("overlap_s") or 0.0 for step in steps]),
    )


def _start(step: Mapping[str, Any]) -> float:
    """When a step began (s, the node's clock)."""
    return float(step["t"] - step["compute_s"] - step["communicate_s"] - step["stall_s"])


_NUMBERS = ("compute_s", "communicate_s", "stall_s", "push_share", "push_bytes", "pull_bytes")


def complete_step(step: Mapping[str, Any], path: str | Path) -> Mapping[str, Any]:
    """A ``step`` event that has all numbers a report needs.

    Raises:
        ConfigError: it lacks one; journal, iteration and field are named.
    """
    for field in _NUMBERS:
        if not isinstance(step.get(field), int | float):
            raise ConfigError(
                f"journal {path}: the step of iteration {step.get('iteration')} has {field} = {step.get(field)!r},"
                " expected a number (the schema is rowcast.journal.EVENTS)"
            )
    return {"skipped": False, **step}


def measured_accuracy(path: str | Path) -> Iterator[tuple[int, float, float]]:
    """Iteration, time (s, the node's clock) and accuracy (percent) of each measurement in a journal."""
    for record in read_journal(path):
        if is_accuracy(record):
            yield int(record["iteration"]), float(record["t"]), float(record["value"])


def is_accuracy(record: Mapping[str, Any]) -> bool:
    """Whether a record of a journal is a measurement of the accuracy."""
    return bool(record["event"] == "metric" and record.get("name") == "accuracy")


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _listed(paths: Sequence[str | Path]) -> str:
    return ", ".join(str(path) for path in paths) or "an empty list of journals"
