"""Who may knock: how many connections without an introduction there are at once, and how often an address may fail."""

from __future__ import annotations

from collections.abc import Sequence

from rowcast.config import StrangerSettings
from rowcast.session.link import Link

__all__ = ["StrangerLimits"]

#: Addresses whose failures, and names whose joins, are remembered at most.
MOST_KEYS = 10_000


class _Buckets:
    """Tokens by key: ``per_minute`` at most, and so many come back in a minute."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._left: dict[str, tuple[float, float]] = {}

    def tokens(self, now: float, key: str) -> float:
        """How many there are."""
        full = float(self.per_minute)
        left, at = self._left.get(key, (full, now))
        tokens = min(left + (now - at) * full / 60.0, full)
        if tokens >= full:
            self._left.pop(key, None)
        return tokens

    def take(self, now: float, key: str) -> None:
        """Take one, if there is one."""
        left = max(self.tokens(now, key) - 1.0, 0.0)
        self._left.pop(key, None)  # the newest is the last
        self._left[key] = left, now
        if len(self._left) > MOST_KEYS:
            del self._left[next(iter(self._left))]


class StrangerLimits:
    """Bounds what strangers cost, and how often one name is let in.

    An address has a bucket of tokens. A connection that ends without an introduction (a wrong secret, garbage, no
    hello) takes one; ``failures_per_minute`` come back in a minute. Without a token nobody of it may connect. Who was
    let in costs its address nothing, so a team may share one (NAT); it takes a token of its name.

    Args:
        settings: ``strangers_limit``, ``strangers_per_address``, ``failures_per_minute`` and ``joins_per_minute`` hold
            here.
    """

    def __init__(self, settings: StrangerSettings) -> None:
        self._settings = settings
        self._failures = _Buckets(settings.failures_per_minute)
        self._joins = _Buckets(settings.joins_per_minute)

    def refuses(self, now: float, address: str, strangers: Sequence[Link]) -> tuple[str, str] | None:
        """Why a connection from this address is closed at once: kind and sentence; ``None`` where it is not.

        Args:
            now: the time (s).
            address: where from.
            strangers: the connections that have not introduced themselves.
        """
        settings = self._settings
        if self._failures.tokens(now, address) < 1.0:
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
        self._failures.take(now, address)

    def too_often(self, now: float, name: str) -> bool:
        """Whether this name was let in so often that it must come later."""
        return self._joins.tokens(now, name) < 1.0

    def joined(self, now: float, name: str) -> None:
        """Somebody of this name was let in."""
        self._joins.take(now, name)
