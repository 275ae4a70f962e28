"""A limit of time that is over is asked about twice before anything is done."""

from __future__ import annotations

__all__ = ["ConfirmedTimeout"]


class ConfirmedTimeout:
    """Whether a limit is really over, or only looks like it.

    The first time that a limit is found to be over it is a doubt only. The driver reads what there is before it asks
    again: a node that was busy for long has perhaps not read what has arrived long since. Who is asked late (it was
    busy, or its machine slept) also gives the peer the time of a heartbeat.
    """

    def __init__(self) -> None:
        self._until: float | None = None

    def due_at(self, over_at: float) -> float:
        """When :meth:`is_over` must be asked about a limit that is over at ``over_at`` (s)."""
        return over_at if self._until is None else max(over_at, self._until)

    def is_over(self, now: float, over_at: float, heartbeat_s: float) -> bool:
        """Whether the limit is over, beyond doubt.

        Args:
            now: time (s).
            over_at: when the limit is over (s), as far as is known now.
            heartbeat_s: the peer says something so often.
        """
        if now < over_at:
            self._until = None
            return False
        if self._until is None:
            self._until = now + heartbeat_s if now > over_at + heartbeat_s / 2 else now
            return False
        return now >= self._until

    def clear(self) -> None:
        """Something has arrived."""
        self._until = None
