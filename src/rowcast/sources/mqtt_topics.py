"""What comes from topics of MQTT: which messages are samples, and in which order they are delivered."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from typing import Any

from rowcast.errors import ConfigError, DataError, RowcastError, StreamGap
from rowcast.sources.base import Drops
from rowcast.sources.numbering import Arrival, Numbers, payload_number
from rowcast.streams import MOST_PARTITIONS, Positions, Sample

__all__ = ["HOLD_S", "NEVER", "MqttTopics"]

#: What is behind a missing number is held so long: after a cut producers may send new messages before older ones.
HOLD_S = 2.0
#: What a sample takes besides its payload: two objects.
SAMPLE_BYTES = 160
#: Behind every position: of what is never acknowledged.
NEVER = 1 << 65


class MqttTopics:
    """The topics of one source. Its user holds a lock around each call.

    Args:
        name: of the source, for messages.
        gaps: as of :class:`MqttSource`.
        numbered: there are numbers in front of the payloads.
        window: samples that wait, at most, where nothing else limits them.
        positions: behind what is delivered.

    Attributes:
        queue: what is to be delivered.
        numbers: by topic.
        error: what comes behind the queue.
    """

    def __init__(self, name: str, gaps: str, numbered: bool, window: int, positions: Positions) -> None:
        self._name, self._gaps, self._numbered, self._window = name, gaps, numbered, window
        self.drops = Drops(name)
        self.queue: deque[Sample] = deque()
        self.numbers: dict[str, Numbers[Sample]] = {topic: Numbers(place) for topic, place in positions.items()}
        self.error: RowcastError | None = None
        self._holding: set[str] = set()  # topics of which something is held

    def arrived(self, now: float, message: Any) -> tuple[str, int]:
        """Take in a message, and put into the queue what is next.

        Args:
            now: seconds that only grow.
            message: of the client library.

        Returns:
            its topic, and its position there: 0 for what is dropped, :data:`NEVER` with an error.
        """
        try:
            topic: str = message.topic
        except UnicodeDecodeError as error:  # raised on, it would end the client's thread
            self.drops.count("unnamed", str(error))
            return "", 0
        position = self._judged(now, topic, message)
        if topic in self.numbers:
            self._deliver(topic, give_up=not message.qos)
        return topic, position

    def _judged(self, now: float, topic: str, message: Any) -> int:
        """Keep a message, if it is to be delivered; its position."""
        data: bytes = message.payload
        if message.retain:
            self.drops.count("retained", topic)
            return 0
        if not message.qos and len(self.queue) >= self._window:
            self.drops.count("overrun", f"{topic}: published with QoS 0, nothing slows that down")
            return 0
        numbers = self.numbers.get(topic)
        if numbers is None and len(self.numbers) >= MOST_PARTITIONS:
            self.fail(ConfigError(f"source {self._name}: more than {MOST_PARTITIONS} topics; subscribe to fewer"))
            return NEVER
        try:
            number, payload = (
                payload_number(data) if self._numbered else (numbers.position or 0 if numbers else 0, data)
            )
        except DataError as error:
            self.drops.count("unnumbered", f"{topic}: {error}; see sequence=")
            return 0
        if numbers is None:
            numbers = self.numbers[topic] = Numbers()
        sample = Sample(topic, number + 1, time.time(), payload, len(payload) + SAMPLE_BYTES)
        arrival = numbers.arrived(now, number, data, sample)
        if arrival is Arrival.RESTARTED:
            return self._restarted(topic, number)
        if arrival is Arrival.DOUBLED:
            self.drops.count("doubled", f"{topic}: number {number}", level=logging.INFO)
        elif arrival is Arrival.LATE:
            self.drops.count("late", f"{topic}: number {number} came behind those that follow it")
        return number + 1

    def _deliver(self, topic: str, give_up: bool = False) -> None:
        """Put into the queue what is next of a topic; with ``give_up`` also what is held."""
        numbers = self.numbers[topic]
        self.queue.extend(numbers.ready())
        while give_up and numbers.holds:
            expected = numbers.position
            missing = numbers.give_up()
            if self._gaps == "error" and missing:
                self.fail(
                    StreamGap(
                        f"source {self._name}: {topic}: {missing} numbers from {expected} on have not come; to go on "
                        "and count them, set gaps=count"
                    )
                )
                return
            self.drops.count("missing", f"{topic}: {missing} numbers from {expected} on", missing)
            self.queue.extend(numbers.ready())
        if numbers.holds:
            self._holding.add(topic)
        else:
            self._holding.discard(topic)

    def waited(self, now: float, connected_s: float) -> float:
        """Give up numbers that have not come in time.

        Args:
            now: seconds that only grow.
            connected_s: since when there is a connection over which they may come.

        Returns:
            seconds until there is more to give up.
        """
        soonest_s = math.inf
        if self.error is not None:
            return soonest_s
        for topic in list(self._holding):
            left_s = max(self.numbers[topic].since_s, connected_s) + HOLD_S - now
            if left_s <= 0:
                self._deliver(topic, give_up=True)
            else:
                soonest_s = min(soonest_s, left_s)
        return soonest_s

    def fail(self, error: RowcastError) -> None:
        """Nothing is delivered behind an error; the first counts."""
        if self.error is None:
            self.error = error

    def _restarted(self, topic: str, number: int) -> int:
        """A number that was there, of a producer that has begun anew; the position of its message."""
        what = f"{topic}: number {number} comes again with other samples"
        if self._gaps == "skip":
            self.drops.count("restarted", what)
            return 0
        self.fail(
            StreamGap(
                f"source {self._name}: {what}: its producer has started anew and must number with a larger life "
                "(rowcast.sources.numbering), or has no numbers (sequence=none); to drop them and go on, set gaps=skip"
            )
        )
        return NEVER
