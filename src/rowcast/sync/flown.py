"""FLOWN: which of the workers that wait may transfer their whole model now.

Source: Chen, Yang, Saad, Yin, Poor, Cui, "A Joint Learning and Communications Framework for Federated Learning over
Wireless Networks", TWC 2021 (arXiv 1909.07972), made implementable as in algorithms.md section 4. The paper schedules
users on resource blocks so that the sum of K_i (1 - a_i + a_i q_i) is smallest: K_i samples, a_i takes part, q_i its
transfer fails. Here a block is one of a few slots, and a transfer fails when it is expected to take too long:

* At most C transfers at once, pushes and pulls together, by decreasing K_i (1 - q_i).
* q_i is the share of the last 10 s of rates of worker i at which B bytes would take longer than gamma_T, and gamma_T
  is twice the median time of the transfers so far.
* Who is predicted to need longer than gamma_T stays out, unless it is far enough behind (see below), or nobody else
  waits and no slot is taken.
* A worker that is S_i iterations or more behind the newest goes first, whatever its link. S_i = S * median rate / rate
  of i, rounded and kept in 1 .. S_max: slow workers, which hold up the slots, may fall further behind.

A decision holds for the whole transfer of the whole model: the link may be gone when the model is half through. That is
FLOWN's own weakness, and is kept.
"""

from __future__ import annotations

import enum
import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rowcast.errors import ConfigError

__all__ = ["Candidate", "Direction", "FlownScheduler", "Request", "choose", "lag_threshold", "late_share"]

SLOTS = 2
MEMORY_S = 10.0
#: Observations closer together than this count as one, the newest: q is a share of time, not of acknowledgements.
GRAIN_S = 0.1
#: gamma_T is the median of so many of the last transfers.
TRANSFERS = 64
#: S_max, in units of S.
LONGEST = 4


class Direction(enum.Enum):
    """Which way a model travels."""

    PUSH = "push"
    PULL = "pull"


@dataclass(frozen=True)
class Request:
    """A worker waits for a slot.

    Attributes:
        worker: its name.
        direction: what it wants to do.
        since: since when (s).
    """

    worker: str
    direction: Direction
    since: float


@dataclass(frozen=True)
class Candidate:
    """What is known of a worker when slots are given.

    Attributes:
        iteration: iterations of which the server has the push (n_i).
        samples: its share in the average (K_i), in any unit that is the same for all, > 0.
        rates_bps: its rates in the direction that it waits for, of the last 10 s, bit/s; empty where none is known.
    """

    iteration: int
    samples: float = 1.0
    rates_bps: tuple[float, ...] = ()

    @property
    def rate_bps(self) -> float | None:
        """The mean rate, bit/s; ``None`` where none is known."""
        return statistics.fmean(self.rates_bps) if self.rates_bps else None


def late_share(rates_bps: Sequence[float], size_bytes: float, limit_s: float) -> float:
    """q: the share of rates at which a transfer takes longer than the limit, 0 .. 1; 0 where no rate is known."""
    if not rates_bps:
        return 0.0
    return sum(8 * size_bytes > rate * limit_s for rate in rates_bps) / len(rates_bps)


def lag_threshold(slack: int, rate_bps: float | None, median_bps: float | None, longest: int) -> int:
    """S_i: a worker that is so many iterations behind the newest goes first.

    Args:
        slack: S.
        rate_bps, median_bps: its own mean rate and the median of the team, bit/s; ``None``: not known, and S holds.
        longest: S_max, the largest result; but the result is never below 1.
    """
    if rate_bps is None or median_bps is None:
        wanted = float(slack)
    elif rate_bps <= 0:
        wanted = math.inf
    else:
        wanted = slack * median_bps / rate_bps
    return max(1, longest if wanted >= longest else round(wanted))


def choose(
    requests: Sequence[Request],
    candidates: Mapping[str, Candidate],
    *,
    taken: int,
    size_bytes: float,
    limit_s: float,
    slack: int,
    longest: int,
    slots: int = SLOTS,
) -> list[Request]:
    """Who of those that wait may begin now, best first.

    Args:
        requests: who waits; each worker once, and each has a candidate.
        candidates: every worker that counts.
        taken: slots in use.
        size_bytes: bytes of a transfer (B).
        limit_s: gamma_T; infinite before the first transfer.
        slack: S.
        longest: S_max.
        slots: C, transfers at once.
    """
    free = slots - taken
    if free <= 0 or not requests:
        return []
    newest = max(candidate.iteration for candidate in candidates.values())
    known = [candidate.rate_bps for candidate in candidates.values() if candidate.rate_bps is not None]
    median = statistics.median(known) if known else None

    def lag(request: Request) -> int:
        return newest - candidates[request.worker].iteration

    def overdue(request: Request) -> bool:
        return lag(request) >= lag_threshold(slack, candidates[request.worker].rate_bps, median, longest)

    def in_time(request: Request) -> bool:
        rate = candidates[request.worker].rate_bps
        return rate is None or 8 * size_bytes <= rate * limit_s

    def rank(request: Request) -> tuple[float, float, float, str]:
        candidate = candidates[request.worker]
        score = candidate.samples * (1 - late_share(candidate.rates_bps, size_bytes, limit_s))
        rate = math.inf if candidate.rate_bps is None else candidate.rate_bps
        return -score, -rate, request.since, request.worker

    first = sorted((request for request in requests if overdue(request)), key=lambda r: (-lag(r), *rank(r)))
    others = sorted((request for request in requests if not overdue(request)), key=rank)
    chosen = first + [request for request in others if in_time(request)]
    if not chosen and taken == 0:
        return others[:1]
    return chosen[:free]


