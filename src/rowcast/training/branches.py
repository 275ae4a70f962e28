"""Relays that connect to the server of a relay: none of them may be above it as well."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from rowcast.session.link import Link
from rowcast.wire import Subtree

if TYPE_CHECKING:
    from rowcast.training.team import Team

__all__ = ["Branches"]


class Branches:
    """Refuses relays that this one is below of.

    Args:
        team: the team.
        refuse: tells a worker why it is not let in: time (s), connection, its name, a code and a text.

    Attributes:
        waiting: sessions of relays that wait until they are let in, and of those below them.
    """

    def __init__(self, team: Team, refuse: Callable[[float, Link, str, str, str], None]) -> None:
        self.waiting: dict[Link, tuple[bytes, ...]] = {}
        self._team = team
        self._refuse = refuse

    def is_loop(self, now: float, link: Link, peer: str, sessions: Collection[bytes]) -> bool:
        """Whether this server is that of a relay of one of these sessions: then who has said so is refused."""
        above = self._team.above
        if above is None or above.session not in sessions:
            return False
        text = f"relay {above.name} would be below itself; look at what each relay is connected to (--connect)"
        self._refuse(now, link, peer, "loop", text)
        return True

    def hear(self, now: float, link: Link, message: Subtree) -> None:
        """A relay that waits until it is let in says what is below it."""
        if not self.is_loop(now, link, link.peer, message.below):
            self.waiting[link] = message.below

    def forget(self, link: Link) -> None:
        """A connection has ended, or who is there was let in."""
        self.waiting.pop(link, None)
