"""What the server holds of the team's model: the first worker brings it, and nothing is there before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec
from rowcast.delivery.arrivals import Arrivals
from rowcast.delivery.outbox import Outbox
from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout
from rowcast.sync import VersionTable
from rowcast.training.guard import Guard
from rowcast.training.ledger import Ledger
from rowcast.training.member import Member
from rowcast.training.proposal.row_weights import RowWeights
from rowcast.training.timing_ledger import TimingLedger
from rowcast.wire import Rows

if TYPE_CHECKING:
    from rowcast.training.team import Team

__all__ = ["Model"]


class Model:
    """The layout, the parameters and what belongs to them, of the kinds that the policy and the layout ask for.

    Args:
        team: the team; the version table of its gate is made when the layout is known.

    Attributes:
        layout: the model's rows, or ``None`` before the first worker came.
        ledger: the parameters and what is owed; ``None`` before the first worker sent the parameters.
        arrivals: where updates are noted for what members are owed each; ``None`` before the layout is known.
        row_weights: what each row counts; ``None`` where every row counts among all members.
        guard: looks at what members send; ``None``: nobody does.
    """

    def __init__(self, team: Team) -> None:
        self.layout: Layout | None = None
        self.ledger: Ledger | None = None
        self.arrivals: Arrivals | None = None
        self.row_weights: RowWeights | None = None
        self.guard: Guard | None = None
        self._team = team

    def begin(self, name: str, layout: Layout) -> Outbox:
        """The first worker has told the layout.

        Returns:
            The outbox of this worker; the parameters that it sends are written into its ``source``.

        Raises:
            RemoteProtocolError: there is no memory for such a model.
        """
        self.arrivals = Arrivals(layout)
        try:
            self._team.rule.lay_out(layout)
            outbox = self.outbox_for(name, layout)
        except MemoryError as error:
            raise RemoteProtocolError(f"expected a model that fits in memory, got {layout}") from error
        self.layout = layout
        self._team.gate.versions = VersionTable(layout.rows)
        return outbox

    def complete(self, layout: Layout, parameters: npt.NDArray[np.float32]) -> Ledger:
        """The first worker has sent all parameters: flat float32, taken over."""
        policy, common = self._team.policy, self._team.rule.common
        if layout.is_timing_only:
            self.ledger = TimingLedger(layout, parameters, common=common, arrivals=self.arrivals)
        else:
            strict = policy.slack == 0
            self.ledger = Ledger(layout, parameters, strict=strict, common=common, arrivals=self.arrivals)
            if policy.row_weights == "contributors":
                self.row_weights = RowWeights(layout)
            if (guard := self._team.settings.guard) != "off":
                self.guard = Guard(layout, quarantines=guard != "clip", alike=guard == "strict")
        return self.ledger

    def add(self, codec: Codec, message: Rows) -> None:
        """An update is to count: here, or where there is a server above, there."""
        above, ledger = self._team.above, self.ledger
        assert ledger is not None
        if above is not None:
            above.pass_up(codec, message)
        else:
            ledger.add(codec, message, self._team.rule.owing())

    def judge(self, member: Member, codec: Codec, message: Rows) -> tuple[Codec, Rows]:
        """An update of ``member`` as the guard lets it count, in the units of the worker."""
        if self.guard is None or member.below:  # the sum of many is in no proportion to what one worker sends
            return codec, message
        return self.guard.judge(member.name, codec, message, self._team.rule.sharing())

    def weigh(self, member: Member, codec: Codec, message: Rows) -> tuple[Codec, Rows]:
        """An update of ``member`` as it is to be applied: times what its rows count beyond 1 / members."""
        if self.row_weights is None:
            return codec, message
        return self.row_weights.weigh(member.name, codec, message, self._team.rule.sharing())

    def forget_member(self, member: Member) -> None:
        """``member`` has left for good; another life of it is a newcomer."""
        if self.row_weights is not None:
            self.row_weights.forget(member.name)
        if self.guard is not None:
            self.guard.forget(member.name)

    def forget(self) -> None:
        """There are no parameters: who brought them has left before they were all here, or the team begins anew."""
        self.layout = self.ledger = self.row_weights = self.guard = self.arrivals = None
        self._team.positions.clear()
        self._team.rule.reset()

    def outbox_for(self, name: str, layout: Layout) -> Outbox:
        """A new outbox for the worker called ``name``."""
        source = layout.zeros() if self.ledger is None else self.ledger.parameters
        return self._team.rule.outbox(name, layout, source)

    @property
    def digest(self) -> bytes:
        """Digest of the parameters; empty before they are there."""
        return b"" if self.ledger is None else self.ledger.digest

    def suffices(self, digest: bytes) -> bool:
        """Whether a worker whose parameters have this digest needs no others."""
        return self.ledger is not None and digest == self.ledger.digest and self._team.rule.clean
