"""The server's side of a policy that streams: rows flow all the time, and each worker is told how fresh it is.

There is no push state and no pull state, so there is no permission either. A worker starts its next iteration when
it holds everybody's contributions up to ``iteration - slack``: its *horizon*, end to end (algorithms.md 1.4). The
server knows for each row how far everybody's contribution has come (the *floor*), and for each worker which rows have
changed since it was sent them; the horizon follows, and travels to the worker between its rows.

With an elastic policy nobody waits for a robot in an outage (:mod:`rowcast.training.rules.outage`). Its own count of
iterations goes on undisturbed: the server translates.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from rowcast.delivery.backlog import MAX_STAMP, Backlog
from rowcast.delivery.cursor import Cursor
from rowcast.delivery.floored import Floored
from rowcast.delivery.outbox import Outbox
from rowcast.delivery.shared_log import SharedLog
from rowcast.delivery.snapshot import Snapshot
from rowcast.delivery.window import Window
from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout
from rowcast.rows.kernels import lowest
from rowcast.sync import UsualInterval
from rowcast.training.member import Member, MemberState
from rowcast.training.rules.adaptation import Adaptation
from rowcast.training.rules.base import ServerRule
from rowcast.training.rules.downstream import CHOOSE_FRAMES, choose, due_at, lacks, refine
from rowcast.training.rules.floor import Floor
from rowcast.training.rules.outage import Outages
from rowcast.training.rules.returns import Applied, Returning
from rowcast.training.rules.streamed_member import STREAMED, StreamedMember
from rowcast.training.rules.subtree import hear_subtree
from rowcast.wire import Computed, Horizon, Message, Rows, Subtree

if TYPE_CHECKING:
    from rowcast.training.team import Team

__all__ = ["StreamedRule"]


class StreamedRule(ServerRule):
    """Horizons, who counts, and which rows each is sent next.

    Attributes:
        floor: how far everybody's contribution to each row has come.
        stream: the rows that all workers are sent alike; ``None`` where each is sent its own.
        outages: who has left the gate although it is a member, and when it counts again.
        returning: says what of a member's own rows is in those that it is sent.
    """

    states = between_steps = STREAMED
    recounts = False

    def __init__(self, team: Team) -> None:
        super().__init__(team)
        self.handlers = {Computed: self._on_computed, Subtree: self._on_subtree}
        self._policy = team.policy  # with the slack and the outer learning rate to begin with
        self._begin(0)

    def _begin(self, rows: int) -> None:
        """A model of so many rows, of which nobody has anything yet."""
        self.floor = Floor(rows, self.team.gate)
        self._adaptation = Adaptation(self.team, self._policy)
        self._streamed: dict[str, StreamedMember] = {}
        self.stream: SharedLog | None = None
        self._apart: dict[str, Member] = {}  # who is sent rows of its own although there is a common stream
        self.outages = Outages(self)
        self.returning = Returning(None)

    # -- the model ---------------------------------------------------------------------------------------------

    def lay_out(self, layout: Layout) -> None:
        self._begin(layout.rows)
        self._adaptation.begin()
        if self._policy.pulls == "common":
            self.stream = SharedLog(
                self.team.policy_in_force,
                layout,
                self.team.links,
                self.levels,
                choose_s=CHOOSE_FRAMES * self.team.links.frame_s,
                step_s=self._usual_step_s,
                newest=self.team.gate.newest,
            )
            asked = self._policy.reads_own_writes and not layout.is_timing_only
            self.returning = Returning(Applied() if asked else None)

    def reset(self) -> None:
        self.team.policy = self._policy
        self._begin(0)

    def outbox(self, name: str, layout: Layout, parameters: npt.NDArray[np.float32]) -> Outbox:
        window, snapshot = Window(self.team.links), Snapshot(layout, parameters, settles=True)
        if self.stream is not None:
            return Outbox(Cursor(name, self.stream, window), window, snapshot)
        return Outbox(Floored(layout, layout.zeros(), self.levels), window, snapshot)

    @property
    def common(self) -> Backlog | None:
        return None if self.stream is None else self.stream.residual

    @property
    def clean(self) -> bool:
        return self.stream is None or self.stream.clean

    def owing(self) -> Collection[Member]:
        return (self.team.members if self.stream is None else self._apart).values()

    @property
    def levels(self) -> npt.NDArray[np.int32]:
        """int32 [rows], up to which iteration what can be sent now holds everybody's contributions to each row."""
        return self.floor.levels

    @property
    def held(self) -> int:
        """The lowest of :attr:`levels`."""
        return self.floor.lowest

    @property
    def slack(self) -> int:
        """Iterations that a worker may be ahead of its horizon, now."""
        return self.team.policy.slack or 0

    @property
    def ahead(self) -> int:
        """Iterations that a worker may finish while its link is down."""
        return self._policy.largest_slack + self._policy.ahead + 1

    def streamed(self, member: Member) -> StreamedMember:
        """What is kept for ``member``."""
        return self._streamed[member.name]

    # -- one stream for all ------------------------------------------------------------------------------------

    def _usual_step_s(self) -> float:
        steps = sorted(streamed.step_s for streamed in self._streamed.values())
        return steps[len(steps) // 2] if steps else 1.0

    def finishing(self, member: Member, wait: bool) -> None:
        if not wait and member.owed.follows:  # it does not stay until all is in the stream
            member.owed.detach()
            self._apart[member.name] = member

    def wake_all_ready(self) -> None:
        if self.stream is None:
            return
        for name in self.stream.take_woken():
            member = self.team.members.get(name)
            if member is not None and member.link is not None:
                self.team.notifier.wake(member.link)

    def count(self, member: Member, counted: bool) -> None:
        """Whether the gate counts ``member`` has changed."""
        if self.stream is not None:
            self.stream.count(member.name, counted)

    # -- who takes part ------------------------------------------------------------------------------------------

    def admit(self, now: float, member: Member) -> None:
        streamed = StreamedMember(
            np.full(len(self.floor.levels), member.iteration, dtype=np.int32), UsualInterval(now), member.iteration
        )
        streamed.oldest = member.iteration
        self._streamed[member.name] = streamed
        self.floor.renew()
        self.count(member, True)

    def least_iteration(self) -> int:
        return self.floor.lowest if self.outages.sharing() else 0  # who is away holds all up to there

    def remove(self, member: Member) -> None:
        self.returning.forget(member)
        if not len(self.floor.levels):
            return  # the model is not there yet, or not any more
        self._streamed.pop(member.name, None)
        self._adaptation.forget(member.name)
        self.outages.forget(member)
        self.floor.renew()
        member.owed.close()
        self._apart.pop(member.name, None)

    def left(self, now: float, member: Member) -> None:
        self.outages.left(now, member, self.streamed(member))
        self._adaptation.goes_on(member.name, now)
        self.floor.renew()
        self.count(member, False)
        self.team.notifier.wake_all(self.team.members.values())

    def returns(self, member: Member) -> bool:
        return member.state in STREAMED and not member.given_up and member.name in self._streamed

    # -- what arrives --------------------------------------------------------------------------------------------

    def expect(self, member: Member, iteration: int) -> None:
        """Check the iteration that a worker names: its newest.

        Raises:
            RemoteProtocolError: it is another one.
        """
        if member.state not in STREAMED and member.state is not MemberState.DRAINING:
            super().expect(member, iteration)
            return
        own = self.streamed(member).own
        if iteration != own:
            raise RemoteProtocolError(f"expected iteration {own} of {member.name}, got {iteration}")

    def arriving(self, now: float, member: Member, message: Rows) -> None:
        """Rows of ``member`` are whole up to an iteration (in its own count)."""
        self.returning.taken(member, message, self.stream)
        rows = message.rows
        if member.state not in STREAMED:
            self._touch(rows)
            return
        self._wake_unserved()
        streamed = self.streamed(member)
        if len(message.payload):
            self._touch(rows)
        streamed.versions[rows] = message.iteration
        oldest = lowest(streamed.versions)
        if oldest > streamed.oldest:
            streamed.oldest = oldest
            streamed.interval.advanced(now)
        if not member.gated:
            return
        if self.floor.advance(member.name, rows, message.iteration + streamed.shift):
            self.team.notifier.wake_all(self.team.members.values())

    def _wake_unserved(self) -> None:
        """Wake those to whom there was nothing to send; there will be. Who has something to take in is awake."""
        for name in [] if self.team.model.arrivals is None else self.team.model.arrivals.current():
            other = (self.team.members if self.stream is None else self._apart).get(name)
            if other is None or other.link is None or other.name not in self._streamed:
                continue
            if lacks(other).lacking() == MAX_STAMP:
                self.team.notifier.wake(other.link)

    def _touch(self, rows: npt.NDArray[np.int64]) -> None:
        """Contributions to ``rows`` are about to be added to what everybody is owed."""
        if self.team.model.arrivals is not None:
            self.team.model.arrivals.touch(self.levels[rows])
        if self.stream is not None:
            self.stream.touch(rows)

    def _on_computed(self, now: float, member: Member, message: Message) -> None:
        if member.state is MemberState.DRAINING:
            return  # said again after a cut
        if member.state not in STREAMED:
            raise RemoteProtocolError(f"expected no finished iteration while {member.state.value}, got one")
        told = cast(Computed, message)
        self._computed(now, member, told)
        team = self.team
        member.metrics["rate_bps"] = told.rate_bps
        member.next_notice = now + team.settings.patience_s
        team.journal.record(now, "push", peer=member.name, iteration=told.iteration, **member.take_push(), quota_s=None)
        self._adaptation.look(now, self.floor.lowest)
        assert member.link is not None
        team.notifier.wake(member.link)
        if member.gated and self.in_outage(self.streamed(member)):
            team.departures.leave_gate(now, member, self.outages.silent_s(now, member))
        team.departures.let_go(now)

    def _computed(self, now: float, member: Member, message: Computed) -> None:
        """A worker has finished an iteration; after a cut it says so again, and may have finished several.

        Raises:
            RemoteProtocolError: an iteration before its last one, one that it cannot have got to, or a time below 0.
        """
        if message.compute_s < 0:
            raise RemoteProtocolError(f"expected a gradient of 0 s or more of {member.name}, got {message.compute_s}")
        streamed = self.streamed(member)
        told_here = member.link is None or member.link.opened_at < streamed.heard_at
        most = streamed.own + (1 if told_here else self.ahead)
        if not streamed.own <= message.iteration <= most:
            raise RemoteProtocolError(
                f"expected iteration {streamed.own} .. {most} of {member.name}, got {message.iteration}"
            )
        if member.gated and message.iteration > streamed.own:
            self._adaptation.computed(member.name, message.size, lacks(member).magnitude, message.momentum)
        streamed.heard_at = now
        streamed.own = message.iteration
        streamed.step_s = message.compute_s
        self.team.gate.finished(member, message.iteration + streamed.shift)
        streamed.outdated = True
        if self.stream is not None:
            self.stream.wake_one()
        if not streamed.may_start:
            self._wait(now, member)

    def in_outage(self, streamed: StreamedMember) -> bool:
        """Whether a worker is in an outage, and knows it."""
        return streamed.beyond

    def _on_subtree(self, now: float, member: Member, message: Message) -> None:
        hear_subtree(now, self.team, member, cast(Subtree, message))

    def _wait(self, now: float, member: Member) -> None:
        member.state = MemberState.WAITING
        member.waiting_since = now
        self.outages.waits(member)
        if member.gated:
            self._adaptation.waits(member.name, now)

    # -- horizons ------------------------------------------------------------------------------------------------

    def horizon_of(self, member: Member) -> int:
        """Up to which iteration a worker holds everybody's contributions, in the gate's count."""
        return lacks(member).horizon(self.held)

    def _tell(self, now: float, member: Member) -> Horizon | None:
        """What a worker must be told of its horizon before its next rows, if anything."""
        streamed = self.streamed(member)
        horizon = max(self.horizon_of(member) - streamed.shift, 0)
        members, counted = self.size(), self.waits_for(member)
        told = streamed.told
        outer_lr = self.team.policy.outer_lr if self._policy.auto_lr else 0.0
        news = horizon, self.slack, members, counted, outer_lr
        if told is not None and (told.horizon, told.slack, told.members, told.counted, told.outer_lr) == news:
            return None
        newest = max(self.newest_of_all() - streamed.shift, 0)
        message = Horizon(horizon, newest, self.slack, members, self.team.gate.epoch, counted, outer_lr)
        streamed.told = message
        if not streamed.may_start:
            if told is None and not streamed.begun:
                self._wait(now, member)
        elif member.state is MemberState.WAITING:
            member.state = MemberState.COMPUTING
            self._adaptation.goes_on(member.name, now)
        return message

    def waits_for(self, member: Member) -> bool:
        """Whether others wait for ``member``."""
        return member.gated

    def newest_of_all(self) -> int:
        """Iteration of the fastest worker that counts."""
        return self.team.gate.newest()

    def size(self) -> int:
        """See :class:`ServerRule`.

        A robot in an outage keeps its share: what it computes meanwhile comes later. Were the others to count for more,
        the model would go after their data alone, and the robot's part come on top.
        """
        return max(self.team.gate.leaves + sum(member.leaves for member in self.outages.sharing()), 1)

    def sharing(self) -> list[str]:
        return [member.name for member in (*self.team.gate.counted(), *self.outages.sharing())]

    def newest(self, member: Member) -> int:
        return self._streamed[member.name].own if member.name in self._streamed else member.iteration

    def link_lost(self, now: float, member: Member) -> None:
        self.returning.link_lost(member)

    def resumed(self, member: Member) -> None:
        if member.name in self._streamed:
            self.streamed(member).told = None

    # -- what is sent --------------------------------------------------------------------------------------------

    def next_message(self, now: float, member: Member) -> Message | None:
        team, ledger = self.team, self.team.model.ledger
        if ledger is None:
            return None
        if not member.gated and self.outages.ends(now, member):
            team.journal.record(
                now,
                "return",
                peer=member.name,
                epoch=team.gate.epoch,
                iteration=member.iteration,
                members=len(team.gate.versions),
            )
            team.notifier.wake_all(team.members.values())
        if member.state is MemberState.WAITING and self._adaptation.look_at() <= now:
            self._adaptation.look(now, self.floor.lowest)
        told = self._tell(now, member)
        if told is not None:
            return told
        streamed = self.streamed(member)
        if due_at(now, member, streamed) <= now:
            ledger.bring_up(member)
            choose(now, team, member, streamed)
        else:
            refine(now, team, member)
        return self.returning.before(member, member.owed.next_frame(now) or member.owed.follow(now))

    def take_next(self, member: Member) -> Rows | None:
        return self.returning.take_next(member)

    def wake_at(self, member: Member) -> float:
        """When something may have to be done for ``member`` that nothing else is the occasion for (s).

        What was due when it was last woken waits for its link, or for what arrives.
        """
        if member.state not in STREAMED:
            return math.inf
        streamed, woken_at = self._streamed[member.name], member.woken_at
        due = due_at(woken_at, member, streamed)
        soonest = due if due > woken_at else math.inf
        if self.stream is not None and woken_at < (due := self.stream.due_at(member.name)) < soonest:
            soonest = due
        if member.state is MemberState.WAITING:
            for due in (self.outages.check_at(), self._adaptation.look_at()):
                if woken_at < due < soonest:
                    soonest = due
        if not member.gated and streamed.steady_since is not None:
            proven_at = streamed.steady_since + self.outages.proof_s(streamed)
            return proven_at if woken_at < proven_at < soonest else soonest
        return soonest

    def wakes(self, member: Member) -> bool:
        return member.state in STREAMED

    def reason(self, now: float, member: Member) -> str:
        behind = self.team.gate.reason(now, member, self.team.settings.absence_limit_s)
        return behind or "rows on their way to it"

    # -- what the server's work is -----------------------------------------------------------------------------

    def push_work(self, message: Message) -> float:
        """Rows are taken in one by one: as many as the model has are a push."""
        return self._share_of_model(message)

    def pull_work(self, message: Message) -> float:
        """As many rows as the model has are a pull."""
        return self._share_of_model(message)

    def _share_of_model(self, message: Message) -> float:
        layout = self.team.model.layout
        if layout is None or not isinstance(message, Rows) or message.absolute:
            return 0.0
        return len(message.rows) / layout.rows

    # -- outages -----------------------------------------------------------------------------------------------

    def leavers(self, now: float) -> list[tuple[Member, float]]:
        return self.outages.leavers(now)
