"""Which partitions of a Kafka topic are read, and where each begins."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from rowcast.errors import ConfigError, StreamGap, visible
from rowcast.sources.base import Drops
from rowcast.streams import MOST_PARTITIONS, Positions

__all__ = ["KafkaTopic", "NoTopicYet", "chosen_partitions"]

log = logging.getLogger("rowcast")

#: Longest wait for one answer of a broker.
REQUEST_S = 2.0


class NoTopicYet(Exception):
    """The topic does not exist; the message says where."""


def chosen_partitions(text: str, source: str) -> tuple[int, ...]:
    """The numbers of ``0,2``; none for ``all`` and ``one``.

    Raises:
        ConfigError: something else.
    """
    if text in ("all", "one"):
        return ()
    parts = text.split(",")
    if not all(part.isdecimal() and part.isascii() for part in parts) or len(set(parts)) < len(parts):
        raise ConfigError(
            f"source {source}: partitions: expected all, one, or different numbers as in 0,2, got {visible(text)!r}"
        )
    return tuple(map(int, parts))


class KafkaTopic:
    """One topic, as its brokers describe it.

    Args:
        kafka: the module of the client library.
        brokers: their addresses, for messages.
        topic: its name.
        partitions: ``all``, ``one`` or numbers, as of :class:`KafkaSource`.
        skip: samples that are gone are counted; otherwise they are an error.

    Attributes:
        name: of the source, for messages.
    """

    def __init__(self, kafka: Any, brokers: str, topic: str, partitions: str, skip: bool) -> None:
        self.name = visible(f"kafka://{brokers}/{topic}")
        self._kafka, self._brokers, self._topic = kafka, brokers, topic
        self._only, self._alone, self._skip = chosen_partitions(partitions, self.name), partitions == "one", skip

    def place(self, partition: int, offset: int = -1001) -> Any:
        """A place in it, as the client library wants it."""
        return self._kafka.TopicPartition(self._topic, partition, offset)

    def partitions(self, consumer: Any) -> Sequence[int]:
        """Those that are to be read.

        Raises:
            NoTopicYet: nobody has made it.
            ConfigError: it may not be read, or has other partitions than was said.
            KafkaException: no broker answers.
        """
        topic = consumer.list_topics(self._topic, timeout=REQUEST_S).topics[self._topic]
        if topic.error is not None:
            codes = self._kafka.KafkaError
            if topic.error.code() in (codes.TOPIC_AUTHORIZATION_FAILED, codes.TOPIC_EXCEPTION):
                raise ConfigError(f"source {self.name}: {topic.error.str()}")
            raise NoTopicYet(f"topic {visible(self._topic)} does not exist yet at {visible(self._brokers)}")
        there = sorted(topic.partitions)
        if self._alone and len(there) != 1:
            raise ConfigError(
                f"source {self.name}: expected a topic with one partition, it has {len(there)}; read them all "
                "(partitions=all) or say which (partitions=0)"
            )
        missing = [number for number in self._only if number not in there]
        if missing:
            raise ConfigError(f"source {self.name}: no partition {missing[0]}: the topic has 0 to {there[-1]}")
        chosen = self._only or there
        if len(chosen) > MOST_PARTITIONS:
            raise ConfigError(
                f"source {self.name}: expected at most {MOST_PARTITIONS} partitions, got {len(chosen)}; say which are "
                "to be read (partitions=0,1,2)"
            )
        return chosen

    def committed(self, consumer: Any, partitions: Sequence[int]) -> dict[int, int]:
        """Committed offsets, of the partitions that have one.

        Raises:
            KafkaException: no broker answers.
        """
        places = consumer.committed([self.place(number) for number in partitions], timeout=REQUEST_S)
        for place in places:
            if place.error is not None:
                raise self._kafka.KafkaException(place.error)
        return {place.partition: place.offset for place in places if place.offset >= 0}

    def ends(self, consumer: Any, partition: int) -> tuple[int, int]:
        """The oldest offset of a partition, and the one behind the newest.

        Raises:
            KafkaException: no broker answers.
        """
        low, high = consumer.get_watermark_offsets(self.place(partition), timeout=REQUEST_S)
        return low, high

    def known_end(self, consumer: Any, partition: int) -> int:
        """The offset behind the newest, as the last answer had it; negative before one."""
        found = consumer.get_watermark_offsets(self.place(partition), cached=True)
        return int(found[1]) if found else -1

    def begins(self, consumer: Any, positions: Positions | None, drops: Drops) -> tuple[dict[int, int], dict[int, int]]:
        """Where each partition begins, and what of it is committed.

        Raises:
            NoTopicYet: nobody has made it.
            ConfigError: it cannot be read as was said.
            StreamGap: what is to be read is gone.
            KafkaException: no broker answers.
        """
        partitions = self.partitions(consumer)
        committed = self.committed(consumer, partitions)
        wanted = committed
        if positions is not None:
            names = {str(number): number for number in partitions}
            strange = next((name for name in positions if name not in names), None)
            if strange is not None:
                raise ConfigError(
                    f"source {self.name}: expected positions of the partitions {', '.join(names)}, got one of "
                    f"{visible(strange)!r}"
                )
            wanted = {names[name]: place for name, place in positions.items()}
        begins = {}
        for number in partitions:
            low, high = self.ends(consumer, number)
            begins[number] = self.checked(number, wanted.get(number, low), low, high, drops)
            if committed.get(number, 0) > high:
                del committed[number]
        return begins, committed

    def checked(self, partition: int, wanted: int, low: int, high: int, drops: Drops) -> int:
        """``wanted``, or the oldest sample where that is allowed.

        Raises:
            StreamGap: it is not there.
        """
        if low <= wanted <= high:
            return wanted
        gone = max(low - wanted, 0)
        if gone:
            what = (
                f"{gone} samples of partition {partition} are gone: it was read up to {wanted}, and the oldest that "
                f"the broker has is {low}"
            )
        else:
            what = (
                f"partition {partition} was read up to {wanted}, and the broker has only {high}: the topic was made "
                "anew, or the broker has lost samples"
            )
        if not self._skip:
            raise StreamGap(
                f"source {self.name}: {what}; to go on with the oldest one and count what is gone, set gaps=skip"
            )
        if gone:
            drops.count("gone", what, gone)
        else:  # how many is not known
            log.warning("source %s: %s; it begins at %d", self.name, what, low)
        return low
