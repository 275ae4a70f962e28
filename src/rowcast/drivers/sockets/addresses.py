"""Where a server may be found: as a user has said, and as the server itself has told."""

from __future__ import annotations

import asyncio
import socket

from rowcast.drivers.sockets.tcp import split_address
from rowcast.errors import ConfigError

__all__ = ["Addresses", "in_words"]


class Addresses:
    """Hosts and ports where the server may be, in the order in which to try them.

    Args:
        given: by the user.
    """

    def __init__(self, given: list[tuple[str, int]]) -> None:
        self._known = list(dict.fromkeys(given))
        self._given = tuple(self._known)
        self._told = ""
        self._standby: tuple[str, int] | None = None

    def learn(self, standby: str) -> None:
        """The server has told where its standby is, or is to be, in place of the last one; or nothing (empty)."""
        if not standby or standby == self._told:
            return
        self._told = standby
        try:
            address = split_address(standby)
        except ConfigError:  # what a server tells is no error of this user
            return
        before, self._standby = self._standby, address
        if address not in self._known:
            self._known = [each for each in self._known if each in self._given or each != before]
            self._known.append(address)

    def all(self) -> list[tuple[str, int]]:
        """All of them, that to be tried first in front."""
        return list(self._known)

    def leave(self) -> None:
        """The one in front is not where the server is."""
        self._known.append(self._known.pop(0))


def in_words(error: BaseException) -> str:
    """Why a server could not be reached, for people."""
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return "no answer"
    if isinstance(error, socket.gaierror):
        return f"the name cannot be resolved ({error.strerror})"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: nobody listens there"
    return getattr(error, "strerror", None) or str(error)
