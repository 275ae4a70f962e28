"""The team's parameters, and what is owed to the workers: every update goes into all of them, once."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec
from rowcast.delivery.arrivals import Arrivals, decode_small
from rowcast.delivery.backlog import MAX_STAMP, Backlog
from rowcast.rows import Layout
from rowcast.rows.digest import digest_of
from rowcast.rows.kernels import add_rows
from rowcast.training.member import Member
from rowcast.wire import Rows

__all__ = ["Ledger"]


class Ledger:
    """Model-sized memory of the server: the parameters, one vector for each worker, and one more with slack 0.

    Where all workers are sent one stream, one vector for all takes the place of those of the workers.

    With slack 0 a worker computes on exactly the sum of all iterations up to its own. A fast worker may push the
    next one while a slow link still pulls this one: for those who have not begun it, that is summed up in one
    vector for all, and becomes owed when they begin. More than one iteration never waits there, because the gate
    lets nobody start another one before all have begun this.

    Args:
        layout: the model's rows.
        parameters: flat float32; taken over and changed in place.
        strict: slack is 0.
        common: what is owed to all workers alike, or ``None``.
        arrivals: where updates are noted for what members are owed each; ``None``: a place of its own.
    """

    def __init__(
        self,
        layout: Layout,
        parameters: npt.NDArray[np.float32],
        *,
        strict: bool,
        common: Backlog | None = None,
        arrivals: Arrivals | None = None,
    ) -> None:
        self.layout = layout
        self.parameters = parameters
        self.common = common
        self.arrivals = arrivals or Arrivals(layout)
        self._strict = strict
        self._later: npt.NDArray[np.float32] | None = None
        self._later_iteration = 0
        self._digest = b""

    @property
    def digest(self) -> bytes:
        """Digest of the parameters; worked out when it is asked for."""
        self._digest = self._digest or digest_of(self.parameters)
        return self._digest

    def admit(self, member: Member) -> None:
        """``member`` is owed what comes from now on."""
        if not member.owed.follows:
            member.owed.source.own.subscribe(member.name, self.arrivals)

    def dismiss(self, member: Member) -> None:
        """``member`` is owed nothing that comes from now on."""
        member.owed.source.own.unsubscribe()

    def bring_up(self, member: Member) -> None:
        """Before something is sent to ``member``: what it is owed is to be complete."""
        backlog = member.owed.source.own
        backlog.catch_up()
        if backlog.grown:
            backlog.grown = False
            member.owes_more()

    def add(self, codec: Codec, message: Rows, members: Collection[Member]) -> None:
        """Take an update in: subtract it from the parameters, owe it to everybody (its author included).

        It is decoded once, whoever is owed; what members are owed each is brought up to date when it is looked at.

        Args:
            codec, message: the update.
            members: those to whom it is owed beside what is owed to all alike.
        """
        values = decode_small(self.layout, codec, message)
        self._into(self.parameters, -1.0, codec, message, values)
        if self.common is not None:
            self._into(self.common.vector, 1.0, codec, message, values)
            self.common.measured = False
        self._digest = b""
        if self._strict and any(self._waits(member, message.iteration) for member in members):
            if message.iteration != self._later_iteration:
                for member in members:
                    self._give(member)
                self._forget()
                self._later_iteration = message.iteration
            if self._later is None:
                self._later = self.layout.zeros()
            self._into(self._later, 1.0, codec, message, values)
        self.arrivals.add(codec, message, values)

    def _into(
        self,
        vector: npt.NDArray[np.float32],
        sign: float,
        codec: Codec,
        message: Rows,
        values: npt.NDArray[np.float32] | None,
    ) -> None:
        """Add an update to ``vector``: its decoded rows, if there are any."""
        if values is not None:
            add_rows(vector, self.layout.offsets, message.rows, values, sign)
        elif len(message.payload):
            codec.add(self.layout, message.payload, message.rows, vector, sign)

    def begin(self, member: Member, iteration: int) -> None:
        """``member`` has begun ``iteration``: what was kept back from it is owed."""
        if iteration > member.begun_iteration:
            member.owed.source.own.catch_up()
            if iteration >= self._later_iteration:
                self._give(member)
            member.begun_iteration = iteration
            self._limit(member)

    def settle(self, member: Member) -> None:
        """Nothing is kept back from ``member`` any longer."""
        member.owed.source.own.catch_up()
        self._give(member)
        member.owed.source.own.limit = MAX_STAMP

    def _give(self, member: Member) -> None:
        """What was kept back from ``member`` up to now is owed."""
        if self._later is not None and self._waits(member, self._later_iteration):
            member.owed.source.own.vector += self._later
            member.owes_more()

    def _limit(self, member: Member) -> None:
        """What comes from now on is kept back from ``member`` where it belongs to an iteration that it has not begun.

        Call it whenever that changes, with what has come before taken in.
        """
        member.owed.source.own.limit = member.begun_iteration if self._strict and member.gated else MAX_STAMP

    def keep_back(self, member: Member, members: Iterable[Member]) -> None:
        """``member`` counts from now on and was owed everything: what others wait for is kept back from it."""
        member.owed.source.own.catch_up()
        self._limit(member)
        if self._later is None or not self._waits(member, self._later_iteration):
            return
        if any(self._waits(other, self._later_iteration) for other in members if other is not member):
            member.owed.source.own.vector -= self._later
            member.owes_more()
        else:
            self._forget()

    def _forget(self) -> None:
        """Nobody waits for what was kept back."""
        if self._later is not None:
            self._later[:] = 0
        self._later_iteration = 0

    def kept_back(self, member: Member) -> npt.NDArray[np.float32]:
        """The updates that are kept back from ``member``, flat float32 (for the books)."""
        if self._later is None or not self._waits(member, self._later_iteration):
            return self.layout.zeros()
        return self._later

    def _waits(self, member: Member, iteration: int) -> bool:
        return self._strict and member.gated and iteration > member.begun_iteration
