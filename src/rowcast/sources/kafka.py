"""Samples from a topic of Apache Kafka, or of what speaks its protocol: a message each."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from rowcast.errors import ConfigError, LocalProtocolError, RowcastError, visible
from rowcast.libraries import needing
from rowcast.sources.base import Drops
from rowcast.sources.client_options import passed_options, without_secrets
from rowcast.sources.kafka_health import BrokerHealth
from rowcast.sources.kafka_settings import client_settings, split_brokers
from rowcast.sources.kafka_topic import REQUEST_S, KafkaTopic, NoTopicYet
from rowcast.sources.text import SourceText
from rowcast.streams import Positions, Sample

__all__ = ["KAFKA_OPTIONS", "KafkaSource"]

log = logging.getLogger("rowcast")

KAFKA_OPTIONS = ("group", "partitions", "gaps", "options")
#: Longest that open() waits until it is known where to begin; take() waits on.
OPEN_S = 5.0
#: Pause between two attempts.
AGAIN_S = 0.25
#: Age at which the ends of the partitions are asked for anew, to tell the lag.
LAG_AGE_S = 1.0
#: What a sample takes besides its payload: two objects.
SAMPLE_BYTES = 160


class _ClientLog:
    """Where the client library's own messages go: what matters of them is in :attr:`KafkaSource.trouble`."""

    def log(self, level: int, text: str, *values: object) -> None:
        """As :meth:`logging.Logger.log`."""
        log.debug(text, *values)


