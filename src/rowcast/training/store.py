"""What the server holds of the team's model: the first worker brings it, and nothing is there before."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec
from rowcast.config import LinkSettings
from rowcast.delivery.arrivals import Arrivals
from rowcast.delivery.cursor import Cursor
from rowcast.delivery.outbox import Outbox
from rowcast.delivery.shared_log import SharedLog
from rowcast.errors import RemoteProtocolError
from rowcast.journal import Journal
from rowcast.rows import Layout
from rowcast.session.board import Board
from rowcast.sync import Policy, VersionTable
from rowcast.training.gate import Gate
from rowcast.training.hollow_ledger import HollowLedger
from rowcast.training.ledger import Ledger
from rowcast.training.member import Member
from rowcast.training.proposal.row_weights import RowWeights
from rowcast.training.rules.streamed import Streaming
from rowcast.wire import Rows

__all__ = ["Store"]


class Store:
    """The layout, the parameters and what belongs to them, of the kinds that the policy and the layout ask for.

    Args:
        policy: the team's policy.
        gate: whom the gate counts; its version table is made when the layout is known.
        members: the server's members, by name.
        settings: frame and window sizes.
        board, journal: see :class:`~rowcast.training.rules.streamed.Streaming`.

    Attributes:
        layout: the model's rows, or ``None`` before the first worker came.
        ledger: the parameters and what is owed; ``None`` before the first worker sent the parameters.
        streaming: horizons of the workers; ``None`` where rows travel in pushes and pulls.
        row_weights: what each row counts; ``None`` where every row counts among all members.
    """

    def __init__(
        self,
        policy: Policy,
        gate: Gate,
        members: Mapping[str, Member],
        settings: LinkSettings,
        board: Board,
        journal: Journal,
    ) -> None:
        self.layout: Layout | None = None
        self.ledger: Ledger | None = None
        self.streaming: Streaming | None = None
        self.row_weights: RowWeights | None = None
        self._policy = policy
        self._gate = gate
        self._members = members
        self._settings = settings
        self._board = board
        self._journal = journal
        self._arrivals: Arrivals | None = None

    def begin(self, name: str, layout: Layout) -> Outbox:
        """The first worker has told the layout.

        Returns:
            The outbox of this worker; the parameters that it sends are written into its ``source``.

        Raises:
            RemoteProtocolError: there is no memory for such a model.
        """
        if self._policy.streaming:
            self.streaming = Streaming(
                self._policy,
                self._gate,
                self._members,
                layout.rows,
                frame_s=self._settings.frame_s,
                board=self._board,
                journal=self._journal,
            )
        try:
            if self.streaming is not None and self._policy.pulls == "common":
                self.streaming.share_pulls(layout, self._settings)
            outbox = self.outbox_for(name, layout)
        except MemoryError as error:
            raise RemoteProtocolError(f"expected a model that fits in memory, got {layout}") from error
        self._arrivals = Arrivals(layout)
        if self.streaming is not None:
            self.streaming.arrivals = self._arrivals
        self.layout = layout
        self._gate.versions = VersionTable(layout.rows)
        return outbox

    def complete(self, layout: Layout, parameters: npt.NDArray[np.float32]) -> Ledger:
        """The first worker has sent all parameters: flat float32, taken over."""
        common = None if self._stream is None else self._stream.debt
        if layout.is_hollow:
            self.ledger = HollowLedger(layout, parameters, common=common, arrivals=self._arrivals)
        else:
            strict = self._policy.slack == 0
            self.ledger = Ledger(layout, parameters, strict=strict, common=common, arrivals=self._arrivals)
            if self._policy.row_weights == "contributors":
                self.row_weights = RowWeights(layout)
        return self.ledger

    def weigh(self, member: Member, codec: Codec, message: Rows) -> tuple[Codec, Rows]:
        """An update of ``member`` as it is to be applied: times what its rows count beyond 1 / members."""
        if self.row_weights is None:
            return codec, message
        if self.streaming is not None:
            sharing = self.streaming.sharing()
        else:
            sharing = [one.name for one in self._gate.counted()]
        return self.row_weights.weigh(member.name, codec, message, sharing)

    def forget_member(self, member: Member) -> None:
        """``member`` has left for good; another life of it is a newcomer."""
        if self.row_weights is not None:
            self.row_weights.forget(member.name)

    def forget(self) -> None:
        """There are no parameters: who brought them has left before they were all here, or the team begins anew."""
        self.layout = self.ledger = self.streaming = self.row_weights = self._arrivals = None

    def outbox_for(self, name: str, layout: Layout) -> Outbox:
        """A new outbox for the worker called ``name``."""
        source = layout.zeros() if self.ledger is None else self.ledger.parameters
        if (stream := self._stream) is not None:
            return Cursor(name, layout, self._settings, source, stream)
        floor = None if self.streaming is None else self.streaming.floor
        return Outbox(layout, self._settings, layout.zeros(), source, state_settles=True, floor=floor)

    @property
    def digest(self) -> bytes:
        """Digest of the parameters; empty before they are there."""
        return b"" if self.ledger is None else self.ledger.digest

    def suffices(self, digest: bytes) -> bool:
        """Whether a worker whose parameters have this digest needs no others."""
        return self.ledger is not None and digest == self.ledger.digest and (self._stream is None or self._stream.clean)

    @property
    def _stream(self) -> SharedLog | None:
        """The rows that all workers are sent alike, if they are."""
        return None if self.streaming is None else self.streaming.stream
