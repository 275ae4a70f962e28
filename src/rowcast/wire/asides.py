"""The messages that train nothing: a word for the people at a worker, and the measurement of a link.

``w>`` is sent by workers only, ``s>`` by servers only.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from rowcast.wire.fields import Control, Count, Finite

__all__ = ["ASIDES", "MAX_FILLING", "Echo", "Notice", "Probe"]

MAX_FILLING = 1 << 14  #: bytes of a probe, and of an echo

Filling = Annotated[bytes, msgspec.Meta(max_length=MAX_FILLING)]


class Notice(Control, frozen=True):
    """s> Something about this worker that people should read."""

    KIND: ClassVar[int] = 33
    text: str


class Probe(Control, frozen=True):
    """w> Answer this at once; I measure the link."""

    KIND: ClassVar[int] = 34
    number: Count
    wanted: Count  #: bytes that the answer is to be filled with, at most 16 KiB
    filling: Filling = b""


class Echo(Control, frozen=True):
    """s> The answer to a probe."""

    KIND: ClassVar[int] = 35
    number: Count
    filling: Filling = b""
    release: str = ""  #: version of the server's software
    clock: Finite = 0.0  #: wall clock of the server when it answered, seconds since 1970; 0: it has none


ASIDES: tuple[type[Control], ...] = (Notice, Probe, Echo)
