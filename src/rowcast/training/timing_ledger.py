"""The server's memory of a timing-only team: how often each row was updated, and how far each worker was told."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec
from rowcast.delivery.arrivals import Arrivals
from rowcast.delivery.backlog import Backlog
from rowcast.rows import Layout
from rowcast.training.ledger import Ledger
from rowcast.training.member import Member
from rowcast.wire import Rows

__all__ = ["TimingLedger"]


class TimingLedger(Ledger):
    """A :class:`Ledger` for timing-only layouts: an update is counted once, not added to what each worker is owed.

    What a worker is owed is brought up to date when its pull begins, so an update costs the same in a team of four
    and of a thousand. That works for counts only: what a lossy code has not expressed of an update is a matter
    between one worker and the server. Slack 0 needs nothing kept back, because nobody computes with these numbers.
    """

    def __init__(
        self,
        layout: Layout,
        parameters: npt.NDArray[np.float32],
        *,
        common: Backlog | None = None,
        arrivals: Arrivals | None = None,
    ) -> None:
        super().__init__(layout, parameters, strict=False, common=common, arrivals=arrivals)
        self._updates = layout.zeros()
        self._told: dict[str, npt.NDArray[np.float32]] = {}

    def admit(self, member: Member) -> None:
        if member.owed.follows:
            self._told.pop(member.name, None)  # it is told what all are told
            return
        self._told[member.name] = self._updates.copy()
        super().admit(member)

    def dismiss(self, member: Member) -> None:
        self.bring_up(member)
        self._told.pop(member.name, None)
        super().dismiss(member)

    def add(self, codec: Codec, message: Rows, members: Collection[Member]) -> None:
        self._updates[message.rows] += 1
        if self.common is not None:
            self.common.vector[message.rows] += 1
            self.common.measured = False
        self.arrivals.add(codec, message, None)  # which rows are lacked

    def bring_up(self, member: Member) -> None:
        if member.name not in self._told:
            return
        new = self._updates - self._told[member.name]
        if new.any():
            member.owed.source.own.vector += new
            self._told[member.name] = self._updates.copy()
            member.owes_more()

    def begin(self, member: Member, iteration: int) -> None:
        member.begun_iteration = max(member.begun_iteration, iteration)

    def settle(self, member: Member) -> None:
        return

    def keep_back(self, member: Member, members: Iterable[Member]) -> None:
        return
