"""Several sources as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rowcast.errors import ConfigError, RowcastError, SourceEnded
from rowcast.streams import Positions, Sample, Source

__all__ = ["join_sources"]


def join_sources(sources: Sequence[Source]) -> Source:
    """The samples of all, as they come; those of each in their order. One alone stays as it is.

    Raises:
        ConfigError: there is none.
    """
    if not sources:
        raise ConfigError("sources: expected at least one")
    return sources[0] if len(sources) == 1 else _Joined(sources)


class _Joined:
    """Asks one source after the other, beginning with another one each time.

    Partitions have the place of their source in front: ``1/camera``.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = list(sources)
        self._ended = [False] * len(sources)
        self._first = 0

    def open(self, positions: Positions | None = None) -> Positions:
        begun: dict[str, int] = {}
        for place, source in enumerate(self._sources):
            try:
                found = source.open(None if positions is None else _own(positions, place))
            except BaseException:
                self._close(self._sources[:place])
                raise
            begun.update({f"{place}/{name}": position for name, position in found.items()})
        self._ended = [False] * len(self._sources)
        return Positions(begun)

    def take(self, at_most: int, timeout_s: float) -> list[Sample]:
        waiting = [place for place in range(len(self._sources)) if not self._ended[place]]
        order = sorted(waiting, key=lambda place: (place < self._first, place))
        self._first = (self._first + 1) % len(self._sources)
        found: list[Sample] = []
        for turn in (0.0, timeout_s / max(len(order), 1)):
            for place in order:
                if len(found) >= at_most or self._ended[place]:
                    continue
                try:
                    found += self._take(place, at_most - len(found), turn if not found else 0.0)
                except RowcastError:
                    if found:
                        return found  # delivered first; the next call meets the error again
                    raise
            if found:
                return found
        if all(self._ended):
            raise SourceEnded("all sources have ended")
        return found

    def _take(self, place: int, at_most: int, timeout_s: float) -> list[Sample]:
        try:
            samples = self._sources[place].take(at_most, timeout_s)
        except SourceEnded:
            self._ended[place] = True
            return []
        return [replace(sample, partition=f"{place}/{sample.partition}") for sample in samples]

    def commit(self, positions: Positions) -> None:
        for place, source in enumerate(self._sources):
            source.commit(_own(positions, place))

    def lag(self) -> int | None:
        lags = [source.lag() for source in self._sources]
        return None if None in lags else sum(lag for lag in lags if lag is not None)

    def close(self) -> None:
        self._close(self._sources)

    @staticmethod
    def _close(sources: Sequence[Source]) -> None:
        errors: list[Exception] = []
        for source in sources:
            try:
                source.close()
            except Exception as error:  # the others are closed all the same
                errors.append(error)
        if errors:
            raise errors[0]

    @property
    def trouble(self) -> str:
        return "; ".join(filter(None, (source.trouble for source in self._sources)))

    @property
    def dropped(self) -> Mapping[str, int]:
        counts: Counter[str] = Counter()
        for source in self._sources:
            counts.update(source.dropped)
        return counts


def _own(positions: Positions, place: int) -> Positions:
    """Those of one of the sources."""
    front = f"{place}/"
    return Positions({name[len(front) :]: position for name, position in positions.items() if name.startswith(front)})
