"""Samples from a rosbag2 in SQLite, or one whose files or messages are compressed: a message each, in bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rowcast.bags import open_rosbag2
from rowcast.errors import DataError, SourceEnded, StreamGap, visible
from rowcast.libraries import needing
from rowcast.sources.base import PulledSource
from rowcast.sources.mcap_file import BAG_OPTIONS, MESSAGE_BYTES, chosen_topics
from rowcast.sources.text import SourceText
from rowcast.streams import Positions, Sample

__all__ = ["RosbagSource"]


class RosbagSource(PulledSource):
    """Messages of a rosbag2 by ``rosbags``, in the order of their times; partitions and positions as of an MCAP file.

    A damaged data base is refused, and so is one whose last writes are still in a journal beside it.

    Args:
        path: the folder of the bag, or one of its ``.db3`` files. A folder without ``metadata.yaml``, as a power loss
            leaves it, is read by its ``.db3`` files.
        topics: which are delivered; all if none are given.
        settings: clock and pause, see :class:`PulledSource`.
    """

    def __init__(self, path: str | Path, topics: Sequence[str] = (), **settings: Any) -> None:
        self._path = Path(path)
        super().__init__(str(path), **settings)
        self._wanted = tuple(topics)
        self._readers: list[Any] = []
        with needing("a source of a rosbag2", "mcap"):
            import rosbags.rosbag2  # noqa: F401

    @classmethod
    def from_text(cls, text: SourceText) -> RosbagSource:
        """``FOLDER?topic=/camera`` or ``FILE.db3?topic=/camera``."""
        text.check(BAG_OPTIONS)
        return cls(text.place, text.many("topic"))

    def _begin(self, positions: Positions) -> Positions:
        totals: Counter[str] = Counter()
        self._readers += open_rosbag2(self._path)
        for reader in self._readers:
            for connection in reader.connections:
                totals[connection.topic] += connection.msgcount
        self._topics = chosen_topics(self.name, totals, self._wanted)
        for topic in self._topics:
            if positions.get(topic, 0) > totals[topic]:
                raise StreamGap(
                    f"{self.name}: topic {visible(topic)}: to be read behind message {positions[topic]}, and there are "
                    f"{totals[topic]}; is it another recording? Open it from its start to read it anew"
                )
        self._behind = {topic: positions.get(topic, 0) for topic in self._topics}
        self._at: Counter[str] = Counter()
        self._count = sum(totals[topic] - place for topic, place in self._behind.items())
        self._messages, self._failure = self._unread(), ""
        return Positions({topic: place for topic, place in self._behind.items() if place or topic in positions})

    def _unread(self) -> Iterator[Sample]:
        """What is behind the positions."""
        for reader in self._readers:
            connections = [each for each in reader.connections if each.topic in self._behind]
            for connection, time_ns, data in reader.messages(connections) if connections else ():
                topic = connection.topic
                self._at[topic] += 1
                if self._at[topic] > self._behind[topic]:
                    self._count -= 1
                    content = bytes(data)
                    yield Sample(topic, self._at[topic], time_ns / 1e9, content, len(content) + MESSAGE_BYTES)

    def _next(self, at_most: int) -> list[Sample]:
        found: list[Sample] = []
        try:
            while len(found) < at_most:
                found.append(next(self._messages))
        except StopIteration:
            pass
        except Exception as error:  # whatever rosbags and its data base raise for a damaged file
            self._failure = f"{self._path}: cannot be read on: {visible(str(error))}"
        if not found and self._failure:
            raise DataError(self._failure)
        if not found:
            raise SourceEnded(f"{self.name}: all messages were delivered")
        return found

    def _left(self) -> int | None:
        return self._count

    def _end(self) -> None:
        for reader in self._readers:
            reader.close()
        self._readers.clear()
