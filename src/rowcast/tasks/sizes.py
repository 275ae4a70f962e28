"""How large a sample is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["bytes_of"]


def bytes_of(sample: Any) -> int:
    """Bytes of the tensors, arrays and numbers that a sample is made of."""
    if isinstance(sample, Tensor | np.ndarray):
        return int(sample.nbytes)
    if isinstance(sample, bytes | str):
        return len(sample)
    if isinstance(sample, Mapping):
        return sum(map(bytes_of, sample.values()))
    if isinstance(sample, tuple | list):
        return sum(map(bytes_of, sample))
    return 8
