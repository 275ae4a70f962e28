"""A slack that adapts: large while much is to be learnt, smaller later, and as large as it takes on poor links."""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass

__all__ = ["SlackChange", "SlackTuner"]


@dataclass(frozen=True)
class SlackChange:
    """A decision of :class:`SlackTuner`.

    Attributes:
        slack: from now on; ``before``: up to now.
        why: 'stall' (raised), 'divergence', 'progress' or 'calm', nobody stalls any longer (lowered).
        stall_share: time that the workers waited at the gate, as a share of all of their time since the last look.
        divergence: what a replica lacks, in iterations' worth of the team's updates; ``usual``: its level so far.
        progress: size of the updates, as a share of what it was when it was largest.
    """

    slack: int
    before: int
    why: str
    stall_share: float
    divergence: float
    usual: float
    progress: float


class SlackTuner:
    """Looks at the team every few iterations and says which slack it is to have.

    Source: algorithms.md 8.12, after Dynamic SSP (Zhao et al., ICDCS 2019) and ADSP (Hu, Wang, Wu, AAAI 2020): doubled
    where more than a hundredth of the time is stall, and slowly down where it is less, since the stalls of poor links
    come in bursts; down by two where the replicas have drifted much further apart than usual; and down with
    the learning rate. The size of the updates stands for the learning rate: it follows every schedule, and falls as
    well where the training converges by itself. The slack falls with its square root: the early updates of a
    fine-tuning are several times as large as those a minute later.

    Args:
        first: the slack where nobody stalls, as long as the updates are as large as they were, >= 1.
        most: the slack to begin with, since nobody knows the links yet, and what stalls may raise it to; less than
            ``first``: that.

    Attributes:
        slack: in force.
    """

    #: A look is taken when the slowest worker has finished so many iterations more; or sooner, when the workers have
    #: waited for as long as an iteration of theirs takes, be it that they wait still: then the answer is known.
    WINDOW = 16
    #: Divergence takes so much off, and a look without stall so much off what stalls have added.
    STEP, FALL = 2, 1
    #: More stall than this share of the time is too much.
    STALL = 0.01
    #: So many times its usual level is too much divergence. One robot of four in an outage doubles the mean.
    DRIFT = 3.0
    #: So many looks tell what divergence is usual.
    MEMORY = 16

    def __init__(self, first: int, most: int = 0) -> None:
        self.first, self.most = first, max(first, most)
        self.least = min(2, first)
        self.slack = self.most
        self._looked_at: tuple[float, int] | None = None
        self._stall_s = 0.0  # since then, of waits that are over
        self._waiting: dict[str, float] = {}  # who waits, and since when, but not before the last look
        self._sizes: list[float] = []
        self._lacks: list[float] = []
        self._levels: deque[float] = deque(maxlen=self.MEMORY)
        self._largest = 0.0
        self._calm = first  # what the slack would be if nobody had ever stalled

    def waits(self, name: str, now: float) -> None:
        """A worker that counts waits at the gate, from ``now`` (s) on."""
        self._waiting[name] = now

    def goes_on(self, name: str, now: float) -> None:
        """It does not wait any longer, or does not count; nothing happens where it did not wait."""
        since = self._waiting.pop(name, None)
        if since is not None:
            self._stall_s += now - since

    def forget(self, name: str) -> None:
        """It has left for good."""
        self._waiting.pop(name, None)

    def computed(self, size: float, lack: float) -> None:
        """A worker has finished an iteration.

        Args:
            size: sum |.| of its contribution.
            lack: sum |.| of what is owed to it.
        """
        if math.isfinite(size) and math.isfinite(lack):
            self._sizes.append(size)
            self._lacks.append(lack)

    def look_at(self, members: int) -> float:
        """When a look is due that no further iteration is the occasion for (s): those who wait have waited enough.

        Args:
            members: workers that count.
        """
        times = self._iterations(members) + 1
        grows = len(self._waiting) * times - members
        if self._looked_at is None or times < 2 or grows <= 0 or self.slack >= self.most:
            return math.inf
        waited_s = self._stall_s - sum(self._waiting.values())  # at time 0
        return -(members * self._looked_at[0] + times * waited_s) / grows

    def _iterations(self, members: int) -> float:
        """Iterations that each worker has finished since the last look, on the average."""
        return len(self._sizes) / members if members else 0.0

    def look(self, now: float, oldest: int, members: int) -> SlackChange | None:
        """Decide, when it is time to.

        Args:
            now: time (s).
            oldest: iterations that everybody has finished.
            members: workers that count; none where all others have finished and the last is in an outage.
        """
        if self._looked_at is None:
            self._begin(now, oldest)
        assert self._looked_at is not None
        since, begun = self._looked_at
        if now <= since or not self._sizes or not members:
            return None
        stall_s = self._stall_s + sum(now - begun_at for begun_at in self._waiting.values())
        stall_share = stall_s / ((now - since) * members)
        times = self._iterations(members) + 1
        # The latter is the same, and holds at the very time that was given, however that was rounded.
        early = times >= 2 and (stall_share * times >= 1 or now >= self.look_at(members))
        if oldest < begun + self.WINDOW and not early:
            return None
        size = sum(self._sizes) / len(self._sizes)
        divergence = sum(self._lacks) / len(self._lacks) / (size * members) if size > 0 else 0.0
        self._largest = max(self._largest, size)
        progress = size / self._largest if self._largest > 0 else 1.0
        self._begin(now, oldest)
        self._levels.append(divergence)
        usual = statistics.median_low(self._levels)
        before = self.slack
        raised = max(before - self._calm, 0)
        self._calm = max(math.ceil(self.first * math.sqrt(progress)), self.least)
        if divergence > self.DRIFT * usual:
            self.slack, why = max(before - self.STEP, self.least), "divergence"
        elif stall_share > self.STALL:
            self.slack, why = min(2 * before, self.most), "stall"
        else:
            slack = self._calm + max(raised - self.FALL, 0)
            self.slack, why = min(before, slack), "calm" if raised else "progress"
        if self.slack == before:
            return None
        return SlackChange(self.slack, before, why, stall_share, divergence, usual, progress)

    def _begin(self, now: float, oldest: int) -> None:
        self._looked_at = (now, oldest)
        self._stall_s = 0.0
        self._waiting = dict.fromkeys(self._waiting, now)
        self._sizes, self._lacks = [], []
