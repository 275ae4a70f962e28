"""When rows travel between a relay and the workers below it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rowcast.rows import Layout
from rowcast.training.member import Member
from rowcast.training.relay.passage import Passage
from rowcast.training.rules.adaptation import Adaptation
from rowcast.training.rules.returns import Returning
from rowcast.training.rules.streamed import StreamedRule
from rowcast.training.rules.streamed_member import StreamedMember
from rowcast.wire import Computed, Horizon, Rows

if TYPE_CHECKING:
    from rowcast.sync import Policy
    from rowcast.training.team import Team

__all__ = ["RelayRule"]


class _Follows(Adaptation):
    """What a relay adapts: nothing. It takes the slack and the outer learning rate of the server above."""

    def __init__(self, team: Team, policy: Policy) -> None:
        super().__init__(team, policy)
        self._slack = self._outer_lr = None


class RelayRule(StreamedRule):
    """The server's side of rows that are streamed, at a relay.

    Rows that come from below are owed to nobody here: :attr:`floor` says how far they have come, which is what the
    relay tells above. What workers are sent comes from above, and holds everybody's contributions up to what was
    told from there.

    Attributes:
        least: nobody who comes begins before this iteration: it was passed on already.
        newest_above: iteration of the fastest worker of the tree, in the gate's count.
        members_above: among how many workers of the tree an update is shared.
        apart: nobody above waits for this relay: it is in an outage, and so are all below it.
        told: something was heard from above since the relay has joined there.
        passage: what has come back; ``None`` before the relay has joined above, and where nobody asks for it.
    """

    def __init__(self, team: Team) -> None:
        self.least = self.newest_above = 0
        self.members_above = 1
        self.apart = self.told = False
        self._sizes: dict[str, float] = {}
        self._momentum: dict[str, float] = {}
        self.passage: Passage | None = None
        super().__init__(team)

    def _begin(self, rows: int) -> None:
        super()._begin(rows)
        self._adaptation = _Follows(self.team, self._policy)
        self._levels = np.zeros(rows, dtype=np.int32)
        self._held = 0

    def lay_out(self, layout: Layout) -> None:
        super().lay_out(layout)
        self.returning = Returning(None, to_all=True)  # until it has joined above

    # -- from above --------------------------------------------------------------------------------------------

    def joined_above(self, iteration: int, passage: Passage | None) -> None:
        """The relay has joined above: its parameters are the team's, of this iteration at least.

        Args:
            iteration: in the gate's count.
            passage: follows what is sent up, where workers ask what has come back of it.
        """
        self.least = max(self.least, iteration)
        self.told = False
        self.passage = passage
        self.returning.counter = passage
        if passage is not None:
            passage.restart()

    def heard_horizon(self, held: int, newest: int, members: int) -> None:
        """What is held here has everybody's contributions up to ``held``; see the attributes for the others."""
        if held > self._held:
            self._held = held
            self._levels[:] = held
        self.newest_above, self.members_above, self.told = newest, members, True
        self.team.notifier.wake_all(self.team.members.values())

    def coming(self, message: Rows, numbers: npt.NDArray[np.int64] | int) -> None:
        """Rows are about to be added to what workers are owed; they hold what went up in frames up to ``numbers``."""
        super()._wake_unserved()
        super()._touch(message.rows)
        if self.passage is not None:
            self.passage.arrived(message.rows, numbers)

    # -- what workers are told ---------------------------------------------------------------------------------

    @property
    def levels(self) -> npt.NDArray[np.int32]:
        return self._levels

    @property
    def held(self) -> int:
        return self._held

    def least_iteration(self) -> int:
        return max(self.least, super().least_iteration())

    def size(self) -> int:
        """See :class:`ServerRule`; all workers of the tree count, and those below at least."""
        return max(self.members_above, super().size())

    def newest_of_all(self) -> int:
        return max(self.newest_above, super().newest_of_all())

    def waits_for(self, member: Member) -> bool:
        return super().waits_for(member) and not self.apart

    def in_outage(self, streamed: StreamedMember) -> bool:
        """One that goes on because the relay is in an outage is in none itself."""
        return super().in_outage(streamed) and streamed.told is not None and streamed.told.counted

    def _tell(self, now: float, member: Member) -> Horizon | None:
        return super()._tell(now, member) if self.told else None

    # -- from below --------------------------------------------------------------------------------------------

    def _wake_unserved(self) -> None:
        """What has come from below is owed to nobody here."""

    def _touch(self, rows: npt.NDArray[np.int64]) -> None:
        """What has come from below is owed to nobody here."""

    def _computed(self, now: float, member: Member, message: Computed) -> None:
        super()._computed(now, member, message)
        self._sizes[member.name], self._momentum[member.name] = message.size, message.momentum

    def remove(self, member: Member) -> None:
        super().remove(member)
        self._sizes.pop(member.name, None)
        self._momentum.pop(member.name, None)

    def leaves(self) -> int:
        """Workers below among whom updates are shared, in outages as well."""
        return self.team.gate.leaves + sum(member.leaves for member in self.outages.sharing())

    def usual_size(self) -> float:
        """Sum |.| of what a worker below has contributed to its last iteration, on the average."""
        return math.fsum(self._sizes.values()) / max(len(self._sizes), 1)

    def most_momentum(self) -> float:
        """The largest of the momenta of the inner optimizers below."""
        return max(self._momentum.values(), default=0.0)
