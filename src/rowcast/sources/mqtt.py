"""Samples from a broker of MQTT: a message each."""

from __future__ import annotations

import logging
import math
import secrets
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rowcast.errors import ConfigError, LocalProtocolError, RowcastError, visible
from rowcast.libraries import needing
from rowcast.sources.client_options import passed_options
from rowcast.sources.mqtt_settings import MqttLink, check_topic
from rowcast.sources.mqtt_topics import MqttTopics
from rowcast.sources.text import SourceText
from rowcast.streams import Positions, Sample

if TYPE_CHECKING:
    from paho.mqtt.client import Client

__all__ = ["MQTT_OPTIONS", "MqttSource"]

log = logging.getLogger("rowcast")

MQTT_OPTIONS = ("client", "gaps", "sequence", "window", "options")
#: Longest that open() waits for the broker; take() waits on.
OPEN_S = 5.0
#: Longest that close() waits for the broker to have read what was acknowledged.
SETTLE_S = 1.0
#: A topic to which nobody subscribes.
NOBODY_HAS = "rowcast/nobody-subscribes-to-this"
#: Samples that are delivered or wait for it, and are not committed.
WINDOW = 8192
MOST_WINDOW = 65_535
#: Where so many are not committed and nothing has come for so long, the broker may hold back what it has.
HELD, HELD_S = 16, 5.0
#: Answers of a broker that another attempt would not change: version, client's id, password, not authorized, banned.
REFUSED = frozenset({0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C})
TAKEN_OVER = 0x8E
#: Connections that end sooner, so many in a row: two clients of one name end each other's, and not all brokers say so.
SHORT_S, SHORT_IN_A_ROW = 20.0, 2


