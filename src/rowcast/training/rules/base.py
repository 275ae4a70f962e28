"""What a synchronisation rule is to a server, and under which names there are rules.

A rule decides who may compute on and when rows travel. It is called back at the turns of a worker's life; what it does
not care about it leaves as it is here. A new rule is a file with a subclass, and a line in
:mod:`rowcast.training.rules`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec
from rowcast.delivery.backlog import Backlog
from rowcast.delivery.outbox import Outbox
from rowcast.delivery.residual import Residual
from rowcast.delivery.snapshot import Snapshot
from rowcast.delivery.source import Sending
from rowcast.delivery.window import Window
from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout
from rowcast.sync import Policy
from rowcast.training.member import Member, MemberState
from rowcast.wire import Ack, Message, RowLimits, Rows

if TYPE_CHECKING:
    from rowcast.training.core import WorkerCore
    from rowcast.training.team import Team

__all__ = ["Handler", "ServerRule", "WorkerHandler", "WorkerRule"]

#: Takes a message of a member that has a place in the conversation.
Handler = Callable[[float, Member, Message], None]

#: Takes a message of the server.
WorkerHandler = Callable[[float, Message], None]


def no_stream(message: Ack) -> RemoteProtocolError:
    """An acknowledgement of rows that nobody sends."""
    return RemoteProtocolError(f"expected an acknowledgement of row stream 0, got one of {message.stream}")


class ServerRule:
    """The server's side of a rule; on its own it lets everybody go on and sends nothing.

    Args:
        team: the team; its gate and its model are there when the first callback comes.

    Attributes:
        handlers: the messages that only this rule knows, and what takes them.
        states: states of a worker whose next message is for the rule to say.
        between_steps: states in which a worker may finish.
        recounts: a worker that comes back after it was given up counts at once, from where the gate says.
    """

    states: frozenset[MemberState] = frozenset()
    between_steps: frozenset[MemberState] = frozenset({MemberState.COMPUTING})
    recounts = True

    def __init__(self, team: Team) -> None:
        self.team = team
        self.handlers: Mapping[type[Message], Handler] = {}

    # -- row streams -------------------------------------------------------------------------------------------

    def streams(self, layout: Layout) -> dict[int, RowLimits]:
        """The row streams from a worker, by number: 0 are the model's rows, others are known to the rule only."""
        return {0: RowLimits(layout.rows)}

    def side_rows(self, now: float, member: Member, message: Rows) -> None:
        """Rows of another stream than 0 have come."""

    def side_acknowledged(self, now: float, member: Member, message: Ack) -> None:
        """A worker has acknowledged rows of another stream than 0.

        Raises:
            RemoteProtocolError: there is no such stream.
        """
        raise no_stream(message)

    def sending(self, member: Member) -> Sending:
        """The frames whose acknowledgements tell whether the link of ``member`` is stuck."""
        return member.owed

    # -- the model ---------------------------------------------------------------------------------------------

    def lay_out(self, layout: Layout) -> None:
        """The layout is known: set memory aside. Nobody else is a member yet."""

    def reset(self) -> None:
        """There is no model any longer, and nobody is a member."""

    def outbox(self, name: str, layout: Layout, parameters: npt.NDArray[np.float32]) -> Outbox:
        """A new outbox for the worker called ``name``; ``parameters`` are the team's."""
        backlog = Residual(layout, layout.zeros())
        return Outbox(backlog, Window(self.team.links), Snapshot(layout, parameters, settles=True))

    @property
    def common(self) -> Backlog | None:
        """What is owed to all workers alike; ``None`` where each is owed its own."""
        return None

    @property
    def clean(self) -> bool:
        """Whether who holds the parameters is owed nothing."""
        return True

    def owing(self) -> Collection[Member]:
        """Members whose share of an update is added to what they alone are owed."""
        return self.team.members.values()

    def sharing(self) -> list[str]:
        """Names of those among whom the update of an iteration is shared."""
        return [member.name for member in self.team.gate.counted()]

    def size(self) -> int:
        """Among how many workers the update of an iteration is shared, those below relays included; 1 or more."""
        return max(self.team.gate.leaves, 1)

    # -- who takes part ----------------------------------------------------------------------------------------

    def admit(self, now: float, member: Member) -> None:
        """The gate counts ``member`` since now."""

    def least_iteration(self) -> int:
        """Where nobody counts, the iteration from which on a newcomer does at least."""
        return 0

    def leaving(self, now: float, member: Member) -> None:
        """``member`` is about to count no longer, or to leave."""

    def left(self, now: float, member: Member) -> None:
        """``member`` does not count any longer."""

    def remove(self, member: Member) -> None:
        """``member`` has left for good."""

    def link_lost(self, now: float, member: Member) -> None:
        """The link of ``member`` is gone."""

    def newest(self, member: Member) -> int:
        """The newest iteration that ``member`` has told of, in its own count."""
        return member.iteration

    def resumed(self, member: Member) -> None:
        """``member`` is back, on a new connection; what was told may have been lost with the old one."""

    def returns(self, member: Member) -> bool:
        """Whether ``member``, which does not count, will count again without asking."""
        return False

    def leavers(self, now: float) -> list[tuple[Member, float]]:
        """Members for whom nobody is to wait any longer, and for how long each has been silent (s)."""
        return []

    def finishing(self, member: Member, wait: bool) -> None:
        """``member`` has finished; it stays until the others have, or not."""

    # -- what arrives ------------------------------------------------------------------------------------------

    def expect(self, member: Member, iteration: int) -> None:
        """Check the iteration that a worker names: the one after its last, or that one again after a cut.

        Raises:
            RemoteProtocolError: it is another one.
        """
        if not member.iteration <= iteration <= member.iteration + 1:
            raise RemoteProtocolError(
                f"expected iteration {member.iteration} or {member.iteration + 1} of {member.name}, got {iteration}"
            )

    def arriving(self, now: float, member: Member, message: Rows) -> None:
        """Rows have come, and are about to be added to what anybody is owed."""

    def arrived(self, now: float, member: Member, message: Rows) -> None:
        """They were added."""

    def acknowledged(self, now: float, member: Member) -> None:
        """A worker has acknowledged rows."""

    def heartbeat(self, now: float, member: Member, metrics: Mapping[str, float]) -> None:
        """A worker lives, and tells a few figures."""

    # -- what the server's work is -----------------------------------------------------------------------------

    def push_work(self, message: Message) -> float:
        """How much of a push's work it is to take a message of a worker in: 1 is that of a whole push."""
        return 0.0

    def pull_work(self, message: Message) -> float:
        """How much of a pull's work goes with a message to a worker: 1 is that of a whole pull."""
        return 0.0

    # -- who goes on, and what is sent -------------------------------------------------------------------------

    def open_gate(self, now: float, newcomer: Member | None = None) -> None:
        """Let everybody go on whom the policy allows to.

        Args:
            now: time (s).
            newcomer: has begun to wait since the last call.
        """

    def next_message(self, now: float, member: Member) -> Message | None:
        """The next message to a worker in one of the :attr:`states`, if any."""
        return None

    def take_next(self, member: Member) -> Message | None:
        """What must follow the last message to ``member`` before anything else, in whatever state it is now."""
        return None

    def wake_all_ready(self) -> None:
        """Wake those to whom something may be sent since the last call."""

    def reason(self, now: float, member: Member) -> str:
        """For whom a member waits, and why, in words."""
        return self.team.gate.reason(now, member, self.team.settings.absence_limit_s) or "its turn"

    # -- time --------------------------------------------------------------------------------------------------

    def wake_at(self, member: Member) -> float:
        """When something may have to be done for ``member`` that nothing else is the occasion for (s); in any state."""
        return math.inf

    def wakes(self, member: Member) -> bool:
        """Whether something may be sent to ``member`` because time has passed."""
        return False


