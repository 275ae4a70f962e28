"""The messages between a worker and a server whose policy gives slots; see :mod:`rowcast.wire.messages`."""

from __future__ import annotations

from typing import ClassVar

from rowcast.wire.fields import Control, Count, Finite

__all__ = ["SLOTS", "Ask", "Grant"]


class Ask(Control, frozen=True):
    """w> An update is ready: may I push it? Only where the policy gives slots."""

    KIND: ClassVar[int] = 19
    iteration: Count
    weight: Finite  #: averaging weight of the update, > 0: how much its worker counts
    rate_bps: Finite  #: measured delivery rate, bit/s


class Grant(Control, frozen=True):
    """s> You have a slot: push."""

    KIND: ClassVar[int] = 20
    iteration: Count
    held_s: Finite  #: seconds that this worker waited for the slot


SLOTS: tuple[type[Control], ...] = (Ask, Grant)
