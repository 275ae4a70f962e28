"""Sources by what a text stands for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rowcast.errors import ConfigError, near_match, visible
from rowcast.registry import Registry
from rowcast.sources.directory import DirectorySource
from rowcast.sources.files import recorded
from rowcast.sources.kafka import KafkaSource
from rowcast.sources.mqtt import MqttSource
from rowcast.sources.replay import REPLAY_OPTIONS, ReplaySource
from rowcast.sources.still import STILL_OPTIONS, StillFilter
from rowcast.sources.text import SourceKind, SourceText
from rowcast.streams import Source

__all__ = ["REGISTRY", "make_source", "register"]


def _checked(name: str, kind: object) -> SourceKind:
    """``kind`` as a kind of source of that scheme."""
    if not callable(kind):
        raise ConfigError(
            f"source {name!r}: expected a function or class method that makes a source of a SourceText, got {kind!r}"
        )
    return kind


#: What makes a source, by scheme.
REGISTRY: Registry[SourceKind] = Registry("kind of source", "rowcast.sources", _checked)


def register(scheme: str, kind: SourceKind) -> SourceKind:
    """Add a kind of source, for texts that begin with ``SCHEME://``.

    Raises:
        ConfigError: a scheme that cannot be one, or that is taken.
    """
    return REGISTRY.register(scheme, kind)


def make_source(text: str | Path, *, look: bool = False, **settings: Any) -> Source:
    """The source that a text stands for; not opened yet, and nothing is connected.

    ``drive.csv?time=t_s``, ``drive.csv.gz``, ``drive.mcap?topic=/camera``, the folder of a rosbag2, ``bag.db3``; each
    of them with ``rate=100``, ``rates=FILE.csv``, ``speed=2`` or ``loop=1`` is played at that rate, and with
    ``replay://`` in front as it was recorded. ``dir://FOLDER`` is a directory that grows,
    ``kafka://HOST:PORT/TOPIC`` and ``mqtt://HOST:PORT/TOPIC`` are topics of brokers. With ``still=0.02``
    the frames of a robot that stands still are left out, see :class:`StillFilter`.

    Args:
        text: the text; a ``Path`` is that of a file or folder as it is, whatever characters it has.
        look: it is only looked at: a source takes nothing away, and leaves nothing behind (see :class:`SourceText`).
        settings: options, besides those of the text.

    Raises:
        ConfigError: a scheme or a kind of file that is not known (the nearest is in the message), options that do not
            fit, or a library that is not installed.
    """
    parts = SourceText.parse("" if isinstance(text, Path) else text, settings, look)
    if isinstance(text, Path):
        parts = replace(parts, place=str(text))
    if set(STILL_OPTIONS) & parts.options.keys():
        return StillFilter.from_text(parts, _made(parts.without(STILL_OPTIONS)))
    return _made(parts)


def _made(parts: SourceText) -> Source:
    if parts.scheme:
        if parts.scheme not in REGISTRY:
            raise ConfigError(
                f"source {str(parts)!r}: unknown scheme {visible(parts.scheme)!r}; {near_match(parts.scheme, REGISTRY)}"
            )
        return REGISTRY.find(parts.scheme)(parts)
    return ReplaySource.from_text(parts) if set(REPLAY_OPTIONS) & parts.options.keys() else recorded(parts)


register("replay", ReplaySource.from_text)
register("dir", DirectorySource.from_text)
register("kafka", KafkaSource.from_text)
register("mqtt", MqttSource.from_text)
