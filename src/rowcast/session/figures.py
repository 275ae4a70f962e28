"""Figures that a worker reports for a display: a few names, and no more, however long it trains."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["LONGEST_NAME", "MOST_NAMES", "MOST_REPORTED", "keep"]

#: Names that a server keeps of a worker, and that a heartbeat carries.
MOST_NAMES = 64
#: Names of the training loop among them; the worker has some of its own.
MOST_REPORTED = 60
#: Longest name, in characters.
LONGEST_NAME = 100


def keep(known: dict[str, float], new: Mapping[str, float], most: int = MOST_NAMES) -> list[str]:
    """Put the newest figures into ``known``, which never has more than ``most`` names: who came first stays.

    Returns:
        Names for which there was no room, or that are too long.
    """
    left_out = []
    for name, value in new.items():
        if name in known or (len(known) < most and len(name) <= LONGEST_NAME):
            known[name] = value
        else:
            left_out.append(name)
    return left_out
