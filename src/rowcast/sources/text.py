"""A source as a text: ``kafka://10.0.0.1:9092/camera?group=robots``, ``drive.mcap?topic=/camera&rate=20``.

What makes a source of such a text is a :class:`SourceKind`; :mod:`rowcast.sources.registry` has them by scheme.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import SplitResult, quote, unquote, urlsplit

from rowcast.errors import ConfigError, near_match, visible
from rowcast.streams import Source

__all__ = ["SourceKind", "SourceText"]

_YES, _NO = ("1", "yes", "true", "on"), ("0", "no", "false", "off")
#: Options that end so are not shown: texts of sources stand in messages and logs.
_HIDDEN = ("password", "secret", "token", "key", "pem", "jaas.config", "oauthbearer.config")


@dataclass(frozen=True)
class SourceText:
    """``SCHEME://PLACE?NAME=VALUE&NAME=VALUE``, in its parts; without a scheme the place is that of a file.

    Attributes:
        scheme: small letters; empty for a file or folder.
        place: what stands between scheme and options. Escapes such as ``%3F`` are decoded where there is a scheme; the
            name of a file is taken as it is.
        options: name -> its values, in the order given; an option may be given several times.
        look: whoever asks only looks: the source takes nothing away from one that trains on the same, and leaves
            nothing behind: no file, no session, no group of its own.

    >>> text = SourceText.parse("kafka://10.0.0.1:9092/camera?group=a")
    >>> text.scheme, text.host, text.port, text.path, text.one("group")
    ('kafka', '10.0.0.1', 9092, 'camera', 'a')
    """

    scheme: str
    place: str
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    look: bool = False

    @classmethod
    def parse(cls, text: str, settings: Mapping[str, Any] | None = None, look: bool = False) -> SourceText:
        """The parts of a text.

        Args:
            text: the text.
            settings: further options; a list or tuple gives several values. One that the text has as well is refused.
            look: nothing is to be taken away, and nothing left behind.

        Raises:
            ConfigError: an option without a value, or without a name; one that is given in both ways.
        """
        rest, _, tail = text.partition("?")
        scheme, found, place = rest.partition("://")
        if not found:
            scheme, place = "", rest
        options: dict[str, tuple[str, ...]] = {}
        for pair in filter(None, tail.split("&")):
            name, equals, value = pair.partition("=")
            if not name or not equals:
                raise ConfigError(f"source {visible(text)!r}: expected NAME=VALUE behind '?', got {visible(pair)!r}")
            options[unquote(name)] = (*options.get(unquote(name), ()), unquote(value))
        for name, value in (settings or {}).items():
            if name in options:
                raise ConfigError(f"source {visible(text)!r}: option {name!r} is given twice; leave one out")
            values = value if isinstance(value, list | tuple) else (value,)
            options[name] = tuple(_told(each) for each in values)
        return cls(scheme.lower(), unquote(place) if found else place, options, look)

    def __str__(self) -> str:
        """The text as it may be shown: what ends as a secret does, in ``password`` or ``key``, is left out."""
        tail = "&".join(
            f"{name}={'...' if name.lower().endswith(_HIDDEN) else quote(value, safe='/:,.*+-')}"
            for name, values in self.options.items()
            for value in values
        )
        first, slash, path = self.place.partition("/")
        first = f"...@{first.rpartition('@')[2]}" if self.scheme and "@" in first else first
        return visible(f"{self.scheme}{'://' * bool(self.scheme)}{first}{slash}{path}{'?' * bool(tail)}{tail}")

    @property
    def host(self) -> str:
        """The host of ``HOST:PORT/PATH``; empty if there is none."""
        return self._address().hostname or ""

    @property
    def port(self) -> int | None:
        """The port of ``HOST:PORT/PATH``.

        Raises:
            ConfigError: not a number from 1 to 65535.
        """
        try:
            port = self._address().port
        except ValueError:
            port = 0
        if port == 0:
            raise ConfigError(f"source {str(self)!r}: expected a port from 1 to 65535 behind the host")
        return port

    @property
    def path(self) -> str:
        """What is behind ``HOST:PORT/``."""
        return self.place.partition("/")[2]

    def many(self, name: str) -> tuple[str, ...]:
        """All values of an option; none if it is not given."""
        return self.options.get(name, ())

    def one(self, name: str, default: str = "") -> str:
        """The value of an option.

        Raises:
            ConfigError: it is given several times.
        """
        values = self.many(name)
        if len(values) > 1:
            raise ConfigError(f"source {str(self)!r}: option {name!r} is given {len(values)} times; give it once")
        return values[0] if values else default

    def flag(self, name: str, default: bool = False) -> bool:
        """An option that is 1 or 0, yes or no, true or false, on or off.

        Raises:
            ConfigError: something else.
        """
        value = self.one(name).lower()
        if value and value not in _YES + _NO:
            raise ConfigError(f"source {str(self)!r}: option {name!r}: expected 1 or 0, got {visible(value)!r}")
        return value in _YES if value else default

    def number(self, name: str, default: float, low: float = 0.0, high: float = math.inf) -> float:
        """An option that is a finite number from ``low`` to ``high``.

        Raises:
            ConfigError: something else.
        """
        value = self.one(name)
        if not value:
            return default
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (low <= number <= high and math.isfinite(number)):
            bounds = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of {low:g} or more"
            raise ConfigError(
                f"source {str(self)!r}: option {name!r}: expected a number {bounds}, got {visible(value)!r}"
            )
        return number

    def check(self, known: Iterable[str]) -> None:
        """Refuse options that nobody knows.

        Raises:
            ConfigError: there is one; the message has the nearest of ``known``.
        """
        names = sorted(known)
        for name in self.options:
            if name not in names:
                raise ConfigError(
                    f"source {str(self)!r}: unknown option {visible(name)!r}; "
                    f"{near_match(name, names) if names else 'it has none'}"
                )

    def only(self, names: Iterable[str]) -> SourceText:
        """The same with these options only."""
        wanted = set(names)
        return dataclasses.replace(self, options={name: each for name, each in self.options.items() if name in wanted})

    def without(self, names: Iterable[str]) -> SourceText:
        """The same without these options."""
        return self.only(set(self.options) - set(names))

    def _address(self) -> SplitResult:
        """Host and port.

        Raises:
            ConfigError: no address; or a user's name stands in front of it: names and passwords are options.
        """
        first = self.place.partition("/")[0]
        if "@" in first:
            raise ConfigError(f"source {str(self)!r}: expected HOST:PORT behind '://', got a name in front of it")
        try:
            return urlsplit(f"//{first}")
        except ValueError as error:
            raise ConfigError(f"source {str(self)!r}: expected HOST:PORT behind '://': {error}") from error


def _told(value: object) -> str:
    """A value of Python as that of an option."""
    return str(int(value)) if isinstance(value, bool) else str(value)


class SourceKind(Protocol):
    """What makes a source of a text: a class method ``from_text``, or a function.

    It raises :class:`ConfigError` for options that it does not know (:meth:`SourceText.check`) and imports its client
    library within :func:`rowcast.libraries.needing`. Nothing is opened or connected yet.
    """

    def __call__(self, text: SourceText, /) -> Source:
        """Make the source."""
