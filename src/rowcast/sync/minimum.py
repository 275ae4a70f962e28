"""The lowest of many numbers that rise one at a time."""

from __future__ import annotations

__all__ = ["MinimumTracker"]


class MinimumTracker:
    """A number for each name, and the lowest of all at hand.

    A team's numbers lie within a few steps of each other, so what is searched when the lowest goes is the handful
    of distinct numbers, not the team: a change costs the same with four workers and with a thousand.
    """

    def __init__(self) -> None:
        self._of: dict[str, int] = {}
        self._count: dict[int, int] = {}
        self._lowest: int | None = None

    def set(self, name: str, number: int) -> None:
        """``name`` stands at ``number``."""
        before = self._of.get(name)
        if before == number:
            return
        if before is not None:
            self._leave(before)
        self._of[name] = number
        self._count[number] = self._count.get(number, 0) + 1
        if self._lowest is None or number < self._lowest:
            self._lowest = number

    def remove(self, name: str) -> None:
        """``name`` does not count any longer."""
        before = self._of.pop(name, None)
        if before is not None:
            self._leave(before)

    def lowest(self) -> int | None:
        """The lowest number; ``None`` when nobody counts."""
        return self._lowest

    def __getitem__(self, name: str) -> int:
        return self._of[name]

    def __contains__(self, name: object) -> bool:
        return name in self._of

    def __len__(self) -> int:
        return len(self._of)

    def _leave(self, number: int) -> None:
        left = self._count[number] - 1
        if left:
            self._count[number] = left
            return
        del self._count[number]
        if number == self._lowest:
            self._lowest = min(self._count, default=None)
