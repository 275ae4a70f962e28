"""Where everything is that was computed: what the invariants are checked by."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.delivery.outbox import Outbox
from rowcast.rows import Layout
from rowcast.sync import Policy
from rowcast.training import ServerNode, WorkerNode
from rowcast.training.member import MemberState
from rowcast.training.rules.streamed import StreamedRule
from rowcast.training.rules.streamed_member import STREAMED

__all__ = ["Staleness", "decay", "imbalance", "in_flight", "outer_step", "reweighed", "undelivered"]


def in_flight(outbox: Outbox, layout: Layout, received: int) -> npt.NDArray[np.float32]:
    """The sum of the frames of an outbox that the peer has not applied, float32 [elements].

    Args:
        outbox: the sender's.
        layout: the model's rows.
        received: number of the last frame that the peer has applied.
    """
    total = layout.zeros()
    for message in outbox.unacknowledged():
        if message.number > received and not message.absolute:
            message.code.add(layout, message.payload, message.rows, total, 1.0)
    return total


def imbalance(server: ServerNode, node: WorkerNode) -> float:
    """Largest difference between what a worker holds and misses, and the team's parameters (invariant 5).

    Its replica is what it started from minus what reached it; what it still misses is owed; and the server's
    parameters are the start minus everything delivered. 0 where nothing can be said: it is not a member, or is not
    owed what comes after its end.
    """
    member, ledger = server.members.get(node.name), server.ledger
    assert ledger is not None
    if member is None or not node.joined or member.owed.snapshot.left:
        return 0.0
    if member.life != node.server_life:
        return 0.0  # it was forgotten, and has not heard yet that it joins anew
    if node.client.anew:
        return 0.0  # it was killed, and does not hold what it had been sent
    if member.state is MemberState.DRAINING and not member.finish_wait:
        return 0.0
    missing = member.owed.source.total() + in_flight(member.owed, node.layout, node.inbox.received)
    missing += ledger.kept_back(member)
    return float(np.abs(node.replica - missing - ledger.parameters).max())


def undelivered(server: ServerNode, node: WorkerNode) -> npt.NDArray[np.float64]:
    """What a worker computed and the server has not applied: pending and on its way, float64 [elements]."""
    received = server.received_from(node.name, node.server_life)
    if node.recovery is not None:
        return node.recovery.pending_if(received)
    received = node.outbox.sent_frames if received is None else received
    return node.pending.astype(np.float64) + in_flight(node.outbox, node.layout, received)


def outer_step(
    policy: Policy, layout: Layout, share: npt.NDArray[np.float64], velocity: npt.NDArray[np.float64] | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64] | None]:
    """What a contribution must come to (DiLoCo: Douillard et al., arXiv 2311.08105, Alg. 1).

    Args:
        policy: the team's policy.
        layout: the model's rows.
        share: weight * update, float64 [elements].
        velocity: of the outer momentum so far; ``None`` before the first contribution.

    Returns:
        The step, float64 [elements], and the velocity from now on. Buffers count what they are given.
    """
    lr, momentum = policy.outer_lr, policy.outer_momentum
    buffers = share[layout.offsets[layout.parameter_rows] :].copy()
    if momentum:
        velocity = share if velocity is None else momentum * velocity + share
        step = lr * (share + momentum * velocity)
    else:
        step = share * lr if lr != 1 else share
    step[len(step) - len(buffers) :] = buffers
    return step, velocity


def decay(share: float, layout: Layout, pending: npt.NDArray[np.float32]) -> npt.NDArray[np.float64] | float:
    """What is added to what is pending when only a share of it is kept, float64 [elements]; buffers lose nothing.

    0 where all of it is kept.
    """
    if share == 1:
        return 0.0
    lost = (np.float64(np.float32(share)) - 1) * pending
    lost[layout.offsets[layout.parameter_rows] :] = 0
    return lost


def reweighed(policy: Policy, node: WorkerNode, weight: float) -> npt.NDArray[np.float64] | float:
    """What a worker's pending grows by when it is to count with another averaging weight, float64 [elements].

    Args:
        policy: the team's policy.
        node: the worker, before it accumulates with the weight.
        weight: the averaging weight.

    Returns:
        0 where what is pending keeps the weights with which it was accumulated: wherever rows are not drawn at random.
    """
    return node.pending.astype(np.float64) * (weight / node.contribution.weight - 1) if policy.sampled else 0.0


class Staleness:
    """How old what a worker holds and has delivered is, at each moment at which one starts to compute.

    Attributes:
        gaps: ``iteration - min(versions)``.
        push_ages, pull_ages: iterations since the oldest row of this worker was pushed, and since the oldest row that
            it is owed was pulled.
        outage_ages: where rows are streamed, the same as ``pull_ages`` for every start that is left out there: of a
            worker that computes on although the gate is shut, or that the gate does not count. Without an outage there
            is none; the bound is the slack and what the policy allows in an outage (``ahead``) on top.
    """

    def __init__(self, layout: Layout) -> None:
        self.gaps: list[int] = []
        self.push_ages: list[int] = []
        self.pull_ages: list[int] = []
        self.outage_ages: list[int] = []
        self._layout = layout

    def measure(self, server: ServerNode, node: WorkerNode) -> None:
        """A worker starts to compute."""
        if node.name in server.versions and not node.beyond:
            self._measure_counted(server, node)
        else:
            self._measure_outage(server, node)

    def _measure_counted(self, server: ServerNode, node: WorkerNode) -> None:
        oldest = server.versions.oldest()
        member = server.members[node.name]
        owed = member.owed
        streaming = server.rule if isinstance(server.rule, StreamedRule) else None
        assert oldest is not None
        iteration = node.iteration if streaming is None else node.iteration + streaming.streamed(member).shift
        self.gaps.append(iteration - oldest)
        self.push_ages.append(iteration - server.versions.oldest_of(node.name))
        if streaming is None:
            own = owed.source.own
            stamps = own.stamps[np.logical_or.reduceat(own.vector != 0, self._layout.offsets[:-1])]
            held = int(stamps.min(initial=node.iteration))
        else:
            held = min(streaming.horizon_of(member), owed.horizon_in_flight(node.inbox.received))
        self.pull_ages.append(iteration - held)

    def _measure_outage(self, server: ServerNode, node: WorkerNode) -> None:
        """How old is what a worker in an outage holds, in its own count?"""
        streaming, member = server.rule, server.members.get(node.name)
        if not isinstance(streaming, StreamedRule) or member is None:
            return
        if member.life != node.server_life or member.state not in STREAMED:
            return  # this server does not know it, or not as one that computes
        held = min(streaming.horizon_of(member), member.owed.horizon_in_flight(node.inbox.received))
        self.outage_ages.append(node.iteration + streaming.streamed(member).shift - held)
