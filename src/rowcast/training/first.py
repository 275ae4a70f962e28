"""The first parameters: what the first worker brings, from its layout to the last row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowcast.delivery.inbox import Inbox
from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout
from rowcast.training.member import Member, MemberState
from rowcast.wire import Ack, LayoutTable, RowLimits, Rows

if TYPE_CHECKING:
    from rowcast.training.admission import Admission
    from rowcast.training.team import Team

__all__ = ["FirstParameters"]

#: The least that a row of the first parameters weighs: one element.
RAW_ROW_BYTES = 4


class FirstParameters:
    """Takes the layout and the parameters of the first worker.

    Args:
        team: the team; its model is laid out and completed here.
        admission: refuses a model that is too large, and lets others in once all parameters are there.
    """

    def __init__(self, team: Team, admission: Admission) -> None:
        self._team = team
        self._admission = admission

    def on_layout_table(self, now: float, member: Member, message: LayoutTable) -> None:
        """A piece of the layout.

        Raises:
            RemoteProtocolError: it is not the first worker's, or no layout.
        """
        link = member.link
        if member.state is not MemberState.SEEDING or link is None:
            raise RemoteProtocolError("expected a layout from the first worker only")
        outline = member.seed.read(message)
        if outline is None:
            return
        limit_bytes = self._team.settings.model_limit_bytes
        if outline.cost_bytes > limit_bytes:
            text = (
                f"its model needs {outline.cost_bytes} bytes ({outline.elements} parameters, {outline.rows} rows), and "
                f"this server takes {limit_bytes}; raise model_limit_bytes in the server's settings"
            )
            self._admission.refuse(now, link, member.name, "model", text)
            self._admission.drop(now, member, "its model is too large")
            return
        if self._team.model.layout is not None:
            link.decoder.streams[0] = RowLimits(outline.rows)
            return
        link.decoder.streams[0] = RowLimits(outline.rows, RAW_ROW_BYTES)  # what is kept must weigh something
        self._lay_out(member)

    def on_rows(self, now: float, member: Member, message: Rows) -> bool:
        """Rows that come before the model is laid out, at ``now`` (s).

        Returns:
            Whether they had not come before.

        Raises:
            RemoteProtocolError: they are not the first worker's.
        """
        if member.state is not MemberState.SEEDING or member.link is None:
            raise RemoteProtocolError("expected the layout first, got rows")
        seed, before = member.seed, member.seed.rows
        seed.keep(message)
        new = seed.rows > before
        member.inbox.received = len(seed.frames)
        self._team.notifier.say(member.link, Ack.at(now, member.inbox.received))
        self._lay_out(member)
        return new

    def _lay_out(self, member: Member) -> None:
        """Set memory aside for the model of the first worker, once it has sent enough of it; apply what was kept."""
        seed = member.seed
        if not seed.ripe or seed.outline is None or member.link is None:
            return
        layout = Layout.from_outline(seed.outline)
        member.owed = self._team.model.begin(member.name, layout)
        member.owed.link_ready()
        member.inbox = Inbox(layout)
        member.link.decoder.streams.update(self._team.rule.streams(layout))
        frames, seed.frames = seed.frames, []
        for frame in frames:
            if (codec := member.inbox.accept(frame)) is not None:
                member.owed.snapshot.apply(codec, frame)

    def on_state_end(self, now: float, member: Member) -> None:
        """These were all parameters.

        Raises:
            RemoteProtocolError: some are missing.
        """
        if member.state is not MemberState.SEEDING:
            return
        layout = self._team.model.layout
        if layout is None or not member.seed.whole:
            raise RemoteProtocolError("expected a layout and all parameters before their end, got the end")
        if self._team.above is not None:
            self._team.above.brought(now, member)
            return
        self._team.model.complete(layout, member.owed.snapshot.parameters).admit(member)
        self._admission.seeded(now, member)
