"""The shared measurements of the LOPInfer artifact as graphs and profiles of ours; absent on most machines."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from rowcast.graphs import Barrier, Graph, Op, Profile

ARTIFACT = Path(__file__).resolve().parents[2] / "shared" / "data" / "lopinfer-artifact"
MODELS = ("VGG19_BN", "ResNet152", "DenseNet121", "kapao")
#: Operators of the artifact that write into their first input where a later operator lists both.
IN_PLACE = ("relu", "silu", "dropout")


def read_model(path: Path, input_bytes: int | None = None) -> tuple[Graph, Profile]:
    """A file ``profiles/<model>.csv`` as a graph without row rules, and its times.

    An in-place operator and its source both appear as inputs of the next one; ``__setitem__`` has 0 bytes there and
    gets those of what it changes.

    Args:
        path: the file.
        input_bytes: size of the input in place of that in the file.
    """
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
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
        ops.append(Op(sources, size, Barrier(1), name, changed))
    times = (np.array([float(row[f"{side}_ms"]) for row in rows]) / 1e3 for side in ("robot", "server"))
    return Graph(ops, [len(ops) - 1]), Profile(*times)
