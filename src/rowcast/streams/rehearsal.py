"""Rehearsal: old samples of a stream that are trained again beside the new ones.

It pays where what is learned comes back (classes that a robot meets again and again), and costs where the world itself
moves, since what was true then is not true now. So it is off where nothing is said. Measured figures are in
:mod:`rowcast.tasks.drift`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rowcast.errors import ConfigError, LocalProtocolError, near_match

__all__ = ["MOST_REHEARSED", "Importance", "Rehearsal", "Reservoir", "parse_rehearsal"]

#: Samples that are kept at most.
MOST_REHEARSED = 1_000_000

#: A loss counts as this at least, so that what is learned perfectly may still be drawn.
_LEAST_LOSS = 1e-3


class Rehearsal(Protocol):
    """Keeps some of the samples of a stream, and gives some of them back. What a sample is, it does not look at.

    The memory is bounded by a number of samples. The same seed and the same calls give the same samples.
    """

    @property
    def capacity(self) -> int:
        """How many are kept at most."""

    @property
    def seen(self) -> int:
        """How many were offered so far."""

    def __len__(self) -> int:
        """How many are kept."""

    def add(self, items: Iterable[Any], losses: Sequence[float] | None = None) -> None:
        """Offer new samples, in the order of the stream; each is kept or not, perhaps in place of another.

        Args:
            items: the samples.
            losses: what each of them cost when it was trained; ``None``: not known.

        Raises:
            ConfigError: not as many losses as samples.
        """

    def draw(self, count: int) -> list[Any]:
        """Different ones of those that are kept: ``count``, or all where there are fewer.

        Raises:
            ConfigError: ``count`` is negative.
        """

    def told(self, losses: Sequence[float]) -> None:
        """What each sample of the last :meth:`draw` cost when it was trained again, in the same order.

        Call it before the next :meth:`add`, or not at all.

        Raises:
            ConfigError: not as many losses as were drawn.
            LocalProtocolError: something was added since then, so that they may be gone.
        """


class _Kept:
    """What both kinds share: the samples, the random numbers, and what was drawn last."""

    def __init__(self, capacity: int, seed: int) -> None:
        if isinstance(capacity, bool) or not isinstance(capacity, int) or not 1 <= capacity <= MOST_REHEARSED:
            raise ConfigError(f"rehearsal: capacity: expected 1..{MOST_REHEARSED} samples, got {capacity!r}")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ConfigError(f"rehearsal: seed: expected a whole number of 0 or more, got {seed!r}")
        self._capacity = capacity
        self._seen = 0
        self._items: list[Any] = []
        self._drawn: npt.NDArray[np.int64] | None = None
        # What is kept does not depend on how often something was drawn.
        self._keeping, self._drawing = (np.random.default_rng(each) for each in np.random.SeedSequence(seed).spawn(2))

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def seen(self) -> int:
        return self._seen

    def __len__(self) -> int:
        return len(self._items)

    def _offered(self, items: Iterable[Any], losses: Sequence[float] | None) -> list[Any]:
        found = list(items)
        if losses is not None and len(losses) != len(found):
            raise ConfigError(f"rehearsal: add: expected a loss for each of {len(found)} samples, got {len(losses)}")
        self._drawn = None
        return found

    def _at(self, places: npt.NDArray[np.int64]) -> list[Any]:
        self._drawn = places
        return [self._items[place] for place in places.tolist()]

    def _count(self, count: int) -> int:
        if count < 0:
            raise ConfigError(f"rehearsal: draw: expected 0 or more samples, got {count!r}")
        return min(count, len(self._items))

    def _told(self, losses: Sequence[float]) -> npt.NDArray[np.int64]:
        """The places of those that were drawn last."""
        if self._drawn is None:
            raise LocalProtocolError("rehearsal: told: expected the losses of a draw that nothing was added since")
        if len(losses) != len(self._drawn):
            raise ConfigError(f"rehearsal: told: expected {len(self._drawn)} losses, got {len(losses)}")
        return self._drawn


class Reservoir(_Kept):
    """A uniform sample of the whole stream so far: each sample was kept with the same chance, however long ago.

    Algorithm R: the first ``capacity`` samples are kept; number ``i`` from then on is kept with the chance
    ``capacity / i``, in place of one of those that are kept, each as likely as the others.

    Source: J. S. Vitter, "Random Sampling with a Reservoir", ACM Transactions on Mathematical Software 11, 1985.

    Args:
        capacity: how many are kept at most.
        seed: everything random follows from it.

    Raises:
        ConfigError: a capacity or a seed out of range.

    >>> reservoir = Reservoir(3, seed=0)
    >>> reservoir.add(range(1000))
    >>> len(reservoir), reservoir.seen, len(reservoir.draw(20))
    (3, 1000, 3)
    """

    def add(self, items: Iterable[Any], losses: Sequence[float] | None = None) -> None:
        """As :class:`Rehearsal` has it; losses do not matter."""
        for item in self._offered(items, losses):
            self._seen += 1
            if len(self._items) < self._capacity:
                self._items.append(item)
                continue
            place = int(self._keeping.integers(self._seen))
            if place < self._capacity:
                self._items[place] = item

    def draw(self, count: int) -> list[Any]:
        """As :class:`Rehearsal` has it; each as likely as the others."""
        return self._at(self._drawing.choice(len(self._items), self._count(count), replace=False).astype(np.int64))

    def told(self, losses: Sequence[float]) -> None:
        """As :class:`Rehearsal` has it; nothing follows from it."""
        self._told(losses)


class Importance(_Kept):
    """Keeps and draws samples in proportion to what each cost when it was last trained.

    What is kept: each sample has a random number ``u`` in 0..1 of its own and the key ``u ** (1 / loss)``; those with
    the highest keys are kept (A-Res), so that a sample among those that are kept gives way sooner when it has become
    easy. What is drawn: one after the other, in proportion to the losses of those that are left.

    A sample whose loss is not known counts as the costliest that is kept, so that it is tried soon. A loss that is no
    finite number leaves things as they are. It gave less than a :class:`Reservoir` in each task of
    :mod:`rowcast.tasks.drift` where that pays.

    Source: P. Efraimidis, P. Spirakis, "Weighted Random Sampling with a Reservoir", Information Processing Letters 97,
    2006.

    Args:
        capacity: how many are kept at most.
        seed: everything random follows from it.

    Raises:
        ConfigError: a capacity or a seed out of range.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        super().__init__(capacity, seed)
        # Both by the place of a sample, and doubled in length when they are full.
        self._logs = np.empty(0)  # logarithm of its random number, below 0
        self._losses = np.empty(0)

    def add(self, items: Iterable[Any], losses: Sequence[float] | None = None) -> None:
        """As :class:`Rehearsal` has it; kept in proportion to the losses."""
        found = self._offered(items, losses)
        self._seen += len(found)
        for item, loss in zip(found, [math.nan] * len(found) if losses is None else losses, strict=True):
            known = self._losses[: len(self._items)]
            weight = max(float(loss), _LEAST_LOSS) if math.isfinite(loss) else float(known.max()) if len(known) else 1.0
            log = -float(self._keeping.exponential())
            if len(self._items) < self._capacity:
                self._put(len(self._items), item, log, weight)
                continue
            keys = self._logs / self._losses
            place = int(keys.argmin())
            if log / weight > keys[place]:
                self._put(place, item, log, weight)

    def draw(self, count: int) -> list[Any]:
        """As :class:`Rehearsal` has it; in proportion to the losses, one after the other."""
        held = len(self._items)
        # Of exponential times with these rates, the first is each with a chance in proportion to its rate, and so on.
        times = self._drawing.exponential(size=held) / self._losses[:held]
        return self._at(np.argsort(times, kind="stable")[: self._count(count)].astype(np.int64))

    def told(self, losses: Sequence[float]) -> None:
        """As :class:`Rehearsal` has it; both what is kept and what is drawn follow from it."""
        places = self._told(losses)
        costs = np.asarray(losses, dtype=np.float64)
        finite = np.isfinite(costs)
        self._losses[places[finite]] = np.maximum(costs[finite], _LEAST_LOSS)

    def _put(self, place: int, item: Any, log: float, weight: float) -> None:
        if place == len(self._items):
            self._items.append(item)
            if place == len(self._logs):
                size = min(max(2 * place, 16), self._capacity)
                self._logs, self._losses = (np.resize(each, size) for each in (self._logs, self._losses))
        self._items[place], self._logs[place], self._losses[place] = item, log, weight


