"""The code of rows in which nothing is pending: no payload at all, they only get a new version."""

from __future__ import annotations

import numpy as np

from rowcast.codecs.base import Bytes, IntArray, Vector, expect_bytes
from rowcast.rows import Layout

__all__ = ["Zero"]


class Zero:
    """Rows that are exactly zero (algorithms.md 1.4): the index block says it all."""

    name = "zero"
    wire_id = 0
    coarse = False

    def row_bytes(self, layout: Layout) -> IntArray:
        return np.zeros(layout.rows, dtype=np.int64)

    def encode(self, layout: Layout, vector: Vector, rows: IntArray, *, consume: bool = True) -> Bytes:
        return np.empty(0, dtype=np.uint8)

    def add(self, layout: Layout, payload: Bytes, rows: IntArray, vector: Vector, sign: float) -> None:
        return

    def check(self, layout: Layout, payload: Bytes, rows: IntArray) -> None:
        expect_bytes(self.name, payload, 0)
