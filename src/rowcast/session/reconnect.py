"""When a worker without a connection tries to connect again, and when it has tried for long enough."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["Reconnect"]

#: Longest pause where a standby may take over (s).
HURRY_S = 1.0


class Reconnect:
    """The attempts of one worker, over all of its connections. It reads no clock: the driver tells the time.

    The pause before an attempt doubles each time up to a limit, and is drawn from its upper half: workers that lost
    their server at the same moment do not all come back at the same moment.

    Args:
        first_s, cap_s: the first pause and the longest (s).
        entropy: source of random bytes, asked once for each pause.

    Attributes:
        connect_at: when the driver is to try to connect (s); ``None`` while it tries, and while a connection stands.
        address: where the server is, for people; empty before the first attempt.
        cause: why there is no connection, for people.
    """

    def __init__(self, first_s: float, cap_s: float, entropy: Callable[[int], bytes]) -> None:
        self.connect_at: float | None = -math.inf
        self.address = ""
        self.cause = "no attempt yet"
        self._first_s = self._pause_s = first_s
        self._cap_s = cap_s
        self._entropy = entropy
        self._since: float | None = None

    def trying(self, now: float, address: str) -> None:
        """The driver tries to connect."""
        self.connect_at = None
        self.address = address
        if self._since is None:
            self._since = now

    def connected(self, now: float) -> None:
        """A connection stands; the worker is not let in yet."""
        self.connect_at = None
        self.cause = "connected, but not let in yet"
        if self._since is None:
            self._since = now

    def welcomed(self, now: float, setbacks: int) -> None:
        """A connection on which the worker was let in has ended: what is counted begins anew.

        Args:
            now: time (s).
            setbacks: how often in a row it was let in and then refused: such a worker comes back more and more rarely.
        """
        self._since = now
        self._pause_s = min(self._first_s * 2.0 ** min(setbacks, 60), self._cap_s)

    def again_from(self, now: float) -> None:
        """From now on the limit is counted anew, however long the server was gone before."""
        self._since = now

    def restarted(self, now: float) -> None:
        """A process that has just started looks for the server, and nobody else does: what the one before it had under
        way has ended with it, and if it had given up, that counts no more. The limit counts from now."""
        self.again_from(now)
        if self.connect_at is None:
            self.connect_at = now

    def failed(self, now: float, cause: str, limit_s: float, *, hurries: bool = False) -> bool:
        """An attempt, or the connection that it made, has ended.

        Args:
            now: time (s).
            cause: why, for people.
            limit_s: seconds without a server after which the worker gives up.
            hurries: another server may take over: the pause is :data:`HURRY_S` at most.

        Returns:
            Whether there is another attempt: at :attr:`connect_at`.
        """
        self.cause = cause
        since = now if self._since is None else self._since
        if hurries:
            self._pause_s = min(self._pause_s, HURRY_S)
        if now - since + self._pause_s > limit_s:
            self.connect_at = None
            return False
        drawn = int.from_bytes(self._entropy(4), "little") / 2.0**32  # uniform in [0, 1)
        self.connect_at = now + self._pause_s * (0.5 + 0.5 * drawn)
        self._pause_s = min(2 * self._pause_s, self._cap_s)
        return True
