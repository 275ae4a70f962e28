"""Which elements travel where only those beyond a threshold do: the policy ``twostep`` (algorithms.md 3.6)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Above
from rowcast.rows import Layout, Selection

if TYPE_CHECKING:
    from rowcast.sync.order import RowsToSend

__all__ = ["Threshold", "above", "choose_passing"]


class Threshold:
    """The threshold of one direction of one link: an average of those with which the link was filled.

    Args:
        smooth: part of it that is kept when the next one is measured, 0 .. below 1.

    Attributes:
        value: size of an element, in parameter units; ``None`` before the first was measured.
    """

    def __init__(self, smooth: float) -> None:
        self.value: float | None = None
        self._smooth = smooth

    def settle(self, lowest: float) -> float:
        """Take in the lowest threshold with which everything fits now; returns the average."""
        self.value = lowest if self.value is None else self._smooth * self.value + (1 - self._smooth) * lowest
        return self.value


def above(
    eligible: npt.NDArray[np.int64],
    stamps: npt.NDArray[np.int32],
    *,
    room: float,
    threshold: Threshold | None,
    overdue_before: int,
    share: float,
) -> Above:
    """What may travel in a push or a pull.

    Of each row that is overdue the largest element must, and of a share of all rows, those that were sent longest ago:
    so no more of them are ever overdue at once than else.

    Args:
        eligible: rows with something to send, ascending int64 [k].
        stamps: iteration at which each row was last sent, int32 [rows].
        room: bytes for rows and their index.
        threshold: of this direction; ``None``: the link was not measured yet, and nothing else travels.
        overdue_before: rows that were last sent before this iteration are overdue.
        share: see above.
    """
    rows = eligible[np.argsort(stamps[eligible], kind="stable")]
    overdue = int(np.searchsorted(stamps[rows], overdue_before))
    least = min(max(math.ceil(share * len(stamps)), overdue), len(rows))
    if threshold is None:
        return Above(0.0, rows[:least], least, lambda lowest: lowest)
    return Above(room, rows, least, threshold.settle)


def choose_passing(layout: Layout, view: RowsToSend) -> Selection:
    """The rows of which something travels, ascending: all of them must, since what travels was chosen to fit."""
    order = view.eligible[view.row_bytes[view.eligible] > 0]
    return Selection(order, len(order))
