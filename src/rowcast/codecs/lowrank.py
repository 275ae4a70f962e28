"""Matrices as two factors: the code of PowerSGD (Vogels, Karimireddy and Jaggi, NeurIPS 2019, arXiv 1905.13727).

A matrix M of n x m elements is expressed as Q V: V, the basis, has a few orthonormal rows of m elements that all nodes
know; Q = M V^T has n x rank elements and is what travels. Row i of Q depends on row i of M only, so this is a code of
rows like any other, once the basis is known. What it does not express, M - Q V, stays (error feedback).

A basis counts for one iteration. It is made of sketches S = Q^T M, with the Q of the iteration before: their sum over
the team, with its rows made orthonormal, spans about the largest right singular vectors of the sum of M.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rowcast.codecs import plain_chunks
from rowcast.codecs.base import Bytes, Codec, IntArray, Vector, expect_bytes, starts
from rowcast.errors import LocalProtocolError, RemoteProtocolError
from rowcast.rows import Layout, TensorSpec
from rowcast.rows.compiling import without_numba
from rowcast.rows.kernels import compiled, in_parts, nonfinite
from rowcast.rows.lanes import dot_of

__all__ = ["Factors", "LowRank"]

#: A vector that is sent whole is cut into pieces of so many elements.
PIECE_ELEMENTS = 64

_SEED = 0


@dataclass(frozen=True)
class Block:
    """One matrix in a flat vector.

    Attributes:
        start: its first element.
        height, width: its rows and columns.
        pitch: elements from one of its rows to the next.
        basis_at, left_at: its first element in a basis, and in the factors on the left.
    """

    start: int
    height: int
    width: int
    pitch: int
    basis_at: int
    left_at: int

    def of(self, vector: Vector) -> Vector:
        """The matrix: a view of a flat vector, float32 [height, width]."""
        size = vector.itemsize
        shape, strides = (self.height, self.width), (self.pitch * size, size)
        return np.lib.stride_tricks.as_strided(vector[self.start :], shape, strides, writeable=False)


class Factors:
    """Which matrices of a layout travel as two factors, and where these lie in flat vectors.

    A tensor of two dimensions or more is a matrix of its first one and all others. Where its slices are cut into
    pieces, the pieces at one place of all slices are a matrix. A matrix whose factors would take no less than itself
    travels as it is, as do all other tensors; so the rank is never larger than a matrix allows.

    Args:
        layout: the model's rows.
        rank: of the factors, 1 or more.

    Attributes:
        rank: see above.
        blocks: the matrices, in order.
        widths: int64 [rows], columns of the matrix that each row of the layout is part of; 0: it travels as it is.
        lines: int64 [rows], how many rows of the matrix each row of the layout holds.
        basis_at: int64 [rows], where the basis of its matrix begins.
        left_at: int64 [rows], where its part of the left factor begins.
        basis_elements, left_elements: of all matrices together.
    """

    def __init__(self, layout: Layout, rank: int) -> None:
        self.rank = rank
        self.widths, self.lines, self.basis_at, self.left_at = np.zeros((4, layout.rows), dtype=np.int64)
        self.basis_elements = self.left_elements = 0
        blocks: list[Block] = []
        for spec in layout.tensors[: len(layout.tensors) - layout.buffers]:
            blocks.extend(self._blocks_of(spec))
        self.blocks = tuple(blocks)

    def _blocks_of(self, spec: TensorSpec) -> list[Block]:
        """The matrices of a tensor."""
        height, rows = spec.shape[0] if len(spec.shape) > 1 else 1, spec.end_row - spec.first_row
        pitch = (spec.stop - spec.start) // height
        if height == 1 or (rows > 1 and rows % height):  # a small tensor is one row; in pieces it is no matrix
            return []
        parts = max(rows // height, 1)
        edges = (np.arange(parts + 1) * pitch) // parts
        found = []
        for part in range(parts):
            width = int(edges[part + 1] - edges[part])
            if self.rank * (height + width) >= height * width:
                continue
            block = Block(spec.start + int(edges[part]), height, width, pitch, self.basis_elements, self.left_elements)
            mine = slice(spec.first_row + part, spec.end_row, parts)
            lines = height if rows == 1 else 1
            self.widths[mine], self.lines[mine], self.basis_at[mine] = width, lines, block.basis_at
            self.left_at[mine] = block.left_at + lines * self.rank * np.arange(height // lines)
            self.basis_elements += self.rank * width
            self.left_elements += self.rank * height
            found.append(block)
        return found

    def basis_layout(self) -> Layout:
        """A layout for vectors of :attr:`basis_elements`, in pieces."""
        return Layout.from_shapes([("basis", (self.basis_elements,))], max_row=PIECE_ELEMENTS)

    def first_left(self) -> Vector:
        """The left factors to begin with: random, and the same on every node; float32 [left_elements]."""
        return np.random.default_rng(_SEED).standard_normal(self.left_elements, dtype=np.float32)

    def sketch(self, vector: Vector, left: Vector) -> Vector:
        """S = Q^T M of each matrix, float32 [basis_elements].

        The columns of Q are normalised before. That changes no basis, for each row of S is scaled only, and lets nodes
        with another Q, as a newcomer has it, count as much as others.

        Args:
            vector: the matrices M, flat float32 of the layout.
            left: their factors Q, float32 [left_elements].
        """
        out = np.empty(self.basis_elements, dtype=np.float32)
        for block in self.blocks:
            factor = left[block.left_at : block.left_at + self.rank * block.height].reshape(block.height, self.rank)
            sizes = np.sqrt(np.einsum("ij,ij->j", factor, factor, dtype=np.float64))
            unit = (factor / np.where(sizes > 0, sizes, 1.0)).astype(np.float32)
            np.matmul(unit.T, block.of(vector), out=self._basis_of(block, out))
        return out

    def orthonormal(self, sketches: Vector) -> Vector:
        """The basis that a sum of sketches makes: the rows of each made orthonormal, one after the other.

        Where rows depend on each other, directions that are orthogonal to the others stand in their place, so that a
        basis always has all of its rows.

        Args:
            sketches: float32 or float64 [basis_elements].

        Returns:
            float32 [basis_elements].
        """
        out = np.empty(self.basis_elements, dtype=np.float32)
        for block in self.blocks:
            unit, _ = np.linalg.qr(self._basis_of(block, sketches).T.astype(np.float64))
            self._basis_of(block, out)[:] = unit.T
        return out

    def _basis_of(self, block: Block, vector: Vector) -> Vector:
        """The part of a matrix in a basis: a view, [rank, width]."""
        return vector[block.basis_at : block.basis_at + self.rank * block.width].reshape(self.rank, block.width)

    def collect(self, payload: Bytes, rows: IntArray, left: Vector) -> None:
        """Write what a payload of :class:`LowRank` holds of left factors into ``left``, float32 [left_elements]."""
        coded = rows[self.widths[rows] > 0]
        sizes = self.rank * self.lines[coded]
        places = starts(sizes)
        left[np.repeat(self.left_at[coded] - places[:-1], sizes) + np.arange(places[-1])] = _floats(payload, places[-1])


class LowRank:
    """Rows of matrices in a basis, 4 bytes for each of its rows; all other rows in another code.

    Payload: the rows of matrices, float32 [rank] each, in the order of the rows; then all others, in ``rest``.

    Args:
        rank: of the factors.
        rest: the code of rows that are not of a matrix with factors.
        factors, basis: where the code is used: the matrices of the layout, and the basis, float32 [basis_elements].
            Without them there are sizes only.
    """

    wire_id = 63
    coarse = False

    def __init__(
        self, rank: int, rest: Codec, factors: Factors | None = None, basis: npt.NDArray[np.float32] | None = None
    ) -> None:
        self.name = f"lowrank-{rank}-{rest.name}"
        self.rank = rank
        self._rest = rest
        self._factors = factors
        self._basis = basis

    def row_bytes(self, layout: Layout) -> IntArray:
        return layout.once(self.name, self._row_bytes)

    def _row_bytes(self, layout: Layout) -> IntArray:
        whole = np.arange(layout.rows) if layout.part_of is None else layout.part_of
        factors = self._factors or Factors(layout, self.rank)
        sizes = 4 * self.rank * factors.lines[whole]
        return np.where(sizes > 0, sizes, self._rest.row_bytes(layout))

    def encode(self, layout: Layout, vector: Vector, rows: IntArray, *, consume: bool = True) -> Bytes:
        factors, basis = self._bound()
        coded, rest, widths, basis_at, places = self._parts(factors, layout, rows)
        out = np.empty(int(places[-1]), dtype=np.float32)
        in_parts(
            lambda part, edges: _project(
                vector, layout.offsets, (coded[part], widths[part], basis_at[part]), basis, places[edges], out, consume
            ),
            len(coded),
            int(widths.sum()) * self.rank,
        )
        if not len(rest):
            return out.view(np.uint8)
        return np.concatenate([out.view(np.uint8), self._rest.encode(layout, vector, rest, consume=consume)])

    def add(self, layout: Layout, payload: Bytes, rows: IntArray, vector: Vector, sign: float) -> None:
        factors, basis = self._bound()
        coded, rest, widths, basis_at, places = self._parts(factors, layout, rows)
        values, factor = _floats(payload, int(places[-1])), np.float32(sign)
        in_parts(
            lambda part, edges: _expand(
                vector,
                layout.offsets,
                (coded[part], widths[part], basis_at[part]),
                basis,
                places[edges],
                values,
                factor,
            ),
            len(coded),
            int(widths.sum()) * self.rank,
        )
        if len(rest):
            self._rest.add(layout, payload[4 * int(places[-1]) :], rest, vector, sign)

    def check(self, layout: Layout, payload: Bytes, rows: IntArray) -> None:
        if self._factors is None or self._basis is None:
            raise RemoteProtocolError("row frame: expected a basis before rows that are told in one, got such rows")
        expect_bytes(self.name, payload, int(self.row_bytes(layout)[rows].sum()))
        _, rest, _, _, places = self._parts(self._factors, layout, rows)
        if nonfinite(_floats(payload, int(places[-1]))):
            raise RemoteProtocolError(f"{self.name} payload: expected finite values, got NaN or Inf")
        if len(rest):
            self._rest.check(layout, payload[4 * int(places[-1]) :], rest)

    def _bound(self) -> tuple[Factors, Vector]:
        if self._factors is None or self._basis is None:
            raise LocalProtocolError(f"{self.name}: expected a basis to encode and decode with; there are sizes only")
        return self._factors, self._basis

    def _parts(
        self, factors: Factors, layout: Layout, rows: IntArray
    ) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray]:
        """Rows of matrices, other rows; then, of the first, widths, begin of the basis, and places in the payload."""
        whole = rows if layout.part_of is None else layout.part_of[rows]
        widths = factors.widths[whole]
        coded = widths > 0
        mine = whole[coded]
        places = starts(self.rank * factors.lines[mine])
        return rows[coded], rows[~coded], widths[coded], factors.basis_at[mine], places


def _floats(payload: Bytes, count: int) -> Vector:
    """The first ``count`` float32 of a payload; copied only where they do not lie on a 4-byte boundary."""
    head = payload[: 4 * count]
    return (head.copy() if head.ctypes.data % 4 else head).view(np.float32)


@compiled
@without_numba(plain_chunks.project)
def _project(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    which: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]],
    basis: npt.NDArray[np.float32],
    places: npt.NDArray[np.int64],
    out: npt.NDArray[np.float32],
    consume: bool,
) -> None:
    """Write the products of rows with their bases to ``places`` of ``out``; with ``consume`` take them out."""
    rows, widths, basis_at = which
    for k in range(len(rows)):
        width, start, lines = widths[k], offsets[rows[k]], (offsets[rows[k] + 1] - offsets[rows[k]]) // widths[k]
        rank = (places[k + 1] - places[k]) // lines
        for p in range(lines):
            line = vector[start + p * width : start + (p + 1) * width]
            target = out[places[k] + p * rank : places[k] + (p + 1) * rank]
            for c in range(rank):
                direction = basis[basis_at[k] + c * width : basis_at[k] + (c + 1) * width]
                target[c] = dot_of(line, direction)
            if consume:
                for c in range(rank):
                    direction = basis[basis_at[k] + c * width : basis_at[k] + (c + 1) * width]
                    for j in range(width):
                        line[j] -= target[c] * direction[j]


@compiled
@without_numba(plain_chunks.expand)
def _expand(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    which: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]],
    basis: npt.NDArray[np.float32],
    places: npt.NDArray[np.int64],
    values: npt.NDArray[np.float32],
    sign: np.float32,
) -> None:
    """Add ``sign`` times the rows that have these products with their bases to ``vector``."""
    rows, widths, basis_at = which
    for k in range(len(rows)):
        width, start, lines = widths[k], offsets[rows[k]], (offsets[rows[k] + 1] - offsets[rows[k]]) // widths[k]
        rank = (places[k + 1] - places[k]) // lines
        for p in range(lines):
            line = vector[start + p * width : start + (p + 1) * width]
            for c in range(rank):
                direction = basis[basis_at[k] + c * width : basis_at[k] + (c + 1) * width]
                value = sign * values[places[k] + p * rank + c]
                for j in range(width):
                    line[j] += value * direction[j]
