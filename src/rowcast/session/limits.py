"""Who may knock: how many connections without an introduction there are at once, and how often an address may fail."""

from __future__ import annotations

from collections.abc import Sequence

from rowcast.config import StrangerSettings
from rowcast.session.link import Link

__all__ = ["StrangerLimits"]

#: Addresses whose failures are remembered at most.
MOST_ADDRESSES = 10_000


class StrangerLimits:
    """Bounds what strangers cost. Who was let in costs its address nothing, so a team may share one (NAT).

    An address has a bucket of tokens. A connection that ends without an introduction (a wrong secret, garbage, no
    hello) takes one; ``failures_per_minute`` come back in a minute. Without a token nobody of it may connect.

    Args:
        settings: ``strangers_limit``, ``strangers_per_address`` and ``failures_per_minute`` hold here.
    """

    def __init__(self, settings: StrangerSettings) -> None:
        self._settings = settings
        self._buckets: dict[str, tuple[float, float]] = {}

    def refuses(self, now: float, address: str, strangers: Sequence[Link]) -> tuple[str, str] | None:
        """Why a connection from this address is closed at once: kind and sentence; ``None`` where it is not.

        Args:
            now: the time (s).
            address: where from.
            strangers: the connections that have not introduced themselves.
        """
        settings = self._settings
        if self._tokens(now, address) < 1.0:
            return (
                "too many failures",
                f"{address} has failed more than {settings.failures_per_minute} times in a minute (setting "
                "failures_per_minute)",
            )
        if len(strangers) >= settings.strangers_limit:
            return (
                "too many strangers",
                f"{len(strangers)} connections have not introduced themselves (setting strangers_limit)",
            )
        own = sum(link.address == address for link in strangers)
        if own >= settings.strangers_per_address:
            return (
                "too many strangers",
                f"{own} connections of {address} have not introduced themselves (setting strangers_per_address)",
            )
        return None

    def failed(self, now: float, address: str) -> None:
        """A connection from this address ended without an introduction."""
        left = max(self._tokens(now, address) - 1.0, 0.0)
        self._buckets.pop(address, None)  # the newest is the last
        self._buckets[address] = left, now
        if len(self._buckets) > MOST_ADDRESSES:
            del self._buckets[next(iter(self._buckets))]

    def _tokens(self, now: float, address: str) -> float:
        full = float(self._settings.failures_per_minute)
        left, at = self._buckets.get(address, (full, now))
        tokens = min(left + (now - at) * full / 60.0, full)
        if tokens >= full:
            self._buckets.pop(address, None)
        return tokens
