"""How a tree of relays is written."""

from __future__ import annotations

from rowcast.errors import ConfigError

__all__ = ["parse_tree"]

#: Relays and robots of a demo at most.
MOST_RELAYS, MOST_ROBOTS = 20, 100


def parse_tree(text: str) -> tuple[int, int]:
    """Relays, and robots below each, of a text such as ``2x4``.

    Raises:
        ConfigError: it is none, or too many.
    """
    relays, x, robots = text.partition("x")
    numbers = (relays, robots)
    if not x or not all(each.isascii() and each.isdigit() and int(each) for each in numbers):
        raise ConfigError(f"tree: expected relays and robots below each, as '2x4', got {text!r}")
    if int(relays) > MOST_RELAYS or int(relays) * int(robots) > MOST_ROBOTS:
        raise ConfigError(f"tree: expected at most {MOST_RELAYS} relays and {MOST_ROBOTS} robots, got {text!r}")
    return int(relays), int(robots)
