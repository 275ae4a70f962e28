"""The shared measurements of the LOPInfer artifact as graphs and profiles of ours; absent on most machines."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rowcast.graphs import Barrier, Graph, Identity, Op, Profile, RowRule
from rowcast.links import Trace

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
ARTIFACT = DATA / "lopinfer-artifact"
MODELS = ("VGG19_BN", "ResNet152", "DenseNet121", "kapao")
ENVIRONMENTS = ("indoors", "outdoors")
#: Operators of the artifact that write into their first input where a later operator lists both.
IN_PLACE = ("relu", "silu", "dropout")
#: What a rate of 0 in a trace stands for (bit/s): they are rounded to 8 Mbit/s, and this is the middle of 0 .. 4.
ROUNDED_DOWN_BPS = 2e6


def rows_of(path: Path) -> list[dict[str, str]]:
    """A CSV file, one table a line; none where there is no such file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def read_model(path: Path, input_bytes: int | None = None) -> tuple[Graph, Profile]:
    """A file ``profiles/<model>.csv`` as a graph without row rules but for its image, and its times.

    An in-place operator and its source both appear as inputs of the next one; ``__setitem__`` has 0 bytes there and
    gets those of what it changes.

    Args:
        path: the file.
        input_bytes: size of the input in place of that in the file.
    """
    rows = rows_of(path)
    reads = [tuple(int(text) for text in row["inputs"].split(";") if text) for row in rows]
    pairs = {(one, other) for sources in reads for one in sources for other in sources}
    ops: list[Op] = []
    for index, (row, sources) in enumerate(zip(rows, reads, strict=True)):
        name, size = row["op"], int(row["output_bytes"])
        writes = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        aliases = name in IN_PLACE and (sources[0], index) in pairs
        changed = sources[0] if writes or aliases else None
        if changed is not None:
            size = ops[changed].bytes
        if not sources and input_bytes is not None:
            size = input_bytes
        ops.append(Op(sources, size, Barrier(1) if sources else _image(row["output_shapes"]), name, changed))
    times = (np.array([float(row[f"{side}_ms"]) for row in rows]) / 1e3 for side in ("robot", "server"))
    return Graph(ops, [len(ops) - 1]), Profile(*times)


def value_bytes(path: Path) -> int:
    """How many bytes a value of the input has."""
    first = rows_of(path)[0]
    values = sum(math.prod(map(int, shape.split("x"))) for shape in first["output_shapes"].split("|"))
    return int(first["output_bytes"]) // values


def _image(shapes: str) -> RowRule:
    """An input ``batch x colour x row x column`` can be cut into rows; any other one is one piece."""
    sizes = [int(size) for size in shapes.split("|")[0].split("x") if size]
    return Identity(sizes[2]) if len(sizes) == 4 else Barrier(1)


def read_trace(artifact: Path, environment: str) -> Trace:
    """The rate of the link that all runs replayed."""
    rows = rows_of(artifact / "bandwidth" / f"{environment}.csv")
    times = [float(row["time_s"]) for row in rows]
    rates = [float(row["mbps"]) * 1e6 or ROUNDED_DOWN_BPS for row in rows]
    last_s = float(np.median(np.diff(times)))
    return Trace(np.array(times), np.array(rates), environment, duration_s=times[-1] + last_s)


@dataclass(frozen=True)
class Run:
    """What the artifact's own software measured (ms): mean latency at equal rates, and time between two answers."""

    latency_ms: float
    p99_ms: float
    between_ms: float


def measured(artifact: Path, model: str, environment: str) -> dict[str, Run]:
    """Runs of a model by method; ``local`` was run indoors only and counts for both."""
    found = {}
    for row in rows_of(artifact / "results.csv"):
        if row["model"] == model and (row["env"] == environment or row["method"] == "local"):
            mean, equalised, period = (
                1e3 * float(row[name]) for name in ("lat_mean_s", "lat_mean_equalised_s", "period_mean_s")
            )
            found[row["method"]] = Run(equalised, 1e3 * float(row["lat_p99_s"]), period - mean)
    return found
