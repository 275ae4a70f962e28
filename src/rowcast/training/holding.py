"""Where a worker holds its vectors, and in which form.

Unless something else is asked for, they are float32 in host memory. With a limit for them one is done without, or what
is pending is held in half precision (:mod:`rowcast.training.memory`). Where the model is computed on a device, they can
lie there (:mod:`rowcast.delivery.placed`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowcast.delivery.half_residual import HalfResidual
from rowcast.delivery.placed import Home, Placed, PlacedVector
from rowcast.delivery.placed_residual import PlacedResidual
from rowcast.delivery.residual import Residual
from rowcast.errors import ConfigError
from rowcast.sync import Policy
from rowcast.training.memory import KEPT_SHARE, Plan, plan, stands_still
from rowcast.training.proposal.own_writes import OwnWrites
from rowcast.training.proposal.placed_writes import PlacedWrites
from rowcast.training.proposal.relayed_writes import RelayedWrites
from rowcast.training.proposal.replica import Writes
from rowcast.training.proposal.sent_writes import SentWrites
from rowcast.wire import Leave

if TYPE_CHECKING:
    from rowcast.training.core import WorkerCore

__all__ = ["Holding", "host_only"]

#: Codes in which rows are encoded where they lie.
CODES = ("onebit", "raw")


def host_only(policy: Policy) -> str | None:
    """Why vectors lie in host memory with this policy whatever was asked for, for people; ``None``: they need not."""
    reasons = {
        "has outer momentum": policy.outer_momentum > 0,
        "lets what is pending decay": policy.feedback < 1,
        "draws rows at random": policy.sampled,
        "sends factors of matrices": policy.rank > 0,
        f"has the code {policy.codec!r}": policy.codec not in CODES,
    }
    return next((f"the policy {policy.name!r} {reason}" for reason, holds in reasons.items() if holds), None)


class Holding:
    """The vectors of a worker.

    It joins with all of them in host memory. They go to a home when the team's parameters are there for the first time,
    and stay there until they come back for good: with a policy that needs them on the host, below a relay, or when the
    home has no memory left.

    Args:
        node: the worker.

    Attributes:
        home: where they are to lie; whoever knows sets it before the worker joins. ``None``: in host memory.
    """

    def __init__(self, node: WorkerCore) -> None:
        self.home: Home | None = None
        self._node = node
        self._plan: Plan | None = None
        self._replica: PlacedVector | None = None  # the replica

    # -- with little memory ------------------------------------------------------------------------------------

    def fit(self) -> bool:
        """The policy is known: plan what is held, and tell it; false: that is more than it may, and it has failed."""
        node, limit_mb = self._node, self._node.settings.memory_mb
        if limit_mb is None or node.policy is None:
            return True
        try:
            new = plan(
                node.layout,
                node.policy,
                node.loop,
                limit_mb=limit_mb,
                keeps_state=node.notebook is not None,
                relayed=bool(node.client.way),
            )
        except ConfigError as error:
            node.say(Leave("its memory_mb is too small for the policy"))
            node.fail(error)
            return False
        if new != self._plan:
            self._plan = new
            node.notices.append(f"{node.name}: memory: {new}")
        self.hold(half=new.half)
        return True

    def hold(self, *, half: bool) -> None:
        """What is pending is held in half precision from now on, or as float32."""
        node = self._node
        if half == isinstance(node.residual, HalfResidual):
            return
        new = HalfResidual(node.layout, node.computed) if half else Residual(node.layout, node.layout.zeros())
        # What was kept of another life is put there once the server has told what of it has arrived.
        new.adopt(node.residual, content=node.recovery is None)
        node.hold_in(new)

    @property
    def small(self) -> bool:
        """It does without a vector."""
        return self._plan is not None and self._plan.small

    @property
    def lean(self) -> bool:
        """The training loop is to count its steps from the replica, and to keep no copy of it."""
        policy = self._node.policy
        return self.small and self._node.loop.spares and policy is not None and stands_still(policy)

    # -- where they lie ----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The parameters are the team's: vectors go where they are to lie, and own rows are followed."""
        self._move()
        node = self._node
        writes: Writes | None = None
        if node.policy is not None and node.policy.reads_own_writes and not node.layout.is_timing_only:
            writes = self._writes()
            writes.restart()
        node.own_writes = node.residual.follower = writes

    def settle(self) -> None:
        """Between two things that are done: after a home has had no memory left, host memory is used as ever."""
        if self.home is not None and self.home.full:
            self.leave(self.home.full)

    @property
    def placed(self) -> Placed | None:
        """The vectors in their home; ``None``: they are in host memory."""
        residual, replica = self._node.residual, self._replica
        if self.home is None or replica is None or not isinstance(residual, PlacedResidual):
            return None
        writes = self._node.own_writes
        return Placed(replica, residual.placed, writes.vector if isinstance(writes, PlacedWrites) else replica)

    def _move(self) -> None:
        node, home = self._node, self.home
        if home is None or node.policy is None or node.layout.is_timing_only:
            return
        cause = "it is below a relay" if node.client.way else host_only(node.policy)
        if cause is not None:
            self.leave(cause)
        elif self._replica is None:
            self._replica = home.vector(node.layout, node.replica)
            new = PlacedResidual(node.layout, home.vector(node.layout, node.layout.zeros()))
            new.adopt(node.residual, content=True)
            node.hold_in(new)
            node.move_replica(self._replica)
        self.settle()

    def leave(self, cause: str) -> None:
        """Vectors that lie, or are to lie, in a home are in host memory from now on; a notice says why."""
        node, layout, home, placed = self._node, self._node.layout, self.home, self._replica
        if home is None:
            return
        self.home = self._replica = None
        why = home.full or cause
        node.notices.append(f"{node.name}: what is shared is computed in host memory, not on {home.name}: {why}")
        if placed is None:
            return
        node.move_replica(placed[:])
        new = Residual(layout, layout.zeros())
        new.adopt(node.residual, content=True)
        node.hold_in(new)
        writes = node.own_writes
        if isinstance(writes, PlacedWrites):
            new.follower = node.own_writes = moved = OwnWrites(layout, node.replica, node.outbox.unacknowledged)
            moved.expected[:] = writes.expected

    def _writes(self) -> Writes:
        """What follows own rows: the same as before where its kind is."""
        node, layout, now = self._node, self._node.layout, self._node.own_writes
        on_their_way = node.outbox.unacknowledged
        if node.client.way:
            return now if isinstance(now, RelayedWrites) else RelayedWrites(layout, node.replica, node.next_number)
        if self.home is not None and self._replica is not None:
            if isinstance(now, PlacedWrites):
                return now
            return PlacedWrites(layout, self._replica, self.home.vector(layout, layout.zeros()), on_their_way)
        if self.small:
            room = 4 * layout.elements // KEPT_SHARE
            return now if isinstance(now, SentWrites) else SentWrites(layout, node.replica, on_their_way, room)
        return now if isinstance(now, OwnWrites) else OwnWrites(layout, node.replica, on_their_way)
