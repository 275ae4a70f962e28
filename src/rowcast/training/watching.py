"""What a server writes of its robots while somebody watches: where each of them is, and how old its rows are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rowcast.rows import Layout
from rowcast.training.explain import status

if TYPE_CHECKING:
    from rowcast.training.team import Team

__all__ = ["TeamWatch"]

#: Layers of the map of rows at most: neighbours are put together where there are more.
MOST_LAYERS = 48


class TeamWatch:
    """Writes the events ``told``, ``layers`` and ``rows``; reads the state of the team, and changes nothing.

    Args:
        team: the team.
        every_s: seconds between two times; 0: never. The map of rows is written every second time.
    """

    def __init__(self, team: Team, every_s: float) -> None:
        self._team = team
        self._every_s = every_s
        self._next_at = -np.inf
        self._map_is_next = True
        self._layout: Layout | None = None
        self._firsts: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)

    def look(self, now: float) -> None:
        """Write what is due at ``now`` (s)."""
        if not self._every_s or now < self._next_at:
            return
        self._next_at = now + self._every_s
        self._tell(now)
        layout = self._team.model.layout
        if layout is None or self._team.model.ledger is None:
            return
        if self._map_is_next:
            if layout is not self._layout:
                self._tell_layers(now, layout)
            self._tell_rows(now, layout)
        self._map_is_next = not self._map_is_next

    def _tell(self, now: float) -> None:
        team = self._team
        for line in status(now, team):
            member = team.members[line.name]
            meter = member.owed.meter
            team.journal.record(
                now,
                "told",
                peer=line.name,
                state=member.state.value,
                iteration=line.iteration,
                staleness=line.staleness,
                waited_s=round(line.waited_s, 3),
                down_bps=round(meter.rate_bps(now)) if meter.measured else None,
                down_bytes=member.owed.sent_bytes,
                in_flight_bytes=member.owed.in_flight,
                metrics=line.metrics,
            )

    def _tell_layers(self, now: float, layout: Layout) -> None:
        bounds = layout.tensor_rows
        count = min(len(layout.tensors), MOST_LAYERS)
        parts = np.array_split(np.arange(len(layout.tensors)), count)
        self._layout, self._firsts = layout, bounds[[part[0] for part in parts]]
        names = [
            layout.tensors[part[0]].name + ("" if len(part) == 1 else f" .. {layout.tensors[part[-1]].name}")
            for part in parts
        ]
        rows = np.diff(np.append(self._firsts, layout.rows))
        self._team.journal.record(now, "layers", names=names, rows=rows.tolist())

    def _tell_rows(self, now: float, layout: Layout) -> None:
        versions, firsts = self._team.gate.versions, self._firsts
        counts = np.diff(np.append(firsts, layout.rows))
        newest = max((member.begun_iteration for member in self._team.members.values() if member.gated), default=0)
        for name, member in sorted(self._team.members.items()):
            if name not in versions:
                continue
            held = versions.of(name)
            age = np.maximum(newest - held.astype(np.int64), 0)
            missing = held < member.begun_iteration
            self._team.journal.record(
                now,
                "rows",
                peer=name,
                iteration=member.begun_iteration,
                mean_age=np.round(np.add.reduceat(age, firsts) / counts, 2).tolist(),
                oldest_age=np.maximum.reduceat(age, firsts).tolist(),
                pending=np.round(np.add.reduceat(missing.astype(np.float64), firsts) / counts, 3).tolist(),
            )
