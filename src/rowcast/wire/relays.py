"""The messages between a relay and the server above it; see :mod:`rowcast.wire.messages`."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from rowcast.wire.fields import Control, Count

__all__ = ["MAX_RELAYS", "RELAYS", "Below", "Returned", "Subtree", "Through"]

MAX_RELAYS = 4096  #: below one relay

#: Sessions of relays, 16 bytes each.
Below = Annotated[tuple[Annotated[bytes, msgspec.Meta(max_length=16)], ...], msgspec.Meta(max_length=MAX_RELAYS)]


class Subtree(Control, frozen=True):
    """w> I am a relay: what I send is the sum of so many workers. Only where rows are streamed."""

    KIND: ClassVar[int] = 45
    leaves: Count  #: workers below me among whom updates are shared, through other relays as well
    below: Below  #: my own session and those of the relays below me, so that no loop is made


class Through(Control, frozen=True):
    """s> I am a relay. Goes before the welcome: what I have received, no other server knows."""

    KIND: ClassVar[int] = 46
    relay: str  #: its name


class Returned(Control, frozen=True):
    """s> What the next row frame holds of what you have sent, which is back from the root. A relay says it before each;
    another server to a relay only, before rows that are older than what it has acknowledged.
    """

    KIND: ClassVar[int] = 47
    number: Count  #: of each row what was in your frames up to this one
    lags: bytes  #: less so many, for each of its rows a byte; 255: nothing of it. Empty: 0 for all


RELAYS: tuple[type[Control], ...] = (Subtree, Through, Returned)
