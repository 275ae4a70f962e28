"""Samples from MCAP files, and from a rosbag2 that is stored in them: a message each."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rowcast.bags import DamagedChunk, McapFile, Segment, in_order
from rowcast.errors import ConfigError, DataError, SourceEnded, StreamGap, near_match, visible
from rowcast.sources.base import PulledSource
from rowcast.sources.text import SourceText
from rowcast.streams import MOST_PARTITIONS, Positions, Sample

__all__ = ["BAG_OPTIONS", "McapSource", "chosen_topics"]

BAG_OPTIONS = ("topic",)
#: Bytes that a message takes besides its content.
MESSAGE_BYTES = 96


class McapSource(PulledSource):
    """Messages of MCAP files, as they were recorded: the order is that of the file, and the payload is bytes.

    The partition is the topic, a position the number of messages of the topic so far, the time that of logging. A file
    without an end, as a power loss leaves it, is read as far as it goes: :attr:`trouble` and the log say where that
    is. A damaged chunk is dropped and counted.

    Args:
        paths: the files, in the order in which they were written; or one.
        topics: which are delivered; all if none are given.
        settings: clock and pause, see :class:`PulledSource`.
    """

    def __init__(self, paths: str | Path | Sequence[Path], topics: Sequence[str] = (), **settings: Any) -> None:
        self._paths = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
        super().__init__(str(self._paths[0]) if len(self._paths) == 1 else str(self._paths[0].parent), **settings)
        self._wanted = tuple(topics)
        self._files: list[McapFile] = []
        self._queue: deque[Sample] = deque()

    @classmethod
    def from_text(cls, text: SourceText) -> McapSource:
        """``FILE.mcap?topic=/camera&topic=/lidar``, or a folder of such files."""
        text.check(BAG_OPTIONS)
        path = Path(text.place)
        paths = in_order(path.glob("*.mcap")) if path.is_dir() else [path]
        if not paths:
            raise DataError(f"{path}: no file *.mcap in this folder")
        return cls(paths, text.many("topic"))

    def _begin(self, positions: Positions) -> Positions:
        self._queue.clear()
        for path in self._paths:
            self._files.append(McapFile(path, "a source of an MCAP file"))
        totals: Counter[str] = Counter()
        for file in self._files:
            totals.update(dict.fromkeys(file.topics.values(), 0))
            for segment in file.segments:
                totals.update(_by_topic(file, segment))
        self._topics = chosen_topics(self.name, totals, self._wanted)
        for topic in self._topics:
            if positions.get(topic, 0) > totals[topic]:
                raise StreamGap(
                    f"{self.name}: topic {visible(topic)}: to be read behind message {positions[topic]}, and there are "
                    f"{totals[topic]}; is it another recording? Open it from its start to read it anew"
                )
        self._at = {topic: positions.get(topic, 0) for topic in self._topics}
        self._count = sum(totals[topic] - place for topic, place in self._at.items())
        for file in self._files:
            if file.cut:
                self._drops.count("cut off", f"{file.path}: {file.cut}", file.cut_messages)
                self._troubled(f"{file.path}: {file.cut}: read as far as it goes, {sum(totals.values())} messages")
        self._segments = self._unread()
        return Positions({topic: place for topic, place in self._at.items() if place or topic in positions})

    def _unread(self) -> Iterator[tuple[McapFile, Segment, Counter[str]]]:
        """Segments with something behind the positions, and how many messages of each topic are before them."""
        before: Counter[str] = Counter()
        for file in self._files:
            for segment in file.segments:
                counts = _by_topic(file, segment)
                if any(counts[topic] and before[topic] + counts[topic] > place for topic, place in self._at.items()):
                    yield file, segment, Counter(before)
                before.update(counts)

    def _next(self, at_most: int) -> list[Sample]:
        while not self._queue:
            following = next(self._segments, None)
            if following is None:
                raise SourceEnded(f"{self.name}: all messages were delivered")
            self._read(*following)
        found = [self._queue.popleft() for _ in range(min(at_most, len(self._queue)))]
        self._count -= len(found)
        return found

    def _read(self, file: McapFile, segment: Segment, before: Counter[str]) -> None:
        try:
            messages = file.messages(segment)
        except DamagedChunk as error:
            for topic, count in _by_topic(file, segment).items():
                if topic in self._at:
                    lost = max(before[topic] + count - max(self._at[topic], before[topic]), 0)
                    self._count -= lost
                    self._drops.count("damaged", f"{file.path}: the chunk at byte {segment.offset}: {error}", lost)
            return
        except OSError as error:
            raise DataError(f"{file.path}: cannot be read: {error.strerror}") from error
        for channel, log_ns, data in messages:
            topic = file.topics.get(channel, "")
            before[topic] += 1
            if topic in self._at and before[topic] > self._at[topic]:
                self._at[topic] = before[topic]
                self._queue.append(Sample(topic, before[topic], log_ns / 1e9, data, len(data) + MESSAGE_BYTES))

    def _left(self) -> int | None:
        return self._count

    def _end(self) -> None:
        self._queue.clear()
        for file in self._files:
            file.close()
        self._files.clear()


def _by_topic(file: McapFile, segment: Segment) -> Counter[str]:
    """Messages of a segment by topic; those of channels that have no name are left out."""
    found: Counter[str] = Counter()
    for channel, count in segment.counts.items():
        if channel in file.topics:
            found[file.topics[channel]] += count
    return found


def chosen_topics(name: str, there: Iterable[str], wanted: Sequence[str]) -> list[str]:
    """The topics to deliver, in the order of their names.

    Raises:
        ConfigError: one that is wanted is not there (the message has the nearest), or they are too many.
    """
    known = sorted(set(there))
    for topic in wanted:
        if topic not in known:
            hint = near_match(topic, known) if known else "there are none"
            raise ConfigError(f"{name}: no topic {visible(topic)!r}; {visible(hint)}")
    chosen = sorted(set(wanted)) or known
    if len(chosen) > MOST_PARTITIONS:
        raise ConfigError(
            f"{name}: {len(chosen)} topics, and at most {MOST_PARTITIONS} can be read; choose: topic=NAME"
        )
    return chosen
