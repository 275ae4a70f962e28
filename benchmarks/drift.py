"""Streams whose world drifts: does it pay to train old samples again beside the new ones?

Each stream runs once, by a team of four robots in virtual time (``rssi``: three, one recording each), synchronously and
with whole gradients, so that links have no part in it. Each batch of 10 new samples is predicted before it is trained
on. One setting of the model and its optimizer for all streams. ``--data`` is a folder with the recorded streams, in it
or in folders of it; without it only the embedded stream is measured.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from common import Figure, arguments, finish
from rowcast.experiment import Comparison, run_comparison
from rowcast.journal import read_journal
from rowcast.tasks import load_task

#: A variant by its name: options of the task.
VARIANTS = {
    "fresh": (),
    "fresh, 3 steps": ("steps=3",),
    "reservoir 50": ("rehearsal=reservoir:50",),
    "reservoir 200": ("rehearsal=reservoir:200",),
    "reservoir 1000": ("rehearsal=reservoir:1000",),
    "importance 200": ("rehearsal=importance:200",),
}
FRESH, USUAL = "fresh", "reservoir 200"


@dataclass(frozen=True)
class Stream:
    """A stream and what is asked of it.

    Attributes:
        task: its name.
        workers: robots.
        file: one of its files; '' for the embedded one.
        at_most, at_least: bounds of the first metric without rehearsal and with the usual one.
        options: of the task.
        note: of each figure.
        variants: what of :data:`VARIANTS` is measured.
    """

    task: str
    workers: int = 4
    file: str = ""
    at_most: float | None = None
    at_least: float | None = None
    options: tuple[str, ...] = ()
    note: str = ""
    variants: tuple[str, ...] = tuple(VARIANTS)


STREAMS = (
    Stream("outdoor", file="outdoor_stream.csv.gz", at_most=17.0, at_least=23.0),
    Stream("wall", file="sensor_readings_24.csv.gz", at_most=48.0, at_least=57.0),
    Stream("rssi", workers=3, file="dataset1.csv.gz", note="glitches dropped"),
    Stream(
        "rssi",
        workers=3,
        file="dataset1.csv.gz",
        options=("glitches=keep",),
        note="glitches kept",
        variants=(FRESH, USUAL, "importance 200"),
    ),
    Stream("drift-digits", options=("length=2000", "period=2000"), at_most=35.0, at_least=45.0),
)


def folder_of(file: str, data: Path | None) -> Path | None:
    """The folder that holds a file: ``data`` or one within it; ``None``: it is not there."""
    if data is None:
        return None
    found = sorted([*data.glob(file), *data.glob(f"*/{file}")])
    return found[0].parent if found else None


def measured(stream: Stream, variant: str, seeds: int, data: Path | None, out: Path) -> dict[str, list[float]]:
    """The metrics at the end of the stream, mean of the robots, for each seed."""
    settings = Comparison(
        task=stream.task,
        data=None if data is None else str(data),
        task_options=(*stream.options, *VARIANTS[variant]),
        policies=("bsp?codec=raw",),
        links=("constant:100000",),
        devices=("0.1",),
        workers=(stream.workers,),
        seeds=seeds,
        hours=10.0,
        eval_every_s=36_000.0,
    )
    values: dict[str, list[float]] = {metric.name: [] for metric in load_task(stream.task).metrics}
    for cell in run_comparison(settings, out, jobs=0):
        ends = [
            {each["name"]: each["value"] for each in read_journal(path) if each["event"] == "metric"}
            for path in sorted((out / "cells" / cell.name).glob("robot-*.jsonl"))
        ]
        for name, of_seeds in values.items():
            of_seeds.append(fmean(end[name] for end in ends))
    return values


def figures_of(stream: Stream, seeds: int, data: Path | None, out: Path) -> list[Figure]:
    """All variants of a stream."""
    figures = []
    primary, *_ = metrics = load_task(stream.task).metrics
    for variant in stream.variants:
        values = measured(stream, variant, seeds, data, out / variant.replace(" ", "-"))
        for metric in metrics:
            bound, at_least = None, False
            if metric is primary and variant in (FRESH, USUAL):
                bound, at_least = (stream.at_most, False) if variant == FRESH else (stream.at_least, True)
            each = ", ".join(f"{value:.4g}" for value in values[metric.name])
            note = "; ".join(filter(None, (stream.note, f"seeds {each}")))
            name = f"{stream.task}, {variant}: {metric.name.replace('_', ' ')}"
            figures.append(Figure(name, fmean(values[metric.name]), metric.unit, bound, at_least, note))
    return figures


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="the recorded streams, in it or in folders of it")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="of every task, as lr=0.05")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (default 3)")
    options = parser.parse_args()
    streams, seeds, left_out = STREAMS, options.seeds, []
    if options.tiny:
        streams, seeds = (Stream("drift-digits", 2, options=("length=40",), variants=(FRESH, USUAL)),), 1
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, stream in enumerate(streams):
            data = folder_of(stream.file, options.data) if stream.file else None
            if stream.file and data is None:
                left_out.append(f"{stream.task} ({stream.file} is not there)")
                continue
            stream = replace(stream, options=(*stream.options, *options.set))
            figures += figures_of(stream, seeds, data, Path(folder) / str(number))
    missing = f"; left out: {', '.join(dict.fromkeys(left_out))}" if left_out else ""
    finish(f"Test then train on streams that drift, {seeds} seeds{missing}", figures, options)


if __name__ == "__main__":
    main()