class FlownScheduler:
    """The slots of a team: who waits, who has one, and what is known of the links.

    The caller asks for a worker, takes :meth:`admit` whenever something has changed, and says when a transfer is over.
    It keeps no clock: every call takes ``now`` (s). Nothing changes by time alone, so it needs no timer.

    Args:
        slack: S, >= 0.
        slots: C, transfers at once, >= 1.

    Raises:
        ConfigError: a number is out of its range.

    Example::

        scheduler = FlownScheduler(4)
        scheduler.ask(now, "robot-1", Direction.PUSH)
        for request in scheduler.admit(now, {"robot-1": (0, 1.0)}, size_bytes=2.1e6):
            ...  # tell request.worker to begin
        scheduler.done(later, "robot-1")
    """

    def __init__(self, slack: int, *, slots: int = SLOTS) -> None:
        if slack < 0 or slots < 1:
            raise ConfigError(f"flown: expected a slack of 0 or more and 1 slot or more, got {slack} and {slots}")
        self.slack = slack
        self.slots = slots
        self.longest = LONGEST * slack
        self._waiting: dict[str, Request] = {}
        self._active: dict[str, tuple[Request, float]] = {}
        self._rates: dict[tuple[str, Direction], deque[tuple[float, float]]] = {}
        self._times: deque[float] = deque(maxlen=TRANSFERS)

    @property
    def limit_s(self) -> float:
        """gamma_T: twice the median time of the last transfers (s); infinite before the first."""
        return 2 * statistics.median(self._times) if self._times else math.inf

    @property
    def waiting(self) -> list[Request]:
        """Who waits for a slot, in the order of asking."""
        return list(self._waiting.values())

    @property
    def active(self) -> list[Request]:
        """Who has a slot, in the order of admission."""
        return [request for request, _ in self._active.values()]

    def observe(self, now: float, worker: str, direction: Direction, rate_bps: float) -> None:
        """The rate of acknowledged bytes of a worker's link is so high now, bit/s."""
        rates = self._rates.setdefault((worker, direction), deque())
        if rates and now - rates[-1][0] < GRAIN_S:
            rates[-1] = (rates[-1][0], rate_bps)
        else:
            rates.append((now, rate_bps))
        self._prune(now, rates)

    def ask(self, now: float, worker: str, direction: Direction) -> None:
        """``worker`` wants a slot. Who has one, or asked before, begins anew (its link was cut)."""
        self.withdraw(worker)
        self._waiting[worker] = Request(worker, direction, now)

    def admit(self, now: float, team: Mapping[str, tuple[int, float]], size_bytes: float) -> list[Request]:
        """Give slots to whom they are due, best first.

        Args:
            now: time (s).
            team: iteration n_i and samples K_i of every worker that counts. Who waits and is not there goes on waiting.
            size_bytes: bytes of a transfer.
        """
        requests = [request for worker, request in self._waiting.items() if worker in team]
        if len(self._active) >= self.slots or not requests:
            return []
        candidates = {}
        for worker, (iteration, samples) in team.items():
            asked = self._waiting.get(worker)
            direction = Direction.PUSH if asked is None else asked.direction
            candidates[worker] = Candidate(iteration, samples, self._recent(now, worker, direction))
        chosen = choose(
            requests,
            candidates,
            taken=len(self._active),
            size_bytes=size_bytes,
            limit_s=self.limit_s,
            slack=self.slack,
            longest=self.longest,
            slots=self.slots,
        )
        for request in chosen:
            del self._waiting[request.worker]
            self._active[request.worker] = (request, now)
        return chosen

    def done(self, now: float, worker: str) -> None:
        """The transfer of ``worker`` is complete: its slot is free. Who had none is ignored."""
        entry = self._active.pop(worker, None)
        if entry is not None:
            self._times.append(now - entry[1])

    def withdraw(self, worker: str) -> None:
        """``worker`` neither waits nor transfers any more (its link was lost): its slot is free at once."""
        self._waiting.pop(worker, None)
        self._active.pop(worker, None)

    def remove(self, worker: str) -> None:
        """``worker`` has left: as :meth:`withdraw`, and what was known of its link is forgotten."""
        self.withdraw(worker)
        for direction in Direction:
            self._rates.pop((worker, direction), None)

    def _recent(self, now: float, worker: str, direction: Direction) -> tuple[float, ...]:
        """The rates of the last 10 s; of a link that was idle for longer, the newest one."""
        rates = self._rates.get((worker, direction))
        if not rates:
            return ()
        self._prune(now, rates)
        return tuple(rate for _, rate in rates)

    @staticmethod
    def _prune(now: float, rates: deque[tuple[float, float]]) -> None:
        while len(rates) > 1 and rates[0][0] < now - MEMORY_S:
            rates.popleft()
