"""What every benchmark shares: the table, the JSON file, and the verdict of ``--check``."""

from __future__ import annotations

import argparse
import csv
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rowcast.rows import Layout

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "rog-artifact" / "model_tensors.csv"


@dataclass(frozen=True)
class Figure:
    """One measured number, and the bound that it is checked against.

    Attributes:
        bound: ``None`` where nothing is asked.
        at_least: the number must be >= bound; otherwise <= bound.
    """

    name: str
    value: float
    unit: str
    bound: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def met(self) -> bool:
        if self.bound is None:
            return True
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bound is not met")
    parser.add_argument("--tiny", action="store_true", help="a second's worth of it: runs everything, measures nothing")
    return parser


#: What ``--tiny`` takes in place of a model.
TINY = Layout.from_shapes([("block", [60, 50]), ("bias", [60])])


def reference_layout(*, tiny: bool = False) -> tuple[Layout, str]:
    """ConvMLP-M as the ROG artifact trains it, or a stand-in of the same size where its table is absent."""
    if tiny:
        return TINY, "a tiny layout"
    if SHARED.exists():
        with SHARED.open(encoding="utf-8") as stream:
            shapes = [(row["name"], [int(n) for n in row["shape"].split("x")]) for row in csv.DictReader(stream)]
        return Layout.from_shapes(shapes), "ConvMLP-M of the ROG artifact"
    shapes = [(f"block{i}", [512, 509]) for i in range(65)]
    return Layout.from_shapes(shapes), "stand-in for ConvMLP-M (its table is not on this machine)"


def best_s(function: Callable[[], object], repeat: int) -> float:
    """The shortest of several runs in seconds: what the machine can do when nobody disturbs it."""
    function()
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def finish(title: str, figures: list[Figure], options: argparse.Namespace, *, table: bool = True) -> None:
    """Print the table, write the JSON, and with ``--check`` exit 1 naming what fell short, last.

    Args:
        table: without it, whoever calls has printed one.
    """
    if table:
        _print_table(title, figures)
    if options.json:
        content = {"machine": platform.processor() or platform.machine(), "figures": [asdict(f) for f in figures]}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    short = [figure for figure in figures if not figure.met]
    if options.check:
        for figure in short:
            print(f"NOT MET: {figure.name}: {figure.value:.4g} {figure.unit}, asked {figure.bound:g}")
        if not short:
            print(f"met: all {sum(figure.bound is not None for figure in figures)} bounds")
        sys.exit(1 if short else 0)


def _print_table(title: str, figures: list[Figure]) -> None:
    table = Table(title=title)
    for head in ("figure", "measured", "unit", "asked", "note"):
        table.add_column(head, justify="right" if head in ("measured", "asked") else "left")
    for figure in figures:
        asked = "" if figure.bound is None else f"{'>=' if figure.at_least else '<='} {figure.bound:g}"
        table.add_row(figure.name, f"{figure.value:.4g}", figure.unit, asked, figure.note)
    Console().print(table)