class WorkerRule:
    """The worker's side of a rule; on its own it lets every iteration follow at once and sends nothing.

    Args:
        node: the worker; its policy is known when the first callback comes.

    Attributes:
        handlers: the messages that only this rule knows, and what takes them.
        asks_for: what a worker waits for that asks, in words.
        resumes: a worker that was killed can go on in its session; otherwise it joins anew.
    """

    asks_for = ""
    resumes = True

    def __init__(self, node: WorkerCore) -> None:
        self.node = node
        self.handlers: Mapping[type[Message], WorkerHandler] = {}

    def welcomed(self, policy: Policy) -> Policy:
        """The server let the worker in, with this policy; returns the one in force."""
        return policy

    def streams(self, layout: Layout) -> dict[int, RowLimits]:
        """The row streams from the server, by number: 0 are the model's rows, others are known to the rule only."""
        return {0: RowLimits(layout.rows)}

    def side_rows(self, now: float, message: Rows) -> None:
        """Rows of another stream than 0 have come."""

    def side_acknowledged(self, now: float, message: Ack) -> None:
        """The server has acknowledged rows of another stream than 0.

        Raises:
            RemoteProtocolError: there is no such stream.
        """
        raise no_stream(message)

    @property
    def sending(self) -> Sending:
        """The frames whose acknowledgements tell whether the link is stuck."""
        return self.node.outbox

    @property
    def busy(self) -> bool:
        """There is something to send that is not in the outbox: rows are to be chosen, or see :meth:`after_rows`."""
        return False

    def start(self) -> None:
        """The parameters are the team's, and the worker counts as the team does."""

    def begin(self, now: float) -> None:
        """The worker has joined, and has not computed yet: :meth:`WorkerCore.begin` when it may."""
        self.node.begin(now)

    def exchange(self, now: float) -> None:
        """An iteration is finished: exchange it with the team; :meth:`WorkerCore.compute` when that is done."""
        self.node.compute(now)

    def carry_on(self, now: float) -> None:
        """The worker is let in again: go on where the link was lost."""

    def begin_again(self, now: float) -> None:
        """The team starts anew while an iteration is exchanged, perhaps under another rule: exchange it."""
        self.carry_on(now)

    def arrived(self, codec: Codec, message: Rows) -> None:
        """Rows have come, and were applied to the replica or wait until it may be moved."""

    def returned(self, message: Rows) -> npt.NDArray[np.int64] | None:
        """Of each row of a frame that has come, up to which own frame it holds what was sent, if the server says so."""
        return None

    def acknowledged(self, now: float) -> None:
        """The server has acknowledged rows."""

    def link_lost(self, now: float) -> None:
        """The connection ended."""

    def forget_transfer(self) -> None:
        """Book what the last transfer of this iteration sent, before another one takes its place."""
        node = self.node
        transfer = node.outbox.transfer
        if transfer is not None and transfer.iteration == node.iteration:
            node.step.pushed(transfer)
        node.outbox.transfer = None

    def before_frame(self, now: float) -> None:
        """The next frame of rows is about to be taken: choose them, where they are to be chosen anew."""

    def refine(self, now: float) -> bool:
        """All rows were sent; whether there is something new to send."""
        return False

    def after_rows(self, now: float) -> Message | None:
        """What follows the last row frame of an exchange."""
        return None

    def wake_at(self) -> float:
        """When :meth:`on_timer` must be called (s), while the worker is let in."""
        return math.inf

    def on_timer(self, now: float) -> None:
        """Time passed."""

    @property
    def beyond(self) -> bool:
        """It computes although the gate is shut: in an outage, in which nobody waits for it."""
        return False
