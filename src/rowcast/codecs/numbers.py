"""The numbers by which frames name codecs, of updates and of tensors alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from rowcast.errors import ConfigError

__all__ = ["WIRE_IDS", "check_number"]

#: Numbers that a codec may have; those above belong to the forms of codecs for buffers and for timing-only layouts.
WIRE_IDS = range(64)


class Numbered(Protocol):
    """What has a name and a number."""

    name: str
    wire_id: int


def check_number(what: str, name: str, codec: Numbered, taken: Mapping[int, Numbered]) -> None:
    """Check that a codec has the name under which it is registered, and a number that no other has.

    Args:
        what: what it is, for messages: 'codec'.
        name: the name under which it is registered.
        codec: the codec.
        taken: those that there are, by number.

    Raises:
        ConfigError: another name, or a number that is none, out of range or taken.
    """
    if codec.name != name:
        raise ConfigError(f"{what} {name!r}: its attribute 'name' is {codec.name!r}; both have to be the same")
    number = codec.wire_id
    if type(number) is not int or number not in WIRE_IDS:
        raise ConfigError(f"{what} {name!r}: wire_id: expected a whole number in 0 .. {WIRE_IDS[-1]}, got {number!r}")
    if number in taken:
        raise ConfigError(f"{what} {name!r}: wire_id {number} is that of {taken[number].name!r}; choose another")
