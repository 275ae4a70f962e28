"""Matrices as two factors, in two exchanges of an iteration: PowerSGD (Vogels et al., NeurIPS 2019).

Before the push of an iteration each worker sends a sketch of what it has pending; the server makes the basis of the
iteration of their sum and sends it to all (algorithms.md 5.11). Then rows travel as with pushes and pulls, in that
basis. Sketches and bases have a row stream of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec, TimingOnly, codec_by_name, codec_for
from rowcast.codecs.lowrank import Factors, LowRank
from rowcast.delivery.source import Sending
from rowcast.delivery.transfer import Transfer
from rowcast.delivery.vectors import VectorInbox, VectorOutbox
from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout
from rowcast.sync import Policy
from rowcast.training.member import NOT_STARTED, Member
from rowcast.training.rules.phased import PhasedRule
from rowcast.wire import Ack, Message, PullEnd, RowLimits, Rows
from rowcast.wire.frames import frame_bytes

if TYPE_CHECKING:
    from rowcast.training.team import Team

__all__ = ["STREAM", "FactoredRule", "Forms"]

#: The row stream of sketches and bases.
STREAM = 1


class Forms:
    """The forms in which a model's matrices travel.

    Args:
        layout: the model's rows.
        policy: the team's policy.

    Attributes:
        factors: which matrices have factors.
        basis_layout: the rows of sketches and bases; ``None`` where no matrix has factors.
    """

    def __init__(self, layout: Layout, policy: Policy) -> None:
        self.policy = policy
        self.factors = Factors(layout, policy.rank)
        self.basis_layout: Layout | None = None
        if self.factors.blocks:
            whole = self.factors.basis_layout()
            self.basis_layout = whole.timing_only() if layout.is_timing_only else whole
        self._layout = layout

    def code(self, basis: npt.NDArray[np.float32]) -> Codec:
        """The code of rows in a basis, float32 [basis elements]; without factors, that of all rows."""
        rest = codec_by_name(self.policy.codec)
        if self.basis_layout is None:
            return rest
        if self._layout.is_timing_only:
            return TimingOnly(LowRank(self.policy.rank, rest))
        return LowRank(self.policy.rank, codec_for(self._layout, rest), self.factors, basis)

    def streams(self, layout: Layout) -> dict[int, RowLimits]:
        """What the rows of each row stream may name."""
        limits = {0: RowLimits(layout.rows)}
        if self.basis_layout is not None:
            limits[STREAM] = RowLimits(self.basis_layout.rows)
        return limits


class _Side:
    """The row stream of sketches and bases, to and from a member.

    Attributes:
        sketch, basis: what comes, and what is sent.
        waits: a whole sketch is here, and no basis was sent since.
    """

    def __init__(self, layout: Layout, member: Member) -> None:
        self.waits = False
        self.sketch = VectorInbox(layout)
        self.basis = VectorOutbox(layout, member.owed.window, STREAM)
        if member.link is not None:
            self.basis.link_ready()

    def accept(self, message: Rows) -> bool:
        """Take a part of a sketch in; returns whether it had not come before."""
        new = self.sketch.accept(message)
        if new:
            self.waits = self.sketch.whole
        return new


class FactoredRule(PhasedRule):
    """Makes a basis for each iteration, of the sketches of all who count; pushes and pulls are in it.

    A basis is made of the sketches of all who count. Who comes, or comes back, while others have it already is sent
    the same; its sketch does not count. Any basis does, since a code takes out of a row what it expresses.
    """

    def __init__(self, team: Team) -> None:
        super().__init__(team)
        self._forms: Forms | None = None
        self._sides: dict[Member, _Side] = {}
        self._whole: set[Member] = set()  # who lacks more than the sum of an iteration, which the basis may not express
        self._basis = np.zeros(0, dtype=np.float32)
        self._iteration = -1  # of the basis
        self._code: Codec = codec_by_name(team.policy.codec)

    # -- the model ---------------------------------------------------------------------------------------------

    def lay_out(self, layout: Layout) -> None:
        self._forms = Forms(layout, self.team.policy)

    def reset(self) -> None:
        self._forms, self._iteration = None, -1

    def streams(self, layout: Layout) -> dict[int, RowLimits]:
        assert self._forms is not None
        return self._forms.streams(layout)

    # -- who takes part ----------------------------------------------------------------------------------------

    def admit(self, now: float, member: Member) -> None:
        ledger = self.team.model.ledger
        if ledger is not None:
            ledger.bring_up(member)
        if not member.owed.source.empty:
            self._whole.add(member)
        self._answer(now)

    def left(self, now: float, member: Member) -> None:
        super().left(now, member)
        self._answer(now)

    def remove(self, member: Member) -> None:
        self._sides.pop(member, None)
        self._whole.discard(member)

    def link_lost(self, now: float, member: Member) -> None:
        if (side := self._sides.get(member)) is not None:
            side.basis.link_lost()

    def resumed(self, member: Member) -> None:
        if (side := self._sides.get(member)) is not None:
            side.basis.link_ready()

    # -- sketches and bases ------------------------------------------------------------------------------------

    def _side(self, member: Member) -> _Side | None:
        """The row stream of a member; ``None`` where no matrix has factors."""
        side = self._sides.get(member)
        if side is None and self._forms is not None and self._forms.basis_layout is not None:
            side = self._sides[member] = _Side(self._forms.basis_layout, member)
        return side

    def side_rows(self, now: float, member: Member, message: Rows) -> None:
        side = self._side(member)
        if side is None or member.state in NOT_STARTED or member.link is None:
            raise RemoteProtocolError("expected no sketch before the start, got one")
        if side.accept(message):
            member.push_bytes += frame_bytes(message)
            if side.waits:
                self._answer(now)
        self.team.notifier.say(member.link, Ack.at(now, side.sketch.received, STREAM))

    def side_acknowledged(self, now: float, member: Member, message: Ack) -> None:
        if (side := self._side(member)) is not None:
            side.basis.acknowledged(now, message.number, message.arrived_s)

    def _answer(self, now: float) -> None:
        """Make the basis of the next iteration if all sketches are here; send the newest to all who wait for it."""
        counted = self.team.gate.counted()
        waiting = [(member, side) for member in counted if (side := self._sides.get(member)) is not None and side.waits]
        late = [(member, side) for member, side in waiting if member.iteration < self._iteration]
        if waiting and not late and len(waiting) == len(counted):
            self._iteration = max(member.iteration for member in counted) + 1
            self._make_basis([side.sketch.vector for _, side in waiting])
            late = waiting
        for member, side in late:
            side.waits = False
            side.basis.send(self._basis, side.sketch.number)
            member.inbox.codes = {self._code.wire_id: self._code}
            member.owed.transfer = None  # a pull that a cut has interrupted is in the basis before
            if member.link is not None:
                self.team.notifier.wake(member.link)

    def _make_basis(self, sketches: list[npt.NDArray[np.float32]]) -> None:
        """Make a basis of the sum of sketches."""
        assert self._forms is not None and self._forms.basis_layout is not None
        if self._forms.basis_layout.is_timing_only:
            self._basis = self._forms.basis_layout.zeros()
        else:
            self._basis = self._forms.factors.orthonormal(np.sum(sketches, axis=0, dtype=np.float64))
        self._code = self._forms.code(self._basis)

    def sending(self, member: Member) -> Sending:
        side = self._sides.get(member)
        return member.owed if side is None or side.basis.settled else side.basis

    def next_message(self, now: float, member: Member) -> Message | None:
        side = self._sides.get(member)
        frame = None if side is None else side.basis.next_frame(now)
        return frame or super().next_message(now, member)

    # -- pushes and pulls --------------------------------------------------------------------------------------

    def arrived(self, now: float, member: Member, message: Rows) -> None:
        assert self._forms is not None
        if (
            message.codec != self._code.wire_id
            and len(message.payload)
            and self._forms.factors.widths[message.rows].any()
        ):
            # Who has finished sends what it had pending as it is.
            self._whole.update(self.team.members.values())
        super().arrived(now, member, message)

    def pull_code(self, member: Member) -> Codec:
        """The basis does where the worker has it and lacks the sum of its iteration only."""
        assert self._forms is not None
        has_basis = self._forms.basis_layout is None or member.inbox.codes.get(self._code.wire_id) is self._code
        return self._code if has_basis and member not in self._whole else codec_by_name("raw")

    def pulled(self, now: float, member: Member, transfer: Transfer) -> PullEnd:
        if transfer.codec.wire_id != self._code.wire_id:
            self._whole.discard(member)
        return super().pulled(now, member, transfer)
