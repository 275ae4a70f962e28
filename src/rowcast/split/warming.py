"""What is compiled at the first call of a codec is compiled before the first request."""

from __future__ import annotations

import numpy as np

from rowcast.codecs.tensors import REGISTRY
from rowcast.split.captured import Captured

__all__ = ["warm_codecs"]


def warm_codecs(model: Captured) -> None:
    """Code a row of each input and output with each codec that carries it."""
    for op in (*model.graph.inputs, *model.graph.outputs):
        tensor = model.tensors[op]
        if tensor is None:
            continue
        row = tensor.slab(0, 1)
        for codec in REGISTRY.values():
            if tensor.dtype.name in codec.dtypes:
                codec.decode(codec.encode(np.zeros(row.shape, row.dtype), row), row)
