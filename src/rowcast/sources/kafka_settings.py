"""Settings of the Kafka client: those that cannot be others, and our defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rowcast.errors import ConfigError, visible
from rowcast.sources.text import SourceText

__all__ = ["client_settings", "split_brokers"]

#: Set by the source: with other values it would lose samples.
FIXED: Mapping[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    # Offsets that are gone are an error that the source sees; any other value skips samples and says nothing.
    "auto.offset.reset": "error",
    "statistics.interval.ms": 1000,
    # Nobody joins a group, so no pause of the reader is one too many.
    "max.poll.interval.ms": 86_400_000,
}
NAMED = {"bootstrap.servers": "the place of the source", "group.id": "group="}
DEFAULTS: Mapping[str, Any] = {
    "client.id": "rowcast",
    # Samples that wait here for the reader: 16 MiB, and what one answer of a broker brings.
    "queued.max.messages.kbytes": 16_384,
    "fetch.max.bytes": 8_388_608,
    # Where they are full: pause before the next request. The library's second is long for a fast reader.
    "fetch.queue.backoff.ms": 100,
    "reconnect.backoff.ms": 250,
    "reconnect.backoff.max.ms": 5000,
    "log.connection.close": False,
}


def split_brokers(place: str, shown: str) -> str:
    """``HOST[:PORT][,HOST[:PORT]]`` as the client wants it.

    Raises:
        ConfigError: something else.
    """
    for each in place.split(","):
        if not each or "@" in each:
            raise ConfigError(
                f"source {shown!r}: expected kafka://HOST:PORT/TOPIC, several as HOST:PORT,HOST:PORT; user and "
                "password are options (option.sasl.username=, or a file of settings with options=FILE)"
            )
        text = SourceText("kafka", each)
        if not text.host:
            raise ConfigError(f"source {shown!r}: expected HOST:PORT, got {visible(each)!r}")
        text.port  # noqa: B018 (refuses what is none)
    return place


def client_settings(brokers: str, group: str, options: Mapping[str, str]) -> dict[str, Any]:
    """All settings for the client.

    Raises:
        ConfigError: one that is not the user's to set.
    """
    for name in options:
        if name in FIXED:
            raise ConfigError(f"kafka: option {name!r} cannot be set: the source sets it, so that no sample is lost")
        if name in NAMED:
            raise ConfigError(f"kafka: option {name!r} cannot be set: it is {NAMED[name]}")
    return {**DEFAULTS, **options, **FIXED, "bootstrap.servers": brokers, "group.id": group}
