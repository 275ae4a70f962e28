"""The messages between a worker whose data arrives as a stream and its server; see :mod:`rowcast.wire.messages`.

``w>`` is sent by workers only, ``s>`` by servers only.
"""

from __future__ import annotations

from typing import ClassVar

from rowcast.wire.fields import Control, Count, Finite

__all__ = ["STREAMS", "Share", "Supply"]


class Supply(Control, frozen=True):
    """w> My samples come as a stream, of which I can use so many; where the team shares a batch, tell me my share."""

    KIND: ClassVar[int] = 31
    rate: Finite  #: samples/s that this worker could train on, 0 or more
    total: Count  #: samples of the team's batch that is shared; 0: none is
    most: Count = 0  #: of them, what I can take at once; 0: all


class Share(Control, frozen=True):
    """s> Your share of the team's batch, from now on."""

    KIND: ClassVar[int] = 32
    samples: Count
    rate: Finite  #: samples/s that all workers who share it could train on


STREAMS: tuple[type[Control], ...] = (Supply, Share)
