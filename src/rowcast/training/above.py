"""What the parts of a server need of the server above it, where it is that of a relay."""

from __future__ import annotations

from typing import Protocol

from rowcast.codecs import Codec
from rowcast.training.member import Member
from rowcast.wire import Rows, Share, Supply

__all__ = ["Above"]


class Above(Protocol):
    """The way up (:class:`rowcast.training.relay.RelayNode`)."""

    name: str

    @property
    def session(self) -> bytes:
        """Names this life of the relay to the server above."""

    @property
    def decides(self) -> bool:
        """The server above says what the parameters are; before, a worker is to bring some to join it with."""

    @property
    def over(self) -> bool:
        """Nothing more comes from there."""

    def brought(self, now: float, member: Member) -> None:
        """A worker has brought the layout and parameters."""

    def share_of(self, supply: Supply) -> Share | None:
        """What all below can train on is told above; returns what of the team's batch is theirs, once that is told."""

    def pass_up(self, codec: Codec, message: Rows) -> None:
        """Rows have come from below: they are not part of the parameters before they come from above."""
