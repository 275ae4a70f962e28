"""When how many samples make a batch, and how much it counts.

================= ======================================================================================================
``fixed:64``      64 samples, however long they take to come
``rate:1s``       what came in one second (ScaDLES); counts as its share of 64 samples for each worker (``rate:1s@64``)
``team:1024``     this worker's share of 1,024 samples of the whole team, in proportion to what each one's stream brings
                  and its processor can take; counts as that share; until the server has told the shares they are equal
``team:1024/256`` the same, of which this worker takes 256 at most: what its memory holds
``speed:1024``    the same, in proportion to the processors alone (Tyagi and Sharma 2020); ``speed:1024/256``
================= ======================================================================================================

A batch of ``n`` samples counts ``n / B`` times its mean gradient, where ``B`` is the batch of the whole team for which
the learning rate is meant. That is ScaDLES's weighted mean with its scaled learning rate in one constant:
``(b_i / sum b) (sum b / B) = b_i / B`` (algorithms.md 13): a worker needs to know nobody else's rate for it.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from rowcast.config import as_number
from rowcast.errors import ConfigError, near_match

__all__ = ["MOST_SAMPLES", "BatchRule", "FixedBatch", "Held", "RateBatch", "SpeedBatch", "TeamBatch", "parse_batch"]

#: Samples of a batch for which learning rates are meant, where nothing is said.
_USUAL = 64
#: Samples of one batch at most: what a processor cannot hold at once.
MOST_SAMPLES = 65_536


@dataclass(frozen=True, slots=True)
class Held:
    """What a worker knows when it looks whether a batch can begin.

    Attributes:
        queued: samples that wait.
        rate: of the stream (samples/s); ``None``: not known yet.
        since: when the last batch was taken, or the stream began (s).
        share: of the team's batch; ``None``: all of it.
        late: it has waited for much longer than the team's streams take to bring a batch.
    """

    queued: int
    rate: float | None
    since: float
    share: int | None = None
    late: bool = False


@dataclass(frozen=True)
class BatchRule(ABC):
    """When a batch can begin, how many samples it takes, and how much it counts."""

    #: What the shares of a team's batch go by: 'stream' (what arrives and can be computed), 'speed' (what can be
    #: computed); empty where nothing is shared.
    shares_by: ClassVar[str] = ""
    #: Every sample counts, so that none gives way to a newer one unless that is asked for.
    keeps_all: ClassVar[bool] = False
    #: Samples of the whole team's batch; 0 where nothing is shared.
    total: ClassVar[int] = 0
    #: Samples of it that this worker can take at once; 0: all.
    most: ClassVar[int] = 0

    @abstractmethod
    def needs(self, held: Held) -> int:
        """Samples that have to wait before a batch begins, 1 or more."""

    @abstractmethod
    def takes(self, held: Held) -> int:
        """Samples of the batch that begins now, where that many wait."""

    def gathers(self, held: Held) -> int:
        """Samples that it waits for, and that a buffer keeps meanwhile in any case; here, those that it needs."""
        return self.needs(held)

    def begins_at(self, held: Held) -> float:
        """When a batch begins at the earliest (s)."""
        return -math.inf

    @abstractmethod
    def weight(self, samples: int, members: int) -> float:
        """How much a mean gradient of ``samples`` counts in a team of ``members``: ``samples / B``."""


@dataclass(frozen=True)
class FixedBatch(BatchRule):
    """Always as many samples."""

    size: int
    keeps_all = True

    def __str__(self) -> str:
        return f"fixed:{self.size}"

    def needs(self, held: Held) -> int:
        return self.size

    def takes(self, held: Held) -> int:
        return self.size

    def weight(self, samples: int, members: int) -> float:
        return samples / (self.size * max(members, 1))


@dataclass(frozen=True)
class RateBatch(BatchRule):
    """What came within a window; ``reference``: samples of each worker for which the learning rate is meant."""

    window_s: float = 1.0
    reference: int = _USUAL

    def __str__(self) -> str:
        text = f"rate:{self.window_s:g}s"
        return text if self.reference == _USUAL else f"{text}@{self.reference}"

    def needs(self, held: Held) -> int:
        return 1

    def takes(self, held: Held) -> int:
        return _at_the_rate(held, self.window_s)

    def begins_at(self, held: Held) -> float:
        return held.since + self.window_s

    def weight(self, samples: int, members: int) -> float:
        return samples / (self.reference * max(members, 1))


@dataclass(frozen=True)
class TeamBatch(BatchRule):
    """A share of a batch of the whole team.

    Who is late takes what is there: its stream has become slower than when the batch was shared out, and under a
    synchronous policy everybody waits for it.
    """

    total: int  # type: ignore[misc]
    most: int = 0  # type: ignore[misc]
    shares_by = "stream"

    def __str__(self) -> str:
        return f"team:{_of_total(self)}"

    def needs(self, held: Held) -> int:
        return 1 if held.late else self.gathers(held)

    def takes(self, held: Held) -> int:
        return min(self.gathers(held), held.queued)

    def gathers(self, held: Held) -> int:
        return self.total if held.share is None else max(1, held.share)

    def weight(self, samples: int, members: int) -> float:
        return samples / self.total


@dataclass(frozen=True)
class SpeedBatch(TeamBatch):
    """The same by the speed of the processors; it waits for its share, whatever the stream brings."""

    shares_by = "speed"

    def __str__(self) -> str:
        return f"speed:{_of_total(self)}"

    def needs(self, held: Held) -> int:
        return self.gathers(held)


def _at_the_rate(held: Held, window_s: float) -> int:
    """Samples of a window, of those that wait; as long as the rate is not known, no more than usual."""
    wanted = _USUAL if held.rate is None else round(held.rate * window_s)
    return min(max(1, wanted), held.queued, MOST_SAMPLES)


def _fixed(text: str, value: str) -> BatchRule:
    return FixedBatch(_samples(text, value))


def _rate(text: str, value: str) -> BatchRule:
    window, at, reference = value.partition("@")
    seconds = as_number(window.removesuffix("s")) if window.endswith("s") else None
    if seconds is None or not 0 < seconds <= 3600:
        raise ConfigError(f"batch {text}: expected a window above 0 s, as in rate:1s or rate:0.5s@64")
    return RateBatch(seconds, _samples(text, reference)) if at else RateBatch(seconds)


_RULES: dict[str, Callable[[str, str], BatchRule]] = {
    "fixed": _fixed,
    "rate": _rate,
    "team": lambda text, value: TeamBatch(*_shared(text, value)),
    "speed": lambda text, value: SpeedBatch(*_shared(text, value)),
}


def parse_batch(text: str) -> BatchRule:
    """The rule that a text stands for; see this module's text.

    Raises:
        ConfigError: there is none, or a number is out of its range.
    """
    name, _, value = text.strip().partition(":")
    rule = _RULES.get(name)
    if rule is None:
        raise ConfigError(
            f"batch {text!r} is unknown; {near_match(name, ('fixed:64', 'rate:1s', 'team:1024', 'speed:1024'))}"
        )
    return rule(text, value)


def _shared(text: str, value: str) -> tuple[int, int]:
    """The team's batch, and what of it one worker takes at most; 0: all."""
    total, bounded, most = value.partition("/")
    return _samples(text, total), _samples(text, most) if bounded else 0


def _of_total(rule: TeamBatch) -> str:
    return f"{rule.total}/{rule.most}" if rule.most else str(rule.total)


def _samples(text: str, value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", value) or not 1 <= int(value) <= MOST_SAMPLES * 1000:
        raise ConfigError(f"batch {text}: expected a number of samples, 1 or more, got {value!r}")
    return int(value)