class KafkaSource:
    """Reads one topic: all its partitions, or some. Follows :class:`rowcast.streams.Source`.

    Partitions are assigned, nobody joins a group: a device has a topic of its own. ``group`` is only the name under
    which commits are kept. A topic that was made by its first message usually has several partitions. By default all
    are read, each a partition of the positions; ``partitions="one"`` refuses a topic that has several.

    Without positions it begins at the committed offsets, where there are none at the oldest sample that the broker
    has. Where samples are gone (retention), or the topic has fewer than were read (it was made anew), it raises
    :class:`rowcast.errors.StreamGap`; ``gaps="skip"`` goes on with the oldest sample and counts what is gone in
    ``dropped["gone"]``. Offsets are counted: in a compacted topic, or one with transactions, those are more than
    samples.

    A broker that is away, and a topic that does not exist yet, are waited for: ``take`` returns nothing, ``trouble``
    says why. ``commit`` waits for the broker's answer, at most 2 seconds, and not while there is trouble; what was
    not confirmed is committed again by a later ``take`` or ``commit``. What waits here for ``take`` is limited to
    16 MiB (option ``queued.max.messages.kbytes``).

    Args:
        brokers: ``HOST:PORT``, several with commas.
        topic: its name.
        group: under which commits are kept: the name of the device.
        partitions: ``"all"``, ``"one"``, or numbers as ``"0,2"``.
        gaps: ``"error"`` or ``"skip"``.
        options: further settings of librdkafka, such as ``security.protocol``; never shown.

    Raises:
        ConfigError: a setting that cannot be used, or confluent-kafka is missing.
    """

    def __init__(
        self,
        brokers: str,
        topic: str,
        *,
        group: str = "rowcast",
        partitions: str = "all",
        gaps: str = "error",
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.name = visible(f"kafka://{brokers}/{topic}")
        with needing("a source of kafka://", "kafka"):
            import confluent_kafka
        self._kafka: Any = confluent_kafka
        if not topic or "/" in topic or not group:
            raise ConfigError(
                f"source {self.name}: expected the name of a topic and of a group, got {visible(topic)!r} and "
                f"{visible(group)!r}"
            )
        if gaps not in ("error", "skip"):
            raise ConfigError(f"source {self.name}: gaps: expected error or skip, got {visible(gaps)!r}")
        self._brokers, self._topic_name = split_brokers(brokers, self.name), topic
        self._topic = KafkaTopic(confluent_kafka, brokers, topic, partitions, gaps == "skip")
        self._options = dict(options or {})
        self._settings = client_settings(brokers, group, self._options)
        self._consumer: Any = None
        self._reset()

    @classmethod
    def from_text(cls, text: SourceText) -> KafkaSource:
        """``kafka://HOST:PORT/TOPIC``; options ``group``, ``partitions``, ``gaps``, and for settings of librdkafka
        ``option.NAME=VALUE`` or ``options=FILE`` with lines of ``name=value``."""
        options = passed_options(text, KAFKA_OPTIONS)
        return cls(
            split_brokers(text.place.partition("/")[0], str(text)),
            text.path,
            group=text.one("group", "rowcast"),
            partitions=text.one("partitions", "all"),
            gaps=text.one("gaps", "error"),
            options=options,
        )

    def __repr__(self) -> str:
        return f"<KafkaSource {self.name}>"

    def _reset(self) -> None:
        self._next: dict[int, int] = {}  # position behind what was delivered
        self._kept: dict[int, int] = {}  # committed, and a broker has confirmed it
        self._wanted: dict[int, int] = {}  # to be committed
        self._answer_due = False  # for a commit
        self._commit_again_s, self._commits_fail = 0.0, ""
        self._early: deque[Any] = deque()  # came while a commit was waited for
        self._error: RowcastError | None = None
        self._waits = ""
        self._asked_ends: tuple[float, dict[int, int]] = (0.0, {})
        self._located, self._closing = threading.Event(), threading.Event()
        self._begins = Positions()
        self._drops = Drops(self.name)
        self._health = BrokerHealth(self._brokers, self._topic_name, time.monotonic)

    # -- the protocol ----------------------------------------------------------------------------------------------

    def open(self, positions: Positions | None = None) -> Positions:
        """See :class:`rowcast.streams.Source`. Returns after 5 seconds at the latest: with ``positions`` as they were
        given, where no broker has answered."""
        if self._consumer is not None:
            raise LocalProtocolError(f"source {self.name}: open: it is open already; close it first")
        self._reset()
        callbacks = {"stats_cb": self._health.told, "error_cb": self._on_error, "on_commit": self._on_commit}
        try:
            self._consumer = self._kafka.Consumer({**self._settings, **callbacks}, logger=_ClientLog())
        except (self._kafka.KafkaException, ValueError, TypeError) as error:
            raise ConfigError(f"source {self.name}: {without_secrets(str(error), self._options)}") from None
        self._begins = positions or Positions()
        # A thread of its own: so take() keeps to its time also where answers take long.
        self._thread = threading.Thread(
            target=self._locate, args=(self._consumer, positions), name="rowcast kafka", daemon=True
        )
        self._thread.start()
        self._located.wait(OPEN_S)
        if self._error is not None:
            self.close()
            raise self._error
        return self._begins

    def take(self, at_most: int, timeout_s: float) -> list[Sample]:
        """See :class:`rowcast.streams.Source`."""
        consumer = self._opened("take")
        if at_most < 1:
            raise ConfigError(f"source {self.name}: take: expected 1 sample or more, got {at_most}")
        until = time.monotonic() + timeout_s
        if not self._located.wait(max(timeout_s, 0.0)):
            return []
        while True:
            if self._error is not None:
                raise self._error
            if self._unkept() and time.monotonic() >= self._commit_again_s:
                self._send_commit(consumer)
            left_s = until - time.monotonic()
            samples = self._samples(consumer, self._messages(consumer, at_most, left_s))
            if samples or (left_s <= 0 and self._error is None):
                return samples

    def commit(self, positions: Positions) -> None:
        """See :class:`rowcast.streams.Source`.

        Raises:
            ConfigError: a partition that it does not read.
        """
        consumer = self._opened("commit")
        for name, place in positions.items():
            partition = int(name) if name.isdecimal() else -1
            if partition < 0 or (self._located.is_set() and partition not in self._next):
                raise ConfigError(f"source {self.name}: commit: it does not read a partition {visible(name)!r}")
            self._wanted[partition] = max(place, self._wanted.get(partition, 0))
        self._settle(consumer, REQUEST_S)

    def lag(self) -> int | None:
        """See :class:`rowcast.streams.Source`; in offsets, at most about a second old."""
        consumer = self._opened("lag")
        if not self._located.is_set() or self._error is not None:
            return None
        asked_s, asked = self._asked_ends
        ends = {each: max(self._topic.known_end(consumer, each), asked.get(each, -1)) for each in self._next}
        # Where nothing is left, a request for the next samples is under way: its answer brings the ends.
        current = all(0 <= end <= self._next[each] for each, end in ends.items())
        if not current and (not asked or time.monotonic() - asked_s > LAG_AGE_S):
            try:
                ends = {each: self._topic.ends(consumer, each)[1] for each in self._next}
            except self._kafka.KafkaException as error:
                log.debug("source %s: lag: %s", self.name, error)
                return None
            self._asked_ends = (time.monotonic(), ends)
        return sum(max(end - self._next[each], 0) for each, end in ends.items())

    def close(self) -> None:
        """See :class:`rowcast.streams.Source`."""
        if self._consumer is None:
            return
        self._closing.set()
        self._thread.join()
        self._settle(self._consumer, REQUEST_S)
        consumer, self._consumer = self._consumer, None
        consumer.close()

    @property
    def trouble(self) -> str:
        """See :class:`rowcast.streams.Source`."""
        return "" if self._consumer is None else self._health.trouble or self._waits or self._commits_fail

    @property
    def dropped(self) -> Mapping[str, int]:
        """See :class:`rowcast.streams.Source`: ``gone`` with ``gaps="skip"``."""
        return self._drops.counts

    # -- beginning -------------------------------------------------------------------------------------------------

    def _opened(self, what: str) -> Any:
        if self._consumer is None:
            raise LocalProtocolError(f"source {self.name}: {what}: it is not open; call open() first")
        return self._consumer

    def _locate(self, consumer: Any, positions: Positions | None) -> None:
        """Find out where each partition begins, as often as it takes, and begin."""
        while not self._closing.is_set():
            try:
                begins, self._kept = self._topic.begins(consumer, positions, self._drops)
            except NoTopicYet as error:
                self._waits = str(error)
                self._health.answered()
            except self._kafka.KafkaException as error:
                if self._refused(error.args[0]):
                    return
                self._health.failed(error.args[0].str(), down=True)
            except RowcastError as error:
                self._error = error
                self._located.set()
                return
            else:
                self._waits = ""
                self._next = begins
                self._begins = Positions({str(partition): place for partition, place in begins.items()})
                self._health.watch(begins)
                self._assign(consumer)
                self._located.set()
                return
            consumer.poll(0)  # for what it has to report; no messages, since nothing is assigned
            self._closing.wait(AGAIN_S)

    def _refused(self, error: Any) -> bool:
        """Whether it may not read here, which is an error: another attempt would not change it."""
        codes = self._kafka.KafkaError
        if error.code() not in (
            codes.TOPIC_AUTHORIZATION_FAILED,
            codes.GROUP_AUTHORIZATION_FAILED,
            codes.CLUSTER_AUTHORIZATION_FAILED,
        ):
            return False
        self._error = ConfigError(f"source {self.name}: the broker refuses: {visible(error.str())}")
        self._located.set()
        return True

    def _assign(self, consumer: Any) -> None:
        """Read on behind what was delivered; what waits here is fetched again."""
        self._early.clear()
        consumer.assign([self._topic.place(*each) for each in self._next.items()])

    # -- messages --------------------------------------------------------------------------------------------------

    def _messages(self, consumer: Any, at_most: int, timeout_s: float) -> list[Any]:
        """What is there; otherwise what comes first within the time."""
        if self._early:
            return [self._early.popleft() for _ in range(min(at_most, len(self._early)))]
        found: list[Any] = consumer.consume(at_most, 0)
        if found or timeout_s <= 0:
            return found
        first = consumer.poll(timeout_s)
        if first is None:
            return []
        return [first, *consumer.consume(at_most - 1, 0)] if at_most > 1 else [first]

    def _samples(self, consumer: Any, messages: list[Any]) -> list[Sample]:
        found: list[Sample] = []
        problems: list[Any] = []
        for message in messages:
            if message.error() is not None:
                problems.append(message)
                continue
            partition, position = message.partition(), message.offset() + 1
            kind, milliseconds = message.timestamp()
            value = message.value() or b""
            made_s = milliseconds / 1000 if kind else time.time()
            self._next[partition] = position
            found.append(Sample(str(partition), position, made_s, value, len(value) + SAMPLE_BYTES))
        for message in problems:
            self._on_problem(consumer, message)
        return found

    def _on_problem(self, consumer: Any, message: Any) -> None:
        """An error in the place of a message."""
        codes, error = self._kafka.KafkaError, message.error()
        if error.code() == codes._AUTO_OFFSET_RESET:
            partition = message.partition()
            try:
                low, high = self._topic.ends(consumer, partition)
                self._next[partition] = self._topic.checked(partition, self._next[partition], low, high, self._drops)
            except self._kafka.KafkaException as failed:
                log.debug("source %s: %s", self.name, failed)  # the broker is away; the same comes once it is back
            except RowcastError as gap:
                self._error = gap
                return
            self._assign(consumer)
        elif not self._refused(error):
            self._health.failed(error.str())

    def _on_error(self, error: Any) -> None:
        """The client library has something to say about the connections."""
        if error.code() == self._kafka.KafkaError._ALL_BROKERS_DOWN:
            self._health.down()
        else:
            self._health.failed(error.str())

    # -- commits ---------------------------------------------------------------------------------------------------

    def _unkept(self) -> dict[int, int]:
        """What is to be committed."""
        if not self._wanted or not self._located.is_set():
            return {}
        return {each: to for each, to in self._wanted.items() if to > self._kept.get(each, 0) and each in self._next}

    def _send_commit(self, consumer: Any) -> None:
        if self._answer_due:
            return
        places = [self._topic.place(*each) for each in self._unkept().items()]
        try:
            consumer.commit(offsets=places, asynchronous=True)
        except self._kafka.KafkaException as error:
            self._commit_again_s = time.monotonic() + AGAIN_S
            self._commits_fail = f"commits fail: {visible(error.args[0].str())}"
        else:
            self._answer_due = True

    def _on_commit(self, error: Any, places: list[Any]) -> None:
        """The answer to a commit."""
        self._answer_due, self._commits_fail = False, ""
        for place in places:
            wrong = error or place.error
            if wrong is not None:
                self._commits_fail = f"commits fail: {visible(wrong.str())}"
                self._commit_again_s = time.monotonic() + AGAIN_S
            else:
                self._kept[place.partition] = max(place.offset, self._kept.get(place.partition, 0))

    def _settle(self, consumer: Any, limit_s: float) -> None:
        """Commit what is wanted, and wait for the answer.

        The library's own synchronous commit has no limit: it waits for a minute where a broker hangs. Its callbacks
        come before messages; those that come meanwhile are kept for take().
        """
        until = time.monotonic() + limit_s
        pause_s = 1e-4
        while self._unkept() and not self.trouble and time.monotonic() < until:
            if not self._answer_due and time.monotonic() < self._commit_again_s:
                return
            self._send_commit(consumer)
            message = consumer.poll(0)
            if message is not None:
                self._early.append(message)
            if self._answer_due:
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 0.005)
