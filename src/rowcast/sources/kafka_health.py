"""Whether the brokers of a topic answer, as the client library's statistics tell it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from rowcast.errors import visible

__all__ = ["BrokerHealth"]

#: Seconds without an answer, while one is due, after which it is said. A broker answers a request for samples that
#: are not there yet after half a second.
SILENT_S = 3.0


class _Broker(msgspec.Struct):
    nodeid: int = -1
    nodename: str = ""
    state: str = ""
    rx: int = 0
    waitresp_cnt: int = 0
    outbuf_cnt: int = 0


class _Partition(msgspec.Struct):
    leader: int = -1


class _Topic(msgspec.Struct):
    partitions: dict[str, _Partition] = {}


class _Statistics(msgspec.Struct):
    """What is read of librdkafka's STATISTICS.md."""

    brokers: dict[str, _Broker] = {}
    topics: dict[str, _Topic] = {}


class _Node:
    """What is known of one broker."""

    __slots__ = ("answered_s", "name", "received")

    def __init__(self, name: str, now: float) -> None:
        self.name, self.received, self.answered_s = name, 0, now


class BrokerHealth:
    """Says which broker does not answer, and since when.

    A broker does not answer when it leads a partition that is read, and either there is no connection to it, or
    requests wait for an answer and none has come. One that owes nothing (the queue here is full) is well.

    Args:
        address: where a broker was expected, for the message.
        topic: the topic that is read.
        clock: seconds that only grow.
    """

    def __init__(self, address: str, topic: str, clock: Callable[[], float]) -> None:
        self._address, self._topic, self._clock = address, topic, clock
        self._nodes: dict[int, _Node] = {}
        self._watched: frozenset[str] = frozenset()
        self._down_s: float | None = None
        self._reason = ""

    def watch(self, partitions: Iterable[int]) -> None:
        """From now on these partitions are read."""
        self._watched = frozenset(map(str, partitions))
        self._nodes.clear()
        self.answered()

    def answered(self) -> None:
        """Something came that a broker sent just now."""
        self._down_s, self._reason = None, ""

    def failed(self, reason: str, down: bool = False) -> None:
        """The client library reported an error.

        Args:
            reason: in its words.
            down: it means that no broker can be reached.
        """
        self._reason = visible(reason, 200)
        if down:
            self.down()

    def down(self) -> None:
        """No broker can be reached."""
        if self._down_s is None:
            self._down_s = self._clock()

    def told(self, statistics: str) -> None:
        """Take in a report of librdkafka's statistics, about one a second."""
        found = msgspec.json.decode(statistics, type=_Statistics)
        topic = found.topics.get(self._topic)
        if not self._watched or topic is None:
            return
        now = self._clock()
        brokers = {broker.nodeid: broker for broker in found.brokers.values() if broker.nodeid >= 0}
        leaders = {each.leader for name, each in topic.partitions.items() if name in self._watched}
        well = bool(leaders)
        for leader in leaders:
            broker = brokers.get(leader)
            node = self._nodes.get(leader)
            if node is None:
                node = self._nodes[leader] = _Node(broker.nodename if broker else self._address, now)
            if broker is None or broker.state != "UP":
                well = False
                continue
            node.name = broker.nodename
            if broker.rx != node.received or not broker.waitresp_cnt + broker.outbuf_cnt:
                node.received, node.answered_s = broker.rx, now
            else:
                well = False
        for gone in self._nodes.keys() - leaders:
            del self._nodes[gone]
        if well:
            self.answered()

    @property
    def trouble(self) -> str:
        """'no broker answers at 10.0.0.1:9092 since 12 s'; empty while all do."""
        now = self._clock()
        since = [(now - node.answered_s, node.name) for node in self._nodes.values()]
        silent_s, name = max(since, default=(0.0, self._address))
        if self._down_s is not None:
            silent_s = max(silent_s, now - self._down_s)
        elif silent_s < SILENT_S:
            return ""
        reason = f" ({self._reason})" if self._reason else ""
        return f"no broker answers at {visible(name)} since {silent_s:.0f} s{reason}"
