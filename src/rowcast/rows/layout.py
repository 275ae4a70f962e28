"""How a model's tensors become rows of one flat vector."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from rowcast.errors import ConfigError, LayoutMismatch, LocalProtocolError, RemoteProtocolError
from rowcast.rows.outline import BUFFER_RULES, MOST_ROWS, MOST_TABLE_BYTES, MOST_TENSORS, NamedShape, Outline, cut

__all__ = ["Layout", "TensorSpec"]

SMALL_TENSOR = 1000
MAX_ROW = 1 << 16


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the model: its name and shape, and where its elements and rows lie.

    Attributes:
        start, stop: offsets of its elements in the flat vector.
        first_row, end_row: its rows in the layout.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    first_row: int
    end_row: int


class Layout:
    """The rows of a model, in parameter order, as offsets into one flat float32 vector.

    A row is one slice of a tensor along its first dimension. A 1-D tensor and a tensor of fewer than
    ``small_tensor`` elements are one row (as in the artifact of ROG). A slice of more than ``max_row`` elements is
    split into equal pieces, so that no row outgrows the budget of a frame (algorithms.md 1.9, D10).

    Attributes:
        tensors: the tensors in parameter order.
        offsets: int64 [rows + 1]; row ``i`` is ``vector[offsets[i]:offsets[i + 1]]``.
        lengths: int64 [rows], elements of each row.
        rows, elements: their numbers.
        digest: 16 bytes that agree between two nodes exactly when their layouts do.
        is_timing_only: vectors of this layout hold one number for each row, see :meth:`timing_only`.
        buffers: so many of the tensors, the last ones, are buffers of the model and not parameters: running statistics
            and the like. They are values, not steps of an optimizer: no factor, momentum or sign code is for them.
        buffer_rule: one of :data:`BUFFER_RULES`.
        parameter_rows: the first so many rows are those of parameters.
        part_of: where this is a part of a layout (:meth:`only`), the rows of that layout, int64 [rows]; else ``None``.
    """

    def __init__(
        self,
        tensors: Sequence[TensorSpec],
        offsets: npt.NDArray[np.int64],
        small_tensor: int,
        max_row: int,
        *,
        timing_only: bool = False,
        buffers: int = 0,
        buffer_rule: str = "average",
    ) -> None:
        self.tensors = tuple(tensors)
        self.buffers = buffers
        self.buffer_rule = buffer_rule
        self.lengths = offsets[1:] - offsets[:-1]
        self.rows = len(self.lengths)
        self.offsets = np.arange(self.rows + 1, dtype=np.int64) if timing_only else offsets
        self.offsets.setflags(write=False)
        self.elements = int(self.offsets[-1])
        self.small_tensor = small_tensor
        self.max_row = max_row
        self.parameter_rows = self.tensors[-buffers].first_row if buffers else self.rows
        self.is_timing_only = timing_only
        self.part_of: npt.NDArray[np.int64] | None = None
        self._true_offsets = offsets
        self._known: dict[str, npt.NDArray[np.int64]] = {}

    @classmethod
    def from_shapes(
        cls,
        shapes: Iterable[tuple[str, Sequence[int]]],
        *,
        small_tensor: int = SMALL_TENSOR,
        max_row: int = MAX_ROW,
        buffers: int = 0,
        buffer_rule: str = "average",
    ) -> Layout:
        """Lay out named tensors.

        Args:
            shapes: ``(name, shape)`` in parameter order, then those of buffers.
            buffers: so many of them are buffers.
            buffer_rule: one of :data:`BUFFER_RULES`.
            small_tensor: tensors of fewer elements are one row.
            max_row: longest row, in elements.

        Raises:
            ConfigError: no tensor, an empty tensor, a name that stands twice, no parameter, more than 2**24 rows or
                2**16 tensors.
        """
        tensors: list[TensorSpec] = []
        pieces: list[npt.NDArray[np.int64]] = []
        names: set[str] = set()
        start = row = 0
        for name, raw_shape in shapes:
            shape = tuple(int(size) for size in raw_shape)
            elements = math.prod(shape)
            if name in names:
                raise ConfigError(f"layout: the name {name!r} stands twice; every tensor needs its own")
            if elements <= 0:
                raise ConfigError(f"layout: tensor {name!r} of shape {shape} has no elements; leave it out")
            names.add(name)
            slices, parts = cut(shape, small_tensor, max_row)
            length = elements // slices
            count = slices * parts
            if row + count > MOST_ROWS:
                raise ConfigError(f"layout: more than {MOST_ROWS} rows at tensor {name!r} {shape}; raise max_row")
            if len(tensors) == MOST_TENSORS:
                raise ConfigError(f"layout: more than {MOST_TENSORS} tensors; stack those of one shape into one")
            bounds = (np.arange(parts, dtype=np.int64) * length) // parts
            ends = (np.arange(slices, dtype=np.int64) * length)[:, None] + bounds[None, :]
            pieces.append(start + ends.reshape(-1))
            tensors.append(TensorSpec(name, shape, start, start + elements, row, row + count))
            start += elements
            row += count
        if not tensors:
            raise ConfigError("layout: the model has no trainable tensors; nothing to train together")
        if not 0 <= buffers < len(tensors) or buffer_rule not in BUFFER_RULES:
            raise ConfigError(
                f"layout: expected fewer buffers than the {len(tensors)} tensors, under one of the rules "
                f"{', '.join(BUFFER_RULES)}; got {buffers} under {buffer_rule!r}"
            )
        pieces.append(np.array([start], dtype=np.int64))
        offsets = np.concatenate(pieces)
        return cls(tensors, offsets, small_tensor, max_row, buffers=buffers, buffer_rule=buffer_rule)

    def timing_only(self) -> Layout:
        """The same rows for a study of time only: a vector holds one number for each row, not its elements.

        Lengths, and so the bytes on the wire, stay those of the real rows. Only timing-only codes
        (:class:`rowcast.codecs.TimingOnly`) work on it.
        """
        return Layout(
            self.tensors,
            self._true_offsets,
            self.small_tensor,
            self.max_row,
            timing_only=True,
            buffers=self.buffers,
            buffer_rule=self.buffer_rule,
        )

    def only(self, rows: npt.NDArray[np.int64]) -> Layout:
        """``rows`` alone, one behind the other: what a code decodes of them, without the rest of the vector.

        Args:
            rows: int64 [k], ascending, as in a row frame: buffers then stand behind the parameters here, too.

        Raises:
            LocalProtocolError: there are buffers, and the rows are not ascending.
        """
        if self.buffers and (rows[1:] <= rows[:-1]).any():
            raise LocalProtocolError("layout: expected ascending rows, got others")
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        self.lengths[rows].cumsum(out=offsets[1:])
        alone = Layout((), offsets, self.small_tensor, self.max_row)
        alone.parameter_rows = int(rows.searchsorted(self.parameter_rows)) if self.buffers else len(rows)
        alone.part_of = rows
        return alone

    def once(self, key: str, make: Callable[[Layout], npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
        """What ``make`` gives for this layout, worked out the first time only (sizes of rows in a code)."""
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = make(self)
        return known

    @cached_property
    def digest(self) -> bytes:
        return hashlib.blake2b(self.to_table(), digest_size=16).digest()

    @cached_property
    def float_lengths(self) -> npt.NDArray[np.float32]:
        """float32 [rows]: elements of each row, to divide by."""
        return self.lengths.astype(np.float32)

    @cached_property
    def tensor_rows(self) -> npt.NDArray[np.int64]:
        """int64 [tensors + 1]: the first row of each tensor, and the number of rows."""
        return np.array([spec.first_row for spec in self.tensors] + [self.rows], dtype=np.int64)

    def to_table(self) -> bytes:
        """The layout as canonical JSON, for the wire and for the digest.

        Raises:
            ConfigError: more than 16 MiB, which no peer would take.
        """
        table = json.dumps(
            {
                "small_tensor": self.small_tensor,
                "max_row": self.max_row,
                "tensors": [[spec.name, list(spec.shape)] for spec in self.tensors],
                **({"buffers": [self.buffers, self.buffer_rule]} if self.buffers else {}),
                **({"timing": True} if self.is_timing_only else {}),
            },
            separators=(",", ":"),
        ).encode()
        if len(table) > MOST_TABLE_BYTES:
            raise ConfigError(
                f"layout: names and shapes take {len(table)} bytes, and no peer takes more than {MOST_TABLE_BYTES}; "
                "give the tensors shorter names"
            )
        return table

    @classmethod
    def from_outline(cls, outline: Outline) -> Layout:
        """Lay out the rows of an outline.

        Raises:
            RemoteProtocolError: there is no memory for so many rows.
        """
        try:
            layout = cls.from_shapes(
                outline.tensors,
                small_tensor=outline.small_tensor,
                max_row=outline.max_row,
                buffers=outline.buffers,
                buffer_rule=outline.buffer_rule,
            )
            return layout.timing_only() if outline.is_timing_only else layout
        except (ConfigError, MemoryError) as error:
            raise RemoteProtocolError(f"layout table: expected rows that fit in memory: {error}") from error

    def check_equal(self, other: Layout | Outline, *, ours: str, theirs: str) -> None:
        """Raise where two layouts differ, naming the first tensor that does.

        Args:
            other: the layout of the peer, or what it told of it.
            ours, theirs: who holds which, for the message.

        Raises:
            LayoutMismatch: they differ.
        """
        if self.digest == other.digest:
            return
        advice = "run the same model code and the same version on both"
        mine: Sequence[TensorSpec | NamedShape] = self.tensors
        yours: Sequence[TensorSpec | NamedShape] = other.tensors
        for one, two in zip(mine, yours, strict=False):
            if (one.name, one.shape) != (two.name, two.shape):
                raise LayoutMismatch(
                    f"layout: {ours} has {one.name!r} {one.shape} where {theirs} has {two.name!r} {two.shape}; {advice}"
                )
        if (self.buffers, self.buffer_rule) != (other.buffers, other.buffer_rule):
            raise LayoutMismatch(
                f"layout: {ours} shares {_buffers(self)}, {theirs} {_buffers(other)}; {advice}, "
                "and give every rowcast.Optimizer the same buffers="
            )
        if len(mine) != len(yours):
            longer, owner = (mine, ours) if len(mine) > len(yours) else (yours, theirs)
            extra = longer[min(len(mine), len(yours))]
            raise LayoutMismatch(f"layout: only {owner} has {extra.name!r} {extra.shape}; {advice}")
        raise LayoutMismatch(
            f"layout: same tensors, but rows are cut by other rules ({ours}: small_tensor {self.small_tensor}, "
            f"max_row {self.max_row}; {theirs}: {other.small_tensor}, {other.max_row}); {advice}"
        )

    def zeros(self) -> npt.NDArray[np.float32]:
        """A new flat float32 vector of this layout, all zero."""
        return np.zeros(self.elements, dtype=np.float32)

    def __repr__(self) -> str:
        kind = "timing only, " if self.is_timing_only else ""
        kind += f"{self.buffers} buffers in " if self.buffers else ""
        return f"Layout({kind}{len(self.tensors)} tensors, {self.rows} rows, {int(self._true_offsets[-1])} elements)"


def _buffers(layout: Layout | Outline) -> str:
    if not layout.buffers:
        return "no buffers"
    return f"{layout.buffers} buffers (first {layout.tensors[-layout.buffers].name!r}, rule {layout.buffer_rule!r})"
