"""A run from its beginning to what is written of it by now, and what the team was at any moment of it."""

from __future__ import annotations

import pickle
import threading
import zlib
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rowcast.page.model import Team
from rowcast.page.recording import Place, Recording
from rowcast.page.totals import Totals

__all__ = ["MOMENTS_BYTES", "History"]

T = TypeVar("T")

#: Records between two moments that are kept, at first.
FIRST_EVERY = 20_000
#: What the moments may take; where they would take more, every other one is dropped.
MOMENTS_BYTES = 48 << 20


@dataclass(frozen=True)
class _Moment:
    """The team at a time (s), compressed, and how far the journals had been read then."""

    t: float
    places: dict[str, Place]
    team: bytes

    def recall(self) -> Team:
        # What this process itself has packed, and never from a file.
        team = pickle.loads(zlib.decompress(self.team))  # noqa: S301
        assert isinstance(team, Team)
        return team


class History:
    """Feeds a team with what journals hold, and keeps moments of it, so that going back is quick.

    Args:
        path, session: see :class:`Recording`.
        totals: where records are counted as well; ``None``: nowhere.

    Attributes:
        team: what all that was read says of the team.

    Raises:
        ConfigError: see :class:`Recording`.
    """

    def __init__(self, path: str | Path, session: int = -1, totals: Totals | None = None) -> None:
        self.team = Team()
        self._totals = totals
        self.recording = Recording(path, session)
        self._path, self._session = path, session
        self._every = FIRST_EVERY
        self._moments: list[_Moment] = []
        self._moments_bytes = 0
        self._next = 0
        self._replay: tuple[float, Recording, Team] | None = None
        self._replaying = threading.Lock()

    def read(self, most: int) -> int:
        """Take in the next records, at most so many; returns how many there were.

        Raises:
            ConfigError: a file is no journal.
        """
        if self.team.records >= self._next:
            self._keep()
        records = self.recording.read(most)
        for record in records:
            self.team.take(record)
            if self._totals is not None:
                self._totals.take(record, self.team.about)
        remarks, self.recording.remarks = self.recording.remarks, []
        for remark in remarks:
            self.team.tell(self.team.now or 0.0, "page", "journal", ("trouble", remark))
        return len(records)

    def _keep(self) -> None:
        packed = zlib.compress(pickle.dumps(self.team, protocol=5), level=1)
        before_all = float("-inf") if self.team.now is None else self.team.now
        self._moments = [*self._moments, _Moment(before_all, self.recording.places(), packed)]
        self._moments_bytes += len(packed)
        while self._moments_bytes > MOMENTS_BYTES and len(self._moments) > 2:
            self._moments = self._moments[::2]  # the first one, the beginning, stays
            self._moments_bytes = sum(len(moment.team) for moment in self._moments)
            self._every *= 2
        self._next = self.team.records + self._every

    def at(self, t: float, look: Callable[[Team], T]) -> T:
        """``look`` at the team at time ``t`` (s), as the records up to then make it. From any thread.

        Raises:
            ConfigError: a file has become unreadable.
        """
        with self._replaying:
            return look(self._at(t))

    def _at(self, t: float) -> Team:
        replay = self._replay
        moments = self._moments  # the thread that reads on may put another list there
        place = bisect_right([moment.t for moment in moments], t) - 1
        moment = moments[max(place, 0)] if moments else None
        if replay is None or t < replay[0] or (moment is not None and moment.t > replay[0]):
            if moment is None:
                return Team()
            recording = Recording(self._path, self._session, moment.places)
            replay = (moment.t, recording, moment.recall())
        _, recording, team = replay
        while records := recording.read(5000, until=t):
            for record in records:
                team.take(record)
        self._replay = (t, recording, team)
        return team
