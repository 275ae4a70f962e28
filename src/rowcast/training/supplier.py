"""A worker whose samples come as a stream: what it tells the server of it, and its share of the team's batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from rowcast.streams import BatchRule
from rowcast.streams.sharing import DEAD_BAND
from rowcast.wire import Message, Share, Supply

__all__ = ["Supplier"]

#: Weight of the past in the mean speed of the processor.
_PAST = 0.8


class Supplier:
    """Tells the server how many samples this worker can train on each second, when that has changed.

    Args:
        say: queues a message to the server, if there is a connection.

    Attributes:
        share: samples of the team's batch that are this worker's; ``None`` before the server has told it.
        team_rate: samples a second of all who share it.
        speed: samples a second that the processor takes, as measured; ``None`` before the first step.
    """

    def __init__(self, say: Callable[[Message], None]) -> None:
        self.share: int | None = None
        self.team_rate = 0.0
        self.speed: float | None = None
        self._say = say
        self._said: Supply | None = None

    def worked(self, samples: int, seconds: float) -> None:
        """A gradient of ``samples`` took ``seconds``."""
        if samples <= 0 or seconds <= 0:
            return
        now = samples / seconds
        self.speed = now if self.speed is None else _PAST * self.speed + (1 - _PAST) * now

    def supply(self, rule: BatchRule, rate: float | None) -> None:
        """Say that there is a stream, and what of it can be trained on, if that is not what was said last.

        It is the same as long as it has changed by less than the dead band. Where nothing is shared, or nobody can
        know yet, it is said once that there is a stream.

        Args:
            rule: of the worker's batches.
            rate: that its stream allows (samples/s); ``None``: not known.
        """
        usable = self._usable(rule, rate)
        self.tell(Supply(0.0, 0) if usable is None else Supply(usable, rule.total, rule.most))

    def tell(self, supply: Supply) -> None:
        """Say what can be trained on, if that is not what was said last, the dead band aside."""
        # Beyond 1e9 a server takes it for nonsense.
        supply = Supply(min(supply.rate, 1e9), supply.total, supply.most)
        if (said := self._said) is not None:
            same = (supply.total, supply.most) == (said.total, said.most)
            if not supply.total or (same and abs(supply.rate - said.rate) <= DEAD_BAND * said.rate):
                return
        self._said = supply
        self._say(supply)

    def connected(self) -> None:
        """The server has let this worker in, on a new connection: what was said may have been lost with the old one."""
        if self._said is not None:
            self._say(self._said)

    def on_share(self, now: float, message: Message) -> None:
        """The server tells the share."""
        told = cast(Share, message)
        self.share, self.team_rate = told.samples, max(told.rate, 0.0)

    def _usable(self, rule: BatchRule, rate: float | None) -> float | None:
        if rule.shares_by == "speed":
            return self.speed
        if rule.shares_by == "stream":
            return rate if rate is None or self.speed is None else min(rate, self.speed)
        return None
