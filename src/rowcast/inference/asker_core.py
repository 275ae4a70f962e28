"""What the robot decides: which input is sent, which waits, when it computes itself, which answer counts."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Hashable, Sequence
from typing import Any

from rowcast.config import AskerSettings
from rowcast.errors import ConfigError, DeadlineMissed, RemoteProtocolError, RowcastError, ServerBusy
from rowcast.inference.exchanges import Exchange, Exchanges
from rowcast.inference.inference import Inference
from rowcast.inference.model import ModelSpec, robot_side
from rowcast.inference.outcome import Outcome
from rowcast.inference.own import OwnLane
from rowcast.inference.plans import Planning
from rowcast.inference.record import record
from rowcast.inference.uplink import Uplink
from rowcast.inference.work import PART, WHOLE, Made, Work
from rowcast.journal import Journal
from rowcast.session.link import Link
from rowcast.wire import Answer, Busy, Drop, Rows, Served
from rowcast.wire.frames import frame_bytes

__all__ = ["AskerCore"]


class AskerCore(ABC):
    """The inferences of one robot.

    Args:
        name: the robot.
        model: what it has built.
        planning: what the robot decides with; another one can take its place at any time.
        settings: see :mod:`rowcast.config`.
        journal: where inferences are recorded.

    Attributes:
        lanes: what is computed side by side.
        link: the connection to the server, or ``None``.
        uplink: what is on its way there.
        outcomes: inferences that are over; the driver takes them away.
        answers: how many the server has answered.
        active: inferences under way.
        waiting: those whose turn has not come.
        forward_s: what the server says that it takes for the whole model (s); ``None`` before one did.
        live: its parameters change while it serves them.
    """

    lanes = (PART, WHOLE)

    def __init__(
        self,
        name: str,
        model: ModelSpec,
        planning: Planning,
        settings: AskerSettings,
        journal: Journal,
    ) -> None:
        self.name = name
        self.model = model
        self.planning = planning
        self.journal = journal
        self.link: Link | None = None
        self.uplink = Uplink(self._delivered)
        self.forward_s: float | None = None
        self.live = False
        self.outcomes: deque[Outcome] = deque()
        self.answers = 0
        self.active: dict[int, Inference] = {}
        self.waiting: deque[Inference] = deque()
        self._limits = settings
        self._tickets = 0
        self._exchanges = Exchanges(model)
        self._requests = 1
        self._busy_until = -math.inf
        self._own = OwnLane(model)

    @property
    @abstractmethod
    def served(self) -> bool:
        """The server has let the robot in, on a connection that stands."""

    @property
    def has_fallback(self) -> bool:
        """The robot computes the whole model where the server does not answer in time."""
        return self._limits.fallback == "model"

    @property
    def _local_s(self) -> float:
        return self._own.local_s(self.planning.local_s)

    # -- the user's side ---------------------------------------------------------------------------------------

    def ask(self, now: float, inputs: Any, deadline_s: float | None = None) -> int:
        """An input has come: compute it.

        Args:
            now: time (s).
            inputs: the model's inputs, for the engine.
            deadline_s: in place of that of the settings.

        Returns:
            A ticket: there will be one :class:`Outcome` with it in :attr:`outcomes`.

        Raises:
            ConfigError: the robot cannot keep the deadline by itself.
        """
        limit_s = self._limits.deadline_s if deadline_s is None else deadline_s
        if limit_s is not None and self.has_fallback and limit_s < (local_s := self.planning.local_s):
            what = f"expected at least {local_s:.3g} s, which the robot takes for the model by itself"
            raise ConfigError(f"deadline_s: {what}, got {limit_s:g} s")
        self._tickets += 1
        inference = Inference(self._tickets, inputs, now, None if limit_s is None else now + limit_s)
        while self.waiting and self._limits.newest_only:
            self._over(now, self.waiting.popleft(), "", None, superseded=True)
        self.waiting.append(inference)
        if self.has_fallback:
            self._own.make_room(now, [*self.active.values(), *self.waiting], self._local_s)
        self._next(now)
        return inference.ticket

    def give_up(self, now: float, ticket: int, error: RowcastError) -> None:
        """Nobody waits for this one any more; its outcome has ``error``."""
        for inference in [one for one in (*self.waiting, *self.active.values()) if one.ticket == ticket]:
            self._over(now, inference, "", None, error=error)
        self._next(now)

    def end_all(self, now: float, error: RowcastError) -> None:
        """There will be no answer to anything."""
        for inference in (*self.active.values(), *self.waiting):
            self._over(now, inference, "", None, error=error)

    # -- the engine's side -------------------------------------------------------------------------------------

    def take_work(self, now: float, lane: str) -> Sequence[Work]:
        """What the engine is to do next in a lane; empty: nothing. It reports with :meth:`work_done`."""
        return self._exchanges.take_work(now) if lane == PART else self._own.take_work(now)

    def work_done(self, now: float, lane: str, works: Sequence[Work], made: Sequence[Made], seconds: float) -> None:
        """The engine has done some work, in ``seconds``."""
        if lane == PART:
            self._exchanges.worked()
        for work, result in zip(works, made, strict=True):
            if lane == PART:
                self._part_made(now, work, result, seconds / len(works))
            elif (inference := self._own.done(now, work, seconds)) is not None:
                self._over(now, inference, "robot", result.value)
        self._next(now)

    def work_failed(self, now: float, works: Sequence[Work], error: RowcastError) -> None:
        """The engine could not do some work: what was exchanged for it is given up, or there is no answer."""
        if any(isinstance(work.key, int) for work in works):
            self._exchanges.worked()
        for work in works:
            if (exchange := self._exchanges.under_way(work.key)) is not None:
                self._give_up_exchange(now, exchange, error)
            elif (inference := self._own.done(now, work, 0.0)) is not None:
                self._over(now, inference, "", None, error=error)
        self._next(now)

    def take_forgotten(self) -> list[Hashable]:
        """Requests that the engine is to forget, in the first lane."""
        return self._exchanges.take_forgotten()

    def _part_made(self, now: float, work: Work, result: Made, seconds: float) -> None:
        exchange = self._exchanges.under_way(work.key)
        if exchange is None:
            return
        exchange.inference.spent.robot_s += seconds
        exchange.made(work, result.pieces)
        if exchange.frames:
            self.uplink.ready(now, exchange.inference.spent)
        if result.complete:
            exchange.complete, exchange.value = True, result.value
            self._check_done(now, exchange)

    # -- the server's side -------------------------------------------------------------------------------------

    def welcomed(self, now: float, served: Served) -> None:
        """The server has let the robot in."""
        self._requests = served.requests
        self._exchanges.restart()
        self._busy_until = -math.inf
        self.forward_s, self.live = served.forward_s, served.live
        self._next(now)

    def abandon_all(self, now: float, why: RowcastError) -> None:
        """The link is gone: the robot computes itself, or waits for the link where it cannot."""
        self.uplink.lost(now)
        for exchange in reversed(self._exchanges.all()):
            self._exchanges.close(now, exchange)
            inference = exchange.inference
            inference.trouble = why
            if self.has_fallback or inference.local is not None:
                inference.local_at = now
            elif self.waiting and self._limits.newest_only:
                self._over(now, inference, "", None, superseded=True)
            else:
                del self.active[inference.ticket]
                self.waiting.appendleft(inference)
        self._next(now)

    def rows_came(self, now: float, rows: Rows) -> None:
        """Rows of a tensor that was asked for.

        Raises:
            RemoteProtocolError: of a request that was never made, or rows that were not asked for.
        """
        exchange = self._exchanges.find(rows.iteration)
        if exchange is None:
            return
        exchange.inference.spent.down_bytes += frame_bytes(rows)
        exchange.took(exchange.inbox.take(rows))

    def answered(self, now: float, answer: Answer) -> None:
        """The server has sent all rows of a request.

        Raises:
            RemoteProtocolError: it has not, or there is no such request.
        """
        exchange = self._exchanges.find(answer.number)
        if exchange is None:
            return
        if not exchange.inbox.complete or exchange.answer is not None:
            raise RemoteProtocolError(f"answer to request {answer.number}: expected all of its rows before, and once")
        if answer.compute_s < 0 or answer.queued_s < 0:
            raise RemoteProtocolError(
                f"answer to request {answer.number}: expected seconds, 0 or more, got {answer.compute_s:g} and "
                f"{answer.queued_s:g}"
            )
        exchange.answer = answer
        spent = exchange.inference.spent
        spent.server_s, spent.queued_s = answer.compute_s, answer.queued_s
        self._check_done(now, exchange)
        self._next(now)

    def turned_away(self, now: float, busy: Busy) -> None:
        """The server computes for others.

        Raises:
            RemoteProtocolError: a time below 0, or there is no such request.
        """
        if busy.wait_s < 0:
            raise RemoteProtocolError(f"busy: expected seconds, 0 or more, got {busy.wait_s:g}")
        exchange = self._exchanges.find(busy.number)
        if exchange is None:
            return
        self._busy_until = max(self._busy_until, now + busy.wait_s)
        why = ServerBusy(f"the server is busy: {busy.cause}; ask again in {busy.wait_s:.3g} s", busy.wait_s)
        self._give_up_exchange(now, exchange, why, dropped=False)
        self._next(now)

    def _give_up_exchange(self, now: float, exchange: Exchange, why: RowcastError, *, dropped: bool = True) -> None:
        """Nothing comes of what was sent: the robot computes itself, or there is no answer."""
        inference = exchange.inference
        inference.trouble = why
        self._close(now, exchange, dropped=dropped)
        if self.has_fallback or inference.local is not None:
            inference.local_at = now
        else:
            self._over(now, inference, "", None, error=why)

    def _close(self, now: float, exchange: Exchange, *, dropped: bool = True) -> None:
        """End an exchange; tell the server where it does not know."""
        self._exchanges.close(now, exchange)
        self.uplink.withdrawn(now, exchange.inference.spent)
        if (waiting := self._exchanges.to_send()) is not None:
            self.uplink.ready(now, waiting.inference.spent)
        if dropped and not exchange.done and self.link is not None and not self.link.closing:
            self.link.say(Drop(exchange.number))

    def next_rows(self, now: float) -> Rows | None:
        """The next row frame to send, or ``None``."""
        exchange = self._exchanges.to_send()
        if exchange is None:
            return None
        return self.uplink.send(now, exchange.frames.popleft(), exchange.inference.spent)

    # -- time --------------------------------------------------------------------------------------------------

    def due_at(self) -> float:
        """When :meth:`pass_time` has something to do (s)."""
        ones = [*self.active.values(), *self.waiting]
        due = math.inf
        if self._own.inference is None:
            due = min((self._start_at(one) for one in ones), default=math.inf)
        if not self.has_fallback:
            due = min((one.deadline_at for one in ones if one.deadline_at is not None), default=due)
        return due

    def _start_at(self, inference: Inference) -> float:
        return inference.start_at(self._local_s if self.has_fallback else None)

    def pass_time(self, now: float) -> None:
        """What is late is computed here, or given up."""
        for inference in [] if self.has_fallback else [*self.active.values(), *self.waiting]:
            if inference.deadline_at is not None and now >= inference.deadline_at:
                why = inference.trouble or "the link, or the server, was too slow"
                limit_s = inference.deadline_at - inference.asked_at
                error = DeadlineMissed(f"no answer within {limit_s:g} s, and no fallback: {why}")
                self._over(now, inference, "", None, error=error)
        self._next(now)

    # -- what comes next ---------------------------------------------------------------------------------------

    def _next(self, now: float) -> None:
        """Begin what waits, if there is room; the robot begins what is late, if it is free."""
        # Without a server one at a time: so of those that wait the newest is next.
        most = min(self._limits.in_flight, self._requests) if self.served else int(self.has_fallback)
        while self.waiting and len(self.active) < most:
            inference = self.waiting.popleft()
            self._activate(now, inference)
            self._begin(now, inference)
        late = [one for one in [*self.active.values(), *self.waiting] if self._start_at(one) <= now]
        if late and self._own.inference is None:
            self._compute_whole(now, min(late, key=Inference.urgency))

    def _activate(self, now: float, inference: Inference) -> None:
        self.active[inference.ticket] = inference
        inference.begun_at = min(inference.begun_at, now)

    def _begin(self, now: float, inference: Inference) -> None:
        if self.has_fallback and (not self.served or now < self._busy_until):
            inference.local_at = now
        else:
            self._begin_remote(now, inference)

    def _begin_remote(self, now: float, inference: Inference) -> None:
        """Begin it as is best at the rate of now."""
        self.uplink.look(now)
        decision = self.planning.chooser.decide(now)
        inference.plan = plan = decision.plan
        # Parameters that change are the server's alone: half of an answer with the robot's would be of neither.
        divided = self.live and bool(robot_side(self.model.graph, plan.up, plan.down).ops)
        if not plan.down or divided:
            inference.plan, inference.local_at = self.planning.local if divided else plan, now
            return
        assert self.link is not None
        exchange = self._exchanges.open(inference, plan)
        # Where the robot will be late, any answer before its own is of use.
        late = self.has_fallback and now >= self._start_at(inference)
        left_s = 0.0 if inference.deadline_at is None or late else max(inference.deadline_at - now, 1e-6)
        self.link.say(exchange.request(left_s))
        if self.has_fallback or decision.probe:
            inference.local_at = min(inference.local_at, inference.asked_at + decision.local_start_s)

    def _delivered(self, now: float, size: int, seconds: float) -> None:
        self.planning.chooser.delivered(now, size, seconds)

    def _compute_whole(self, now: float, inference: Inference) -> None:
        """The robot computes the whole model."""
        if inference.ticket not in self.active:
            self.waiting.remove(inference)
            self._activate(now, inference)
        inference.plan = inference.plan or self.planning.local
        self._own.begin(now, inference)

    def _check_done(self, now: float, exchange: Exchange) -> None:
        if exchange.done:
            self.answers += 1
            inference, plan = exchange.inference, exchange.plan
            self._over(now, inference, "both" if plan.where == "both" else "server", exchange.value)

    def _over(
        self,
        now: float,
        inference: Inference,
        by: str,
        value: Any,
        *,
        error: RowcastError | None = None,
        superseded: bool = False,
    ) -> None:
        """It has its outcome."""
        exchange = inference.remote
        if exchange is not None:
            self._close(now, exchange)
        self._own.end(now, inference)
        if self.active.pop(inference.ticket, None) is None and inference in self.waiting:
            self.waiting.remove(inference)
        answer = exchange.answer if exchange is not None and by != "robot" else None
        outcome = Outcome(
            inference.ticket,
            value,
            by,
            inference.plan,
            inference.asked_at,
            now,
            inference.deadline_at,
            version=0 if answer is None else answer.version,
            joules=inference.spent.joules(now - inference.begun_at, self.planning.power),
            spent=inference.spent,
            error=error,
            superseded=superseded,
        )
        self.outcomes.append(outcome)
        record(self.journal, now, outcome, self.uplink.rate_bps)
