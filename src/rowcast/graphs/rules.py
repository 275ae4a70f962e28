"""Row rules: which rows of its input an operator reads for which rows of its output.

A rule is made for one height of the input, since borders matter. It answers two questions:

* ``can(h)``: how many output rows can be computed when the first ``h`` input rows are there,
* ``need(a, b)``: the input rows that output rows ``[a, b)`` read.

Both follow from one table, :meth:`RowRule.reads`, so that they agree: output rows ``[0, can(h))`` read rows below
``h`` only, and one row more would read row ``h`` or a later one. Rows of padding are not rows of the input: nothing
waits for them.

===================== ============================================================================================
rule                  operators
===================== ============================================================================================
:class:`Identity`     pointwise, batch norm in evaluation, concatenation of channels, layer norm over other axes
:class:`Window`       convolution, maximum and average pooling
:class:`Resize`       interpolation to the nearest row or between two rows
:class:`Transposed`   transposed convolution
:class:`RunningSum`   mean or sum over all rows, global pooling: works on each row as it comes, gives its one row last
:class:`Barrier`      everything else: reads the whole input
===================== ============================================================================================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from rowcast.errors import ConfigError, LocalProtocolError

__all__ = ["RULES", "Barrier", "Identity", "Resize", "RowRule", "RunningSum", "Transposed", "Window"]

#: First row read and the row behind the last one; both 0 where an output row reads padding only.
Span = tuple[int, int]
NOTHING: Span = (0, 0)
#: Relative error of a position in float32, several roundings.
ROUNDING = 4 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class RowRule(ABC):
    """What all rules share.

    Attributes:
        rows: rows of the input, 1 or more.

    Raises:
        ConfigError: a number out of range, or an output without rows.
    """

    #: How a file calls the rule.
    name: ClassVar[str] = ""
    #: Whether it works on input rows as they come, although no output row is ready.
    incremental: ClassVar[bool] = False

    rows: int

    def __post_init__(self) -> None:
        self._at_least("rows", self.rows, 1)
        if self.out_rows < 1:
            raise ConfigError(f"{self}: expected at least one output row, got {self.out_rows}; is the input too low?")

    @property
    @abstractmethod
    def out_rows(self) -> int:
        """Rows of the output."""

    @abstractmethod
    def reads(self) -> Iterator[Span]:
        """For each output row the first input row that it reads, and the one behind the last."""

    def can(self, h: int) -> int:
        """How many output rows, from the first on, are computable from the first ``h`` input rows.

        Raises:
            LocalProtocolError: ``h`` is not in ``0 .. rows``.
        """
        self._within(h, h, self.rows)
        return self._can(h)

    def need(self, a: int, b: int) -> Span:
        """The input rows ``[first, last)`` that output rows ``[a, b)`` read; ``(0, 0)`` where they read none.

        Raises:
            LocalProtocolError: not ``0 <= a <= b <= out_rows``.
        """
        self._within(a, b, self.out_rows)
        return self._need(a, b) if a < b else NOTHING

    def _can(self, h: int) -> int:
        return bisect_right(self._complete_at, h)

    def _need(self, a: int, b: int) -> Span:
        spans = [span for span in self._spans[a:b] if span != NOTHING]
        return (min(first for first, _ in spans), max(last for _, last in spans)) if spans else NOTHING

    @cached_property
    def _spans(self) -> tuple[Span, ...]:
        return tuple(self.reads())

    @cached_property
    def _complete_at(self) -> list[int]:
        """For each output row: how many input rows there must be for it and for all rows before it."""
        return list(accumulate((last for _, last in self._spans), max))

    def _at_least(self, name: str, value: int, low: int) -> None:
        if value < low:
            raise ConfigError(f"{type(self).__name__}: expected {name} >= {low}, got {value}")

    def _within(self, a: int, b: int, high: int) -> None:
        if not 0 <= a <= b <= high:
            asked = f"rows [{a}, {b})" if a != b else f"{a} rows"
            raise LocalProtocolError(f"{self}: expected rows within 0 .. {high}, got {asked}")


@dataclass(frozen=True)
class Identity(RowRule):
    """Output row ``i`` reads input row ``i``."""

    name: ClassVar[str] = "identity"

    @property
    def out_rows(self) -> int:
        return self.rows

    def reads(self) -> Iterator[Span]:
        return ((row, row + 1) for row in range(self.rows))

    def _can(self, h: int) -> int:
        return h

    def _need(self, a: int, b: int) -> Span:
        return a, b


@dataclass(frozen=True)
class Window(RowRule):
    """Output row ``i`` reads rows ``i * stride - padding + t * dilation`` for ``t`` in ``0 .. kernel - 1``.

    Attributes:
        padding: rows in front of the first one, and behind the last one unless ``padding_after`` is given.
        ceil_mode: as of PyTorch's pooling: one more window where it begins in the input or the padding before it.
        padding_after: rows behind the last one, for ``padding="same"`` with an even number of rows to add.
    """

    name: ClassVar[str] = "window"

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    ceil_mode: bool = False
    padding_after: int | None = None

    def __post_init__(self) -> None:
        for name in ("kernel", "stride", "dilation"):
            self._at_least(name, getattr(self, name), 1)
        self._at_least("padding", self.padding, 0)
        self._at_least("padding_after", self._after, 0)
        super().__post_init__()

    @property
    def _after(self) -> int:
        return self.padding if self.padding_after is None else self.padding_after

    @property
    def out_rows(self) -> int:
        spare = self.rows + self.padding + self._after - self.dilation * (self.kernel - 1) - 1
        if spare < 0:
            return 0
        if not self.ceil_mode:
            return spare // self.stride + 1
        count = -(-spare // self.stride) + 1
        return count - 1 if (count - 1) * self.stride >= self.rows + self.padding else count

    def reads(self) -> Iterator[Span]:
        for row in range(self.out_rows):
            start = row * self.stride - self.padding
            skipped = max(0, -(start // self.dilation))  # taps in front of the first row
            taps = min(self.kernel, (self.rows - 1 - start) // self.dilation + 1)
            if skipped < taps:
                yield start + skipped * self.dilation, start + (taps - 1) * self.dilation + 1
            else:
                yield NOTHING


@dataclass(frozen=True)
class Resize(RowRule):
    """Interpolation along the rows, with the arithmetic of PyTorch on float32.

    Whether a position between two rows that is a whole number is rounded to it or to just below depends on the
    processor: ``"bilinear"`` counts the rows of both.

    Attributes:
        to_rows: rows of the output.
        mode: ``"nearest"`` (one row) or ``"bilinear"`` (two neighbouring ones).
        align_corners: for ``"bilinear"``: the first and the last rows of input and output lie upon each other.
        scale: output rows for each input row where the caller gave a factor rather than a size; ``None``:
            ``to_rows / rows``.
    """

    name: ClassVar[str] = "resize"

    to_rows: int
    mode: str = "nearest"
    align_corners: bool = False
    scale: float | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("nearest", "bilinear"):
            raise ConfigError(
                f"Resize: expected mode 'nearest' or 'bilinear', got {self.mode!r}; use Barrier for another"
            )
        if self.scale is not None and not self.scale > 0:
            raise ConfigError(f"Resize: expected scale above 0, got {self.scale}")
        super().__post_init__()

    @property
    def out_rows(self) -> int:
        return self.to_rows

    def reads(self) -> Iterator[Span]:
        if self.to_rows == self.rows:  # PyTorch copies, whatever the scale
            yield from Identity(self.rows).reads()
            return
        last = self.rows - 1
        for at in self.positions().tolist():
            if self.mode == "nearest":
                first = min(int(at), last)
                yield first, first + 1
            else:
                margin = ROUNDING * (at + 1.0)
                yield min(max(0, int(at - margin)), last), min(int(at + margin) + 1, last) + 1

    def positions(self) -> npt.NDArray[np.float32]:
        """float32 [out_rows]: where each output row lies in the input, in rows."""
        rows = np.arange(self.to_rows, dtype=np.float32)
        if self.mode == "bilinear" and self.align_corners:
            return rows * _float32((self.rows - 1) / max(self.to_rows - 1, 1))
        step = _float32(self.rows / self.to_rows if self.scale is None else 1.0 / self.scale)
        if self.mode == "nearest":  # PyTorch doubles without looking at the scale
            return rows * (_float32(0.5) if self.to_rows == 2 * self.rows else step)
        half = _float32(0.5)
        return np.maximum(step * (rows + half) - half, _float32(0.0))


def _float32(value: float) -> npt.NDArray[np.float32]:
    return np.full((), value, dtype=np.float32)


@dataclass(frozen=True)
class Transposed(RowRule):
    """Input row ``i`` is added to rows ``i * stride - padding + t * dilation``, ``t`` in ``0 .. kernel - 1``."""

    name: ClassVar[str] = "transposed"

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    output_padding: int = 0

    def __post_init__(self) -> None:
        for name in ("kernel", "stride", "dilation"):
            self._at_least(name, getattr(self, name), 1)
        for name in ("padding", "output_padding"):
            self._at_least(name, getattr(self, name), 0)
        super().__post_init__()

    @property
    def out_rows(self) -> int:
        taps = self.dilation * (self.kernel - 1) + 1
        return (self.rows - 1) * self.stride - 2 * self.padding + taps + self.output_padding

    def reads(self) -> Iterator[Span]:
        for row in range(self.out_rows):
            places = (row + self.padding - tap * self.dilation for tap in range(self.kernel))
            sources = [place // self.stride for place in places if place % self.stride == 0]
            inside = [source for source in sources if 0 <= source < self.rows]
            yield (min(inside), max(inside) + 1) if inside else NOTHING


@dataclass(frozen=True)
class RunningSum(RowRule):
    """A mean or a sum over all rows: one output row, complete with the last input row."""

    name: ClassVar[str] = "running sum"
    incremental: ClassVar[bool] = True

    @property
    def out_rows(self) -> int:
        return 1

    def reads(self) -> Iterator[Span]:
        yield 0, self.rows


@dataclass(frozen=True)
class Barrier(RowRule):
    """Every output row reads the whole input.

    Attributes:
        to_rows: rows of the output.
    """

    name: ClassVar[str] = "barrier"

    to_rows: int = 1

    @property
    def out_rows(self) -> int:
        return self.to_rows

    def reads(self) -> Iterator[Span]:
        return ((0, self.rows) for _ in range(self.to_rows))

    def _can(self, h: int) -> int:
        return self.to_rows if h == self.rows else 0

    def _need(self, a: int, b: int) -> Span:
        return 0, self.rows


#: How a file calls a rule -> its class.
RULES: dict[str, type[RowRule]] = {
    rule.name: rule for rule in (Identity, Window, Resize, Transposed, RunningSum, Barrier)
}
