"""Whose buffers are the team's, where the model's rule for them is "first"."""

from __future__ import annotations

from collections.abc import Mapping

from rowcast.rows import Layout
from rowcast.session.link import Link
from rowcast.session.notifier import Notifier
from rowcast.training.member import Member
from rowcast.wire import Lead

__all__ = ["Leader"]


class Leader:
    """The first worker: of those that the gate counts, the one that is a member for the longest time.

    Once it has finished, has left or is given up, the next one is; should it be counted again, it is the first again.
    While its link is down and it is still waited for, nobody is.

    Args:
        members: the server's members, by name, in the order in which they came; read, never changed.
        notifier: takes what is said.
    """

    def __init__(self, members: Mapping[str, Member], notifier: Notifier) -> None:
        self._members = members
        self._notifier = notifier
        self._told: Link | None = None

    def tell(self, layout: Layout) -> None:
        """Tell the first worker that it is, on each new connection, and the one before that it is no longer."""
        if not layout.buffers or layout.buffer_rule != "first":
            return
        link = next((member.link for member in self._members.values() if member.gated), None)
        if link is None or link is self._told:
            return
        before, self._told = self._told, link
        if before is not None and any(member.link is before for member in self._members.values()):
            self._notifier.say(before, Lead(False))
        self._notifier.say(link, Lead(True))
