"""Rows that count among those that contribute to them, and not among the whole team (``row_weights=contributors``).

A worker multiplies its contribution by 1 / members before a row is sent. A row that only some of the workers ever
touch, like the embedding of a word that one of them reads, then moves by a part of the mean of what *they* computed.
With this option the server takes such a row in times ``members / contributors``.

It is the server that multiplies, once, before anything is done with the row: the parameters and all that is owed get
the very same numbers, so every replica moves by the same sum as ever. Nothing travels for it, and no worker needs to
know what others touch. What a lossy code has left of a row stays with its worker in the worker's own units, and is
multiplied when it comes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec, codec_by_name
from rowcast.codecs.base import starts
from rowcast.delivery.arrivals import decode
from rowcast.rows import Layout
from rowcast.rows.compiling import without_numba
from rowcast.rows.kernels import compiled, in_parts, row_abs_sums
from rowcast.training import plain
from rowcast.wire import Rows

__all__ = ["WINDOW", "RowWeights"]

#: A worker contributes to a row as long as it has sent something of it in so many of its own iterations. Contributions
#: within about the slack of a team happen at the same time: they are averaged, and rarer ones are summed up.
WINDOW = 16
#: Less than this part of the largest that came from it lately is nothing: what a lossy code has left of the row, or
#: what momentum still moves.
QUIET = 1 / 64
#: How much of the largest is left when the row comes the next time.
FORGET = 0.9


@compiled
@without_numba(plain.multiply)
def _multiply(
    values: npt.NDArray[np.float32],
    places: npt.NDArray[np.int64],
    factors: npt.NDArray[np.float32],
    added: npt.NDArray[np.float64],
) -> None:
    for k in range(len(factors)):
        row = values[places[k] : places[k + 1]]
        before = np.float64(0.0)
        for j in range(len(row)):
            before += np.float64(row[j])
        for j in range(len(row)):
            row[j] *= factors[k]
        after = np.float64(0.0)
        for j in range(len(row)):
            after += np.float64(row[j])
        added[k] = after - before


class _Heard:
    """What came from one worker.

    Attributes:
        loud: int32 [rows], iteration of the worker at which it last sent something of each row.
        peak: float32 [rows], the largest mean |.| of each row lately.
        contributes: bool [rows].
    """

    def __init__(self, rows: int, iteration: int) -> None:
        self.loud = np.full(rows, iteration, dtype=np.int32)
        self.peak = np.zeros(rows, dtype=np.float32)
        self.contributes = np.ones(rows, dtype=np.bool_)


class RowWeights:
    """Counts who contributes to each row, and multiplies rows that arrive.

    Until something is known of a worker it contributes to every row: a team begins with the mean, and so does a
    newcomer. What counts is the worker's own word, row by row: one that is not heard of for a while, because its link
    is down or the row waits, contributes as before.

    Args:
        layout: the model's rows.

    Attributes:
        surplus: float64 [rows], signed sum of what the factors have added to each row, beyond what was sent (the
            audit).
    """

    def __init__(self, layout: Layout) -> None:
        self.surplus = np.zeros(layout.rows, dtype=np.float64)
        self._layout = layout
        self._heard: dict[str, _Heard] = {}
        self._contributors = np.zeros(layout.rows, dtype=np.int32)
        self._sharing: frozenset[str] = frozenset()

    def weigh(self, name: str, codec: Codec, message: Rows, sharing: Collection[str]) -> tuple[Codec, Rows]:
        """Take note of rows of a worker that have arrived, and multiply them.

        Args:
            name: the worker.
            codec, message: the update.
            sharing: names of the workers among which an iteration is shared.

        Returns:
            What is to be applied: the update itself where all of its rows count among all.
        """
        if self._sharing != (names := frozenset(sharing)):
            self._sharing = names
            self._recount()
        heard = self._heard.get(name)
        if heard is None:
            heard = self._heard[name] = _Heard(self._layout.rows, message.iteration)
        rows = message.rows
        if not len(message.payload):
            self._note(name, heard, rows, message.iteration, np.zeros(len(rows), dtype=np.bool_))
            return codec, message
        values = decode(self._layout, codec, message)
        lengths = self._layout.lengths[rows]
        places = starts(lengths)
        sizes = np.empty(len(rows), dtype=np.float32)
        row_abs_sums(values, places, sizes)
        sizes /= lengths
        peak = heard.peak[rows] = np.maximum(sizes, FORGET * heard.peak[rows])
        self._note(name, heard, rows, message.iteration, sizes > QUIET * peak)
        members = max(len(self._sharing), 1)
        contributors = np.clip(self._contributors[rows], 1, members)
        contributors[rows >= self._layout.parameter_rows] = members  # buffers are values: an average of all
        if (contributors == members).all():
            return codec, message
        added = np.empty(len(rows), dtype=np.float64)
        factors = (members / contributors).astype(np.float32)
        in_parts(
            lambda part, edges: _multiply(values, places[edges], factors[part], added[part]), len(rows), len(values)
        )
        self.surplus[rows] += added
        raw = codec_by_name("raw")
        return raw, dataclasses.replace(message, codec=raw.wire_id, coder=None, payload=values.view(np.uint8))

    def forget(self, name: str) -> None:
        """A worker has left for good."""
        self._heard.pop(name, None)
        self._recount()

    def _note(
        self, name: str, heard: _Heard, rows: npt.NDArray[np.int64], iteration: int, loud: npt.NDArray[np.bool_]
    ) -> None:
        """Rows of a worker are whole up to ``iteration``; ``loud``: something came of them."""
        heard.loud[rows[loud]] = iteration
        contributes = loud | (heard.contributes[rows] & (iteration - heard.loud[rows] < WINDOW))
        if name in self._sharing:
            self._contributors[rows] += contributes.astype(np.int32) - heard.contributes[rows]
        heard.contributes[rows] = contributes

    def _recount(self) -> None:
        """Others share an iteration than before."""
        self._contributors[:] = sum(name not in self._heard for name in self._sharing)
        for name in self._sharing & self._heard.keys():
            self._contributors += self._heard[name].contributes
