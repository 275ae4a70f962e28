"""The server's side of a policy that streams: rows flow all the time, and each worker is told how fresh it is.

There is no push phase and no pull phase, so there is no permission either. A worker starts its next iteration when
it holds everybody's contributions up to ``iteration - slack``: its *horizon*, end to end (algorithms.md 1.4). The
server knows for each row how far everybody's contribution has come (the *floor*), and for each worker which rows have
changed since it was sent them; the horizon follows, and travels to the worker between its rows.

With an elastic policy nobody waits for a robot in an outage. A robot that others wait for, and that has been silent
for longer than it ever used to be, leaves the gate. It is sent what it is owed and its rows are taken as before;
when both have caught up, it counts again. Its own count of iterations goes on undisturbed: the server translates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rowcast.codecs import codec_by_name
from rowcast.config import LinkSettings
from rowcast.delivery.arrivals import Arrivals
from rowcast.delivery.shared_log import SharedLog
from rowcast.errors import RemoteProtocolError
from rowcast.journal import Journal
from rowcast.rows import Layout
from rowcast.session.board import Board
from rowcast.sync import Policy, Punctuality, SlackTuner
from rowcast.training.gate import Gate
from rowcast.training.ledger import Ledger
from rowcast.training.member import Member, Stage
from rowcast.wire import Computed, Horizon, Message, Rows

__all__ = ["STREAMED", "Seat", "Streaming"]

#: Stages of a worker that is sent rows all the time.
STREAMED = frozenset({Stage.COMPUTING, Stage.WAITING})

#: Rows to a worker are chosen anew at most once in so many frames' time; while it waits at the gate, in one.
CHOOSE_FRAMES = 10


@dataclass(eq=False)
class Seat:
    """What the server keeps for a worker of a streaming policy.

    Attributes:
        versions: int32 [rows], newest iteration whose contribution to each row is here, in the worker's own count.
        own: newest iteration it has finished, in its own count.
        shift: add it to the worker's count to get the gate's.
        told: the last horizon it was told, or ``None``.
        choose_at: its rows are not chosen anew before (s).
        outdated: the order of its rows is that of an iteration before.
        steady_since: since when it has caught up, while it does not count (s).
        left_at, absences: when it last left the gate (s), and how often it did lately.
        oldest: the oldest of ``versions``.
        step_s: what its last gradient took (s).
        heard_at: when it last told of an iteration (s).
    """

    versions: npt.NDArray[np.int32]
    punctuality: Punctuality
    own: int = 0
    shift: int = 0
    told: Horizon | None = None
    choose_at: float = 0.0
    outdated: bool = False
    steady_since: float | None = None
    left_at: float = 0.0
    absences: int = 0
    oldest: int = 0
    step_s: float = 1.0
    heard_at: float = -math.inf


class Streaming:
    """Horizons, who counts, and which rows each is sent next.

    Args:
        policy: the team's policy.
        gate: whom the gate counts; its versions are kept up to date here.
        members: the server's members, by name.
        rows: rows of the layout.
        frame_s: link time of a frame.
        board: where members are woken to whom something is to be said.
        journal: where returns and changes of the slack are recorded.

    Attributes:
        policy: the team's policy with the slack that is in force.
        floor: int32 [rows], how far everybody's contribution to each row has come; every outbox of the server
            has this very array.
        stream: the rows that all workers are sent alike; ``None`` where each is sent its own.
        arrivals: where contributions are noted for the members that are owed their own.
        owing: members whose share of a contribution is added to what they alone are owed, by name.
    """

    #: A worker counts again when it lacks at most this share of the slack, for so long (s), doubled with each absence
    #: of the last :data:`FORGIVEN_S` seconds: a link that comes and goes is damped.
    CAUGHT_UP = 0.5
    STEADY_S = 2.0
    STEADY_CAP_S = 60.0
    FORGIVEN_S = 300.0

    def __init__(
        self,
        policy: Policy,
        gate: Gate,
        members: Mapping[str, Member],
        rows: int,
        *,
        frame_s: float,
        board: Board,
        journal: Journal,
    ) -> None:
        self._tuner = SlackTuner(policy.slack or 1) if policy.auto else None
        self.policy = gate.policy = policy if self._tuner is None else policy.at_slack(self._tuner.slack)
        self.floor = np.zeros(rows, dtype=np.int32)
        self._gate = gate
        self._members = members
        self._frame_s = frame_s
        self._board = board
        self._journal = journal
        self._seats: dict[str, Seat] = {}
        self.stream: SharedLog | None = None
        self.arrivals: Arrivals | None = None
        self._holders = np.zeros(rows, dtype=np.int32)  # how many stand at the floor of each row
        self.owing: Mapping[str, Member] = members
        self._away: dict[str, Member] = {}  # who has left the gate and is a member still
        self._lowest = 0
        self._most = policy.slack or 0

    @property
    def slack(self) -> int:
        """Iterations that a worker may be ahead of its horizon, now."""
        return self.policy.slack or 0

    @property
    def ahead(self) -> int:
        """Iterations that a worker may finish while its link is down."""
        return self._most + self.policy.ahead + 1

    def seat(self, member: Member) -> Seat:
        """What is kept for ``member``."""
        return self._seats[member.name]

    # -- one stream for all ------------------------------------------------------------------------------------

    def share_pulls(self, layout: Layout, settings: LinkSettings) -> None:
        """From now on all workers are sent the same rows; nobody is a member yet."""
        self.owing = {}
        self.stream = SharedLog(
            self.policy,
            layout,
            settings,
            self.floor,
            choose_s=CHOOSE_FRAMES * self._frame_s,
            step_s=self._usual_step_s,
            newest=self._gate.newest,
        )

    def _usual_step_s(self) -> float:
        steps = sorted(seat.step_s for seat in self._seats.values())
        return steps[len(steps) // 2] if steps else 1.0

    def part(self, member: Member) -> None:
        """``member`` is sent rows of its own from now on."""
        if self.stream is not None:
            member.owed.detach()
            self.owing = {**self.owing, member.name: member}

    def wake_readers(self) -> None:
        """Wake those to whom rows of the common stream may be sent since the last call."""
        if self.stream is None:
            return
        for name in self.stream.take_woken():
            member = self._members.get(name)
            if member is not None and member.port is not None:
                self._board.wake(member.port)

    def _count(self, member: Member, counted: bool) -> None:
        if self.stream is not None:
            self.stream.count(member.name, counted)

    # -- who takes part ------------------------------------------------------------------------------------------

    def admit(self, now: float, member: Member) -> None:
        """The gate counts ``member`` since now; both count alike."""
        seat = Seat(np.full(len(self.floor), member.iteration, dtype=np.int32), Punctuality(now), member.iteration)
        seat.oldest = member.iteration
        self._seats[member.name] = seat
        self._renew_floor()
        self._count(member, True)

    def remove(self, member: Member) -> None:
        """``member`` has left for good."""
        self._seats.pop(member.name, None)
        self._away.pop(member.name, None)
        self._renew_floor()
        member.owed.close()
        if self.stream is not None:
            self.owing = {name: other for name, other in self.owing.items() if other is not member}

    def _renew_floor(self) -> None:
        """Somebody came or went."""
        versions = self._gate.versions
        if len(versions):
            self.floor[:] = versions.floor()
            self._holders = versions.holders(slice(None), self.floor)
        self._lowest = int(self.floor.min())

    def _raise_floor(self, rows: npt.NDArray[np.int64], held: npt.NDArray[np.int32], iteration: int) -> None:
        """A worker that stood at ``held`` in ``rows`` stands at ``iteration`` now.

        The floor of a row moves when the last who stood there has gone on. Only then the team is asked.
        """
        floor = self.floor[rows]
        self._holders[rows] -= held == floor
        moved = rows[(self._holders[rows] == 0) | (iteration <= floor)]
        if len(moved):
            self.floor[moved] = self._gate.versions.floor(moved)
            self._holders[moved] = self._gate.versions.holders(moved, self.floor[moved])

    # -- what arrives --------------------------------------------------------------------------------------------

    def expect(self, member: Member, iteration: int) -> None:
        """Raises :class:`RemoteProtocolError` where ``iteration`` is not the worker's newest."""
        own = self.seat(member).own
        if iteration != own:
            raise RemoteProtocolError(f"expected iteration {own} of {member.name}, got {iteration}")

    def arrived(self, now: float, member: Member, message: Rows) -> None:
        """Rows of ``member`` are whole up to an iteration (in its own count).

        Call it before they are added to what anybody is owed.
        """
        rows = message.rows
        if member.stage not in STREAMED:
            self._touch(rows)
            return
        self._wake_unserved()
        seat = self.seat(member)
        if len(message.payload):
            self._touch(rows)
        seat.versions[rows] = message.iteration
        oldest = int(seat.versions.min())
        if oldest > seat.oldest:
            seat.oldest = oldest
            seat.punctuality.advanced(now)
        if not member.gated:
            return
        versions = self._gate.versions
        held = versions.of_rows(member.name, rows)
        versions.advance(member.name, rows, message.iteration + seat.shift)
        self._raise_floor(rows, held, message.iteration + seat.shift)
        before, self._lowest = self._lowest, versions.oldest() or 0
        if self._lowest > before:
            self._board.wake_all(self._members.values())

    def _wake_unserved(self) -> None:
        """Wake those to whom there was nothing to send; there will be. Who has something to take in is awake."""
        for name in [] if self.arrivals is None else self.arrivals.abreast():
            other = self.owing.get(name)
            if other is None or other.port is None or other.name not in self._seats:
                continue
            if not other.owed.changed.any():
                self._board.wake(other.port)

    def _touch(self, rows: npt.NDArray[np.int64]) -> None:
        """Contributions to ``rows`` are about to be added to what everybody is owed."""
        if self.arrivals is not None:
            self.arrivals.touch(self.floor[rows])
        if self.stream is not None:
            self.stream.touch(rows)

    def computed(self, now: float, member: Member, message: Computed) -> None:
        """A worker has finished an iteration; after a cut it says so again, and may have finished several.

        Raises:
            RemoteProtocolError: an iteration before its last one, one that it cannot have got to, or a time below 0.
        """
        if message.compute_s < 0:
            raise RemoteProtocolError(f"expected a gradient of 0 s or more of {member.name}, got {message.compute_s}")
        seat = self.seat(member)
        most = seat.own + 1 if member.port is None or member.port.opened_at < seat.heard_at else seat.own + self.ahead
        if not seat.own <= message.iteration <= most:
            raise RemoteProtocolError(
                f"expected iteration {seat.own} .. {most} of {member.name}, got {message.iteration}"
            )
        if self._tuner is not None and member.gated and message.iteration > seat.own:
            self._tuner.computed(message.size, member.owed.magnitude)
        seat.heard_at = now
        seat.own = message.iteration
        seat.step_s = message.compute_s
        self._gate.finished(member, message.iteration + seat.shift)
        seat.outdated = True
        if self.stream is not None:
            self.stream.wake_one()
        if seat.told is None or not self._may_start(seat, seat.told):
            member.stage = Stage.WAITING
            member.waiting_since = now

    def is_beyond(self, member: Member) -> bool:
        """Whether a worker that counts has gone on although the gate was shut: it is in an outage, and knows it."""
        seat = self.seat(member)
        return member.gated and seat.told is not None and seat.own - seat.told.horizon > seat.told.slack + 1

    # -- horizons ------------------------------------------------------------------------------------------------

    def horizon_of(self, member: Member) -> int:
        """Up to which iteration a worker holds everybody's contributions, in the gate's count."""
        return member.owed.horizon(self._lowest)

    def _tell(self, now: float, member: Member) -> Horizon | None:
        """What a worker must be told of its horizon before its next rows, if anything."""
        seat = self.seat(member)
        horizon = max(self.horizon_of(member) - seat.shift, 0)
        members = self._sharing()
        told = seat.told
        if told is not None and (told.horizon, told.slack, told.members, told.counted) == (
            horizon,
            self.slack,
            members,
            member.gated,
        ):
            return None
        newest = max(self._gate.newest() - seat.shift, 0)
        message = Horizon(horizon, newest, self.slack, members, self._gate.epoch, member.gated)
        seat.told = message
        if member.stage is Stage.WAITING and self._may_start(seat, message):
            member.stage = Stage.COMPUTING
            if self._tuner is not None and member.gated:
                self._tuner.stalled(now - member.waiting_since)
        return message

    def _sharing(self) -> int:
        """Among how many workers the update of an iteration is shared.

        A robot in an outage keeps its share: what it computes meanwhile comes later. Were the others to count for more,
        the model would go after their data alone, and the robot's part come on top.
        """
        return max(len(self._gate.versions) + len(self._sharing_away()), 1)

    def sharing(self) -> list[str]:
        """Names of those among whom the update of an iteration is shared."""
        return [member.name for member in (*self._gate.counted(), *self._sharing_away())]

    def _sharing_away(self) -> list[Member]:
        return [member for member in self._away.values() if member.stage in STREAMED and not member.given_up]

    def _may_start(self, seat: Seat, told: Horizon) -> bool:
        return seat.own - told.horizon <= told.slack

    def tune(self, now: float) -> None:
        """Another slack, when the stalls or the progress of the training ask for it."""
        if self._tuner is None:
            return
        change = self._tuner.look(now, self._lowest, len(self._gate.versions))
        if change is None:
            return
        self.policy = self._gate.policy = self.policy.at_slack(change.slack)
        if self.stream is not None:
            self.stream.policy = self.policy
        self._journal.record(
            now,
            "slack",
            slack=change.slack,
            before=change.before,
            why=change.why,
            stall_share=round(change.stall_share, 6),
            divergence=round(change.divergence, 6),
            usual=round(change.usual, 6),
            progress=round(change.progress, 6),
        )
        self._board.wake_all(self._members.values())

    def forget_told(self, member: Member) -> None:
        """The link was lost, and perhaps what was told with it."""
        if member.name in self._seats:
            self.seat(member).told = None

    # -- what is sent --------------------------------------------------------------------------------------------

    def next_message(self, now: float, member: Member, ledger: Ledger) -> Message | None:
        """The next message to a worker in one of the stages :data:`STREAMED`, if any.

        Args:
            now: time (s).
            member: the worker.
            ledger: what it is owed.
        """
        if not member.gated and self._returns(now, member):
            self._journal.record(
                now,
                "return",
                peer=member.name,
                epoch=self._gate.epoch,
                iteration=member.iteration,
                members=len(self._gate.versions),
            )
            self._board.wake_all(self._members.values())
        told = self._tell(now, member)
        if told is not None:
            return told
        owed = member.owed
        if self._due_at(now, member) <= now:
            ledger.bring_up(member)
            self._choose(now, member)
        elif self._may_refine(now, member):
            choose, half = self.policy.choose_refinement, codec_by_name("half")
            owed.begin(now, member.iteration, half, choose, math.inf, announce_zeros=False, refine=True)
        return owed.next_frame(now) or owed.follow(now)

    def _choose(self, now: float, member: Member) -> None:
        """Choose the rows that ``member`` is sent next."""
        seat, owed, policy = self.seat(member), member.owed, self.policy
        code = policy.code_for(owed.layout, policy.share_of_pull, owed.meter.rate_bps(now), seat.step_s)
        owed.begin(now, member.iteration, code, policy.choose_pull, math.inf, announce_zeros=False)
        frames = 1 if member.stage is Stage.WAITING else CHOOSE_FRAMES
        seat.choose_at = now + frames * self._frame_s
        seat.outdated = False

    def wake_at(self, member: Member, check_at: float | None = None) -> float:
        """When something may have to be done for ``member`` that nothing else is the occasion for (s).

        Args:
            check_at: what :meth:`check_at` answers, where it is known: it is the same for all.

        What was due when it was last woken waits for its link, or for what arrives.
        """
        times = [self._due_at(member.woken_at, member)]
        if self.stream is not None:
            times.append(self.stream.due_at(member.name))
        if member.stage is Stage.WAITING:
            times.append(self.check_at() if check_at is None else check_at)
        seat = self.seat(member)
        if not member.gated and seat.steady_since is not None:
            times.append(seat.steady_since + self._proof_s(seat))
        return min((time for time in times if time > member.woken_at), default=math.inf)

    def _due_at(self, now: float, member: Member) -> float:
        """When rows for ``member`` are to be chosen (s); ``inf`` when there is nothing to choose, or enough is."""
        owed, seat = member.owed, self.seat(member)
        if not owed.changed.any():
            return math.inf
        if seat.outdated:
            return now
        done = owed.transfer is None or owed.transfer.refining or owed.transfer.finished(now)
        return max(seat.choose_at, now) if done else math.inf

    def _may_refine(self, now: float, member: Member) -> bool:
        """All rows for ``member`` were sent: the idle link may carry what the code left of them."""
        transfer = member.owed.transfer
        idle = transfer is not None and not transfer.refining and transfer.finished(now)
        return self.policy.refine and idle and not member.owed.follows and not member.owed.changed.any()

    # -- outages -------------------------------------------------------------------------------------------------

    def check_at(self) -> float:
        """When :meth:`leavers` may have an answer (s)."""
        if not self.policy.elastic:
            return math.inf
        return min((self.seat(member).punctuality.overdue_at() for member in self._blockers()), default=math.inf)

    def leavers(self, now: float) -> list[Member]:
        """Workers that others wait for and that are in an outage: nobody is to wait for them any longer."""
        if not self.policy.elastic:
            return []
        return [member for member in self._blockers() if now >= self.seat(member).punctuality.overdue_at()]

    def _blockers(self) -> list[Member]:
        """Members without whose oldest row somebody would go on."""
        waiting = [
            member.iteration - self.slack
            for member in self._members.values()
            if member.stage is Stage.WAITING and member.gated
        ]
        if not waiting or len(self._gate.versions) < 2:
            return []
        return [self._members[name] for name in self._gate.versions.behind(min(waiting))]

    def left(self, now: float, member: Member) -> None:
        """``member`` does not count any longer: everybody may be told something."""
        seat = self.seat(member)
        if now - seat.left_at > self.FORGIVEN_S:
            seat.absences = 0
        seat.absences += 1
        seat.left_at = now
        seat.steady_since = None
        if member.stage in STREAMED:  # otherwise it has finished
            self._away[member.name] = member
        self._renew_floor()
        self._count(member, False)
        self._board.wake_all(self._members.values())

    def _returns(self, now: float, member: Member) -> bool:
        """Whether ``member``, which does not count, may count again; if so, it does."""
        seat = self.seat(member)
        oldest = int(seat.versions.min())
        lacks = self._lowest - self.horizon_of(member)
        lag = math.ceil(self.CAUGHT_UP * self.slack)
        # Its oldest row will count as the oldest of all: what it holds must not be older than its own first iteration.
        if max(seat.own - oldest, lacks) > lag or oldest < lacks:
            seat.steady_since = None
            return False
        if seat.steady_since is None:
            seat.steady_since = now
        if now < seat.steady_since + self._proof_s(seat):
            return False
        seat.shift = self._lowest - oldest
        seat.punctuality.since = now
        self._away.pop(member.name, None)
        self._gate.readmit(member, seat.own + seat.shift, seat.versions + np.int32(seat.shift))
        self._renew_floor()
        self._count(member, True)
        return True

    def _proof_s(self, seat: Seat) -> float:
        """For how long a worker must have caught up (s)."""
        return min(self.STEADY_S * 2.0 ** (seat.absences - 1), self.STEADY_CAP_S)
