"""What a report says of runs of split inference: tables and figures, each from the journals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rowcast.report.bars_figure import Bars, draw_bars
from rowcast.report.inference_figure import LaneSpan, draw_inference
from rowcast.report.inferences import Comparison, InferenceRun, methods_table, states_table
from rowcast.report.methods_figure import draw_methods
from rowcast.report.sections import Section, TableOrFigure
from rowcast.report.table import Table, table_of

__all__ = ["inference_sections", "time_lines", "write_inference_files"]

STATES = Bars(
    "joules_per_inference_in",
    "Where an inference's energy goes",
    "joules of the robot per inference",
    "J",
    "mean over inputs; the server's energy is excluded",
)
#: A robot that computed for less than this share of the latency has begun late.
_LATE = 0.9
#: A robot that computed for more than this share of the latency, while the server computed all, did more than encode.
_BESIDE = 0.5
#: One of the numbers of an inference.
Row = Mapping[str, Any]


def inference_sections(comparison: Comparison) -> list[Section]:
    """All sections of the page."""
    return [Section(comparison.title, tuple(_parts(comparison)))]


def _parts(comparison: Comparison) -> Iterator[TableOrFigure]:
    table = methods_table(comparison.runs)
    yield TableOrFigure(
        "summary",
        "What the methods came to",
        "Events 'inference' of each robot. late: after the deadline, or no answer; skipped: a newer input took its "
        "place; age_ms: of the input of the newest answer, on average over the time; up_kB and J: mean over inputs "
        "that were not skipped.",
        table,
        table,
    )
    inferences = _all(comparison)
    yield TableOrFigure(
        "methods",
        "Latency over time",
        "Events 'inference': t less latency_s, latency_s, by, superseded; below, the link.",
        inferences,
        table,
        partial(draw_methods, comparison),
    )
    spans = time_lines(comparison)
    if any(spans.values()):
        rows = [(name, *span) for name, own in spans.items() for span in own]
        numbers = table_of(("inference", "lane", "what", "from_s", "to_s"), rows)
        yield TableOrFigure(
            "inference",
            "One inference of each method",
            "Of the answers that the server has a part in, that of the median latency. Events 'inference' (robot_s, "
            "sending_s) of the robot and 'answer' (t, compute_s, queued_s) of the server; what is done in pieces is "
            "drawn as one.",
            numbers,
            numbers,
            partial(_draw_lines, spans),
        )
    energy = states_table(comparison.runs, comparison.power)
    yield TableOrFigure(
        "energy",
        "Energy of an inference by state",
        f"Events 'inference': robot_s, sending_s, latency_s, by {comparison.power.source}; mean over inputs that were "
        "not skipped. The server's energy is excluded.",
        energy,
        energy,
        partial(draw_bars, energy, STATES),
    )


def _draw_lines(spans: Mapping[str, Sequence[LaneSpan]], path: Path) -> None:
    draw_inference(spans, path, "One inference of each method, as measured")


def _all(comparison: Comparison) -> Table:
    rows = [(run.method, *row) for run in comparison.runs for row in run.inferences.rows]
    return table_of(("method", *comparison.runs[0].inferences.columns), rows)


def write_inference_files(comparison: Comparison, out: Path) -> list[str]:
    """Write each figure as PNG, and the numbers of each as CSV; returns the names of the files.

    Raises:
        ConfigError: matplotlib is not installed, or a file cannot be written.
    """
    names = []
    for part in _parts(comparison):
        part.numbers.save_csv(out / f"{part.name}.csv")
        names.append(f"{part.name}.csv")
        if part.draw is not None:
            part.draw(out / f"{part.name}.png")
            names.append(f"{part.name}.png")
    return names


# -- time lines --------------------------------------------------------------------------------------------------------


def time_lines(comparison: Comparison) -> dict[str, list[LaneSpan]]:
    """One inference of each method, as bars; of one with a late start also one that the robot answered after it."""
    found: dict[str, list[LaneSpan]] = {}
    for run in comparison.runs:
        rows = _rows(run)
        remote = [row for row in rows if row["by"] != "robot"]
        # Not where the robot has computed all itself beside it, to try the link.
        plain = [row for row in remote if row["by"] == "both" or row["robot_s"] < _BESIDE * row["latency_s"]]
        typical = _median(plain or remote or rows)
        if typical is not None:
            who = {"both": "robot and server"}.get(typical["by"], typical["by"])
            found[f"{run.method}, answered by {who}"] = _spans(comparison, run, typical)
        late = [
            row
            for row in rows
            if row["by"] == "robot" and row["sending_s"] > 0 and row["robot_s"] < _LATE * row["latency_s"]
        ]
        started = _median(late) if remote else None
        if started is not None:
            found[f"{run.method}, the server's answer is not there in time"] = _spans(comparison, run, started)
    return found


def _rows(run: InferenceRun) -> list[Row]:
    answered = run.answered
    return [dict(zip(answered.columns, row, strict=True)) for row in answered.rows]


def _median(rows: Sequence[Row]) -> Row | None:
    """The one of the median latency."""
    return sorted(rows, key=lambda row: row["latency_s"])[len(rows) // 2] if rows else None


def _spans(comparison: Comparison, run: InferenceRun, row: Row) -> list[LaneSpan]:
    """Bars from the input on, as far as the journals tell."""
    latency_s = float(row["latency_s"])
    robot_s, sending_s = min(row["robot_s"], latency_s), min(row["sending_s"], latency_s)
    if row["by"] == "robot":
        spans = [LaneSpan("robot", "whole model", latency_s - robot_s, latency_s)]
        return [*spans, LaneSpan("link up", "given up", 0.0, sending_s)] if sending_s else spans
    label = "encode" if row["by"] == "server" else "first part"
    spans = [LaneSpan("robot", label, 0.0, robot_s)]
    answer = _answer(comparison, run, row)
    computed_s, queued_s = min(row["server_s"], latency_s), row["queued_s"]
    ended_s = latency_s
    if answer is not None:
        ended_s = min(max(answer["t"] - run.begun_s - row["asked_s"], computed_s), latency_s)
    begun_s = ended_s - computed_s
    # Rows of one slab are all there when the server begins; of several they go on to travel.
    until_s = min(begun_s - queued_s if row["slabs"] == 1 else robot_s + sending_s, ended_s)
    spans.append(LaneSpan("link up", "rows", max(until_s - sending_s, 0.0), max(until_s, 0.0)))
    spans.append(LaneSpan("server", "computes", begun_s, ended_s))
    return [*spans, LaneSpan("link down", "answer", ended_s, latency_s)]


def _answer(comparison: Comparison, run: InferenceRun, row: Row) -> Mapping[str, Any] | None:
    """The server's event of this inference."""
    begin, end = run.begun_s + row["asked_s"], run.begun_s + row["done_s"]
    return next(
        (
            event
            for event in comparison.answers
            if begin <= event["t"] <= end and not event["dropped"] and event["peer"].endswith(run.method)
        ),
        None,
    )