class MqttSource:
    """Subscribes to a topic, or to several by ``+`` and ``#``. Follows :class:`rowcast.streams.Source`.

    The broker keeps a session for the device: what is published with QoS 1 while the device is away comes later. A
    message is acknowledged when it is committed, and not before; what was not is delivered again after a crash. There
    is no synchronous acknowledgement in MQTT: a message may come again although it was committed. Hence the numbers
    in front of the payloads, see :mod:`rowcast.sources.numbering` and :func:`number_payload`: the payload of a sample
    is without it, its position is the number + 1, its partition is the topic. What comes again is dropped and counted
    as ``doubled``. A producer that was cut off may send what is new before what is older: what is behind a number that
    has not come is held for 2 seconds, and then delivered; the number counts as ``missing``, or as ``late`` too if it
    comes after all. A message whose number has
    been there with other bytes, or lies further back than anything can be sent again, is from a producer that has
    started anew with the same life: a :class:`rowcast.errors.StreamGap`.

    The broker sends on as long as not more than ``window`` messages are not committed, so batches and what is on its
    way together have to be less. With MQTT 3.1.1 that number is the broker's own (mosquitto: 20), and where brokers
    have a lower limit it counts (``max_inflight``, ``max_queued_messages`` of the broker: what it cannot queue it
    drops, and the numbers tell).

    Args:
        broker: ``HOST:PORT``; without a port 1883, with TLS 8883.
        topic: what to subscribe to.
        client: name of the session: the name of the device. No two may have the same.
        gaps: ``"count"``; ``"error"``: missing numbers are a StreamGap as well; ``"skip"``: what a producer sends that
            has started anew with the same life is dropped and counted as ``restarted``.
        sequence: ``"payload"``; ``"none"``: there are no numbers in front of the payloads. Then positions count what
            has arrived since it was opened, and what comes twice or is missing stays unknown.
        window: messages, 1 to 65535.
        options: of the connection: ``version``, ``username``, ``password``, ``tls``, ``ca``, ``certificate``, ``key``,
            ``expiry_s``, ``keepalive_s``; see :class:`MqttLink`; never shown.

    Raises:
        ConfigError: a setting that cannot be used, or paho-mqtt is missing.
    """

    def __init__(
        self,
        broker: str,
        topic: str,
        *,
        client: str = "rowcast",
        gaps: str = "count",
        sequence: str = "payload",
        window: int = WINDOW,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.name = visible(f"mqtt://{broker}/{topic}")
        with needing("a source of mqtt://", "mqtt"):
            import paho.mqtt.client  # noqa: F401
        for what, value, known in (
            ("gaps", gaps, ("count", "error", "skip")),
            ("sequence", sequence, ("payload", "none")),
        ):
            if value not in known:
                raise ConfigError(f"source {self.name}: {what}: expected {', '.join(known)}, got {visible(value)!r}")
        if not 1 <= window <= MOST_WINDOW:
            raise ConfigError(f"source {self.name}: window: expected 1 to {MOST_WINDOW} messages, got {window}")
        if not client:
            raise ConfigError(f"source {self.name}: expected the name of a client, got none")
        check_topic(topic, self.name)
        self._link = MqttLink.from_options(options or {}, self.name)
        address = SourceText("mqtt", broker)
        self._host, self._port = address.host, address.port or (8883 if self._link.encrypted else 1883)
        if not self._host:
            raise ConfigError(f"source {self.name}: expected HOST:PORT, got {visible(broker)!r}")
        self._topic, self._id, self._gaps, self._window = topic, client, gaps, window
        self._numbered = sequence == "payload"
        self._client: Client | None = None
        self._changed = threading.Condition()
        self._reset(Positions())

    @classmethod
    def from_text(cls, text: SourceText) -> MqttSource:
        """``mqtt://HOST:PORT/TOPIC``; options ``client``, ``gaps``, ``sequence``, ``window``, and for settings of the
        connection ``option.NAME=VALUE`` or ``options=FILE`` with lines of ``name=value``."""
        options = passed_options(text, MQTT_OPTIONS)
        text.port  # noqa: B018 (refuses what is none, and a user's name in front of the host)
        client = text.one("client", "rowcast")
        if text.look:  # the session of the device is not taken over, and the broker soon forgets this one
            client, options = f"rowcast-look-{secrets.token_hex(4)}", {**options, "expiry_s": "1"}
            if options.get("version", "5") != "5":
                raise ConfigError(f"source {str(text)!r}: only looking leaves a session behind; set option.version=5")
        return cls(
            text.place.partition("/")[0],
            text.path,
            client=client,
            gaps=text.one("gaps", "count"),
            sequence=text.one("sequence", "payload"),
            window=int(text.number("window", WINDOW, 1, MOST_WINDOW)),
            options=options,
        )

    def __repr__(self) -> str:
        return f"<MqttSource {self.name}>"

    def _reset(self, positions: Positions) -> None:
        self._topics = MqttTopics(self.name, self._gaps, self._numbered, self._window, positions)
        # In the order in which they came over this connection, as they have to be acknowledged: (mid, topic, position).
        self._unacknowledged: deque[tuple[int, str, int]] = deque()
        self._committed: dict[str, int] = dict(positions)
        self._subscribed, self._was_subscribed = False, False
        # Since when there is a connection, or none; when a message came last.
        self._since_s = self._came_s = time.monotonic()
        self._reason = ""
        self._short = 0  # connections in a row that ended soon

    # -- the protocol ----------------------------------------------------------------------------------------------

    def open(self, positions: Positions | None = None) -> Positions:
        """See :class:`rowcast.streams.Source`. It begins with what was not committed last; what of it lies behind
        ``positions`` is dropped. Returns after 5 seconds at the latest, also where no broker has answered."""
        if self._client is not None:
            raise LocalProtocolError(f"source {self.name}: open: it is open already; close it first")
        self._reset(positions or Positions())
        self._client = client = self._new_client()
        client.loop_start()
        with self._changed:
            self._changed.wait_for(lambda: self._subscribed or self._topics.error is not None, OPEN_S)
        if self._topics.error is not None:
            self.close()
            raise self._topics.error
        return positions or Positions()

    def take(self, at_most: int, timeout_s: float) -> list[Sample]:
        """See :class:`rowcast.streams.Source`."""
        self._opened("take")
        if at_most < 1:
            raise ConfigError(f"source {self.name}: take: expected 1 sample or more, got {at_most}")
        until = time.monotonic() + timeout_s
        with self._changed:
            while True:
                now = time.monotonic()
                # What is missing may come over the next connection.
                held_s = self._topics.waited(now, self._since_s) if self._subscribed else math.inf
                if self._topics.queue or self._topics.error is not None or now >= until:
                    break
                self._changed.wait(min(until - now, held_s))
            if not self._topics.queue and self._topics.error is not None:
                raise self._topics.error
            return [self._topics.queue.popleft() for _ in range(min(at_most, len(self._topics.queue)))]

    def commit(self, positions: Positions) -> None:
        """See :class:`rowcast.streams.Source`."""
        self._opened("commit")
        with self._changed:
            for topic, place in positions.items():
                self._committed[topic] = max(place, self._committed.get(topic, 0))
            self._acknowledge()

    def lag(self) -> int | None:
        """``None``: a broker of MQTT does not tell."""
        self._opened("lag")
        return None

    def close(self) -> None:
        """See :class:`rowcast.streams.Source`. The broker keeps the session."""
        client = self._client
        if client is None:
            return
        if self._subscribed:
            self._settle(client)
        client.disconnect()
        client.loop_stop()
        self._client = None

    def _settle(self, client: Client) -> None:
        """Wait until the broker has read all acknowledgements: it may look at the next connection of this client before
        it has read this one to its end. An answer to anything shows that it has; this asks for nothing."""
        settled = threading.Event()
        client.on_unsubscribe = lambda *_: settled.set()
        client.unsubscribe(NOBODY_HAS)
        settled.wait(SETTLE_S)

    @property
    def trouble(self) -> str:
        """See :class:`rowcast.streams.Source`."""
        if self._client is None:
            return ""
        with self._changed:
            now, held = time.monotonic(), len(self._unacknowledged)
            if not self._subscribed:
                reason = f" ({self._reason})" if self._reason else ""
                return f"no broker answers at {self._host}:{self._port} since {now - self._since_s:.0f} s{reason}"
            if self._topics.queue:
                return ""
            if held >= self._window:
                return f"{held} samples are not committed, and more than the window of {self._window} never are"
            if held >= HELD and now - self._came_s > HELD_S:
                return (
                    f"nothing came for {now - self._came_s:.0f} s, and {held} samples are not committed: the broker "
                    "may allow no more of them in flight"
                )
            return ""

    @property
    def dropped(self) -> Mapping[str, int]:
        """See :class:`rowcast.streams.Source`: ``doubled``, ``missing``, ``late``, ``restarted``,
        ``unnumbered`` (shorter than a number), ``unnamed`` (a topic that is no UTF-8), ``retained`` (from before the
        subscription), ``overrun`` (QoS 0, more than the window; their numbers are missing too)."""
        return self._topics.drops.counts

    # -- the connection: called in the client's thread -------------------------------------------------------------

    def _opened(self, what: str) -> Client:
        if self._client is None:
            raise LocalProtocolError(f"source {self.name}: {what}: it is not open; call open() first")
        return self._client

    def _new_client(self) -> Client:
        client = self._link.client(self._id, self.name)
        client.on_connect, client.on_connect_fail = self._on_connect, self._on_connect_fail
        client.on_disconnect, client.on_subscribe = self._on_disconnect, self._on_subscribe
        client.on_socket_open, client.on_socket_close = self._on_socket_open, self._on_socket_close
        client.on_message = self._on_message
        client.connect_async(self._host, self._port, self._link.keepalive_s, **self._link.session(self._window))
        return client

    def _on_socket_open(self, client: Client, data: Any, link: Any) -> None:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _on_socket_close(self, client: Client, data: Any, link: Any) -> None:
        # What was not acknowledged comes again over the next connection, under identifiers of that one. The client
        # forgets acknowledgements that wait to be sent after this call, and before it connects.
        with self._changed:
            self._unacknowledged.clear()

    def _on_connect(self, client: Client, data: Any, flags: Any, code: Any, properties: Any) -> None:
        if code.is_failure:
            with self._changed:
                self._reason = visible(str(code))
                if code.value in REFUSED:
                    self._fail(ConfigError(f"source {self.name}: the broker refuses the client: {self._reason}"))
            return
        if not flags.session_present and (self._was_subscribed or self._committed):
            log.warning(
                "source %s: the broker has kept no session for %s: what was published meanwhile is lost",
                self.name, visible(self._id),
            )  # fmt: skip
        client.subscribe(self._topic, **self._link.subscription())
        if flags.session_present:  # the answer comes behind all that the broker has kept
            self._up()

    def _up(self) -> None:
        """Samples come from now on."""
        with self._changed:
            if not self._subscribed:
                self._subscribed = self._was_subscribed = True
                self._reason = ""
                self._came_s = self._since_s = time.monotonic()
                self._changed.notify_all()

    def _on_connect_fail(self, client: Client, data: Any) -> None:
        with self._changed:
            self._reason = visible(str(sys.exc_info()[1] or "no connection"), 200)

    def _on_subscribe(self, client: Client, data: Any, mid: int, codes: Any, properties: Any) -> None:
        if not any(code.is_failure for code in codes):
            self._up()
            return
        with self._changed:
            refusal = visible(str(codes[0]))
            self._fail(ConfigError(f"source {self.name}: the broker refuses the subscription: {refusal}"))

    def _on_disconnect(self, client: Client, data: Any, flags: Any, code: Any, properties: Any) -> None:
        with self._changed:
            if not self._subscribed:
                return  # where the broker has said why, a second call follows that knows no reason
            now = time.monotonic()
            self._short = self._short + 1 if now - self._since_s < SHORT_S else 0
            self._subscribed, self._since_s = False, now
            self._reason = visible(str(code), 200) if flags.is_disconnect_packet_from_server else "connection lost"
            if code.value == TAKEN_OVER or self._short >= SHORT_IN_A_ROW:
                self._reason += f"; another client may have the name {visible(self._id)}"

    def _fail(self, error: RowcastError) -> None:
        """Another attempt would not change it."""
        self._topics.fail(error)
        self._changed.notify_all()

    # -- messages --------------------------------------------------------------------------------------------------

    def _on_message(self, client: Client, data: Any, message: Any) -> None:
        with self._changed:
            if self._topics.error is not None:
                return
            self._came_s = time.monotonic()
            waiting = len(self._topics.queue)
            topic, position = self._topics.arrived(self._came_s, message)
            if message.qos:
                self._unacknowledged.append((message.mid, topic, position))
            self._acknowledge()
            if not waiting:
                self._changed.notify_all()

    def _acknowledge(self) -> None:
        """Say to the broker what is committed, in the order in which it came."""
        client, waiting = self._client, self._unacknowledged
        while client is not None and waiting and waiting[0][2] <= self._committed.get(waiting[0][1], 0):
            client.ack(waiting.popleft()[0], 1)
