"""Where rows to be sent come from, and where rows that arrive go: what an outbox and an inbox need to know of them.

To send something else than a model's updates, write a :class:`RowSource`. In this package
:class:`~rowcast.delivery.residual.Residual`, :class:`~rowcast.delivery.floored.Floored` and
:class:`~rowcast.delivery.cursor.Cursor` are sources, :class:`~rowcast.delivery.snapshot.Snapshot` is a sink.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Above, Codec
from rowcast.delivery.backlog import Backlog, Due
from rowcast.rows import Layout
from rowcast.sync import RateMeter
from rowcast.wire import Rows

__all__ = ["RowSink", "RowSource", "Sending"]


class RowSource(Protocol):
    """What a peer lacks, row by row; see :class:`~rowcast.delivery.backlog.Backlog` for each of these."""

    @property
    def layout(self) -> Layout:
        """The rows there are."""

    @property
    def own(self) -> Backlog:
        """What this peer alone lacks."""

    @property
    def empty(self) -> bool:
        """The peer lacks nothing."""

    def due(self, iteration: int, *, refine: bool = False) -> Due:
        """The rows that may be sent in ``iteration``, or those of which something is left after they were sent."""

    def remaining(self) -> npt.NDArray[np.int64]:
        """All rows that are not zero, int64 ascending."""

    def fit(self, codec: Codec, room: float | Above) -> Codec:
        """The form of a code in which all rows take ``room`` bytes together; the code itself where it has none."""

    def take(
        self, rows: npt.NDArray[np.int64], codec: Codec, iteration: int
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """Encode rows that are sent now; returns the payload, and what :meth:`put_back` needs, int32 [k]."""

    def put_back(self, message: Rows, before: npt.NDArray[np.int32], place: int = -1) -> None:
        """A frame did not arrive. ``place``: where it stands in a shared log; negative: nowhere."""

    def settle(self, rows: npt.NDArray[np.int64], parameters: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The parameters of ``rows`` are sent as they are; returns what is to be sent, in the raw codec."""

    def mark_sent(self, rows: npt.NDArray[np.int64], iteration: int) -> None:
        """There was nothing to send in ``rows``."""

    def renumber(self, iteration: int) -> None:
        """The peer counts from ``iteration`` now."""

    def total(self) -> npt.NDArray[np.float32]:
        """Everything that the peer lacks and that is not on its way, flat float32 (for the books); read only."""


class RowSink(Protocol):
    """Takes rows that have arrived and passed the checks of an :class:`~rowcast.delivery.inbox.Inbox`."""

    def apply(self, codec: Codec, message: Rows) -> None:
        """Take in the rows of a frame, encoded with ``codec``; called once for each frame, in order."""


class Sending(Protocol):
    """Frames on their way to a peer, as they are looked at to see whether their link is stuck.

    Attributes:
        delivered: frames that were acknowledged, over all connections and sessions.
        moved_at: when one was last acknowledged, or sent while nothing else was on its way (s).
        meter: the delivery rate.
    """

    delivered: int
    moved_at: float
    meter: RateMeter

    @property
    def in_flight(self) -> int:
        """Bytes of frames sent and not acknowledged."""

    @property
    def settled(self) -> bool:
        """Everything that was sent is acknowledged."""

    def may_be_stuck_before(self, time: float, limit_s: float) -> bool:
        """Whether something is on its way of which nothing may have been acknowledged for ``limit_s`` at ``time``."""
