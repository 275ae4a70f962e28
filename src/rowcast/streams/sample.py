"""What a source delivers: samples, each with its place in the source, and the places of all of them together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec

from rowcast.errors import ConfigError

__all__ = ["MOST_PARTITIONS", "Positions", "Sample"]

#: Partitions of one source: its positions travel in a message.
MOST_PARTITIONS = 256


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a stream.

    Attributes:
        partition: the part of the source that it is from, within which positions grow: a topic's partition, a file.
        position: behind it: a source that is opened there goes on with the next one.
        time_s: when it was made, as its source says: seconds since 1970, or since the source began.
        payload: what was received, mostly bytes; a source says what it delivers.
        size: bytes that it takes in memory, about; what :class:`Buffer` counts.
    """

    partition: str
    position: int
    time_s: float
    payload: Any
    size: int


class Positions(Mapping[str, int]):
    """How far each partition of a source is read. Never changed: what moves on is a new object.

    Args:
        places: partition -> position behind the last sample that counts, 0 or more.

    Raises:
        ConfigError: more than 256 partitions, or a position that is no whole number of 0 or more.

    >>> Positions({"0": 7}).behind([Sample("0", 8, 0.0, b"", 0), Sample("1", 1, 0.0, b"", 0)])
    Positions({'0': 8, '1': 1})
    """

    __slots__ = ("_places",)

    def __init__(self, places: Mapping[str, int] | None = None) -> None:
        found = dict(places or {})
        if len(found) > MOST_PARTITIONS:
            raise ConfigError(f"positions: expected at most {MOST_PARTITIONS} partitions, got {len(found)}")
        for name, place in found.items():
            if not isinstance(name, str) or isinstance(place, bool) or not isinstance(place, int) or place < 0:
                raise ConfigError(
                    f"positions: expected a name and a whole number of 0 or more, got {name!r}: {place!r}"
                )
        self._places: Mapping[str, int] = MappingProxyType(found)

    def __getitem__(self, partition: str) -> int:
        return self._places[partition]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return f"Positions({dict(self._places)})"

    def behind(self, samples: Iterable[Sample]) -> Positions:
        """These positions, moved behind ``samples``; none moves back."""
        places = dict(self._places)
        for sample in samples:
            places[sample.partition] = max(sample.position, places.get(sample.partition, 0))
        return Positions(places)

    def merged(self, other: Positions) -> Positions:
        """The further of both, partition by partition."""
        return Positions({**self, **{name: max(place, self.get(name, 0)) for name, place in other.items()}})

    def pack(self) -> bytes:
        """As bytes, for a message or a file."""
        return msgspec.msgpack.encode(dict(self._places))

    @classmethod
    def unpack(cls, data: bytes) -> Positions:
        """What :meth:`pack` made; no bytes are no positions.

        Raises:
            ConfigError: something else.
        """
        if not data:
            return cls()
        try:
            return cls(msgspec.msgpack.decode(data, type=dict[str, int]))
        except msgspec.MsgspecError as error:
            raise ConfigError(f"positions: cannot be read: {error}") from error