#: How each kind is written, and its class.
_KINDS: dict[str, type[Reservoir] | type[Importance]] = {"reservoir": Reservoir, "importance": Importance}


def parse_rehearsal(text: str | int | None, seed: int = 0) -> Reservoir | Importance | None:
    """Read ``reservoir:200``, ``importance:200`` or ``off``; a number alone is that of a reservoir.

    Args:
        text: what and how many samples to keep; ``None``, 0 and ``off``: nothing, and so is the result.
        seed: everything random follows from it.

    Raises:
        ConfigError: something else, or a number that is out of range.
    """
    written = "off" if text is None or text == 0 else str(text).strip()
    if written == "off":
        return None
    name, colon, value = written.partition(":")
    if not colon and re.fullmatch(r"[0-9]+", written):
        name, value = "reservoir", written
    if name not in _KINDS:
        hint = near_match(name, ("reservoir:200", "importance:200", "off"))
        raise ConfigError(f"rehearsal {written!r} is unknown; {hint}")
    if not re.fullmatch(r"[1-9][0-9]{0,6}", value) or int(value) > MOST_REHEARSED:
        raise ConfigError(f"rehearsal {written}: expected 1..{MOST_REHEARSED} samples, as in {name}:200")
    return _KINDS[name](int(value), seed)
