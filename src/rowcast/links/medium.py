"""What every channel model is and refuses; :mod:`rowcast.links.channel` says which there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from rowcast.errors import LocalProtocolError
from rowcast.links.trace import Trace

__all__ = ["Channel", "add_link", "backwards", "busy", "link_of", "wrong_amount"]


class Channel(Protocol):
    """Carries transfers; the driver asks when the next one ends.

    Times are seconds and never go back from one call to the next. A transfer that has ended stays with its link until
    :meth:`finished` tells of it. Every method raises :class:`~rowcast.errors.LocalProtocolError` for a time that goes
    back or is not finite, and for a key that is not there.
    """

    def add(self, key: int, trace: Trace) -> None:
        """A link with its own trace of the rate that it would get alone.

        Raises:
            LocalProtocolError: there is a link of this key.
        """

    def remove(self, key: int) -> None:
        """The link is gone; whatever it carried is dropped, as of the latest time that the channel was told."""

    def begin(self, now: float, key: int, bits: float) -> float:
        """Start one transfer of ``bits`` (finite, 0 or more).

        Returns:
            When it ends if no transfer begins or ends before; ``inf`` if never.

        Raises:
            LocalProtocolError: the link carries a transfer, or one that ended and was not told of yet.
        """

    def next_finish(self) -> float:
        """The earliest end of all transfers under way; ``inf`` if there are none, or none ever ends."""

    def finished(self, now: float) -> list[int]:
        """The links whose transfers end at ``now`` or before, in order of (end, key); they are idle afterwards."""

    def abort(self, now: float, key: int) -> float:
        """Stop the transfer; returns the bits that passed, 0 if the link is idle."""


def add_link(links: dict[int, Trace], key: int, trace: Trace) -> None:
    """Note a link.

    Raises:
        LocalProtocolError: there is one of this key.
    """
    if key in links:
        raise LocalProtocolError(f"link {key}: is on the channel already; remove it first")
    links[key] = trace


def link_of(links: Mapping[int, Trace], key: int) -> Trace:
    """The trace of a link.

    Raises:
        LocalProtocolError: there is no link of this key.
    """
    try:
        return links[key]
    except KeyError:
        raise LocalProtocolError(
            f"link {key}: is not on the channel; add it first (there are {sorted(links)})"
        ) from None


def busy(key: int) -> LocalProtocolError:
    """The error for a link that is to carry a second transfer."""
    return LocalProtocolError(f"link {key}: carries a transfer; expected finished() to tell of its end, or abort()")


def wrong_amount(key: int, bits: float) -> LocalProtocolError:
    """The error for a transfer of no size that there is."""
    return LocalProtocolError(f"link {key}: transfer of {bits} bits; expected a finite number, 0 or more")


def backwards(now: float, before: float) -> LocalProtocolError:
    """The error for a time that goes back, or is not finite."""
    return LocalProtocolError(f"channel: time {now} s; expected a finite time, {before} s or later")
