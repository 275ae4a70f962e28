"""Registries: objects by name, from here and from installed plug-ins.

A plug-in is a Python package with an entry point in a group of ours, in its ``pyproject.toml``::

    [project.entry-points."rowcast.codecs"]
    byte = "my_package.codecs:Byte"

It is imported when its name is asked for, or where all entries are needed. One that cannot be imported, or is not what
its group holds, is an error for whoever asks for it by name, and else a warning in the log: it stops no other command.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Generic, TypeVar

from rowcast.errors import ConfigError, near_match, visible

__all__ = ["Registry"]

log = logging.getLogger("rowcast")
T = TypeVar("T")

_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,39}")


class Registry(Mapping[str, T], Generic[T]):
    """Objects of one kind by name.

    Args:
        kind: what they are, in a word, for messages: 'codec'.
        group: of the entry points: 'rowcast.codecs'.
        check: takes a name and the object that was given for it, and returns what is to be kept; raises
            :class:`ConfigError` for something else.
        examples: names that a message about an unknown one lists; by default all that are known.
    """

    def __init__(
        self, kind: str, group: str, check: Callable[[str, object], T], *, examples: tuple[str, ...] = ()
    ) -> None:
        self.kind, self.group = kind, group
        self._check, self._examples = check, examples
        self._entries: dict[str, T] = {}
        self._plugins: dict[str, list[metadata.EntryPoint]] | None = None
        self._broken: dict[str, ConfigError] = {}

    def register(self, name: str, value: object) -> T:
        """Add an entry.

        Args:
            name: small letters, digits, ``-``, ``_`` and ``.``; 40 at most.
            value: what it names.

        Returns:
            what is kept.

        Raises:
            ConfigError: a name that cannot be one, a name that is taken, or an object of another kind.
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(
                f"{self.kind} {visible(str(name))!r}: expected a name of small letters, digits, '-', '_' and '.' that "
                "begins with a letter, 40 at most"
            )
        if name in self._entries:
            raise ConfigError(
                f"{self.kind} {name!r}: this name is taken, by {self._entries[name]!r}; choose another name"
            )
        self._entries[name] = kept = self._check(name, value)
        return kept

    def __getitem__(self, name: str) -> T:
        """The entry of that name.

        Raises:
            KeyError: there is none.
            ConfigError: a plug-in has that name and cannot be used; the message says why, and which package it is of.
        """
        if name not in self._entries:
            if name in self._broken:
                raise self._broken[name]
            self._load(name, self._found()[name])
        return self._entries[name]

    def find(self, name: str) -> T:
        """The entry of that name.

        Raises:
            ConfigError: there is none (the nearest name is in the message), or its plug-in cannot be used.
        """
        if name not in self:
            raise ConfigError(f"unknown {self.kind} {name!r}; {near_match(name, self._examples or tuple(self))}")
        return self[name]

    def usable(self) -> dict[str, T]:
        """All entries; a plug-in that cannot be used is left out, and named in the log the first time."""
        for name in self:
            if name not in self._entries and name not in self._broken:
                try:
                    self._load(name, self._found()[name])
                except ConfigError as error:
                    log.warning("%s", error)
        return dict(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._found()

    def __iter__(self) -> Iterator[str]:
        """The names: first those of Rowcast, then those of plug-ins, which are not imported for it."""
        yield from [*self._entries, *(name for name in self._found() if name not in self._entries)]

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<registry of {self.group}: {', '.join(self)}>"

    def _found(self) -> dict[str, list[metadata.EntryPoint]]:
        """The plug-ins that are installed, by name; looked for once."""
        if self._plugins is None:
            self._plugins = {}
            for point in metadata.entry_points(group=self.group):
                if point.name in self._entries:
                    log.warning("%s: Rowcast has a %s of this name; it stays", _told(point), self.kind)
                elif point not in self._plugins.setdefault(point.name, []):
                    self._plugins[point.name].append(point)
        return self._plugins

    def _load(self, name: str, points: list[metadata.EntryPoint]) -> None:
        """Import a plug-in and register what it names."""
        try:
            if len(points) > 1:
                raise ConfigError(
                    f"{self.kind} {name!r}: several plug-ins have this name: {'; '.join(sorted(map(_told, points)))}; "
                    "uninstall all but one"
                )
            try:
                value = points[0].load()
            except (Exception, SystemExit) as error:  # whatever a stranger's module does when it is imported
                raise ConfigError(
                    f"{_told(points[0])} cannot be loaded: {type(error).__name__}: {visible(str(error))}; mend or "
                    "uninstall it"
                ) from error
            if name not in self._entries:  # the module may have registered it itself
                try:
                    self.register(name, value)
                except ConfigError as error:
                    raise ConfigError(f"{_told(points[0])}: {error}") from error
        except ConfigError as error:
            self._broken[name] = error
            raise


def _told(point: metadata.EntryPoint) -> str:
    """A plug-in, for people."""
    of = f" of {point.dist.name} {point.dist.version}" if point.dist is not None else ""
    return visible(f"plug-in {point.name!r} ({point.value}{of})")
