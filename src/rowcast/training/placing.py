"""Where the vectors of a worker lie: in host memory, or where its model is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from rowcast.delivery.placed import Held, Home, Movable, Vectors
from rowcast.delivery.residual import Residual
from rowcast.delivery.snapshot import Snapshot
from rowcast.sync import Policy
from rowcast.training.proposal.own_writes import OwnWrites
from rowcast.training.proposal.replica import Replica
from rowcast.wire import Rows

__all__ = ["Placing", "host_only"]


def host_only(policy: Policy) -> str | None:
    """Why what is pending must lie in host memory with this policy; ``None``: it need not."""
    reasons = {
        "has outer momentum": policy.outer_momentum > 0,
        "lets what is pending decay": policy.feedback < 1,
        "draws rows at random": policy.sampled,
        "sends factors of matrices": policy.rank > 0,
    }
    found = [what for what, holds in reasons.items() if holds]
    return f"the policy {policy.name!r} {found[0]}" if found else None


class Placing:
    """Puts the vectors of a worker into a home, and takes them back.

    Args:
        replica, residual, snapshot: what holds them; in host memory until :meth:`begin`.
        moved: called with a sentence for people when they have gone back to the host.
    """

    def __init__(self, replica: Replica, residual: Residual, snapshot: Snapshot, moved: Callable[[str], None]) -> None:
        self._replica = replica
        self._residual = residual
        self._snapshot = snapshot
        self._moved = moved
        self._vectors = Vectors(replica.layout, None, moved)
        self._placed: tuple[Movable, Movable] | None = None

    def begin(self, home: Home) -> None:
        """Put the vectors into a home; before the worker is connected for the first time.

        In a timing-only layout there is nothing to put there. Without room they stay in host memory, with a notice.
        """
        layout = self._replica.layout
        if layout.is_timing_only:
            return
        self._vectors = Vectors(layout, home, self._moved)
        replica, pending = (self._vectors.place(one) for one in (self._replica.parameters, self._residual.vector))
        self._placed = replica, pending
        self._replica.lie_at(replica)
        self._snapshot.lie_at(replica)
        self._residual.lie_at(pending)

    def follow(self, policy: Policy) -> None:
        """The team's policy is this: vectors that it needs in host memory go there, with a notice."""
        if (why := host_only(policy)) is not None:
            self.end(why)

    def end(self, cause: str) -> None:
        """Vectors that lie in a home go to host memory, with a notice that says why."""
        self._vectors.bring_home(cause)

    def own_writes(self, on_their_way: Callable[[], Iterable[Rows]]) -> OwnWrites:
        """Follows this worker's own rows; see there."""
        layout = self._replica.layout
        if self._placed is None:
            return OwnWrites(layout, self._replica.parameters, on_their_way)
        expected = self._vectors.place(np.array(self._replica.parameters))
        return OwnWrites(layout, self._replica.parameters, on_their_way, (self._placed[0], expected))

    @property
    def held(self) -> Held | None:
        """The vectors where they do not lie in host memory; ``None``: they do."""
        if self._vectors.home is None or self._placed is None:
            return None
        replica, pending = self._placed
        own_writes = self._replica.own_writes
        return Held(replica, pending, replica if own_writes is None else own_writes.vector)
